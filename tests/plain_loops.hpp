#pragma once
#include <cstddef>

#include "settle/cpu/convolution/geometry.hpp"
#include "settle/kernels/matrix_product.hpp"

// What products are by their definition, and what they are tried on.

/// Calls f(in, tap, out) with the positions in x, w and y of everything that a convolution multiplies and adds up:
/// y[out] += x[in] w[tap].
template <class F>
void each_tap(const settle::cpu::ConvGeometry& g, const F& f) {
  using settle::Index;
  const Index inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups;
  for (Index n = 0; n < g.batch; ++n)
    for (Index o = 0; o < g.out_channels; ++o)
      for (Index c = 0; c < inputs; ++c)
        for (Index i = 0; i < g.out_height(); ++i)
          for (Index j = 0; j < g.out_width(); ++j)
            for (Index a = 0; a < g.kernel_height; ++a)
              for (Index b = 0; b < g.kernel_width; ++b) {
                const Index row = i * g.stride_h + a * g.dilation_h - g.pad_h;
                const Index column = j * g.stride_w + b * g.dilation_w - g.pad_w;
                if (row < 0 || row >= g.in_height || column < 0 || column >= g.in_width) continue;
                const Index channel = o / outputs * inputs + c;
                f(static_cast<std::size_t>(((n * g.in_channels + channel) * g.in_height + row) * g.in_width + column),
                  static_cast<std::size_t>(((o * inputs + c) * g.kernel_height + a) * g.kernel_width + b),
                  static_cast<std::size_t>(((n * g.out_channels + o) * g.out_height() + i) * g.out_width() + j));
              }
}

/// A batch of products of matrices.
template <class T>
void multiply_plainly(const settle::kernels::MatrixProduct& p, const T* a, const T* b, T* c) {
  using settle::Index;
  for (Index n = 0; n < p.batch; ++n)
    for (Index i = 0; i < p.rows; ++i)
      for (Index j = 0; j < p.columns; ++j) {
        T& to = c[n * p.next_c + i * p.row_c + j];
        T sum = p.add ? to : T(0);
        for (Index k = 0; k < p.inner; ++k)
          sum += a[n * p.next_a + (p.transpose_a ? k * p.row_a + i : i * p.row_a + k)] *
                 b[n * p.next_b + (p.transpose_b ? j * p.row_b + k : k * p.row_b + j)];
        to = sum;
      }
}
