#pragma once
#include "settle/autodiff/tape.hpp"
#include "settle/cpu/backend.hpp"
#include "settle/cpu/matmul.hpp"

namespace settle::inline v0_2 {

struct MatmulOptions {
  bool transpose_a = false;  ///< multiply by the transpose of a's last two axes
  bool transpose_b = false;  ///< multiply by the transpose of b's last two axes
};

/// The matrix product of a (..., m, k) and b (..., k, n), shape (..., m, n): y[i, j] = sum over l of a[i, l] b[l, j].
/// The axes before the last two are a batch, equal in both. Throws Error when the shapes do not fit.
template <class T, class D>
Var<T, D> matmul(const Var<T, D>& a, const Var<T, D>& b, const MatmulOptions& options = {}) {
  const bool ta = options.transpose_a, tb = options.transpose_b;
  const Shape &sa = a.shape(), &sb = b.shape();
  require(sa.rank() >= 2 && sb.rank() == sa.rank(), "matmul",
          "expected two matrices or two batches of matrices of equal rank, got ", sa, " and ", sb);
  cpu::MatmulGeometry g{.rows = sa[ta ? -1 : -2],
                        .inner = sa[ta ? -2 : -1],
                        .columns = sb[tb ? -2 : -1],
                        .transpose_a = ta,
                        .transpose_b = tb};
  require(sb[tb ? -1 : -2] == g.inner, "matmul", "the inner extents ", g.inner, " and ", sb[tb ? -1 : -2],
          " differ: ", sa, ta ? " transposed" : "", " times ", sb, tb ? " transposed" : "");
  Shape out;
  for (int axis = 0; axis + 2 < sa.rank(); ++axis) {
    require(sa[axis] == sb[axis], "matmul", "expected equal batch axes, got ", sa, " and ", sb);
    out.append(sa[axis]);
    g.batch *= sa[axis];
  }
  out.append(g.rows), out.append(g.columns);
  Tensor<T, D> y(out);
  Backend<D>::matmul(g, a.value().data(), b.value().data(), y.mutable_data());
  return record<T, D>("matmul", y, {a, b}, [a, b, ta, tb](const Var<T, D>& c, Cotangents<T, D>& gradients) {
    if (gradients.needs(0)) gradients.add(0, ta ? matmul(b, c, {tb, true}) : matmul(c, b, {false, !tb}));
    if (gradients.needs(1)) gradients.add(1, tb ? matmul(c, a, {true, ta}) : matmul(a, c, {!ta, false}));
  });
}

struct MatmulOp {
  static constexpr const char* name = "matmul";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape batch, Index m, Index k, Index n) {
      for (const bool ta : {false, true})
        for (const bool tb : {false, true}) {
          Shape a = batch, b = batch, y = batch;
          a.append(ta ? k : m), a.append(ta ? m : k), b.append(tb ? n : k), b.append(tb ? k : n);
          y.append(m), y.append(n);
          s.add(
              s.text(title, ta ? ", a transposed" : "", tb ? ", b transposed" : ""),
              [=](const auto& in) {
                return matmul(in[0], in[1], {ta, tb});
              },
              {s.uniform(a), s.uniform(b)},
              [=, &s](const auto& in) {
                return s.table(y, [&](Index at) {
                  const Index p = at / std::max<Index>(m * n, 1), i = at / n % m, j = at % n;
                  double sum = 0;
                  for (Index l = 0; l < k; ++l)
                    sum += in[0].data()[p * m * k + (ta ? l * m + i : i * k + l)] *
                           in[1].data()[p * k * n + (tb ? j * k + l : l * n + j)];
                  return sum;
                });
              });
        }
    };
    add("two matrices", {}, 3, 4, 2);
    add("a batch", {2, 3}, 1, 2, 3);
    add("one element", {1}, 1, 1, 1);
    add("no inner extent", {2}, 2, 0, 3);
    add("an empty batch", {0}, 2, 3, 2);
    add("no columns", {}, 2, 3, 0);
  }
};

}  // namespace settle
