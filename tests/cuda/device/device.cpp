#include <doctest/doctest.h>

#include <thread>
#include <vector>

#include "errors.hpp"
#include "settle/cuda/graph.hpp"

using namespace settle;

namespace {

template <class T>
std::vector<T> values(const Tensor<T, Cuda>& x) {
  const Tensor<T> here = to<Cpu>(x);
  return {here.values().begin(), here.values().end()};
}

}  // namespace

TEST_CASE("tensors on the device: values go there and back, copies share until one is written") {
  const Tensor<float> x({2, 3}, {1, 2, 3, 4, 5, 6});
  Tensor<float, Cuda> y = to<Cuda>(x);
  CHECK(values(y) == std::vector<float>{1, 2, 3, 4, 5, 6});
  CHECK(values(Tensor<double, Cuda>({3}, {0.5, 1, 2})) == std::vector<double>{0.5, 1, 2});
  CHECK(values(Tensor<float, Cuda>(Shape{300}, 2.5f)) == std::vector<float>(300, 2.5f));
  CHECK(values(Tensor<double, Cuda>(Shape{3}, -1.0)) == std::vector<double>(3, -1.0));
  CHECK(Tensor<double, Cuda>(Shape{}, 7.0).item() == 7.0);
  CHECK(values(Tensor<float, Cuda>(Shape{0, 2}, 1.0f)).empty());

  const Tensor<float, Cuda> shared = y.reshape({3, 2});
  CHECK(shared.data() == y.data());
  CHECK(!y.unique());
  *shared.derived() = std::make_shared<int>(1);
  Cuda::fill(y.mutable_data(), 2, 9.0f);
  CHECK(y.unique());
  CHECK(values(y) == std::vector<float>{9, 9, 3, 4, 5, 6});
  CHECK(values(shared) == std::vector<float>{1, 2, 3, 4, 5, 6});
  CHECK(*shared.derived());
  CHECK(!*y.derived());
  const Tensor<float, Cuda> copy = y.clone();
  CHECK(copy.data() != y.data());
  CHECK(values(copy) == values(y));
  CHECK(error_of([&] { y.item(); }) == "[item] expected one element, got shape (2, 3)");
}

TEST_CASE("the device's memory is counted by tag, and reused") {
  auto& memory = MemoryOf<Cuda>::instance();
  const MemoryUse before = memory.use();
  const std::size_t here = Memory::instance().use().current;
  {
    const MemoryTag tag("device test");
    const Tensor<float, Cuda> x(Shape{1000});
    CHECK(memory.use().current == before.current + 4000);
  }
  CHECK(memory.use().current == before.current);
  CHECK(Memory::instance().use().current == here);
  const std::size_t warm = memory.use().allocations;
  for (int k = 0; k < 3; ++k) const Tensor<float, Cuda> again(Shape{1000});
  CHECK(memory.use().allocations == warm);
  memory.trim();
  const Tensor<float, Cuda> anew(Shape{1000});
  CHECK(memory.use().allocations == warm + 1);
  std::size_t peak = 0;
  for (const auto& [name, use] : memory.use_by_tag())
    if (name == "device test") peak = use.peak;
  CHECK(peak == 4000);
}

TEST_CASE("a graph repeats its work on the same memory, which nothing else gets while it lives") {
  auto& memory = MemoryOf<Cuda>::instance();
  const std::size_t before = memory.use().current;
  {
    Tensor<float, Cuda> x(Shape{100}, 1.0f), y(Shape{100}, 2.0f);
    const float* const from = x.data();
    float* const to = y.mutable_data();
    const std::size_t warm = memory.use().current;
    cuda::Graph graph([&] {
      Tensor<float, Cuda> scratch(Shape{100});
      Cuda::copy(scratch.mutable_data(), from, 200);
      Cuda::fill(scratch.mutable_data() + 50, 50, 3.0f);
      Cuda::copy(to, scratch.data(), 400);
      // What another thread asks for meanwhile is done, and not captured.
      std::thread([&] { CHECK(values(Tensor<float, Cuda>(Shape{2}, 7.0f)) == std::vector<float>{7, 7}); }).join();
    });
    CHECK(memory.use().current == warm + 400);
    CHECK(values(y) == std::vector<float>(100, 2.0f));
    for (const float value : {4.0f, 5.0f}) {
      Cuda::fill(x.mutable_data(), 100, value);
      const Tensor<float, Cuda> other(Shape{100}, 6.0f);
      graph.launch();
      CHECK(values(other) == std::vector<float>(100, 6.0f));
      CHECK(values(y).front() == value);
      CHECK(values(y).back() == 3.0f);
    }
  }
  CHECK(memory.use().current == before);
}

TEST_CASE("work that waits for the device is no graph, and is repeated as it is") {
  const Tensor<float, Cuda> x(Shape{}, 2.0f);
  CHECK(error_of([&] { cuda::Graph([&] { x.item(); }); }) ==
        "[cuda] could not download memory while work is captured: it is not done yet");
  float sum = 0;
  cuda::Repeated repeated([&] { sum += x.item(); });
  repeated(), repeated();
  CHECK(sum == 4);
}

TEST_CASE("numbers arrive as they were when they were asked for") {
  Tensor<double, Cuda> x(Shape{2}, {1, 2});
  cuda::Arriving first(2), second(2);
  first.start(x.data());
  Cuda::fill(x.mutable_data(), 2, 5.0);
  second.start(x.data());
  CHECK(std::vector(first.wait().begin(), first.wait().end()) == std::vector<double>{1, 2});
  CHECK(std::vector(second.wait().begin(), second.wait().end()) == std::vector<double>{5, 5});
}
