#pragma once
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "settle/core/round_up.hpp"
#include "settle/cpu/backend.hpp"
#include "settle/cuda/convolution.hpp"
#include "settle/cuda/device.hpp"
#include "settle/cuda/graph.hpp"
#include "settle/cuda/matmul.hpp"
#include "settle/cuda/pointwise.hpp"
#include "settle/kernels/fold.hpp"
#include "settle/kernels/move.hpp"
#include "settle/kernels/ranks.hpp"
#include "settle/kernels/vectors.hpp"

namespace settle::inline v0_2 {

namespace cuda {

/// What a slot keeps, made on first use. One mutex for all: making is rare and short.
template <class Kept, class Make>
std::shared_ptr<const Kept> kept_in(std::shared_ptr<void>* slot, const Make& make) {
  static std::mutex mutex;
  if (!slot) return std::make_shared<const Kept>(make());
  std::lock_guard lock(mutex);
  if (!*slot) *slot = std::make_shared<Kept>(make());
  return std::static_pointer_cast<const Kept>(*slot);
}

/// A sparse matrix in the device's memory.
struct DeviceMatrix {
  explicit DeviceMatrix(const cpu::SparseMatrix& m)
      : rows(m.rows),
        columns(m.columns),
        start(Shape{std::ssize(m.start)}, m.start),
        column(Shape{std::ssize(m.column)}, m.column),
        weight(Shape{std::ssize(m.weight)}, m.weight) {}

  template <class T>
  void multiply_along(Index outer, Index inner, const T* x, T* y) const {
    const Index count = outer * rows * inner;
    static const kernels::Kernel kernel = kernels::multiply_along<T>();
    if (count > 0)
      launch(kernel, one_each(count), static_cast<std::uint64_t>(outer), static_cast<std::uint64_t>(columns),
             static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(inner), start.data(), column.data(),
             weight.data(), x, y);
  }

  Index rows, columns;
  Tensor<Index, Cuda> start, column;
  Tensor<double, Cuda> weight;
};

/// A list of positions in the device's memory, and the matrix that adds values up at them.
struct DeviceIndices {
  Tensor<Index, Cuda> list;
  DeviceMatrix adjoint;

  DeviceIndices(const Tensor<Index>& indices, Index extent) : list(to<Cuda>(indices)), adjoint(sums(indices, extent)) {}

  static cpu::SparseMatrix sums(const Tensor<Index>& indices, Index extent) {
    cpu::SparseMatrix selection;
    selection.columns = extent;
    for (const Index i : indices.values()) selection.add(i, 1.0), selection.end_row();
    return cpu::transposed(selection);
  }
};

}  // namespace cuda

template <>
struct Backend<Cuda> {
  using Slot = std::shared_ptr<void>*;

  using Repeated = cuda::Repeated;
  using Arriving = cuda::Arriving;

  /// Whether a step on a state of so many bytes is taken to be bound by its launches, so that repeating it as a graph
  /// is worth the memory of some states. A model: a dozen passes over 16 MiB take the time of ten launches.
  static bool repeats(std::size_t bytes) { return !cuda::NoGraphs::asked() && bytes <= std::size_t{16} << 20; }

  /// Plain numbers come again and again: the first some hundred are kept, for good, as graphs may read them.
  template <class T>
  static Tensor<T, Cuda> number(T value) {
    static std::mutex mutex;
    static auto& known = *new std::map<T, Tensor<T, Cuda>>;  // never destroyed: its memory may be gone at exit
    if (value != value) return Tensor<T, Cuda>(Shape{}, value);
    std::lock_guard lock(mutex);
    if (const auto at = known.find(value); at != known.end()) return at->second;
    if (known.size() >= 512 || cuda::Context::capturing()) return Tensor<T, Cuda>(Shape{}, value);
    const MemoryTag tag("numbers");
    return known.emplace(value, Tensor<T, Cuda>(Shape{}, value)).first->second;
  }

  template <class T>
  static void copy_strided(const Shape& extents, const T* from, const cpu::Strides& from_strides, T* to,
                           const cpu::Strides& to_strides) {
    if (extents.size() == 0) return;
    const cpu::StridedCopy copy = cpu::merged_axes(extents, from_strides, to_strides);
    kernels::StridedAxes axes;
    axes.count = static_cast<std::uint64_t>(extents.size()), axes.axes = static_cast<int>(copy.axes);
    for (std::size_t a = 0; a < copy.axes; ++a) {
      axes.extent[a] = static_cast<std::uint64_t>(copy.extent[a]);
      axes.from[a] = copy.source[a], axes.to[a] = copy.target[a];
    }
    static const kernels::Kernel kernel = kernels::copy_strided<T>();
    cuda::launch(kernel, cuda::one_each(extents.size()), axes, from, to);
  }

  template <class T>
  static void gather(Index outer, Index extent, Index inner, const Tensor<Index>& indices, const T* x, T* y) {
    if (outer * indices.size() * inner == 0) return;
    gather(outer, extent, inner, on_device(indices, extent)->list, x, y);
  }
  template <class T>
  static void scatter_add(Index outer, Index extent, Index inner, const Tensor<Index>& indices, const T* y, T* x) {
    on_device(indices, extent)->adjoint.multiply_along(outer, inner, y, x);
  }

  template <class T>
  static void multiply_along(const cpu::SparseMatrix& m, Slot slot, Index outer, Index inner, const T* x, T* y) {
    cuda::kept_in<cuda::DeviceMatrix>(slot, [&] { return cuda::DeviceMatrix(m); })->multiply_along(outer, inner, x, y);
  }

  template <class T>
  static void max_over(const Shape& from, const T* x, const Shape& to, T* y) {
    const kernels::Fold fold = kernels::fold_of(from, to);
    static const kernels::Kernel kernel = kernels::fold_maxima<T>();
    if (fold.results > 0) cuda::launch(kernel, fold.grid(), fold, x, y);
  }

  template <class T>
  static Tensor<Index, Cuda> max_pool_positions(const cpu::PoolGeometry& g, const T* x) {
    const Index windows = g.out[0] * g.out[1];
    Tensor<Index, Cuda> positions(Shape{g.planes * windows});
    static const kernels::Kernel kernel = kernels::max_pool_positions<T>();
    if (positions.size() > 0)
      cuda::launch(kernel, kernels::windows_grid(g.planes, windows), of(g), x, positions.mutable_data());
    return positions;
  }
  template <class T>
  static void max_pool(const cpu::PoolGeometry& g, const Tensor<Index, Cuda>& positions, const T* x, T* y) {
    gather(1, g.planes * g.in[0] * g.in[1], 1, positions, x, y);
  }
  template <class T>
  static void max_pool_adjoint(const cpu::PoolGeometry& g, const Tensor<Index, Cuda>& positions, const T* y, T* x) {
    static const kernels::Kernel kernel = kernels::max_pool_adjoint<T>();
    if (g.planes > 0)
      cuda::launch(kernel, kernels::windows_grid(g.planes, g.in[0] * g.in[1]), of(g), positions.data(), y, x);
  }

  template <class T>
  static void matmul(const cpu::MatmulGeometry& g, const T* a, const T* b, T* y) {
    cuda::matmul(g, a, b, y);
  }

  template <class T>
  static void conv_forward(const cpu::ConvGeometry& g, const T* x, const T* w, T* y, ConvAlgorithm asked, Slot of_w,
                           Slot byproduct = nullptr) {
    cuda::conv_forward(g, x, w, y, asked, of_w, byproduct);
  }
  template <class T>
  static void conv_input_grad(const cpu::ConvGeometry& g, const T* gy, const T* w, T* gx, ConvAlgorithm asked,
                              Slot of_w) {
    cuda::conv_input_grad(g, gy, w, gx, asked, of_w);
  }
  template <class T>
  static void conv_weight_grad(const cpu::ConvGeometry& g, const T* x, const T* gy, T* gw, ConvAlgorithm asked) {
    cuda::conv_weight_grad(g, x, gy, gw, asked);
  }

  template <class T>
  static std::vector<Tensor<T, Cuda>> channel_moments(const Tensor<T, Cuda>& x) {
    return cuda::channel_moments(x);
  }

  template <class T>
  static void add_dots(Index size, const T* x, const T* y, std::vector<double>& out) {
    add_products(size, false, x, y, out);
  }
  template <class T>
  static void add_square_distances(Index size, const T* x, const T* y, std::vector<double>& distances,
                                   std::vector<double>& sizes) {
    add_products(size, true, x, y, distances);
    add_products(size, false, x, x, sizes);
  }

  template <class T>
  static void raise_to_largest(Index size, const T* x, std::vector<double>& out) {
    if (size == 0) return;
    const MemoryTag tag("workspace");
    const Index systems = std::ssize(out), length = size / systems, piece = piece_of(length);
    const Index pieces = divide_up(length, piece);
    Tensor<T, Cuda> found(Shape{systems, pieces}), largest(Shape{systems, 1});
    static const kernels::Kernel kernel = kernels::largest_magnitudes<T>();
    cuda::launch(kernel, {kernels::groups_of(1, systems * pieces), 1, threads_for(std::min(length, piece)), 1},
                 static_cast<std::uint64_t>(length), static_cast<std::uint64_t>(pieces),
                 static_cast<std::uint64_t>(piece), x, found.mutable_data());
    max_over(found.shape(), found.data(), largest.shape(), largest.mutable_data());
    const Tensor<T> here = to<Cpu>(largest);
    for (std::size_t s = 0; s < out.size(); ++s) out[s] = cpu::larger(out[s], static_cast<double>(here.data()[s]));
  }

  template <class T>
  static void mix(Index size, const std::vector<double>& c, T* y, const std::vector<double>& d, const T* x) {
    if (size == 0) return;
    const MemoryTag tag("workspace");
    const Index n = std::ssize(c);
    Tensor<double, Cuda> there(Shape{2 * n});
    put(c, there.mutable_data()), put(d, there.mutable_data() + n);
    static const kernels::Kernel kernel = kernels::mix<T>();
    cuda::launch(kernel, cuda::one_each(size), static_cast<std::uint64_t>(size), static_cast<std::uint64_t>(size / n),
                 there.data(), y, x);
  }

  template <class T>
  static void add_scaled(Index size, T* y, const std::vector<double>& d, const T* x, std::vector<double>& sizes) {
    mix(size, std::vector<double>(d.size(), 1.0), y, d, x);
    add_products(size, false, x, x, sizes);
  }

  /// x · y, or |x - y|² with `squares`, for each of the systems, to the device's memory.
  template <class T>
  static void sum_products(Index size, Index systems, bool squares, const T* x, const T* y, double* sums) {
    if (size == 0) return Cuda::fill(sums, systems, 0.0);
    const MemoryTag tag("workspace");
    const Index length = size / systems, piece = piece_of(length), pieces = divide_up(length, piece);
    Tensor<double, Cuda> totals(Shape{systems, pieces});
    static const kernels::Kernel kernel = kernels::sum_products<T>(), add = kernels::fold_sums<double>();
    cuda::launch(kernel, {kernels::groups_of(1, systems * pieces), 1, threads_for(std::min(length, piece)), 1},
                 static_cast<std::uint64_t>(length), static_cast<std::uint64_t>(pieces),
                 static_cast<std::uint64_t>(piece), static_cast<int>(squares), x, y, totals.mutable_data());
    const kernels::Fold fold = kernels::fold_of(totals.shape(), Shape{systems, 1});
    cuda::launch(add, fold.grid(), fold, totals.data(), sums);
  }

  /// Adds up what ranks gave, `count` numbers each, one after the other, into the first, in the order of
  /// distributed::add_in_tree and to its bits.
  template <class T>
  static void add_in_tree(Index ranks, Index count, T* terms) {
    static const kernels::Kernel kernel = kernels::add_in_tree<T>();
    if (count > 0)
      cuda::launch(kernel, cuda::one_each(count), static_cast<std::uint64_t>(ranks), static_cast<std::uint64_t>(count),
                   terms);
  }

 private:
  /// The elements for one block of a sum over so many: a system's sum is the same in any batch.
  static Index piece_of(Index length) { return std::clamp<Index>(length / 64, 512, 8192); }

  /// The threads that share this many elements.
  static unsigned threads_for(Index count) {
    return std::min(256u, std::max(32u, kernels::power_of_two_from((count + 3) / 4)));
  }

  static std::shared_ptr<const cuda::DeviceIndices> on_device(const Tensor<Index>& indices, Index extent) {
    const auto make = [&] { return cuda::DeviceIndices(indices, extent); };
    const auto kept = cuda::kept_in<cuda::DeviceIndices>(indices.derived(), make);
    return kept->adjoint.rows == extent ? kept : std::make_shared<const cuda::DeviceIndices>(make());
  }

  template <class T>
  static void gather(Index outer, Index extent, Index inner, const Tensor<Index, Cuda>& list, const T* x, T* y) {
    const Index count = outer * list.size() * inner;
    static const kernels::Kernel kernel = kernels::gather<T>();
    if (count > 0)
      cuda::launch(kernel, cuda::one_each(count), static_cast<std::uint64_t>(outer), static_cast<std::uint64_t>(extent),
                   static_cast<std::uint64_t>(inner), static_cast<std::uint64_t>(list.size()), list.data(), x, y);
  }

  static kernels::Windows of(const cpu::PoolGeometry& g) {
    kernels::Windows out{.planes = static_cast<std::int32_t>(g.planes)};
    for (std::size_t a = 0; a < 2; ++a) {
      out.in[a] = static_cast<std::int32_t>(g.in[a]), out.out[a] = static_cast<std::int32_t>(g.out[a]);
      out.size[a] = static_cast<std::int32_t>(g.size[a]), out.stride[a] = static_cast<std::int32_t>(g.stride[a]);
      out.padding[a] = static_cast<std::int32_t>(g.padding[a]);
    }
    return out;
  }

  /// Numbers to the device's memory, without waiting; equal ones by a launch, which may be captured.
  static void put(const std::vector<double>& numbers, double* there) {
    if (std::adjacent_find(numbers.begin(), numbers.end(), std::not_equal_to<>()) == numbers.end())
      Cuda::fill(there, std::ssize(numbers), numbers.front());
    else
      cuda::Uploads::instance().start(there, Tensor<double, cuda::PageLocked>(Shape{std::ssize(numbers)}, numbers));
  }

  template <class T>
  static void add_products(Index size, bool squares, const T* x, const T* y, std::vector<double>& out) {
    if (size == 0) return;
    const MemoryTag tag("workspace");
    Tensor<double, Cuda> sums(Shape{std::ssize(out)});
    sum_products(size, std::ssize(out), squares, x, y, sums.mutable_data());
    const Tensor<double> here = to<Cpu>(sums);
    for (std::size_t s = 0; s < out.size(); ++s) out[s] += here.data()[s];
  }
};

}  // namespace settle
