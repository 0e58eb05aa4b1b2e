#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "cuda/emulated/stream.hpp"
#include "errors.hpp"
#include "plain_loops.hpp"
#include "settle/core/random.hpp"
#include "settle/cuda/blas.hpp"
#include "temporary_folder.hpp"

using namespace settle;
using kernels::MatrixProduct;

namespace {

/// What stands in for cuBLAS, opened as cuBLAS is.
struct StandIn {
  TemporaryFolder folder;
  cuda::Cublas cublas{at(folder.path())};
  alignas(256) char workspace[256];

  template <class T>
  T& of(const char* name) {
    return *cublas.library.find<T>(name);
  }

 private:
  static std::filesystem::path at(const std::filesystem::path& folder) {
    std::filesystem::copy_file(SETTLE_EMULATED_CUBLAS, folder / ("libcublas.so." + std::to_string(CUBLAS_VER_MAJOR)));
    return folder;
  }
};

/// What an operand takes: matrices of `rows` rows, each `row` after the one before it.
struct Layout {
  Index row, next, size;
  Layout(Index batch, Index rows, Index columns, Index gap, bool shared)
      : row(columns + gap), next(shared ? 0 : rows * row + gap), size(batch * (rows * row + gap)) {}
};

template <class T>
void check_products(const cuda::Blas& blas, bool add, bool shared, Index gap, Index rows, Index inner, Index columns) {
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) {
      CAPTURE(ta);
      CAPTURE(tb);
      const Index batch = 3;
      const Layout of_a(batch, ta ? inner : rows, ta ? rows : inner, gap, shared);
      const Layout of_b(batch, tb ? columns : inner, tb ? inner : columns, gap, false);
      const Layout of_c(batch, rows, columns, gap, false);
      const MatrixProduct p{.batch = batch,
                            .rows = rows,
                            .inner = inner,
                            .columns = columns,
                            .transpose_a = ta,
                            .transpose_b = tb,
                            .row_a = of_a.row,
                            .row_b = of_b.row,
                            .row_c = of_c.row,
                            .next_a = of_a.next,
                            .next_b = of_b.next,
                            .next_c = of_c.next,
                            .add = add};
      Random random(1);
      const auto a = uniform<T>(Shape{of_a.size}, -1, 1, random), b = uniform<T>(Shape{of_b.size}, -1, 1, random);
      const auto before = add ? uniform<T>(Shape{of_c.size}, -1, 1, random)
                              : Tensor<T>(Shape{of_c.size}, std::numeric_limits<T>::quiet_NaN());
      Tensor<T> c = before, expected = before;
      multiply_plainly(p, a.data(), b.data(), expected.mutable_data());
      blas.multiply(p, a.data(), b.data(), c.mutable_data());
      for (Index k = 0; k < c.size(); ++k) {
        const T got = c.data()[k], wanted = expected.data()[k];
        CHECK(std::isnan(got) == std::isnan(wanted));  // where no product is, nothing is written
        if (!std::isnan(wanted)) CHECK(std::abs(got - wanted) <= T(4e-6));
      }
    }
}

}  // namespace

TEST_CASE("products of matrices stored by rows, in every layout, as cuBLAS is asked for them") {
  StandIn stand_in;
  const cuda::Blas blas(stand_in.cublas, nullptr, stand_in.workspace, sizeof(stand_in.workspace));
  for (const bool add : {false, true})
    for (const bool shared : {false, true})
      for (const Index gap : {0, 3}) {
        check_products<float>(blas, add, shared, gap, 4, 5, 2);
        check_products<double>(blas, add, shared, gap, 2, 3, 7);
        check_products<double>(blas, add, shared, gap, 1, 1, 1);
      }
}

TEST_CASE("the handle has the stream, the workspace and the precision that were asked for, and is given back") {
  StandIn stand_in;
  const float one = 1;
  float result = 0;
  const MatrixProduct p{.rows = 1, .inner = 1, .columns = 1, .row_a = 1, .row_b = 1, .row_c = 1};
  emulated::Stream stream;
  for (const bool tf32 : {false, true}) {
    const cuda::Blas blas(stand_in.cublas, reinterpret_cast<cudaStream_t>(&stream), stand_in.workspace, 128);
    CHECK(stand_in.of<int>("fake_handles") == 1);
    blas.multiply(p, &one, &one, &result, tf32);
    CHECK(result == 1);
    CHECK(stand_in.of<cublasComputeType_t>("fake_compute") ==
          (tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F));
    CHECK(stand_in.of<void*>("fake_stream") == &stream);
    CHECK(stand_in.of<void*>("fake_workspace") == stand_in.workspace);
    CHECK(stand_in.of<std::size_t>("fake_bytes") == 128);
  }
  CHECK(stand_in.of<int>("fake_handles") == 0);
}

TEST_CASE("what cuBLAS refuses is an error in its words, and a product of nothing asks for nothing") {
  StandIn stand_in;
  CHECK(contains(error_of([&] { cuda::Blas(stand_in.cublas, nullptr, stand_in.workspace + 1, 1); }),
                 "[cublas] could not set the workspace: an argument that the stand-in refuses"));
  CHECK(stand_in.of<int>("fake_handles") == 0);
  const cuda::Blas blas(stand_in.cublas, nullptr, stand_in.workspace, 1);
  const double x[4] = {};
  double y[4] = {};
  MatrixProduct p{.rows = 2, .inner = 2, .columns = 2, .row_a = 2, .row_b = 2, .row_c = 1};
  CHECK(contains(error_of([&] { blas.multiply(p, x, x, y); }), "[cublas] could not multiply: an argument"));
  p.row_c = 2, p.inner = 0;
  CHECK(contains(error_of([&] { blas.multiply(p, x, x, y); }), "an inner extent of 0"));
  p.batch = 0;
  CHECK_NOTHROW(blas.multiply(p, x, x, y));
  stand_in.of<cublasStatus_t>("fake_status") = CUBLAS_STATUS_NOT_INITIALIZED;
  CHECK(contains(error_of([&] { cuda::Blas(stand_in.cublas, nullptr, nullptr, 0); }),
                 "[cublas] could not make a handle: a status of the test"));
  const TemporaryFolder empty;
  CHECK(contains(error_of([&] { cuda::Blas(cuda::Cublas(empty.path()), nullptr, nullptr, 0); }), "[cublas] "));
}

TEST_CASE("cuBLAS itself has every function that is asked of it, and says why it cannot serve without a device") {
  const cuda::Cublas cublas;
  if (!cublas.library.usable()) {
    MESSAGE("not checked: " << cublas.library.reason());
    return;
  }
  const std::string said = error_of([&] { cuda::Blas(cublas, nullptr, nullptr, 0); });
  MESSAGE("this machine: " << said);
  CHECK((said == "no error" || contains(said, "[cublas] could not make a handle: ")));
}
