#pragma once
#include <array>
#include <vector>

#include "settle/ops/convolution.hpp"
#include "settle/ops/map.hpp"
#include "settle/ops/matmul.hpp"
#include "settle/ops/pad.hpp"
#include "settle/ops/pool.hpp"
#include "settle/ops/reshape.hpp"
#include "settle/ops/resize.hpp"
#include "settle/ops/scan.hpp"
#include "settle/ops/slice.hpp"
#include "settle/ops/transpose.hpp"

// Operations of Tensors, which are constants among Vars; those of reductions and of maps are with these.
namespace settle::inline v0_2 {

namespace detail {

template <class A, class B>
concept OneIsTensor = VarOrTensor<A> && VarOrTensor<B> && WithTensor<A, B>;

}  // namespace detail

template <class A, class B>
  requires detail::OneIsTensor<A, B>
auto conv(const A& x, const B& weight, const ConvOptions& options = {}) {
  return conv(detail::lifted(x), detail::lifted(weight), options);
}
template <class A, class B>
  requires detail::OneIsTensor<A, B>
auto matmul(const A& a, const B& b, const MatmulOptions& options = {}) {
  return matmul(detail::lifted(a), detail::lifted(b), options);
}

auto prod(const detail::OnlyTensor auto& x, Axes axes) { return prod(detail::lifted(x), axes); }
auto cumsum(const detail::OnlyTensor auto& x, int axis) { return cumsum(detail::lifted(x), axis); }
auto reshape(const detail::OnlyTensor auto& x, const Shape& shape) { return reshape(detail::lifted(x), shape); }
auto squeeze(const detail::OnlyTensor auto& x, Axes axes) { return squeeze(detail::lifted(x), axes); }
auto unsqueeze(const detail::OnlyTensor auto& x, int axis) { return unsqueeze(detail::lifted(x), axis); }
auto transpose(const detail::OnlyTensor auto& x) { return transpose(detail::lifted(x)); }
auto transpose(const detail::OnlyTensor auto& x, const std::vector<int>& axes) {
  return transpose(detail::lifted(x), axes);
}
auto slice(const detail::OnlyTensor auto& x, const Window& window) { return slice(detail::lifted(x), window); }
auto slice(const detail::OnlyTensor auto& x, int axis, Index begin, Index extent, Index step = 1) {
  return slice(detail::lifted(x), axis, begin, extent, step);
}
auto pad(const detail::OnlyTensor auto& x, const Shape& before, const Shape& after) {
  return pad(detail::lifted(x), before, after);
}
auto pad(const detail::OnlyTensor auto& x, const Shape& before, const Shape& after, Border border) {
  return pad(detail::lifted(x), before, after, border);
}
auto max_pool(const detail::OnlyTensor auto& x, const PoolOptions& options = {}) {
  return max_pool(detail::lifted(x), options);
}
auto average_pool(const detail::OnlyTensor auto& x, const PoolOptions& options = {}) {
  return average_pool(detail::lifted(x), options);
}
auto resize(const detail::OnlyTensor auto& x, std::array<Index, 2> size, Interpolation how) {
  return resize(detail::lifted(x), size, how);
}

}  // namespace settle
