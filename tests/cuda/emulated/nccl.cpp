// Stands in for NCCL, between threads and between processes, on the memory of the CPU: what goes from one rank to
// another goes by a file that all have mapped. A call returns before the others have come; the stream's next work waits
// for it. It refuses what NCCL refuses or would hang at: another device's stream, two ranks on a device, calls that
// differ between the ranks, an abort of a transfer. A test may choose a rank and what fails there. Built with OLD_NCCL
// it is a version before 2.14.
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "stream.hpp"

extern "C" {
enum Result {
  success,
  unhandled_cuda_error,
  system_error,
  internal_error,
  invalid_argument,
  invalid_usage,
  remote_error,
  in_progress
};
struct UniqueId {
  char internal[128];
};

#ifdef OLD_NCCL
int fake_nccl_version = 21003;
#else
int fake_nccl_version = 22803;
#endif
int fake_rank = -1;              // the one that the following is for
int fake_init_result = 0;        // what its communicator ends with
int fake_call_result = 0;        // what its calls return
int fake_async_error = 0;        // what it finds while it waits
int fake_absent = 0;             // it is gone: its calls do nothing
std::atomic<int> fake_stall{0};  // it stops within a transfer
std::atomic<int> fake_calls{0}, fake_differences{0}, fake_aborts{0}, fake_late_aborts{0}, fake_ends{0}, fake_moving{0};
}

namespace {

constexpr int most_ranks = 8;
constexpr std::size_t slot_bytes = 65536;
constexpr auto patience = std::chrono::seconds(20);

void wait_a_little() { std::this_thread::sleep_for(std::chrono::microseconds(20)); }

enum class Kind : std::uint64_t { init, gather, exchange, broadcast };

struct Call {
  Kind kind{};
  std::uint64_t bytes = 0, root = 0, captured = 0;
  bool operator==(const Call&) const = default;
};

/// What the ranks of a communicator have in common; a new file is all zeros.
struct Room {
  std::atomic<std::uint64_t> turns[most_ranks];
  std::uint64_t places[most_ranks];
  Call calls[most_ranks];
  unsigned char slots[most_ranks][slot_bytes];
};

/// The stand-in for the run-time library that lies beside this one.
template <class F>
F* runtime(const char* function) {
  Dl_info here;
  dladdr(reinterpret_cast<void*>(&fake_calls), &here);
  const auto name = "libcudart.so." + std::to_string(CUDART_VERSION / 1000);
  void* const library = dlopen((std::filesystem::path(here.dli_fname).parent_path() / name).c_str(), RTLD_NOW);
  return reinterpret_cast<F*>(dlsym(library, function));
}

int current_device() {
  int device = 0;
  runtime<decltype(cudaGetDevice)>("cudaGetDevice")(&device);
  return device;
}
std::uint64_t place_of_device() {
  char text[32] = {};
  runtime<decltype(cudaDeviceGetPCIBusId)>("cudaDeviceGetPCIBusId")(text, sizeof text, current_device());
  return static_cast<std::uint64_t>(std::strtoul(text + 5, nullptr, 16)) + 1;
}

}  // namespace

/// The C interface's communicator.
struct Communicator {
  Room* room = nullptr;
  int rank = 0, size = 0, device = 0;
  std::uint64_t turn = 0;
  int first_polls = 2;  ///< that find the first call still being set up
  bool called = false;
  std::atomic<int> state{success}, connecting{0}, running{0};
  std::atomic<bool> left{false}, moving{false};

  bool is_of_test() const { return rank == fake_rank; }

  /// Waits for all ranks; false when they do not come.
  bool meet() {
    room->turns[rank] = ++turn;
    const auto end = std::chrono::steady_clock::now() + patience;
    for (int r = 0; r < size; ++r)
      while (room->turns[r] < turn) {
        if (left || std::chrono::steady_clock::now() > end) return false;
        wait_a_little();
      }
    return true;
  }

  /// Whether all ranks are at the same call; other ranks' are read between two meetings.
  bool agree(const Call& call) {
    room->calls[rank] = call;
    if (!meet()) return fail(remote_error);
    bool same = true;
    for (int r = 0; r < size; ++r) same = same && room->calls[r] == call;
    if (!meet()) return fail(remote_error);
    if (same) return true;
    ++fake_differences;
    return fail(internal_error);
  }
  bool fail(Result result) {
    state = result;
    return false;
  }

  /// In pieces: put(piece, slot) writes this rank's, take(rank, piece, slot) reads another's.
  template <class Put, class Take>
  void transfer(const Call& call, std::size_t bytes, std::size_t piece, const Put& put, const Take& take) {
    if (!agree(call)) return;
    moving = true, ++fake_moving;
    while (is_of_test() && fake_stall) wait_a_little();
    for (std::size_t at = 0; at < bytes; at += piece) {
      const std::size_t n = std::min(piece, bytes - at);
      put(at, n, room->slots[rank]);
      bool all = meet();
      for (int r = 0; r < size && all; ++r) take(r, at, n, room->slots[r]);
      all = all && meet();
      if (!all) {
        fail(remote_error);
        break;
      }
    }
    moving = false, --fake_moving;
  }
};

namespace {

/// A call of a group that has begun on this thread.
struct Message {
  Communicator* communicator;
  cudaStream_t stream;
  bool sends;
  int peer;
  unsigned char* memory;
  std::size_t bytes;
};
thread_local bool grouped = false;
thread_local std::vector<Message> messages;

/// Has the stream do the work when it comes to it, while the caller goes on.
template <class Work>
Result start(Communicator* c, cudaStream_t stream, const Work& work) {
  ++fake_calls;
  if (c) c->called = true;
  if (!c || !stream || emulated::device_of(stream) != c->device) return invalid_usage;
  if (c->is_of_test() && fake_call_result) return static_cast<Result>(fake_call_result);
  if (c->is_of_test() && fake_async_error) c->state = fake_async_error;
  if (c->is_of_test() && fake_absent) return success;
  if (emulated::captured_by(stream)) {
    emulated::ask(stream, work);
  } else {
    emulated::finish(stream);
    const auto over = std::make_shared<std::atomic<bool>>(false);
    ++c->running;
    std::thread([c, over, work] {
      work();
      --c->running;
      *over = true;
    }).detach();
    reinterpret_cast<emulated::Stream*>(stream)->pending = [over] { return over->load(); };
  }
#ifndef OLD_NCCL
  if (c->first_polls > 0) return in_progress;
#endif
  return success;
}

Call call_of(Kind kind, std::size_t bytes, cudaStream_t stream, int root = 0) {
  return {kind, bytes, static_cast<std::uint64_t>(root), emulated::captured_by(stream) != nullptr};
}

Result init(Communicator** made, int size, const UniqueId& id, int rank, bool blocking) {
  if (!made || size < 1 || size > most_ranks || rank < 0 || rank >= size) return invalid_argument;
  const int file = open(id.internal, O_RDWR);
  if (file < 0) return system_error;
  void* const room = mmap(nullptr, sizeof(Room), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  auto* const c = new Communicator;
  c->room = static_cast<Room*>(room), c->rank = rank, c->size = size, c->device = current_device();
  *made = c;
  {
    static std::mutex mutex;
    static auto& all = *new std::vector<Communicator*>;  // a test may leave them as they are
    const std::lock_guard lock(mutex);
    all.push_back(c);
  }
  if (c->is_of_test() && fake_init_result) {
    c->state = fake_init_result;
    return blocking ? static_cast<Result>(fake_init_result) : in_progress;
  }
  c->room->places[rank] = place_of_device();
  const auto connect = [c, path = std::string(id.internal)] {
    Result result = success;
    if (!c->agree({Kind::init, static_cast<std::uint64_t>(c->size)})) {
      result = static_cast<Result>(c->state.load());
    } else {
      for (int r = 0; r < c->size; ++r)
        if (r != c->rank && c->room->places[r] == c->room->places[c->rank]) result = invalid_usage;
    }
    if (c->rank == 0) unlink(path.c_str());  // all have it, or never will
    c->state = result;
    --c->connecting;
    return result;
  };
  ++c->connecting;
  if (blocking) return connect();
  c->state = in_progress;
  std::thread(connect).detach();
  return in_progress;
}

}  // namespace

extern "C" {

const char* ncclGetErrorString(Result result) {
  return result == remote_error ? "another rank has failed" : "a result of the test";
}
Result ncclGetVersion(int* version) {
  *version = fake_nccl_version;
  return success;
}

Result ncclGetUniqueId(UniqueId* id) {
  *id = {};
  std::strcpy(id->internal, "/tmp/emulated_nccl_XXXXXX");
  const int file = mkstemp(id->internal);
  const bool made = file >= 0 && ftruncate(file, sizeof(Room)) == 0;
  close(file);
  return made ? success : system_error;
}

Result ncclCommInitRank(Communicator** made, int size, UniqueId id, int rank) {
  return init(made, size, id, rank, true);
}

#ifndef OLD_NCCL
struct Config {
  std::size_t size;
  unsigned magic, version;
  int blocking;
};
Result ncclCommInitRankConfig(Communicator** made, int size, UniqueId id, int rank, Config* config) {
  if (!config || config->magic != 0xcafebeef || config->size < sizeof(Config) || config->version < 21400 ||
      static_cast<int>(config->version) > fake_nccl_version)
    return invalid_argument;
  return init(made, size, id, rank, config->blocking != 0);
}
Result ncclCommFinalize(Communicator* c) { return c->running == 0 ? success : invalid_usage; }
const char* ncclGetLastError(Communicator*) { return "the stand-in's last words"; }
#endif

Result ncclCommGetAsyncError(Communicator* c, Result* result) {
  *result = static_cast<Result>(c->state.load());
  if (*result == success && c->called && c->first_polls > 0) {
    --c->first_polls;
    *result = in_progress;
  }
  return success;
}

Result ncclCommDestroy(Communicator* c) {
  while (c->connecting != 0) wait_a_little();
  if (c->running != 0) return invalid_usage;
  ++fake_ends;
  munmap(c->room, sizeof(Room));
  delete c;
  return success;
}

Result ncclCommAbort(Communicator* c) {
  ++fake_aborts;
  if (c->moving) {
    ++fake_late_aborts;
    return invalid_usage;
  }
  c->left = true;
  while (c->running != 0 || c->connecting != 0) wait_a_little();
  munmap(c->room, sizeof(Room));
  delete c;
  return success;
}

Result ncclAllGather(const void* mine, void* all, std::size_t count, int type, Communicator* c, cudaStream_t stream) {
  if (type != 1 || !mine || !all) return invalid_argument;
  return start(c, stream, [=, call = call_of(Kind::gather, count, stream)] {
    c->transfer(
        call, count, slot_bytes,
        [&](std::size_t at, std::size_t n, unsigned char* slot) {
          std::memcpy(slot, static_cast<const unsigned char*>(mine) + at, n);
        },
        [&](int r, std::size_t at, std::size_t n, const unsigned char* slot) {
          std::memcpy(static_cast<unsigned char*>(all) + static_cast<std::size_t>(r) * count + at, slot, n);
        });
  });
}

Result ncclBroadcast(const void* from, void* to, std::size_t count, int type, int root, Communicator* c,
                     cudaStream_t stream) {
  if (type != 1 || !from || !to || !c || root < 0 || root >= c->size) return invalid_argument;
  return start(c, stream, [=, call = call_of(Kind::broadcast, count, stream, root)] {
    c->transfer(
        call, count, slot_bytes,
        [&](std::size_t at, std::size_t n, unsigned char* slot) {
          if (c->rank == root) std::memcpy(slot, static_cast<const unsigned char*>(from) + at, n);
        },
        [&](int r, std::size_t at, std::size_t n, const unsigned char* slot) {
          if (r == root) std::memcpy(static_cast<unsigned char*>(to) + at, slot, n);
        });
  });
}

Result ncclGroupStart() {
  if (grouped) return invalid_usage;
  grouped = true;
  messages.clear();
  return success;
}
Result ncclSend(const void* from, std::size_t count, int type, int peer, Communicator* c, cudaStream_t stream) {
  if (!grouped || type != 1 || !from) return invalid_usage;  // by itself it would wait for a receive of this thread
  messages.push_back({c, stream, true, peer, static_cast<unsigned char*>(const_cast<void*>(from)), count});
  return success;
}
Result ncclRecv(void* to, std::size_t count, int type, int peer, Communicator* c, cudaStream_t stream) {
  if (!grouped || type != 1 || !to) return invalid_usage;
  messages.push_back({c, stream, false, peer, static_cast<unsigned char*>(to), count});
  return success;
}

/// One message to each rank and one from each, all of one size: other groups are not made.
Result ncclGroupEnd() {
  if (!grouped || messages.empty()) return invalid_usage;
  grouped = false;
  Communicator* const c = messages[0].communicator;
  const cudaStream_t stream = messages[0].stream;
  const std::size_t bytes = messages[0].bytes;
  std::vector<unsigned char*> sent(most_ranks), received(most_ranks);
  for (const Message& m : messages) {
    if (m.communicator != c || m.stream != stream || m.bytes != bytes || m.peer < 0 || m.peer >= c->size)
      return invalid_usage;
    (m.sends ? sent : received)[static_cast<std::size_t>(m.peer)] = m.memory;
  }
  for (std::size_t r = 0; r < static_cast<std::size_t>(c->size); ++r)
    if (!sent[r] || !received[r]) return invalid_usage;
  const std::size_t piece = slot_bytes / most_ranks;
  return start(c, stream, [=, call = call_of(Kind::exchange, bytes, stream)] {
    c->transfer(
        call, bytes, piece,
        [&](std::size_t at, std::size_t n, unsigned char* slot) {
          for (std::size_t r = 0; r < static_cast<std::size_t>(c->size); ++r)
            std::memcpy(slot + r * piece, sent[r] + at, n);
        },
        [&](int r, std::size_t at, std::size_t n, const unsigned char* slot) {
          std::memcpy(received[static_cast<std::size_t>(r)] + at, slot + static_cast<std::size_t>(c->rank) * piece, n);
        });
  });
}
}
