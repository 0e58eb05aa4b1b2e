#pragma once
#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "settle/core/tensor.hpp"
#include "settle/cpu/convolution.hpp"
#include "settle/cpu/gather.hpp"
#include "settle/cpu/matmul_geometry.hpp"
#include "settle/cpu/max_pool.hpp"
#include "settle/cpu/pointwise.hpp"
#include "settle/cpu/sparse.hpp"
#include "settle/cpu/strided.hpp"
#include "settle/cpu/vectors.hpp"

namespace settle::inline v0_2 {

/// What the operations ask of a device besides its memory and its pointwise functions. Each device has a specialisation
/// with the same functions, on pointers into its memory; results are overwritten unless it says otherwise. Where there
/// is a slot for what is derived from a constant operand, the device may keep its own form of that operand there.
template <class Device>
struct Backend;

template <>
struct Backend<Cpu> {
  using Slot = std::shared_ptr<void>*;

  /// A plain number as a tensor.
  template <class T>
  static Tensor<T> number(T value) {
    return Tensor<T>(Shape{}, value);
  }

  /// to[sum of i_a to_strides_a] = from[sum of i_a from_strides_a] for every position i of `extents`.
  template <class T>
  static void copy_strided(const Shape& extents, const T* from, const cpu::Strides& from_strides, T* to,
                           const cpu::Strides& to_strides) {
    cpu::copy_strided(extents, from, from_strides, to, to_strides);
  }

  /// y[o, k, :] = x[o, indices[k], :] for x (outer, extent, inner).
  template <class T>
  static void gather(Index outer, Index extent, Index inner, const Tensor<Index>& indices, const T* x, T* y) {
    cpu::gather(outer, extent, inner, indices.values(), x, y);
  }
  /// The adjoint: x[o, indices[k], :] += y[o, k, :] into zeros, in the order of the indices.
  template <class T>
  static void scatter_add(Index outer, Index extent, Index inner, const Tensor<Index>& indices, const T* y, T* x) {
    cpu::scatter_add(outer, extent, inner, indices.values(), y, x);
  }

  /// y[o, i, :] = sum over j of m[i, j] x[o, j, :].
  template <class T>
  static void multiply_along(const cpu::SparseMatrix& m, Slot, Index outer, Index inner, const T* x, T* y) {
    cpu::multiply_along(m, outer, inner, x, y);
  }

  /// The largest value along the axes that y has extent 1 in; NaN if any value is NaN.
  template <class T>
  static void max_over(const Shape& from, const T* x, const Shape& to, T* y) {
    cpu::max_over(from, x, to, y);
  }

  /// Where the largest value of each window is in x, the first of equal ones.
  template <class T>
  static Tensor<Index> max_pool_positions(const cpu::PoolGeometry& g, const T* x) {
    Tensor<Index> positions(Shape{g.planes * g.out[0] * g.out[1]});
    cpu::max_pool_positions(g, x, positions.mutable_data());
    return positions;
  }
  /// The values there.
  template <class T>
  static void max_pool(const cpu::PoolGeometry& g, const Tensor<Index>& positions, const T* x, T* y) {
    cpu::gather(1, g.planes * g.in[0] * g.in[1], 1, positions.values(), x, y);
  }
  /// The adjoint: zeros, to which each window's value is added at its position.
  template <class T>
  static void max_pool_adjoint(const cpu::PoolGeometry& g, const Tensor<Index>& positions, const T* y, T* x) {
    cpu::scatter_add(1, g.planes * g.in[0] * g.in[1], 1, positions.values(), y, x);
  }

  /// The products of all matrices of a batch.
  template <class T>
  static void matmul(const cpu::MatmulGeometry& g, const T* a, const T* b, T* y);

  /// y = conv(x, w), and the gradients of sum gy · conv(x, w) in x and in w.
  template <class T>
  static void conv_forward(const cpu::ConvGeometry& g, const T* x, const T* w, T* y, ConvAlgorithm asked, Slot of_w);
  template <class T>
  static void conv_input_grad(const cpu::ConvGeometry& g, const T* gy, const T* w, T* gx, ConvAlgorithm asked,
                              Slot of_w);
  /// Adds the gradient in x to gx.
  template <class T>
  static void add_conv_input_grad(const cpu::ConvGeometry& g, const T* gy, const T* w, T* gx, ConvAlgorithm asked,
                                  Slot of_w);
  template <class T>
  static void conv_weight_grad(const cpu::ConvGeometry& g, const T* x, const T* gy, T* gw, ConvAlgorithm asked);

  /// The instructions that the functions below are compiled for: "avx512", "avx2", "avx" or "baseline".
  template <class T>
  static const char* instruction_set();

  /// Adds x · y, or |x - y|² and |x|², to the numbers of each of the systems that the array is split among.
  template <class T>
  static void add_dots(Index size, const T* x, const T* y, std::vector<double>& out) {
    cpu::add_dots(size, x, y, out);
  }
  template <class T>
  static void add_square_distances(Index size, const T* x, const T* y, std::vector<double>& distances,
                                   std::vector<double>& sizes) {
    cpu::add_square_distances(size, x, y, distances, sizes);
  }
  /// Raises each system's number to its largest |x_k|, or makes it NaN if there is one.
  template <class T>
  static void raise_to_largest(Index size, const T* x, std::vector<double>& out) {
    cpu::raise_to_largest(size, x, out);
  }
  /// y <- c y + d x with numbers for each system; where a number is 0 its vector is not read.
  template <class T>
  static void mix(Index size, const std::vector<double>& c, T* y, const std::vector<double>& d, const T* x) {
    cpu::mix(size, c, y, d, x);
  }
  /// y <- y + d x, and |x|² added to the number of each system.
  template <class T>
  static void add_scaled(Index size, T* y, const std::vector<double>& d, const T* x, std::vector<double>& sizes) {
    cpu::add_scaled(size, y, d, x, sizes);
  }
};

// Not inline: libsettle has these, compiled for the processor that a program finds itself on.

template <class T>
void Backend<Cpu>::matmul(const cpu::MatmulGeometry& g, const T* a, const T* b, T* y) {
  cpu::matmul(g, a, b, y);
}

template <class T>
void Backend<Cpu>::conv_forward(const cpu::ConvGeometry& g, const T* x, const T* w, T* y, ConvAlgorithm asked,
                                Slot of_w) {
  cpu::conv_forward(g, x, w, y, asked, of_w);
}

template <class T>
void Backend<Cpu>::conv_input_grad(const cpu::ConvGeometry& g, const T* gy, const T* w, T* gx, ConvAlgorithm asked,
                                   Slot of_w) {
  cpu::conv_input_grad(g, gy, w, gx, asked, of_w);
}

template <class T>
void Backend<Cpu>::add_conv_input_grad(const cpu::ConvGeometry& g, const T* gy, const T* w, T* gx, ConvAlgorithm asked,
                                       Slot of_w) {
  cpu::conv_input_grad(g, gy, w, gx, asked, of_w, true);
}

template <class T>
void Backend<Cpu>::conv_weight_grad(const cpu::ConvGeometry& g, const T* x, const T* gy, T* gw, ConvAlgorithm asked) {
  cpu::conv_weight_grad(g, x, gy, gw, asked);
}

template <class T>
const char* Backend<Cpu>::instruction_set() {
  return cpu::instruction_set_name;
}

}  // namespace settle
