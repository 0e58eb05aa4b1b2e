// The tests of tensors, operations and nets on the device that is there.
#define DOCTEST_CONFIG_IMPLEMENT
#include "main.hpp"
#include "settle/cuda/context.hpp"

int main(int count, char** arguments) {
  return run_on_device(settle::cuda::Runtime(settle::cuda::libraries_folder()), count, arguments);
}
