// Stands in for cuBLAS on the memory of the CPU: the calls that the library makes, by plain loops over matrices stored
// column by column, with the checks of arguments that cuBLAS' manual gives.
#include <cublas_v2.h>

#include <cstdint>

#include "stream.hpp"

struct cublasContext {
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
  std::size_t bytes = 0;
};

namespace {

/// c = alpha op(a) op(b) + beta c for one matrix of the batch.
template <class T>
void multiply(bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, T alpha, const T* a, std::int64_t lda,
              const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc) {
  for (std::int64_t j = 0; j < n; ++j)
    for (std::int64_t i = 0; i < m; ++i) {
      T sum = 0;
      for (std::int64_t l = 0; l < k; ++l)
        sum += (ta ? a[i * lda + l] : a[l * lda + i]) * (tb ? b[l * ldb + j] : b[j * ldb + l]);
      T& to = c[j * ldc + i];
      to = alpha * sum + (beta == T(0) ? T(0) : beta * to);  // what c holds is not read when beta is zero
    }
}

}  // namespace

extern "C" {
int fake_handles = 0;
cublasStatus_t fake_status = CUBLAS_STATUS_SUCCESS;
cublasComputeType_t fake_compute = CUBLAS_COMPUTE_16F;
// Of the last product's handle.
void *fake_stream = nullptr, *fake_workspace = nullptr;
std::size_t fake_bytes = 0;

const char* CUBLASWINAPI cublasGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_INVALID_VALUE ? "an argument that the stand-in refuses" : "a status of the test";
}

cublasStatus_t CUBLASWINAPI cublasCreate_v2(cublasHandle_t* handle) {
  if (fake_status != CUBLAS_STATUS_SUCCESS) return fake_status;
  *handle = new cublasContext;
  ++fake_handles;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CUBLASWINAPI cublasDestroy_v2(cublasHandle_t handle) {
  delete handle;
  --fake_handles;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CUBLASWINAPI cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  *handle = {stream, nullptr, 0};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CUBLASWINAPI cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(workspace) % 256 != 0) return CUBLAS_STATUS_INVALID_VALUE;
  handle->workspace = workspace, handle->bytes = bytes;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CUBLASWINAPI cublasGemmStridedBatchedEx_64(
    cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int64_t m, int64_t n, int64_t k,
    const void* alpha, const void* a, cudaDataType atype, int64_t lda, long long stridea, const void* b,
    cudaDataType btype, int64_t ldb, long long strideb, const void* beta, void* c, cudaDataType ctype, int64_t ldc,
    long long stridec, int64_t batch, cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
  const bool ta = transa == CUBLAS_OP_T, tb = transb == CUBLAS_OP_T;
  const auto too_short = [](std::int64_t ld, std::int64_t rows) { return ld < (rows > 1 ? rows : 1); };
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (m < 0 || n < 0 || k < 0 || batch < 0 || too_short(lda, ta ? k : m) || too_short(ldb, tb ? n : k) ||
      too_short(ldc, m) || (!ta && transa != CUBLAS_OP_N) || (!tb && transb != CUBLAS_OP_N) || !alpha || !beta ||
      algorithm != CUBLAS_GEMM_DEFAULT || (batch > 1 && stridec == 0))
    return CUBLAS_STATUS_INVALID_VALUE;
  const bool single = atype == CUDA_R_32F;
  const bool known = single ? compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_FAST_TF32
                            : atype == CUDA_R_64F && compute == CUBLAS_COMPUTE_64F;
  if (atype != btype || atype != ctype || !known) return CUBLAS_STATUS_NOT_SUPPORTED;
  fake_compute = compute;
  fake_stream = handle->stream, fake_workspace = handle->workspace, fake_bytes = handle->bytes;
  const auto each = [&]<class T>(T) {
    const T by = *static_cast<const T*>(alpha), keep = *static_cast<const T*>(beta);
    emulated::ask(handle->stream, [=] {
      for (std::int64_t p = 0; p < batch; ++p)
        multiply(ta, tb, m, n, k, by, static_cast<const T*>(a) + p * stridea, lda,
                 static_cast<const T*>(b) + p * strideb, ldb, keep, static_cast<T*>(c) + p * stridec, ldc);
    });
  };
  single ? each(float{}) : each(double{});
  return CUBLAS_STATUS_SUCCESS;
}
}
