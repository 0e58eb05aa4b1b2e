#include <doctest/doctest.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "temporary_folder.hpp"

namespace {

/// What a shell command printed, errors too, and its status.
struct Outcome {
  int status;
  std::string text;

  bool says(const std::string& words) const { return text.find(words) != std::string::npos; }
  std::size_t lines(const std::string& with) const {
    std::size_t count = 0;
    for (std::size_t at = text.find(with); at != std::string::npos; at = text.find(with, at + 1)) ++count;
    return count;
  }
};

Outcome run(const std::string& command) {
  FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string text;
  for (int c; (c = std::fgetc(pipe)) != EOF;) text += static_cast<char>(c);
  return {pclose(pipe), text};
}

/// Compiles a program, as the library's users do.
class Program {
 public:
  explicit Program(const std::string& source) { std::ofstream(folder_.path() / "program.cpp") << source; }

  Outcome compile(const std::string& flags) const {
    return run("cd " + folder_.path().string() + " && " SETTLE_COMPILER " -std=c++20 " + flags +
               " -I" SETTLE_SOURCE_DIR "/include $(pkg-config --cflags eigen3) program.cpp");
  }
  Outcome start() const { return run((folder_.path() / "program").string()); }

 private:
  TemporaryFolder folder_;
};

}  // namespace

TEST_CASE("common mistakes in a map are one error each, with a sentence that says what to write") {
  const std::vector<std::pair<std::string, std::string>> mistakes{
      {"map([](auto x) { if (x > 0.) return x; return -x; }, v);", "if, ?:, && and || cannot choose by the numbers"},
      {"map([](auto x) { return x > 0. ? x : 2. * x; }, v);", "write select(condition, a, b)"},
      {"map([](auto x) { return select(x > 0. && x < 1., x, 0.); }, v);", "write select(condition, a, b)"},
      {"map([](auto x) { return std::tanh(x); }, v);", "write tanh(x), not std::tanh(x)"},
      {"map([](auto x) { return 1. + std::exp(-x); }, v);", "write tanh(x), not std::tanh(x)"},
      {"map([](auto x, auto y) { return pow(x, y); }, v, v);", "an exponent must be a number"},
      {"float a = 2; map([a](auto x) { return a * x; }, v);", "must be a lambda without captures"},
      {"map([](auto x) { return x; }, 2.);", "need at least one Var or Tensor"},
  };
  std::string source = "#include <cmath>\n#include \"settle/ops/map.hpp\"\nusing namespace settle;\n";
  for (std::size_t k = 0; k < mistakes.size(); ++k)
    source += "void mistake" + std::to_string(k) + "(const Var<float>& v) { (void)v; " + mistakes[k].first + " }\n";
  const Outcome errors = Program(source).compile("-fsyntax-only");
  INFO(errors.text);
  CHECK(errors.status != 0);
  for (const auto& mistake : mistakes) {
    CAPTURE(mistake.first);
    CHECK(errors.says(mistake.second));
  }
  CHECK(errors.lines("error: ") >= 3);  // a compiler may say the same once for several places
  CHECK(errors.lines("error: ") <= mistakes.size());
  CHECK(errors.lines("\n") <= 20 * mistakes.size());
}

TEST_CASE("tensors and whole Vars are taken by operators, functions and reductions") {
  const Outcome fine = Program(R"(
#include "settle/ops/all.hpp"
using namespace settle;
Var<float> f(const Var<float>& v, const Tensor<float>& t) {
  return relu(v) + t * v - (2. - t) / (t + t) - sum(t) * mean(-t, {0}) + map([](auto x) { return silu(x); }, t) +
         max(t, {0}) * min(t, {0, 1}) - var(t, {0}) + prod(t, {1}) * cumsum(t, 0) + softmax(t, 1);
}
Var<float> g(const Var<float>& w, const Tensor<float>& image) {
  const Var<float> y = conv(image, w) + conv(Var<float>(image), w.value()) + conv(image, w.value());
  const Var<float> rows = reshape(image, {4, 9});
  return matmul(image, transpose(w, {0, 1, 3, 2})) + matmul(transpose(image), rows.value()) + max_pool(image) +
         average_pool(image) + pad(slice(image, 2, 0, 3), {0, 0, 0, 0}, {0, 0, 1, 0}) + unsqueeze(squeeze(image, {0}), 0) +
         resize(image, {8, 8}, Interpolation::nearest) + y;
}
)").compile("-fsyntax-only -Wall -Wextra -Werror");
  INFO(fine.text);
  CHECK(fine.status == 0);
}

TEST_CASE("what is compiled once may be all in one file") {
  const Outcome fine = Program(R"(
#define SETTLE_COMPILE_HERE
#include "settle/compiled_once.hpp"
)").compile("-fsyntax-only -DSETTLE_INTERPRETED_MAPS");
  INFO(fine.text);
  CHECK(fine.status == 0);
}

TEST_CASE("flags by which the compiler may change the arithmetic are refused with a sentence") {
  const Program program(R"(
#include <cstdio>
#include "settle/cpu/packet_math.hpp"
int main() {
  try {
    settle::cpu::require_arithmetic_as_written();
  } catch (const settle::Error& e) {
    std::printf("%s\n", e.what());
    return 1;
  }
  std::printf("exp(1) = %.6f\n", settle::cpu::exp(settle::cpu::splat(1.0))[0]);
}
)");
  const auto outcome = [&](const std::string& flags) {
    const Outcome compiled = program.compile("-O2 -o program " + flags);
    return compiled.status != 0 ? compiled : program.start();
  };
  for (const char* const flags :
       {"-ffast-math", "-ffast-math -fno-finite-math-only", "-funsafe-math-optimizations", "-ffinite-math-only",
        "-fassociative-math -fno-signed-zeros -fno-trapping-math",
        // What a compiler does not tell by macros is found at run time.
        "-ffast-math -U__FAST_MATH__ -U__ASSOCIATIVE_MATH__ -U__NO_SIGNED_ZEROS__ -U__FINITE_MATH_ONLY__"}) {
    const Outcome refused = outcome(flags);
    CAPTURE(flags);
    INFO(refused.text);
    CHECK(refused.status != 0);
    CHECK(refused.says("-ffast-math"));
    CHECK(refused.says("compile"));
  }
  for (const char* const flags : {"", "-fno-math-errno -fno-trapping-math", "-freciprocal-math"}) {
    const Outcome accepted = outcome(flags);
    CAPTURE(flags);
    INFO(accepted.text);
    CHECK(accepted.text == "exp(1) = 2.718282\n");
  }
}
