#pragma once
#include <algorithm>
#include <concepts>
#include <span>
#include <utility>
#include <vector>

#include "settle/core/memory.hpp"
#include "settle/core/random.hpp"
#include "settle/core/shape.hpp"

namespace settle {

/// The processor and its memory. Another device is another type beside this one, with its own specialisations.
struct Cpu {};

/// The scalar types that the library computes with.
template <class T>
concept Scalar = std::same_as<T, float> || std::same_as<T, double>;

template <class T>
constexpr const char* scalar_name() {
  return std::same_as<T, float> ? "float32" : "float64";
}

template <class T, class Device = Cpu>
class Tensor;

/// A contiguous array of values with a shape, axes outermost first (N, C, H, W; weights O, I, H, W).
/// Copies share their values until one of them is written: a copy costs nothing and behaves as a value.
template <class T>
class Tensor<T, Cpu> {
 public:
  using value_type = T;

  /// No tensor: shape (0), no storage.
  Tensor() : shape_{0} {}

  /// Values left undefined.
  explicit Tensor(const Shape& shape) : shape_(shape) {
    if (shape.size() > 0) block_ = Memory::instance().allocate(static_cast<std::size_t>(shape.size()) * sizeof(T));
  }

  /// Every element equal to `value`.
  Tensor(const Shape& shape, T value) : Tensor(shape) { std::fill_n(mutable_data(), size(), value); }

  /// The given values in row-major order; throws when their number is not the shape's.
  Tensor(const Shape& shape, const std::vector<T>& values) : Tensor(shape) {
    require(static_cast<Index>(values.size()) == shape.size(), "tensor", "shape ", shape, " holds ", shape.size(),
            " values, got ", values.size());
    std::copy(values.begin(), values.end(), mutable_data());
  }

  Tensor(const Tensor& other) : shape_(other.shape_), block_(other.block_) {
    if (block_) block_->references.fetch_add(1, std::memory_order_relaxed);
  }
  Tensor(Tensor&& other) noexcept : shape_(other.shape_), block_(std::exchange(other.block_, nullptr)) {
    other.shape_ = Shape{0};
  }
  Tensor& operator=(Tensor other) noexcept {
    std::swap(shape_, other.shape_);
    std::swap(block_, other.block_);
    return *this;
  }
  ~Tensor() {
    if (block_) Memory::instance().release(block_);
  }

  const Shape& shape() const { return shape_; }
  Index shape(int axis) const { return shape_[axis]; }
  int rank() const { return shape_.rank(); }
  Index size() const { return shape_.size(); }

  const T* data() const { return block_ ? static_cast<const T*>(block_->data) : nullptr; }

  /// For writing: values shared with another tensor are copied first.
  T* mutable_data() {
    if (!block_) return nullptr;
    if (block_->references.load(std::memory_order_acquire) > 1) *this = clone();
    block_->derived.reset();
    return static_cast<T*>(block_->data);
  }

  /// Whether no other tensor shares these values, so that writing copies nothing.
  bool unique() const { return !block_ || block_->references.load(std::memory_order_acquire) == 1; }

  std::span<const T> values() const { return {data(), static_cast<std::size_t>(size())}; }

  /// A copy with storage of its own.
  Tensor clone() const {
    Tensor copy(shape_);
    if (size() > 0) std::copy_n(data(), size(), static_cast<T*>(copy.block_->data));
    return copy;
  }

  /// The same values under another shape of equal size; shares the storage. Throws when the sizes differ.
  Tensor reshape(const Shape& shape) const {
    require(shape.size() == size(), "reshape", "expected ", size(), " elements for shape ", shape_, ", got shape ", shape);
    Tensor out(*this);
    out.shape_ = shape;
    return out;
  }

  /// The value of a tensor with exactly one element; throws otherwise.
  T item() const {
    require(size() == 1, "item", "expected one element, got shape ", shape_);
    return *data();
  }

  /// The slot for data derived from these values by an operation, empty again after any write; null for an empty tensor.
  std::shared_ptr<void>* derived() const { return block_ ? &block_->derived : nullptr; }

 private:
  Shape shape_;
  Memory::Block* block_ = nullptr;
};

/// A tensor converted to another scalar type.
template <class To, class From>
Tensor<To> cast(const Tensor<From>& x) {
  Tensor<To> out(x.shape());
  std::transform(x.data(), x.data() + x.size(), out.mutable_data(), [](From v) { return static_cast<To>(v); });
  return out;
}

/// Uniform random values in [low, high), drawn in row-major order.
template <Scalar T>
Tensor<T> uniform(const Shape& shape, double low, double high, Random& random) {
  Tensor<T> out(shape);
  std::generate_n(out.mutable_data(), out.size(), [&] { return static_cast<T>(random.uniform(low, high)); });
  return out;
}

/// Normal random values of the given mean and standard deviation, drawn in row-major order.
template <Scalar T>
Tensor<T> normal(const Shape& shape, double mean, double deviation, Random& random) {
  Tensor<T> out(shape);
  std::generate_n(out.mutable_data(), out.size(), [&] { return static_cast<T>(mean + deviation * random.normal()); });
  return out;
}

}  // namespace settle
