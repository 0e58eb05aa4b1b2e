#pragma once
#include <array>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/hash.hpp"
#include "settle/cuda/context.hpp"
#include "settle/cuda/library.hpp"
#include "settle/distributed/group.hpp"
#include "settle/distributed/sums.hpp"

namespace settle::inline v0_2::cuda {

/// NCCL, which moves memory between GPUs. What is needed of it is declared here: its header comes with no toolkit, and
/// these functions have been the same since its version 2.7. Newer ones are null in an older library.
struct Nccl {
  enum class Result : int {
    success,
    unhandled_cuda_error,
    system_error,
    internal_error,
    invalid_argument,
    invalid_usage,
    remote_error,
    in_progress  ///< of a communicator that does not block: to be asked again
  };
  struct UniqueId {
    char internal[128];
  };
  /// A communicator's options as version 2.14 has them, the first to take any: all later ones read this form.
  struct Config {
    std::size_t size = sizeof(Config);
    unsigned magic = 0xcafebeef, version = 21400;
    int blocking = 0;
    int unused = INT_MIN;  ///< of a later form: not chosen
  };
  struct Communicator;
  static constexpr int bytes = 1;  ///< the type of what is sent: uint8

  explicit Nccl(const std::filesystem::path& folder = {}) : library("libnccl.so.2", folder) {}

  Library library;
  template <class... A>
  using Function = Result(A...);
#define SETTLE_NCCL(name, ...) Function<__VA_ARGS__>* name = library.find<Function<__VA_ARGS__>>(#name)
#define SETTLE_NEWER(name, ...) Function<__VA_ARGS__>* name = library.find_newer<Function<__VA_ARGS__>>(#name)
  SETTLE_NCCL(ncclGetVersion, int*);
  SETTLE_NCCL(ncclGetUniqueId, UniqueId*);
  SETTLE_NCCL(ncclCommInitRank, Communicator**, int, UniqueId, int);
  SETTLE_NEWER(ncclCommInitRankConfig, Communicator**, int, UniqueId, int, Config*);  // 2.14
  SETTLE_NCCL(ncclCommGetAsyncError, Communicator*, Result*);
  SETTLE_NEWER(ncclCommFinalize, Communicator*);  // 2.14
  SETTLE_NCCL(ncclCommDestroy, Communicator*);
  SETTLE_NCCL(ncclCommAbort, Communicator*);
  SETTLE_NCCL(ncclAllGather, const void*, void*, std::size_t, int, Communicator*, cudaStream_t);
  SETTLE_NCCL(ncclBroadcast, const void*, void*, std::size_t, int, int, Communicator*, cudaStream_t);
  SETTLE_NCCL(ncclSend, const void*, std::size_t, int, int, Communicator*, cudaStream_t);
  SETTLE_NCCL(ncclRecv, void*, std::size_t, int, int, Communicator*, cudaStream_t);
  SETTLE_NCCL(ncclGroupStart);
  SETTLE_NCCL(ncclGroupEnd);
#undef SETTLE_NCCL
#undef SETTLE_NEWER
  const char* (*ncclGetErrorString)(Result) = library.find<const char*(Result)>("ncclGetErrorString");
  const char* (*ncclGetLastError)(Communicator*) =
      library.find_newer<const char*(Communicator*)>("ncclGetLastError");  // 2.13
};

/// The devices of a group's ranks, one in each process, connected by NCCL; work goes to one stream of each. `nccl` and
/// `runtime` must outlive it.
class NcclEngine : public distributed::DeviceEngine {
 public:
  using Deadline = distributed::Deadline;
  using Clock = std::chrono::steady_clock;

  /// Waits for all ranks, who come with what the first one got as id. The device is the calling thread's current one,
  /// and stream() one of its streams, where work goes that is asked for now. Throws Error when NCCL refuses, and when
  /// not all have come at the deadline.
  NcclEngine(const Runtime& runtime, const Nccl& nccl, std::function<cudaStream_t()> stream, const Nccl::UniqueId& id,
             int rank, int size, Deadline deadline)
      : runtime_(runtime), nccl_(nccl), stream_(std::move(stream)), rank_(rank), size_(size) {
    cudaEvent_t made = nullptr;
    check_cuda(runtime_.cudaEventCreateWithFlags(&made, cudaEventDisableTiming), "make an event");
    event_ = {made, runtime_.cudaEventDestroy};
    if (nccl_.ncclCommInitRankConfig)
      connect(id, deadline);
    else
      connect_blocking(id, deadline);
  }

  /// Frees what NCCL holds, once the device has done what was asked of it before. What never ends is left as it is,
  /// since to abort a transfer can take the GPU out of service: then only the process's end helps.
  ~NcclEngine() override {
    try {
      if (!communicator_ || !drained()) return;
      if (broken_) {
        nccl_.ncclCommAbort(communicator_);
        return;
      }
      const Deadline soon = Clock::now() + std::chrono::seconds(10);
      if (nccl_.ncclCommFinalize) settle(nccl_.ncclCommFinalize(communicator_), "finish", soon);
      check(nccl_.ncclCommDestroy(communicator_), "end");
    } catch (const Error&) {  // the ranks are not together any more: it is left
    }
  }

  const char* name() const override { return "nccl"; }
  bool captures() const override {
    cudaStreamCaptureStatus status{};
    check_cuda(runtime_.cudaStreamIsCapturing(stream_(), &status), "ask whether work is captured");
    return status != cudaStreamCaptureStatusNone;
  }

  void gather(const void* mine, void* all, std::size_t bytes_of_mine, Deadline deadline) override {
    start("gather", deadline, [&](cudaStream_t stream) {
      return nccl_.ncclAllGather(mine, all, bytes_of_mine, Nccl::bytes, communicator_, stream);
    });
  }
  void exchange(const void* from, void* to, std::size_t bytes, Deadline deadline) override {
    const std::size_t part = bytes / static_cast<std::size_t>(size_);
    start("exchange", deadline, [&](cudaStream_t stream) {
      check(nccl_.ncclGroupStart(), "start an exchange");
      Nccl::Result result = Nccl::Result::success;
      const auto note = [&](Nccl::Result r) {
        if (result == Nccl::Result::success || result == Nccl::Result::in_progress)
          if (r != Nccl::Result::success) result = r;
      };
      for (int r = 0; r < size_; ++r) {
        const std::size_t at = static_cast<std::size_t>(r) * part;
        note(nccl_.ncclSend(static_cast<const std::byte*>(from) + at, part, Nccl::bytes, r, communicator_, stream));
        note(nccl_.ncclRecv(static_cast<std::byte*>(to) + at, part, Nccl::bytes, r, communicator_, stream));
      }
      note(nccl_.ncclGroupEnd());  // whatever was refused: no call of this thread would start otherwise
      return result;
    });
  }
  void broadcast(void* what, std::size_t bytes, int root, Deadline deadline) override {
    start("broadcast", deadline, [&](cudaStream_t stream) {
      return nccl_.ncclBroadcast(what, what, bytes, Nccl::bytes, root, communicator_, stream);
    });
  }

  bool done() override {
    require(!broken_, "nccl", "the connection of the devices is broken");
    if (state("move memory") == Nccl::Result::in_progress) return false;
    return passed();
  }

  /// Aborts what waits for ranks that will not come, but nothing that may be moving memory.
  void abandon() noexcept override {
    broken_ = true;
    try {
      if (communicator_ && drained()) nccl_.ncclCommAbort(std::exchange(communicator_, nullptr));
    } catch (const Error&) {  // the device has failed: it is left
    }
  }

 private:
  void connect(const Nccl::UniqueId& id, Deadline deadline) {
    Nccl::Config config;
    Nccl::Communicator* made = nullptr;
    const Nccl::Result result = nccl_.ncclCommInitRankConfig(&made, size_, id, rank_, &config);
    communicator_ = made;
    try {
      settle(result, "connect the devices", deadline);
    } catch (const Error&) {  // it waits, and moves nothing yet
      if (made) nccl_.ncclCommAbort(made);
      communicator_ = nullptr;
      throw;
    }
  }

  /// By a thread of its own, which is left where it is when the others do not come.
  void connect_blocking(const Nccl::UniqueId& id, Deadline deadline) {
    struct Attempt {
      std::atomic<bool> over{false};
      Nccl::Result result{};
      Nccl::Communicator* made = nullptr;
    };
    const auto attempt = std::make_shared<Attempt>();
    int device = 0;
    check_cuda(runtime_.cudaGetDevice(&device), "find the current device");
    std::thread([attempt, id, device, set_device = runtime_.cudaSetDevice, init = nccl_.ncclCommInitRank, rank = rank_,
                 size = size_] {
      set_device(device);
      attempt->result = init(&attempt->made, size, id, rank);
      attempt->over = true;
    }).detach();
    while (!attempt->over) {
      require(Clock::now() < deadline, "nccl", "could not connect the devices: not all ranks have come");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    check(attempt->result, "connect the devices");
    communicator_ = attempt->made;
  }

  template <class Call>
  void start(const char* what, Deadline deadline, const Call& call) {
    require(!broken_, "nccl", "the connection of the devices is broken");
    const cudaStream_t stream = stream_();
    const bool captured = captures();
    settle(call(stream), what, deadline);
    if (!captured) check_cuda(runtime_.cudaEventRecord(event_.get(), stream), "record an event");
  }

  /// Waits until a call that was made has taken effect.
  void settle(Nccl::Result result, const char* what, Deadline deadline) {
    while (result == Nccl::Result::in_progress) {
      if (Clock::now() >= deadline) {
        broken_ = true;
        fail("nccl", "could not ", what, ": not all ranks have come");
      }
      std::this_thread::yield();
      result = state(what);
    }
    check(result, what);
  }
  /// Whether the last call has taken effect. Throws Error when that or what came before has failed.
  Nccl::Result state(const char* what) {
    Nccl::Result result{};
    check(nccl_.ncclCommGetAsyncError(communicator_, &result), what);
    if (result != Nccl::Result::in_progress) check(result, what);
    return result;
  }

  bool passed() const {
    const cudaError_t answer = runtime_.cudaEventQuery(event_.get());
    if (answer == cudaErrorNotReady) return false;
    check_cuda(answer, "finish the work before an event");
    return true;
  }
  /// Whether the device does all that was asked of it within two seconds: launches of graphs, too.
  bool drained() {
    check_cuda(runtime_.cudaEventRecord(event_.get(), stream_()), "record an event");
    for (const Deadline end = Clock::now() + std::chrono::seconds(2); !passed();) {
      if (Clock::now() >= end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }

  void check(Nccl::Result result, const char* what) {
    if (result == Nccl::Result::success) return;
    broken_ = true;
    const char* const more = nccl_.ncclGetLastError ? nccl_.ncclGetLastError(communicator_) : nullptr;
    fail("nccl", "could not ", what, ": ", nccl_.ncclGetErrorString(result), more && *more ? ": " : "",
         more ? more : "");
  }
  void check_cuda(cudaError_t error, const char* what) const { cuda::check(runtime_, error, what); }

  const Runtime& runtime_;
  const Nccl& nccl_;
  const std::function<cudaStream_t()> stream_;
  int rank_, size_;
  Nccl::Communicator* communicator_ = nullptr;
  std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, decltype(Runtime::cudaEventDestroy)> event_{nullptr, nullptr};
  bool broken_ = false;
};

namespace detail {

/// Does something on every rank. What went wrong on the first rank where it did, on every rank; empty where it did not.
template <class Attempt>
std::string reason_on_any(const distributed::Group& group, const Attempt& attempt) {
  std::string own;
  try {
    attempt();
  } catch (const Error& error) {
    own = error.what();
  }
  const std::uint64_t failed = own.empty() ? 0 : 1;
  const auto all = distributed::gather_numbers(std::span(&failed, 1), group);
  for (int r = 0; r < group.size(); ++r)
    if (all[static_cast<std::size_t>(r)] != 0)
      return "rank " + std::to_string(r) + ": " + distributed::text_of(own, group, r);
  return {};
}

/// What names a GPU among those of all machines: its place on the bus, and its machine's last start, which containers
/// of one machine have in common.
inline std::string name_of_device(const Runtime& runtime) {
  int device = 0;
  char place[32] = {};
  check(runtime, runtime.cudaGetDevice(&device), "find the current device");
  check(runtime, runtime.cudaDeviceGetPCIBusId(place, sizeof place, device), "find the device's place");
  std::string machine;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> machine;
  return std::string(place) + " of " + machine;
}

inline std::string nccl_version(std::uint64_t number) {
  const std::uint64_t major = number >= 10000 ? number / 10000 : number / 1000;  // its form changed with 2.9
  const std::uint64_t rest = number >= 10000 ? number % 10000 : number % 1000;
  return std::to_string(major) + "." + std::to_string(rest / 100) + "." + std::to_string(rest % 100);
}

}  // namespace detail

/// As connect_devices(group), of the calling thread's device, for work in the stream that stream() gives. The libraries
/// must live as long as the group.
inline std::string connect_devices(const distributed::Group& group, const Runtime& runtime, const Nccl& nccl,
                                   const std::function<cudaStream_t()>& stream,
                                   std::chrono::duration<double> patience = std::chrono::minutes(1)) {
  if (group.alone()) return "one rank has nobody to send to";
  std::array<std::uint64_t, 2> mine{};
  const auto check_nccl = [&](Nccl::Result result, const char* what) {
    if (result != Nccl::Result::success) fail("nccl", "could not ", what, ": ", nccl.ncclGetErrorString(result));
  };
  std::string reason = detail::reason_on_any(group, [&] {
    require(nccl.library.usable(), "nccl", nccl.library.reason());
    int version = 0;
    check_nccl(nccl.ncclGetVersion(&version), "tell its version");
    mine = {static_cast<std::uint64_t>(version), settle::detail::hash(detail::name_of_device(runtime))};
  });
  if (!reason.empty()) return reason;
  const auto all = distributed::gather_numbers(std::span<const std::uint64_t>(mine), group);
  for (std::size_t r = 1; r < all.size() / 2; ++r) {
    if (all[2 * r] != all[0])
      return "rank 0 has NCCL " + detail::nccl_version(all[0]) + " and rank " + std::to_string(r) + " NCCL " +
             detail::nccl_version(all[2 * r]) + ": they do not speak with each other";
    for (std::size_t s = 0; s < r; ++s)
      if (all[2 * r + 1] == all[2 * s + 1])
        return "ranks " + std::to_string(s) + " and " + std::to_string(r) +
               " are on one GPU, and NCCL takes one rank on each";
  }
  Nccl::UniqueId id{};
  reason = detail::reason_on_any(group, [&] {
    if (group.rank() == 0) check_nccl(nccl.ncclGetUniqueId(&id), "make an id");
  });
  if (!reason.empty()) return reason;
  group.broadcast(std::as_writable_bytes(std::span(&id, 1)));
  std::shared_ptr<NcclEngine> engine;
  reason = detail::reason_on_any(group, [&] {
    const auto end = NcclEngine::Clock::now() + std::chrono::duration_cast<NcclEngine::Clock::duration>(patience);
    engine = std::make_shared<NcclEngine>(runtime, nccl, stream, id, group.rank(), group.size(), end);
  });
  if (reason.empty())
    group.connect_devices(engine);
  else if (engine)
    engine->abandon();
  return reason;
}

/// Connects the devices of a group's ranks by NCCL, one GPU and one process for each rank: then sums over ranks of what
/// is on the device do not pass through the processor's memory. All ranks call it, once, at the same place. Returns why
/// they could not be connected, the same text on all ranks, with sums then made as without it; empty when they are.
/// Throws Error when the ranks cannot speak with each other.
inline std::string connect_devices(const distributed::Group& group) {
  static const Nccl& nccl = *new Nccl(libraries_folder());  // never destroyed, as the context
  if (group.alone()) return "one rank has nobody to send to";
  Context& context = Context::instance();
  return connect_devices(group, context.runtime(), nccl, [&context] { return context.stream(); });
}

/// Gives the calling thread the device of a process's place on its machine, where it sees several. To be called before
/// the device is first used, which makes it that of the process. Throws Error when CUDA refuses.
inline void use_local_device(int local_rank) {
  const Runtime runtime(libraries_folder());
  const Probe found = probe(runtime);
  if (found.status != Status::ready || found.devices == 1) return;
  check(runtime, runtime.cudaSetDevice(local_rank % found.devices), "choose a device");
}

}  // namespace settle::cuda
