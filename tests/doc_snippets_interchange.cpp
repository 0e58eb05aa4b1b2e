// The snippets of docs/interchange.md and docs/from_pytorch.md.
#include <doctest/doctest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "settle/core/dlpack.hpp"
#include "settle/io/modules.hpp"
#include "settle/io/npy.hpp"
#include "settle/nn/released_models.hpp"
#include "settle/ops/all.hpp"
#include "temporary_folder.hpp"

using namespace settle;

TEST_CASE("docs: NumPy files") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "x.npy";
  // [npy]
  write_npy(path, Tensor<float>({2, 3}, {1, 2, 3, 4, 5, 6}));
  const NpyArray array = read_npy(path);
  const Tensor<float> x = array.get<float>();           // as it is stored: nothing is copied
  const Tensor<double> wide = array.get_as<double>();   // converted from any type of number
  // [npy]
  CHECK(x.data()[5] == 6);
  CHECK(wide.shape() == Shape{2, 3});
}

TEST_CASE("docs: memory of others") {
  auto frame = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3, 4});
  const Tensor<float> copy = Tensor<float>::from(*frame, {2, 2});
  const Tensor<float> view = Tensor<float>::view(frame->data(), {2, 2}, frame);
  CHECK(copy.data() != view.data());
  CHECK(view.data() == frame->data());
  dlpack::ManagedTensorVersioned* handed_out = dlpack::to_dlpack(view);
  const Tensor<float> taken = dlpack::from_dlpack<float>(handed_out);
  CHECK(taken.data() == frame->data());
}

TEST_CASE("docs: weights to PyTorch and back") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "net.safetensors";
  HgruNet<float> net = hgru_net<float>({.kernel = 3, .orientations = 1});
  SafetensorsWriter writer;
  add_module(writer, "", net);
  writer.write(path);
  const SafetensorsFile file = read_safetensors(path);
  load_module(file, "", net);
  const LoadReport report = load_what_fits(file, "module.", net);
  CHECK(!report.complete());
  CHECK(report.loaded.empty());
}

TEST_CASE("docs: PyTorch's operations") {
  Random random(1);
  const Var<double> x = uniform<double>({2, 3, 4}, 0, 1, random);
  const std::vector<int> axes{0, -1};
  const Var<double> kept = sum(x, axes);             // x.sum((0, -1), keepdim=True)
  const Var<double> dropped = squeeze(kept, axes);   // x.sum((0, -1))
  const Tensor<Index> best = argmax(x, 1);           // x.argmax(1, keepdim=True)
  const auto top = top_k(x, 2);                      // values and positions of x.topk(2)
  const Var<double> picked = gather_elements(x, 1, best);  // x.gather(1, best)
  CHECK(dropped.shape() == Shape{3});
  CHECK(top.values.shape() == Shape{2, 3, 2});
  CHECK(picked.value().data()[0] == max(x, {1}).value().data()[0]);
}
