#pragma once
#include "settle/kernels/source.hpp"

namespace settle::inline v0_2::kernels {

namespace detail {

inline constexpr const char* random_text = R"cuda(
// The stream of settle::Random(seed, stream) from its word `at` on.
struct Words {
  uint64 seed, stream, at, block;
  uint32 word[4];

  __device__ Words(uint64 s, uint64 t, uint64 from) : seed(s), stream(t), at(from), block(from / 4) { make(); }

  __device__ void make() {
    uint32 c0 = uint32(block), c1 = uint32(block >> 32), c2 = uint32(stream), c3 = uint32(stream >> 32);
    uint32 k0 = uint32(seed), k1 = uint32(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64 a = uint64(0xD2511F53u) * c0, b = uint64(0xCD9E8D57u) * c2;
      const uint32 d0 = uint32(b >> 32) ^ c1 ^ k0, d2 = uint32(a >> 32) ^ c3 ^ k1;
      c0 = d0, c1 = uint32(b), c2 = d2, c3 = uint32(a);
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
  }

  __device__ uint32 bits() {
    if (at / 4 != block) {
      block = at / 4;
      make();
    }
    const uint32 k = uint32(at++ % 4);
    return k == 0 ? word[0] : k == 1 ? word[1] : k == 2 ? word[2] : word[3];
  }

  __device__ double uniform() {
    const uint64 a = bits() >> 5, b = bits() >> 6;
    return (double(a) * 67108864.0 + double(b)) / 9007199254740992.0;
  }

  __device__ double normal() {
    const double radius = sqrt(-2.0 * log(1.0 - uniform()));
    return radius * cos(6.283185307179586 * uniform());
  }
};
)cuda";

}  // namespace detail

/// y[i] = low + (high - low) u_i, with u_i the i-th uniform number of settle::Random(seed, stream) after `words` words:
/// the same bits as on the CPU but for the rounding of the last two operations. Arguments: T* y, uint64 count, seed,
/// stream, words, double low, high.
template <class T>
Kernel random_uniform() {
  return for_scalar<T>("random_uniform", std::string(detail::random_text) + R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(real* y, uint64 count, uint64 seed, uint64 stream, uint64 words, double low, double high) {
  const uint64 i = uint64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) y[i] = real(low + (high - low) * Words(seed, stream, words + 2 * i).uniform());
}
)cuda",
                       {.registers = 48});
}

/// y[i] = mean + deviation n_i, with n_i the i-th normal number of settle::Random(seed, stream) after `words` words.
/// Arguments: T* y, uint64 count, seed, stream, words, double mean, deviation.
template <class T>
Kernel random_normal() {
  return for_scalar<T>("random_normal", std::string(detail::random_text) + R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(real* y, uint64 count, uint64 seed, uint64 stream, uint64 words, double mean, double deviation) {
  const uint64 i = uint64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) y[i] = real(mean + deviation * Words(seed, stream, words + 4 * i).normal());
}
)cuda",
                       {.registers = 64});
}

}  // namespace settle::kernels
