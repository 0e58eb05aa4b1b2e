#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include "settle/cuda/device.hpp"
#include "settle/cuda/event.hpp"

namespace settle::inline v0_2 {

namespace cuda {

/// Page-locked memory of the processor, which the device copies from by itself: `to<Cuda::Staging>(x)` puts a batch
/// there, on any thread, and `to<Cuda>` of that returns before it is copied. What tensors need of it, as Cpu says; the
/// processor may read and write it.
struct PageLocked {
  static void* allocate(std::size_t bytes) {
    const Runtime& runtime = Context::instance().runtime();
    void* data = nullptr;
    check(runtime, runtime.cudaHostAlloc(&data, bytes, cudaHostAllocDefault), "allocate page-locked memory");
    return data;
  }
  static void release(void* data, std::size_t) {
    const Runtime& runtime = Context::instance().runtime();
    check(runtime, runtime.cudaFreeHost(data), "release page-locked memory");
  }
  static void guard(void*, std::size_t, std::size_t) {}

  template <class T>
  static void fill(T* data, std::int64_t count, T value) {
    Cpu::fill(data, count, value);
  }
  static void copy(void* to, const void* from, std::size_t bytes) { Cpu::copy(to, from, bytes); }
  static void upload(void* to, const void* from, std::size_t bytes) { Cpu::copy(to, from, bytes); }
  static void download(void* to, const void* from, std::size_t bytes) { Cpu::copy(to, from, bytes); }
  static void synchronise() {}
};

/// The tensors that the device may not have copied yet. They are held until it has, so that their memory is not given
/// to another tensor before.
class Uploads {
 public:
  static Uploads& instance() {
    static Uploads* uploads = new Uploads;  // never destroyed, as the context
    return *uploads;
  }

  /// Copies `from` to the device's memory, in the order of the stream.
  template <class T>
  void start(void* to, const Tensor<T, PageLocked>& from) {
    std::lock_guard lock(mutex_);
    while (!running_.empty() && running_.front().copied.passed()) running_.pop_front();
    Upload upload{{}, std::make_shared<Tensor<T, PageLocked>>(from)};
    Context::instance().start_upload(to, from.data(), from.bytes());
    upload.copied.record();
    running_.push_back(std::move(upload));
  }

 private:
  struct Upload {
    Event copied;
    std::shared_ptr<const void> from;
  };

  std::mutex mutex_;
  std::deque<Upload> running_;  ///< in the order of the stream
};

}  // namespace cuda

/// The same values in the device's memory, without waiting: the copy is made when the stream comes to it, of the values
/// that x has now, whatever becomes of x.
template <class To, class T>
requires std::same_as<To, Cuda> Tensor<T, Cuda> to(const Tensor<T, cuda::PageLocked>& x) {
  Tensor<T, Cuda> out(x.shape());
  if (x.size() > 0) cuda::Uploads::instance().start(out.mutable_data(), x);
  return out;
}

}  // namespace settle
