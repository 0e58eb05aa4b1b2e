#pragma once
#include <algorithm>
#include <concepts>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "settle/core/memory.hpp"
#include "settle/core/random.hpp"
#include "settle/core/shape.hpp"

namespace settle::inline v0_2 {

/// The scalar types that the library computes with.
template <class T>
concept Scalar = std::same_as<T, float> || std::same_as<T, double>;

template <class T>
constexpr const char* scalar_name() {
  return std::same_as<T, float> ? "float32" : "float64";
}

/// A contiguous array of values with a shape, axes outermost first (N, C, H, W; weights O, I, H, W), in a device's
/// memory. Copies share their values until one of them is written: a copy costs nothing and behaves as a value.
template <class T, class Device = Cpu>
class Tensor {
 public:
  using value_type = T;
  using device_type = Device;

  /// No tensor: shape (0), no storage.
  Tensor() : shape_{0} {}

  /// Values left undefined. Throws Error for a shape that no tensor has, or that there is no memory for.
  explicit Tensor(const Shape& shape) : shape_(shape) {
    if (size() > 0) block_ = MemoryOf<Device>::instance().allocate(bytes());
  }

  /// Every element equal to `value`.
  Tensor(const Shape& shape, T value) : Tensor(shape) {
    if (size() > 0) Device::fill(mutable_data(), size(), value);
  }

  /// The given values in row-major order; throws when their number is not the shape's.
  Tensor(const Shape& shape, const std::vector<T>& values) : Tensor(from(values, shape)) {}

  /// A copy of the given values in row-major order, on any device; throws when their number is not the shape's.
  static Tensor from(std::span<const T> values, const Shape& shape) {
    require(static_cast<Index>(values.size()) == shape.size(), "tensor", "shape ", shape, " holds ", shape.size(),
            " values, got ", values.size());
    Tensor out(shape);
    if (out.size() > 0) Device::upload(out.mutable_data(), values.data(), out.bytes());
    return out;
  }

  /// A tensor in memory of the device that is not the library's: nothing is copied. The owner is held until the last
  /// tensor that shares these values is gone, and so is a shared_ptr's deleter what gives the memory back. The values
  /// are constant: a tensor that is written gets a copy first, and whoever owns them must not change them meanwhile.
  /// Throws Error for no data, no owner, or data that is not aligned for T.
  static Tensor view(const T* data, const Shape& shape, std::shared_ptr<const void> owner) {
    require(owner != nullptr, "tensor", "expected the owner of the memory that is viewed, got none");
    Tensor out;
    out.shape_ = shape;
    if (shape.size() == 0) return out;
    require(data != nullptr, "tensor", "expected the address of ", shape.size(), " values, got none");
    require(reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0, "tensor", "expected values aligned to ",
            alignof(T), " bytes, got the address ", static_cast<const void*>(data));
    out.block_ = MemoryOf<Device>::instance().borrow(data, out.bytes(), std::move(owner));
    return out;
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
    if (block_) MemoryOf<Device>::instance().release(block_);
  }

  const Shape& shape() const { return shape_; }
  Index shape(int axis) const { return shape_[axis]; }
  int rank() const { return shape_.rank(); }
  Index size() const { return shape_.size(); }
  std::size_t bytes() const { return static_cast<std::size_t>(size()) * sizeof(T); }

  /// A pointer into the device's memory: on another device than the processor, only for its kernels.
  const T* data() const { return block_ ? static_cast<const T*>(block_->data) : nullptr; }

  /// For writing: values shared with another tensor, or viewed in memory of another's, are copied first.
  T* mutable_data() {
    if (!block_) return nullptr;
    if (!unique()) *this = clone();
    block_->derived.reset(), block_->byproduct.reset();
    return static_cast<T*>(block_->data);
  }

  /// Whether these values are this tensor's alone, so that writing copies nothing.
  bool unique() const {
    return !block_ || (!block_->owner && block_->references.load(std::memory_order_acquire) == 1);
  }

  std::span<const T> values() const
    requires std::same_as<Device, Cpu>
  {
    return {data(), static_cast<std::size_t>(size())};
  }

  /// A copy with storage of its own.
  Tensor clone() const {
    Tensor copy(shape_);
    if (size() > 0) Device::copy(copy.block_->data, data(), bytes());
    return copy;
  }

  /// The same values under another shape of equal size; shares the storage. Throws when the sizes differ.
  Tensor reshape(const Shape& shape) const {
    require(shape.size() == size(), "reshape", "expected ", size(), " elements for shape ", shape_, ", got shape ",
            shape);
    Tensor out(*this);
    out.shape_ = shape;
    return out;
  }

  /// The value of a tensor with exactly one element, once the device has computed it; throws otherwise.
  T item() const {
    require(size() == 1, "item", "expected one element, got shape ", shape_);
    T value;
    Device::download(&value, data(), sizeof(T));
    return value;
  }

  /// The slot for data derived from these values by an operation, empty again after any write; null for an empty
  /// tensor.
  std::shared_ptr<void>* derived() const { return block_ ? &block_->derived : nullptr; }
  /// The slot for what the operation that made these values found along the way, for whoever asks; emptied likewise.
  std::shared_ptr<void>* byproduct() const { return block_ ? &block_->byproduct : nullptr; }

 private:
  Shape shape_;
  typename MemoryOf<Device>::Block* block_ = nullptr;
};

/// The same values in another device's memory: `to<Cpu>(x)`. On the same device nothing is copied.
template <class To, class T, class From>
Tensor<T, To> to(const Tensor<T, From>& x) {
  if constexpr (std::same_as<To, From>) {
    return x;
  } else {
    static_assert(std::same_as<To, Cpu> || std::same_as<From, Cpu>, "settle: values move between devices by the CPU");
    Tensor<T, To> out(x.shape());
    if (x.size() == 0) return out;
    if constexpr (std::same_as<From, Cpu>)
      To::upload(out.mutable_data(), x.data(), x.bytes());
    else
      From::download(out.mutable_data(), x.data(), x.bytes());
    return out;
  }
}

/// A tensor converted to another scalar type.
template <class To, class From>
Tensor<To> cast(const Tensor<From>& x) {
  Tensor<To> out(x.shape());
  std::transform(x.data(), x.data() + x.size(), out.mutable_data(), [](From v) { return static_cast<To>(v); });
  return out;
}

/// Uniform random values in [low, high), drawn in row-major order; the same numbers on every device.
template <Scalar T, class Device = Cpu>
Tensor<T, Device> uniform(const Shape& shape, double low, double high, Random& random) {
  Tensor<T, Device> out(shape);
  if (out.size() > 0) Device::fill_uniform(out.mutable_data(), out.size(), low, high, random);
  return out;
}

/// Normal random values of the given mean and standard deviation, drawn in row-major order; the same numbers on every
/// device, up to the rounding of its logarithm and cosine.
template <Scalar T, class Device = Cpu>
Tensor<T, Device> normal(const Shape& shape, double mean, double deviation, Random& random) {
  Tensor<T, Device> out(shape);
  if (out.size() > 0) Device::fill_normal(out.mutable_data(), out.size(), mean, deviation, random);
  return out;
}

}  // namespace settle
