#pragma once
#include <algorithm>

#include "settle/kernels/source.hpp"

namespace settle::inline v0_2::kernels {

/// What a fold walks through: each result, named by the kept axes, combines the values along the folded axes. Strides
/// count elements; the layout of the kernel's argument.
struct Fold {
  static constexpr int max_axes = Shape::max_rank + 1;

  std::uint64_t results = 1, count = 1;  ///< and the values combined in each
  std::uint64_t kept_extent[max_axes] = {}, kept_from[max_axes] = {}, kept_to[max_axes] = {};
  std::uint64_t folded_extent[max_axes] = {}, folded_from[max_axes] = {};
  int kept = 0, folded = 0;
  int add = 0;  ///< whether a sum is added to what the result holds

  void keep(Index extent, Index from, Index to) {
    kept_extent[kept] = static_cast<std::uint64_t>(extent), kept_from[kept] = static_cast<std::uint64_t>(from);
    kept_to[kept++] = static_cast<std::uint64_t>(to), results *= static_cast<std::uint64_t>(extent);
  }
  void fold(Index extent, Index from) {
    folded_extent[folded] = static_cast<std::uint64_t>(extent);
    folded_from[folded++] = static_cast<std::uint64_t>(from), count *= static_cast<std::uint64_t>(extent);
  }

  /// A row of threads for each result; few values to combine share a block with other results' rows.
  Grid grid(unsigned block = 256) const {
    const unsigned lanes = std::min(block, power_of_two_from(static_cast<Index>((count + 15) / 16)));
    const unsigned rows = std::min(block / lanes, power_of_two_from(static_cast<Index>(results)));
    return {groups_of(rows, static_cast<Index>(results)), 1, lanes, rows};
  }
};

namespace detail {

inline constexpr const char* fold_text = R"cuda(
struct Fold {
  uint64 results, count;
  uint64 kept_extent[7], kept_from[7], kept_to[7];
  uint64 folded_extent[7], folded_from[7];
  int kept, folded, add;
};

// The values of one result, combined by one row of threads: each thread takes every blockDim.x-th, then a tree.
template <class Combine, class T, class From> __device__ inline T folded(const Fold& f, uint64 at, const From* x, T empty, T* shared) {
  T total = empty;
  for (uint64 k = threadIdx.x; k < f.count; k += blockDim.x) {
    uint64 rest = k, from = at;
    for (int a = f.folded - 1; a >= 0; --a) {
      from += rest % f.folded_extent[a] * f.folded_from[a];
      rest /= f.folded_extent[a];
    }
    total = Combine::of(total, T(x[from]));
  }
  return combine_row<Combine>(total, shared);
}

template <class Combine, class T, class From> __device__ inline void fold(const Fold& f, const From* x, real* y, T empty, T* shared) {
  const uint64 result = uint64(blockIdx.x) * blockDim.y + threadIdx.y;
  const bool inside = result < f.results;
  uint64 rest = inside ? result : 0, from = 0, to = 0;
  for (int a = f.kept - 1; a >= 0; --a) {
    const uint64 i = rest % f.kept_extent[a];
    rest /= f.kept_extent[a];
    from += i * f.kept_from[a];
    to += i * f.kept_to[a];
  }
  const T total = folded<Combine>(f, from, x, empty, shared);
  if (inside && threadIdx.x == 0) y[to] = f.add ? real(T(y[to]) + total) : real(total);
}
)cuda";

}  // namespace detail

/// y = the sums of x, which are in double: the second pass of a map with sums. Arguments: Fold, const double* x, T* y.
template <class T>
Kernel fold_sums() {
  return for_scalar<T>("fold_sums", std::string(detail::fold_text) + R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(const Fold f, const double* x, real* y) {
  __shared__ double shared[256];
  fold<Sum>(f, x, y, 0.0, shared);
}
)cuda",
                       {.registers = 64, .shared = 2048}, "usual");
}

/// y = the largest values of x; NaN if any value is NaN. Arguments: Fold, const T* x, T* y.
template <class T>
Kernel fold_maxima() {
  return for_scalar<T>("fold_maxima", std::string(detail::fold_text) + R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(const Fold f, const real* x, real* y) {
  __shared__ real shared[256];
  fold<Maximum>(f, x, y, real(-1.0 / 0.0), shared);
}
)cuda",
                       {.registers = 64, .shared = 2048}, "vectors");
}

/// The fold of x down to a shape of the same rank with some axes of extent 1.
inline Fold fold_of(const Shape& x, const Shape& y) {
  Fold out;
  Index from = x.size(), to = y.size();
  for (int a = 0; a < x.rank(); ++a) {
    from /= std::max<Index>(x[a], 1), to /= std::max<Index>(y[a], 1);
    if (x[a] == y[a])
      out.keep(x[a], from, to);
    else
      out.fold(x[a], from);
  }
  return out;
}

}  // namespace settle::kernels
