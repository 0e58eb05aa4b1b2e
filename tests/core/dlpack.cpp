#include "settle/core/dlpack.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "errors.hpp"

using namespace settle;

namespace {

/// An array as another library would give it, which counts how often it is given back.
struct Foreign {
  std::vector<float> values{1, 2, 3, 4, 5, 6};
  std::vector<std::int64_t> shape{2, 3}, strides{3, 1};
  dlpack::ManagedTensorVersioned managed{};
  int given_back = 0;

  Foreign() {
    managed.version = {1, 1};
    managed.context = this;
    managed.deleter = [](dlpack::ManagedTensorVersioned* m) { ++static_cast<Foreign*>(m->context)->given_back; };
    managed.tensor = {values.data(), {dlpack::cpu, 0}, 2, {dlpack::floating, 32, 1}, shape.data(), strides.data(), 0};
  }
  Foreign(const Foreign&) = delete;
  Foreign& operator=(const Foreign&) = delete;
};

template <class T>
std::vector<T> list(const Tensor<T>& tensor) {
  return {tensor.values().begin(), tensor.values().end()};
}

}  // namespace

TEST_CASE("an array of another library becomes a tensor in its place") {
  Foreign foreign;
  {
    Tensor<float> x = dlpack::from_dlpack<float>(&foreign.managed);
    CHECK(x.data() == foreign.values.data());
    CHECK(x.shape() == Shape{2, 3});
    const Tensor<float> kept = x;
    x.mutable_data()[0] = 9;
    CHECK(foreign.values[0] == 1);
    CHECK(kept.data() == foreign.values.data());
    CHECK(foreign.given_back == 0);
  }
  CHECK(foreign.given_back == 1);

  foreign.managed.tensor.strides = nullptr;  // in row-major order
  foreign.managed.tensor.byte_offset = 8;
  foreign.shape = {2, 2};
  CHECK(dlpack::from_dlpack<float>(&foreign.managed).data() == foreign.values.data() + 2);
  CHECK(foreign.given_back == 2);
}

TEST_CASE("an array in another order is copied, and given back at once") {
  Foreign foreign;
  foreign.shape = {3, 2}, foreign.strides = {1, 3};
  const Tensor<float> transposed = dlpack::from_dlpack<float>(&foreign.managed);
  CHECK(foreign.given_back == 1);
  CHECK(transposed.unique());
  CHECK(list(transposed) == std::vector<float>{1, 4, 2, 5, 3, 6});
  foreign.strides = {2, 0};  // repeated
  CHECK(list(dlpack::from_dlpack<float>(&foreign.managed)) == std::vector<float>{1, 1, 3, 3, 5, 5});
  foreign.shape = {1, 6}, foreign.strides = {77, 1};  // the stride of an axis of one says nothing
  CHECK(dlpack::from_dlpack<float>(&foreign.managed).data() == foreign.values.data());
  foreign.shape = {0, 6};
  CHECK(dlpack::from_dlpack<float>(&foreign.managed).shape() == Shape{0, 6});
  CHECK(foreign.given_back == 4);
}

TEST_CASE("what cannot be taken stays the giver's") {
  Foreign foreign;
  const auto error = [&] { return error_of([&] { dlpack::from_dlpack<float>(&foreign.managed); }); };
  CHECK(error_of([&] { dlpack::from_dlpack<double>(&foreign.managed); }) ==
        "[dlpack] expected float64 (code 2, 64 bits, 1 lane), got code 2, 32 bits, 1 lanes");
  foreign.managed.version.major = 2;
  CHECK(error() == "[dlpack] expected version 1 of the interface, got 2");
  foreign.managed.version.major = 1;
  foreign.managed.tensor.device.type = dlpack::cuda;
  CHECK(error() == "[dlpack] expected an array in the processor's memory (device 1), got device 2");
  foreign.managed.tensor.device.type = dlpack::cpu;
  foreign.managed.tensor.rank = 7;
  CHECK(error() == "[dlpack] a tensor has at most 6 axes, got 7");
  foreign.managed.tensor.rank = 2;
  foreign.managed.tensor.byte_offset = 2;
  CHECK(contains(error(), "[dlpack] expected values aligned to 4 bytes, got the address "));
  foreign.managed.tensor.byte_offset = 0;
  foreign.shape[0] = -1;
  CHECK(error() == "[shape] an extent must not be negative, got -1");
  CHECK(foreign.given_back == 0);
}

TEST_CASE("a tensor is handed out in its place, and lives as long as it is held") {
  Tensor<double> x({2, 1, 3}, {1, 2, 3, 4, 5, 6});
  const double* const data = x.data();
  dlpack::ManagedTensorVersioned* shared = dlpack::to_dlpack(x);
  CHECK(shared->version.major == 1);
  CHECK(shared->flags == dlpack::read_only);
  CHECK(shared->tensor.data == data);
  CHECK(shared->tensor.rank == 3);
  CHECK(shared->tensor.dtype.code == dlpack::floating);
  CHECK(shared->tensor.dtype.bits == 64);
  CHECK(std::vector<std::int64_t>(shared->tensor.shape, shared->tensor.shape + 3) == std::vector<std::int64_t>{2, 1, 3});
  CHECK(std::vector<std::int64_t>(shared->tensor.strides, shared->tensor.strides + 3) ==
        std::vector<std::int64_t>{3, 3, 1});
  x.mutable_data()[0] = 9;  // in a copy: what was handed out stays
  CHECK(static_cast<const double*>(shared->tensor.data)[0] == 1);
  shared->deleter(shared);

  const double* const own = x.data();
  dlpack::ManagedTensorVersioned* moved = dlpack::to_dlpack(std::move(x));
  CHECK(moved->flags == 0);
  CHECK(moved->tensor.data == own);
  const Tensor<double> back = dlpack::from_dlpack<double>(moved);
  CHECK(back.data() == own);
  CHECK(list(back) == std::vector<double>{9, 2, 3, 4, 5, 6});

  dlpack::ManagedTensor* old = dlpack::to_dlpack_unversioned(back);
  CHECK(dlpack::from_dlpack<double>(old).data() == own);
  dlpack::ManagedTensor* scalar = dlpack::to_dlpack_unversioned(Tensor<float>(Shape{}, 2.5f));
  CHECK(scalar->tensor.rank == 0);
  CHECK(dlpack::from_dlpack<float>(scalar).item() == 2.5f);
}
