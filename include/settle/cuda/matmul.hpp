#pragma once
#include <cstddef>

#include "settle/core/scoped_value.hpp"
#include "settle/cpu/matmul_geometry.hpp"
#include "settle/cuda/blas.hpp"
#include "settle/cuda/device.hpp"

namespace settle::inline v0_2::cuda {

/// While it lives, products and convolutions of this thread may round float32 to TF32, which keeps 10 bits, before they
/// multiply: `cuda::AllowTf32 allow;`. Many times faster, and never without being asked for.
class AllowTf32 {
 public:
  AllowTf32() : scope_(current(), true) {}

  static bool allowed() { return current(); }

 private:
  static bool& current() {
    thread_local bool allowed = false;
    return allowed;
  }

  ScopedValue<bool> scope_;
};

/// The process-wide cuBLAS, in the stream of the thread's work; its workspace is counted under the tag "cublas".
inline const Blas& blas() {
  struct Instance {
    Cublas library{libraries_folder()};
    Tensor<float, Cuda> workspace = [] {
      const MemoryTag tag("cublas");
      return Tensor<float, Cuda>(Shape{Index{Blas::usual_workspace / sizeof(float)}});
    }();
    // What is captured runs in the order of all other work, so the workspace serves both.
    Blas now{library, Context::instance().stream(false), workspace.mutable_data(), workspace.bytes()};
    Blas captured{library, Context::instance().stream(true), workspace.mutable_data(), workspace.bytes()};
  };
  static const Instance* instance = new Instance;  // never destroyed, as the context
  return Context::capturing() ? instance->captured : instance->now;
}

/// The products of all matrices of the batch.
template <class T>
void matmul(const cpu::MatmulGeometry& g, const T* a, const T* b, T* y) {
  const Index size = g.batch * g.rows * g.columns;
  if (size == 0) return;
  if (g.inner == 0) return Context::instance().zero(y, static_cast<std::size_t>(size) * sizeof(T));
  blas().multiply({.batch = g.batch,
                   .rows = g.rows,
                   .inner = g.inner,
                   .columns = g.columns,
                   .transpose_a = g.transpose_a,
                   .transpose_b = g.transpose_b,
                   .row_a = g.transpose_a ? g.rows : g.inner,
                   .row_b = g.transpose_b ? g.inner : g.columns,
                   .row_c = g.columns,
                   .next_a = g.rows * g.inner,
                   .next_b = g.inner * g.columns,
                   .next_c = g.rows * g.columns},
                  a, b, y, AllowTf32::allowed());
}

}  // namespace settle::cuda
