#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "settle/core/fork.hpp"
#include "settle/cpu/convolution/geometry.hpp"
#include "settle/cpu/packet.hpp"

namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET::detail {

/// What was computed from one tensor of weights: several forms of it, for whoever asks next. It lives in the tensor's
/// slot for derived data, which is emptied when the weights change.
template <class T, class Device = Cpu>
class WeightCache {
 public:
  enum class Form { packed, packed_turned, packed_by_tap, spectra };

  /// What a form depends on beside the weights' values.
  struct Key {
    Form form;
    Index tile;  ///< tells transforms apart: the length, on a device the floats of a spectrum; 0 when there is none
    Index out_channels, in_channels, kernel_height, kernel_width, groups;
    int packet = packet_bytes;  ///< in files of one program it may differ
    bool operator==(const Key&) const = default;
  };

  static Key key(Form form, Index tile, const ConvGeometry& g) {
    return {form, tile, g.out_channels, g.in_channels, g.kernel_height, g.kernel_width, g.groups};
  }

  /// The form under `key`, of `size` elements: from the slot, or written by make(T*) and kept there unless it is null.
  template <class Make>
  static Tensor<T, Device> get(std::shared_ptr<void>* slot, const Key& key, Index size, const Make& make) {
    if (slot) {
      const std::lock_guard lock(mutex());
      if (*slot)
        for (const auto& [known, values] : static_cast<WeightCache*>(slot->get())->forms_)
          if (known == key) return values;
    }
    const MemoryTag tag(slot ? "weight cache" : "workspace");
    Tensor<T, Device> values(Shape{size});
    make(values.mutable_data());
    if (slot) {
      const std::lock_guard lock(mutex());  // not held while making: that may run on all threads
      if (!*slot) *slot = std::make_shared<WeightCache>();
      static_cast<WeightCache*>(slot->get())->forms_.emplace_back(key, values);
    }
    return values;
  }

 private:
  static ForkSafeMutex& mutex() {
    static ForkSafeMutex* one = new ForkSafeMutex;  // never destroyed, as what it stands for
    return *one;
  }

  std::vector<std::pair<Key, Tensor<T, Device>>> forms_;
};

}  // namespace settle::cpu::detail
