#pragma once
#include <cstddef>
#include <memory>
#include <type_traits>

#include "settle/core/error.hpp"
#include "settle/core/tensor.hpp"
#include "settle/cuda/library.hpp"
#include "settle/kernels/matrix_product.hpp"

namespace settle::inline v0_2::cuda {

/// Products of matrices by cuBLAS in one stream, the same bits at every run.
class Blas {
 public:
  /// What cuBLAS likes to have on the largest devices.
  static constexpr std::size_t usual_workspace = std::size_t{32} << 20;

  /// `workspace` is memory of the device, aligned to 256 bytes, that the products take instead of memory of cuBLAS'
  /// own; it and the library must outlive this.
  /// Throws Error when cuBLAS is not there or finds no device.
  Blas(const Cublas& cublas, cudaStream_t stream, void* workspace, std::size_t bytes)
      : cublas_(cublas), handle_(new_handle(), cublas.cublasDestroy_v2) {
    check(cublas.cublasSetStream_v2(handle_.get(), stream), "set the stream");  // before the workspace, which it resets
    check(cublas.cublasSetWorkspace_v2(handle_.get(), workspace, bytes), "set the workspace");
  }

  /// Starts the products. With `tf32`, float32 may be rounded to 10 bits before it is multiplied. Throws Error when
  /// there is nothing to add up, or cuBLAS refuses.
  template <Scalar T>
  void multiply(const kernels::MatrixProduct& p, const T* a, const T* b, T* c, bool tf32 = false) const {
    if (p.batch == 0 || p.rows == 0 || p.columns == 0) return;
    require(p.inner > 0, "cublas", "a product over an inner extent of ", p.inner);
    constexpr bool single = std::is_same_v<T, float>;
    constexpr cudaDataType_t type = single ? CUDA_R_32F : CUDA_R_64F;
    const auto computed = !single ? CUBLAS_COMPUTE_64F : tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    const T one = 1, before = p.add ? T(1) : T(0);
    const auto operation = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    // A matrix stored row by row is its transpose to cuBLAS, which stores column by column: c' = b' a'.
    check(cublas_.cublasGemmStridedBatchedEx_64(handle_.get(), operation(p.transpose_b), operation(p.transpose_a),
                                                p.columns, p.rows, p.inner, &one, b, type, p.row_b, p.next_b, a, type,
                                                p.row_a, p.next_a, &before, c, type, p.row_c, p.next_c, p.batch,
                                                computed, CUBLAS_GEMM_DEFAULT),
          "multiply");
  }

 private:
  void check(cublasStatus_t status, const char* what) const {
    if (status != CUBLAS_STATUS_SUCCESS)
      fail("cublas", "could not ", what, ": ", cublas_.cublasGetStatusString(status));
  }

  cublasHandle_t new_handle() const {
    require(cublas_.library.usable(), "cublas", cublas_.library.reason());
    cublasHandle_t handle = nullptr;
    check(cublas_.cublasCreate_v2(&handle), "make a handle");
    return handle;
  }

  const Cublas& cublas_;
  std::unique_ptr<std::remove_pointer_t<cublasHandle_t>, decltype(Cublas::cublasDestroy_v2)> handle_;
};

}  // namespace settle::cuda
