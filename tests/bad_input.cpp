#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>

#include "errors.hpp"
#include "files.hpp"
#include "settle/io/png.hpp"
#include "settle/io/safetensors.hpp"
#include "settle/settle.hpp"
#include "temporary_folder.hpp"

// What goes in wrong comes out as an Error that names what was expected and what was found.
namespace {

using namespace settle;

Var<double> zeros(const Shape& shape) { return Tensor<double>(shape, 0.0); }

std::filesystem::path scratch(const std::string& name) {
  static const TemporaryFolder folder;
  return folder.path() / name;
}

std::string file(const std::string& name, const std::string& bytes) {
  const auto path = scratch(name);
  write_bytes(path, bytes);
  return path.string();
}

struct Case {
  const char* name;
  std::function<void()> action;
  std::vector<std::string> says;
};

fixed_point::Options until_converged() { return {.stop = fixed_point::Residual{.rtol = 1e-6, .max_steps = 200}}; }

}  // namespace

TEST_CASE("every kind of bad input is an error that says what was expected and what was found") {
  const std::string parity = std::string(SETTLE_DATA_DIR) + "/parity/hgru_crbp_k3.safetensors";
  const std::string picture = std::string(SETTLE_DATA_DIR) + "/fixtures/pictures/strokes.png";
  const auto net = hgru_net<double>({.kernel = 3, .orientations = 2});

  const std::vector<Case> cases{
      // shapes
      {"convolution with another number of channels",
       [] {
         conv(zeros({1, 25, 8, 8}), zeros({25, 24, 5, 5}));
       },
       {"[conv]", "C = 24", "(25, 24, 5, 5)", "(1, 25, 8, 8)"}},
      {"shapes that do not broadcast",
       [] {
         zeros({2, 3}) + zeros({2, 4});
       },
       {"(2, 3)", "(2, 4)"}},
      {"matrices that do not fit",
       [] {
         matmul(zeros({2, 3}), zeros({4, 5}));
       },
       {"[matmul]", "3", "4"}},
      {"an even kernel", [] { hgru_net<double>({.kernel = 4}); }, {"[hgru] expected an odd kernel >= 1, got 4"}},
      {"a kernel of nothing", [] { hgru_net<double>({.kernel = 0}); }, {"[hgru] expected an odd kernel >= 1, got 0"}},
      {"a negative kernel",
       [] { conv_lstm_net<double>({.kernel = -3}); },
       {"[conv_layer] expected an odd kernel >= 1, got -3"}},
      {"an even kernel of a feed-forward net",
       [] { feed_forward_net<double>({.kernel = 2}); },
       {"[conv_layer] expected an odd kernel >= 1, got 2"}},
      {"no orientation", [] { hgru_net<double>({.orientations = 0}); }, {"expected at least 1 orientation, got 0"}},
      {"a negative number of channels",
       [] { feed_forward_net<double>({.kernel = 3, .orientations = -2}); },
       {"negative", "-3"}},
      {"an image with two channels for a net that takes one",
       [&] {
         predict(net, zeros({1, 2, 8, 8}), 2);
       },
       {"[conv]", "C = 1", "(5, 1, 7, 7)", "(1, 2, 8, 8)"}},
      {"a target of another size",
       [] {
         focal_loss(zeros({1, 2, 8, 8}), Tensor<double>(Shape{1, 8, 9}, 0.0));
       },
       {"[focal_loss]", "(1, 8, 8)", "(1, 8, 9)"}},
      {"a target that is no class",
       [] {
         focal_loss(zeros({1, 2, 2, 2}), Tensor<double>(Shape{1, 2, 2}, 0.5));
       },
       {"[focal_loss]", "0 or 1", "0.5"}},
      {"more than one number to differentiate",
       [] {
         Tape<double> tape;
         const auto x = tape.leaf(Tensor<double>(Shape{2}, 1.0));
         grad(x * x, {x});
       },
       {"[grad]", "scalar", "(2)"}},
      {"two tapes in one operation",
       [] {
         Tape<double> a, b;
         a.leaf(Tensor<double>(Shape{2}, 1.0)) + b.leaf(Tensor<double>(Shape{2}, 1.0));
       },
       {"two different tapes"}},

      // files
      {"a tensor of another dtype",
       [&] { read_safetensors(parity).get<float>("input"); },
       {"hgru_crbp_k3.safetensors", "input", "F32", "F64"}},
      {"a tensor that is not there",
       [&] { read_safetensors(parity).get<double>("no_such_tensor"); },
       {"hgru_crbp_k3.safetensors", "no_such_tensor"}},
      {"a truncated safetensors file",
       [&] { read_safetensors(file("short.safetensors", bytes_of(parity).substr(0, 100000))); },
       {"short.safetensors"}},
      {"a safetensors file of noise",
       [] { read_safetensors(file("noise.safetensors", "this is not a safetensors file")); },
       {"noise.safetensors"}},
      {"a file that does not exist", [] { read_safetensors(scratch("absent.safetensors")); }, {"absent.safetensors"}},
      {"a truncated PNG file", [&] { read_png(file("short.png", bytes_of(picture).substr(0, 200))); }, {"short.png"}},
      {"a PNG file of noise", [] { read_png(file("noise.png", "not a picture")); }, {"noise.png"}},

      // numbers
      {"NaN in the input of a fixed point",
       [] {
         const auto step = [](const Var<double>& z, const Var<double>& x) { return 0.5 * z + x; };
         (void)fixed_point::solve(step, until_converged(), zeros({1, 4}),
                                  Var(Tensor<double>(Shape{1, 4}, std::numeric_limits<double>::quiet_NaN())));
       },
       {"[fixed_point]", "non-finite"}},
      {"NaN in an image",
       [&] {
         Tensor<double> image(Shape{1, 1, 12, 12}, 0.5);
         image.mutable_data()[7] = std::numeric_limits<double>::quiet_NaN();
         Tape<double> tape;
         run(on_tape(net, tape), Var(image), Rbp{until_converged()});
       },
       {"[fixed_point]", "non-finite"}},
      {"a cell that diverges",
       [] {
         const auto step = [](const Var<double>& z, const Var<double>& x) { return 3.0 * z + x; };
         (void)fixed_point::solve(step, until_converged(), zeros({1, 4}), Var(Tensor<double>(Shape{1, 4}, 1.0)));
       },
       {"[fixed_point]", "diverged"}},
      {"no steps at all",
       [&] {
         predict(net, zeros({1, 1, 8, 8}), 0);
       },
       {"at least 1 step", "0"}},
  };

  for (const Case& c : cases) {
    CAPTURE(c.name);
    const std::string said = error_of(c.action);
    CHECK(said != "no error");
    for (const std::string& part : c.says) CHECK_MESSAGE(contains(said, part), said);
  }
}

TEST_CASE("an error leaves parameters, optimiser and files as they were") {
  auto net = hgru_net<float>({.kernel = 3, .orientations = 2});
  Adam<float> adam;
  const auto before = parameters<Var<float>>(net);
  std::vector<Var<float>> gradients;
  for (const auto& p : before) gradients.push_back(Var(Tensor<float>(p.shape(), 1.f)));
  gradients.pop_back();
  CHECK_THROWS_AS(adam.step(net, gradients), Error);
  const auto after = parameters<Var<float>>(net);
  for (std::size_t k = 0; k < before.size(); ++k)
    CHECK(std::ranges::equal(before[k].value().values(), after[k].value().values()));
  CHECK(adam.steps() == 0);

  const TemporaryFolder folder;
  const auto path = folder.path() / "kept.safetensors";
  write_safetensors(path, std::vector{std::pair{std::string("a"), Tensor<float>(Shape{2}, 1.f)}});
  const std::string kept = bytes_of(path);
  const std::vector twice{std::pair{std::string("a"), Tensor<float>(Shape{2}, 2.f)},
                          std::pair{std::string("a"), Tensor<float>(Shape{2}, 3.f)}};
  CHECK_THROWS_AS(write_safetensors(path, twice), Error);
  CHECK(bytes_of(path) == kept);
  CHECK(folder.files() == 1);
}
