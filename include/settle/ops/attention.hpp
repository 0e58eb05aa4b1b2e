#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "settle/ops/matmul.hpp"
#include "settle/ops/reduce.hpp"

namespace settle::inline v0_2 {

/// Scaled dot-product attention, as PyTorch's scaled_dot_product_attention: softmax(q k' / sqrt(d)) v over the last axis
/// of the products. Queries (..., L, d), keys (..., S, d), values (..., S, e); with equal leading axes the result is
/// (..., L, e). Throws Error when the shapes do not fit.
template <class T, class D>
Var<T, D> attention(const Var<T, D>& queries, const Var<T, D>& keys, const Var<T, D>& values) {
  require(queries.shape().rank() >= 2, "attention", "expected queries (..., L, d), got ", queries.shape());
  const double scale = 1 / std::sqrt(static_cast<double>(std::max<Index>(queries.shape(-1), 1)));
  return matmul(exp(log_softmax(matmul(queries, keys, {.transpose_b = true}) * scale, -1)), values);
}

/// The same with numbers added to the scaled products before the softmax, which broadcast to (..., L, S): -infinity
/// leaves a key out, and where all are left out the result is not a number, as in PyTorch.
template <class T, class D>
Var<T, D> attention(const Var<T, D>& queries, const Var<T, D>& keys, const Var<T, D>& values, const Var<T, D>& added) {
  require(queries.shape().rank() >= 2, "attention", "expected queries (..., L, d), got ", queries.shape());
  const double scale = 1 / std::sqrt(static_cast<double>(std::max<Index>(queries.shape(-1), 1)));
  const Var<T, D> products = matmul(queries, keys, {.transpose_b = true}) * scale + added;
  return matmul(exp(log_softmax(products, -1)), values);
}

/// What leaves later keys out, (L, S): 0 where key s is at most query l's own position, -infinity beyond.
template <Scalar T, class D = Cpu>
Tensor<T, D> causal_mask(Index queries, Index keys) {
  Tensor<T> out(Shape{queries, keys}, T{0});
  for (Index l = 0; l < queries; ++l)
    for (Index s = l + 1; s < keys; ++s) out.mutable_data()[l * keys + s] = -std::numeric_limits<T>::infinity();
  return to<D>(out);
}

struct AttentionOp {
  static constexpr const char* name = "attention";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Index batch, Index l, Index n, Index d, Index e, bool causal) {
      s.add(
          title,
          [=](const auto& in) {
            using V = std::decay_t<decltype(in[0])>;
            using T = typename V::value_type;
            using D = typename V::device_type;
            return causal ? attention(in[0], in[1], in[2], V(causal_mask<T, D>(l, n))) : attention(in[0], in[1], in[2]);
          },
          {s.uniform({batch, l, d}), s.uniform({batch, n, d}), s.uniform({batch, n, e})},
          [=, &s](const auto& in) {
            return s.table({batch, l, e}, [&](Index at) {
              const auto i = s.position(Shape{batch, l, e}, at);
              double total = 0, sum = 0;
              for (Index k = 0; k < (causal ? std::min(i[1] + 1, n) : n); ++k) {
                double product = 0;
                for (Index j = 0; j < d; ++j)
                  product += in[0].data()[(i[0] * l + i[1]) * d + j] * in[1].data()[(i[0] * n + k) * d + j];
                const double weight = std::exp(product / std::sqrt(static_cast<double>(d)));
                total += weight, sum += weight * in[2].data()[(i[0] * n + k) * e + i[2]];
              }
              return sum / total;
            });
          });
    };
    add("of each batch", 2, 3, 4, 5, 2, false);
    add("of earlier keys", 1, 4, 4, 3, 2, true);
    add("one of one", 1, 1, 1, 1, 1, false);
    add("no query", 2, 0, 3, 2, 2, false);
  }
};

}  // namespace settle
