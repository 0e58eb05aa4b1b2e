#include "hello.hpp"

int main() { return hello() ? 0 : 1; }
