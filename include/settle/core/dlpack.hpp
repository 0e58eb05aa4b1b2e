#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/tensor.hpp"

/// Tensors handed to other libraries, and taken from them, without a copy: DLPack's structs as its binary interface
/// lays them out. A library's capsule "dltensor" holds a ManagedTensor, "dltensor_versioned" a ManagedTensorVersioned.
/// Source: dmlc.github.io/dlpack/latest/c_api.html, versions 0.8 and 1.x.
namespace settle::inline v0_2::dlpack {

enum DeviceType : std::int32_t { cpu = 1, cuda = 2 };
enum TypeCode : std::uint8_t { signed_integer = 0, unsigned_integer = 1, floating = 2 };
/// Bits of ManagedTensorVersioned::flags.
enum Flag : std::uint64_t { read_only = 1, is_copied = 2 };

struct Device {
  std::int32_t type, id;
};

struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};

/// An array in somebody's memory (DLTensor); without strides it is in row-major order. Strides count elements.
struct TensorView {
  void* data;
  Device device;
  std::int32_t rank;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

/// An array and how to give it back, as of version 0.8 (DLManagedTensor).
struct ManagedTensor {
  TensorView tensor;
  void* context;
  void (*deleter)(ManagedTensor*);
};

/// The same as of version 1.0 (DLManagedTensorVersioned).
struct ManagedTensorVersioned {
  struct Version {
    std::uint32_t major, minor;
  } version;
  void* context;
  void (*deleter)(ManagedTensorVersioned*);
  std::uint64_t flags;
  TensorView tensor;
};

static_assert(sizeof(void*) != 8 || (sizeof(TensorView) == 48 && offsetof(TensorView, rank) == 16 &&
                                     offsetof(TensorView, dtype) == 20 && offsetof(TensorView, byte_offset) == 40 &&
                                     sizeof(ManagedTensor) == 64 && offsetof(ManagedTensorVersioned, tensor) == 32),
              "DLPack's binary interface");

namespace detail {

/// A tensor in another library's hands.
template <class Managed, class T>
struct Exported {
  Tensor<T> tensor;
  std::vector<std::int64_t> shape, strides;
  Managed managed{};

  explicit Exported(Tensor<T> given) : tensor(std::move(given)) {
    const Shape& s = tensor.shape();
    shape.assign(s.begin(), s.end()), strides.assign(shape.size(), 1);
    for (std::size_t a = shape.size(); a-- > 1;) strides[a - 1] = strides[a] * std::max<Index>(shape[a], 1);
    TensorView& view = managed.tensor;
    view.data = const_cast<T*>(tensor.data());
    view.device = {cpu, 0};
    view.rank = s.rank();
    view.dtype = {floating, 8 * sizeof(T), 1};
    view.shape = shape.data(), view.strides = strides.data();
    managed.context = this;
    managed.deleter = [](Managed* m) { delete static_cast<Exported*>(m->context); };
  }
};

/// Gives an array back when its last view is gone.
template <class Managed>
struct GiveBack {
  void operator()(const void* managed) const {
    auto* const m = static_cast<Managed*>(const_cast<void*>(managed));
    if (m->deleter) m->deleter(m);
  }
};

inline bool is_row_major(const TensorView& view) {
  std::int64_t expected = 1;
  for (std::int32_t a = view.rank; a-- > 0;) {
    if (view.strides && view.shape[a] != 1 && view.strides[a] != expected) return false;
    expected *= view.shape[a];
  }
  return true;
}

/// The array's values in row-major order, copied.
template <class T>
Tensor<T> gathered(const TensorView& view, const T* data, const Shape& shape) {
  Tensor<T> out(shape);
  T* const values = out.mutable_data();
  std::vector<std::int64_t> index(static_cast<std::size_t>(view.rank), 0);
  std::int64_t place = 0;
  for (Index k = 0; k < out.size(); ++k) {
    values[k] = data[place];
    for (std::int32_t a = view.rank; a-- > 0;) {
      auto& i = index[static_cast<std::size_t>(a)];
      place += view.strides[a];
      if (++i < view.shape[a]) break;
      place -= view.strides[a] * std::exchange(i, 0);
    }
  }
  return out;
}

/// Checks what was given, and makes a tensor of it; `managed` is given back when that is gone.
template <Scalar T, class Managed>
Tensor<T> imported(Managed* managed) {
  const TensorView& view = managed->tensor;
  require(view.device.type == cpu, "dlpack", "expected an array in the processor's memory (device 1), got device ",
          view.device.type);
  const DataType d = view.dtype;
  require(d.code == floating && d.bits == 8 * sizeof(T) && d.lanes == 1, "dlpack", "expected ", scalar_name<T>(),
          " (code 2, ", 8 * sizeof(T), " bits, 1 lane), got code ", int{d.code}, ", ", int{d.bits}, " bits, ", d.lanes,
          " lanes");
  require(view.rank >= 0 && view.rank <= Shape::max_rank, "dlpack", "a tensor has at most ", Shape::max_rank,
          " axes, got ", view.rank);
  Shape shape;
  for (std::int32_t a = 0; a < view.rank; ++a) shape.append(view.shape[a]);
  const T* data = nullptr;
  if (shape.size() > 0) {
    const char* const bytes = static_cast<const char*>(view.data) + view.byte_offset;
    require(view.data && reinterpret_cast<std::uintptr_t>(bytes) % alignof(T) == 0, "dlpack",
            "expected values aligned to ", alignof(T), " bytes, got the address ", static_cast<const void*>(bytes));
    data = reinterpret_cast<const T*>(bytes);
  }
  if (is_row_major(view)) return Tensor<T>::view(data, shape, std::shared_ptr<const void>(managed, GiveBack<Managed>()));
  const Tensor<T> out = gathered(view, data, shape);
  GiveBack<Managed>()(managed);
  return out;
}

}  // namespace detail

/// Hands a tensor to another library, which calls the deleter when it has done: nothing is copied. It is marked
/// read-only where other tensors share its values; one that was moved here alone is the receiver's to write.
template <Scalar T>
ManagedTensorVersioned* to_dlpack(Tensor<T> tensor) {
  auto* const out = new detail::Exported<ManagedTensorVersioned, T>(std::move(tensor));
  out->managed.version = {1, 0};
  if (!out->tensor.unique()) out->managed.flags = read_only;
  return &out->managed;
}

/// The same for libraries that know version 0.8 only. It has no mark for what is read-only: nobody may write the values
/// while tensors share them.
template <Scalar T>
ManagedTensor* to_dlpack_unversioned(Tensor<T> tensor) {
  return &(new detail::Exported<ManagedTensor, T>(std::move(tensor)))->managed;
}

/// Takes an array of another library as a tensor of its own type. In row-major order nothing is copied: the tensor is a
/// view, and the array's deleter is called when the last tensor that shares it is gone; nobody may write it until then.
/// Otherwise it is copied and given back at once. Throws Error, and leaves the array the caller's, for another type of
/// number, another device, and more axes than a tensor has.
template <Scalar T>
Tensor<T> from_dlpack(ManagedTensorVersioned* managed) {
  require(managed->version.major == 1, "dlpack", "expected version 1 of the interface, got ", managed->version.major);
  return detail::imported<T>(managed);
}
template <Scalar T>
Tensor<T> from_dlpack(ManagedTensor* managed) {
  return detail::imported<T>(managed);
}

}  // namespace settle::dlpack
