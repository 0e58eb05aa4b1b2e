// NCCL between threads that are ranks, each with a device and a stream of its own: the library's calls of it against a
// stand-in that checks them.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "cuda/emulated/stream.hpp"
#include "distributed/engine_contract.hpp"
#include "errors.hpp"
#include "settle/cuda/nccl.hpp"
#include "settle/distributed/threads.hpp"
#include "temporary_folder.hpp"

// Last: with it comes CUDA's header for nvcc, whose overloads hide what the library opens.
#if __has_include(<nccl.h>)
#include <nccl.h>
#endif

using namespace settle;
using distributed::Group;
using distributed::on_threads;

namespace {

/// The stand-ins, opened as the libraries are, once for all tests.
struct StandIns {
  TemporaryFolder folder, old_folder;
  cuda::Runtime runtime{with_runtime(folder.path())};
  cuda::Nccl nccl{with_nccl(folder.path(), SETTLE_EMULATED_NCCL)};
  cuda::Nccl old{with_nccl(with_runtime(old_folder.path()), SETTLE_EMULATED_OLD_NCCL)};

  StandIns() { of<int>("fake_devices") = 8; }

  static StandIns& instance() {
    static StandIns all;
    return all;
  }

  template <class T>
  T& of(const char* name) {
    return *runtime.library.find<T>(name);
  }

 private:
  static std::filesystem::path with_runtime(const std::filesystem::path& folder) {
    const auto library = folder / ("libcudart.so." + std::to_string(CUDART_VERSION / 1000));
    std::filesystem::create_symlink(SETTLE_EMULATED_CUDA_RUNTIME, library);  // one library for both folders
    return folder;
  }
  static std::filesystem::path with_nccl(const std::filesystem::path& folder, const char* library) {
    std::filesystem::copy_file(library, folder / "libnccl.so.2");
    return folder;
  }
};

StandIns& stand_ins() { return StandIns::instance(); }

template <class T>
T& of(const char* name) {
  return *stand_ins().nccl.library.find<T>(name);
}
int count(const char* name) { return of<std::atomic<int>>(name); }

/// What goes wrong on a rank of the stand-in while it lives.
class Fault {
 public:
  Fault(const char* name, int value, int rank = 1) : what_(of<int>(name)) {
    what_ = value, of<int>("fake_rank") = rank;
  }
  ~Fault() { what_ = 0, of<int>("fake_rank") = -1; }
  Fault(const Fault&) = delete;
  Fault& operator=(const Fault&) = delete;

 private:
  int& what_;
};

/// A rank's device: a stream of its own.
struct Device {
  std::shared_ptr<emulated::Stream> on = std::make_shared<emulated::Stream>();
  cudaStream_t stream() const { return reinterpret_cast<cudaStream_t>(on.get()); }

  explicit Device(int number) {
    stand_ins().runtime.cudaSetDevice(number);
    on->device = number;
  }

  /// The group may live longer than this.
  std::string connect(const Group& group, const cuda::Nccl& nccl = stand_ins().nccl) const {
    return cuda::connect_devices(
        group, stand_ins().runtime, nccl, [own = *this] { return own.stream(); }, std::chrono::seconds(5));
  }
};

/// Runs f(group, device) on ranks whose devices are connected.
template <class F>
void on_devices(int ranks, const F& f, const cuda::Nccl& nccl = stand_ins().nccl) {
  on_threads(ranks, [&](const Group& group) {
    Device device(group.rank());
    const std::string reason = device.connect(group, nccl);
    require(reason.empty(), "test", reason);
    f(group, device);
  });
}

/// What each rank's part ends with: "no error", or an Error's text.
template <class F>
std::map<int, std::string> ends(int ranks, const F& f) {
  std::map<int, std::string> out;
  std::mutex mutex;
  on_devices(ranks, [&](const Group& group, Device& device) {
    group.patience(std::chrono::seconds(3));
    const std::string end = error_of([&] { f(group, device); });
    if (end != "no error") group.abandon(end);
    const std::lock_guard lock(mutex);
    out[group.rank()] = end;
  });
  return out;
}

/// As check_engine, of memory of devices: the bytes that the group's own engine brings.
void check_devices(const Group& group, std::size_t bytes, std::uint64_t seed) {
  const auto n = static_cast<std::size_t>(group.size());
  const auto compare = [](const auto& got, const auto& expected, const char* what) {
    require(got == expected, "test", "a ", what, " brought other bytes");
  };
  std::vector<std::byte> got(bytes * n), expected(bytes * n);
  const auto mine = noise(bytes, group.rank(), seed), parts = noise(bytes * n, group.rank(), seed + 1);
  group.gather_on_device(mine.data(), got.data(), bytes);
  group.gather(mine, expected);
  compare(got, expected, "gather");
  group.exchange_on_device(parts.data(), got.data(), bytes * n);
  group.exchange(parts, expected);
  compare(got, expected, "exchange");
  const int root = static_cast<int>(seed % n);
  auto what = noise(bytes, group.rank(), seed + 2), same = what;
  group.broadcast_on_device(what.data(), bytes, root);
  group.broadcast(same, root);
  compare(what, same, "broadcast");
}

}  // namespace

TEST_CASE("gather, exchange and broadcast of devices' memory bring every byte, by new and old versions of NCCL") {
  for (const cuda::Nccl* nccl : {&stand_ins().nccl, &stand_ins().old}) {
    CHECK((nccl->ncclCommInitRankConfig == nullptr) == (nccl == &stand_ins().old));
    for (const int ranks : {2, 3, 4, 7})
      CHECK_NOTHROW(on_devices(
          ranks,
          [](const Group& group, Device&) {
            for (const std::size_t bytes : {0u, 1u, 513u, 8192u, 100003u}) check_devices(group, bytes, bytes + 1);
          },
          *nccl));
  }
  CHECK(count("fake_differences") == 0);
  CHECK(count("fake_late_aborts") == 0);
}

TEST_CASE("operations are done in the order of the stream, after what was asked of it before") {
  on_devices(3, [](const Group& group, Device& device) {
    const cuda::Runtime& runtime = stand_ins().runtime;
    int mine = 0;
    std::array<int, 3> all{}, seen{};
    for (int k = 0; k < 100; ++k) {
      const int given = 1000 * group.rank() + k;
      runtime.cudaMemcpyAsync(&mine, &given, sizeof given, cudaMemcpyDeviceToDevice, device.stream());
      group.gather_on_device(&mine, all.data(), sizeof mine);
      runtime.cudaMemcpyAsync(seen.data(), all.data(), sizeof all, cudaMemcpyDeviceToDevice, device.stream());
      for (int r = 0; r < 3; ++r)
        require(seen[static_cast<std::size_t>(r)] == 1000 * r + k, "test", "step ", k, ": ", seen[0], seen[1], seen[2]);
    }
  });
}

TEST_CASE("ranks that do not do the same hear of it before NCCL does") {
  std::vector<std::byte> from(18), to(54);
  const int calls = count("fake_calls");
  auto texts = ends(2, [&](const Group& group, Device&) {
    group.gather_on_device(from.data(), to.data(), group.rank() == 0 ? 8 : 9);
  });
  const std::string parted = "[distributed] the ranks have parted: rank 0 is at operation ";
  for (const auto& [rank, text] : texts) {
    CHECK(text.starts_with(parted));
    CHECK(contains(text, "a gather on the devices of 8 bytes, and rank 1"));
    CHECK(contains(text, "a gather on the devices of 9 bytes"));
  }
  texts = ends(2, [&](const Group& group, Device&) {
    if (group.rank() == 0)
      group.exchange_on_device(from.data(), to.data(), 8);
    else
      group.gather(std::span(from).first(8), std::span(to).first(16));
  });
  for (const auto& [rank, text] : texts) {
    CHECK(contains(text, "an exchange on the devices of 8 bytes, and rank 1"));
    CHECK(contains(text, ", a gather of 8 bytes"));
  }
  CHECK(count("fake_calls") == calls);
  CHECK(contains(error_of([&] { Group().gather_on_device(from.data(), to.data(), 8); }), "are not connected"));
}

TEST_CASE("operations that all ranks capture are done at each launch; mixed capture is refused") {
  const cuda::Runtime& runtime = stand_ins().runtime;
  on_devices(3, [&](const Group& group, Device& device) {
    int mine = -1;
    std::array<int, 3> all{};
    runtime.cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeRelaxed);
    group.gather_on_device(&mine, all.data(), sizeof mine);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t launched = nullptr;
    runtime.cudaStreamEndCapture(device.stream(), &graph);
    runtime.cudaGraphInstantiate(&launched, graph, 0);
    runtime.cudaGraphDestroy(graph);
    require(all == std::array<int, 3>{}, "test", "a captured gather was done");
    for (int k = 1; k < 4; ++k) {
      mine = 10 * group.rank() + k;
      runtime.cudaGraphLaunch(launched, device.stream());
      require(all == std::array{k, 10 + k, 20 + k}, "test", "launch ", k, " brought ", all[0], " ", all[1], " ",
              all[2]);
    }
    runtime.cudaGraphExecDestroy(launched);
  });

  const int calls = count("fake_calls");
  std::array<int, 2> mine{}, all{};
  const auto texts = ends(2, [&](const Group& group, Device& device) {
    if (group.rank() == 1) runtime.cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeRelaxed);
    const std::string error = error_of(
        [&] { group.gather_on_device(&mine[static_cast<std::size_t>(group.rank())], all.data(), sizeof(int)); });
    if (group.rank() == 1) {
      cudaGraph_t graph = nullptr;
      runtime.cudaStreamEndCapture(device.stream(), &graph);
      runtime.cudaGraphDestroy(graph);
    }
    throw Error(error);
  });
  for (const auto& [rank, text] : texts) {
    CHECK(contains(text, ", a gather on the devices of 4 bytes, and rank 1 at operation "));
    CHECK(contains(text, ", a captured gather on the devices of 4 bytes"));
  }
  CHECK(count("fake_calls") == calls);
}

TEST_CASE("what fails on one rank is told to all, with its words") {
  std::array<std::array<int, 3>, 3> all{};
  const std::array mine{1, 2, 3};
  const auto gather = [&](const Group& group, Device&) {
    const auto r = static_cast<std::size_t>(group.rank());
    group.gather_on_device(&mine[r], all[r].data(), sizeof(int));
  };
  {
    const Fault refused("fake_call_result", 3);
    for (const auto& [rank, text] : ends(3, gather)) {
      CHECK(text.starts_with("rank 1: [nccl] could not gather: a result of the test: the stand-in's last words, at "));
      CHECK(text.ends_with(", a gather on the devices of 4 bytes"));
    }
  }
  {
    const Fault later("fake_async_error", 6);
    const auto texts = ends(3, [&](const Group& group, Device& device) {
      gather(group, device);
      group.meet();  // the others' gather may be done before they hear of it
    });
    for (const auto& [rank, text] : texts)
      CHECK(text.starts_with("rank 1: [nccl] could not gather: another rank has failed"));
  }
  const auto texts = ends(3, [&](const Group& group, Device& device) {
    gather(group, device);
    if (group.rank() == 2) fail("fixed_point", "diverged");
    gather(group, device);
  });
  CHECK(texts.at(2) == "[fixed_point] diverged");
  for (const int rank : {0, 1}) CHECK(texts.at(rank) == "rank 2: [fixed_point] diverged");
  CHECK(contains(error_of([&] {
                   on_devices(2, [&](const Group& group, Device& device) {
                     device.on->device = 7;  // another than the communicator's
                     gather(group, device);
                   });
                 }),
                 "[nccl] could not gather: a result of the test"));
}

TEST_CASE("a device that does not come is waited for until the deadline, and only what is idle is aborted") {
  const int aborts = count("fake_aborts"), ended = count("fake_ends");
  std::array<std::array<int, 3>, 3> all{};
  const std::array mine{1, 2, 3};
  const auto gather = [&](const Group& group, Device&) {
    const auto r = static_cast<std::size_t>(group.rank());
    group.gather_on_device(&mine[r], all[r].data(), sizeof(int));
  };
  ends(3, gather);
  CHECK(count("fake_ends") == ended + 3);
  CHECK(count("fake_aborts") == aborts);

  // Nothing moves, and one rank gives up.
  ends(3, [&](const Group& group, Device& device) {
    gather(group, device);
    if (group.rank() == 0) fail("test", "gives up");
    group.meet();
  });
  CHECK(count("fake_aborts") == aborts + 3);

  // A transfer stands still: to abort it is refused by the stand-in, and never asked for.
  auto& stall = of<std::atomic<int>>("fake_stall");
  {
    const Fault on_a_rank("fake_absent", 0);
    stall = 1;
    std::mutex mutex;
    std::map<int, std::string> texts;
    std::atomic<int> gone = 0;
    on_devices(3, [&](const Group& group, Device& device) {
      group.patience(std::chrono::milliseconds(200));
      const std::string text = error_of([&] { gather(group, device); });
      group.abandon(text);
      if (++gone == 3) stall = 0;  // the memory is the test's: it is not to be written later
      while (stall) std::this_thread::yield();
      const std::lock_guard lock(mutex);
      texts[group.rank()] = text;
    });
    for (const auto& [rank, text] : texts) {
      CHECK(contains(text, " waited 0.2"));
      CHECK(contains(text, " s for the devices at operation "));
      CHECK(contains(text, ", a gather on the devices of 4 bytes"));
    }
  }
  CHECK(count("fake_late_aborts") == 0);
  CHECK(count("fake_differences") == 0);
}

TEST_CASE("the stand-in refuses to abort a transfer") {
  auto& stall = of<std::atomic<int>>("fake_stall");
  const Fault on_a_rank("fake_absent", 0);
  const int late = count("fake_late_aborts");
  stall = 1;
  const cuda::Nccl& nccl = stand_ins().nccl;
  cuda::Nccl::UniqueId id{};
  CHECK(nccl.ncclGetUniqueId(&id) == cuda::Nccl::Result::success);
  std::array<int, 4> numbers{7, 8, 0, 0}, other{};
  on_threads(2, [&](const Group& group) {
    Device device(group.rank());
    cuda::Nccl::Communicator* made = nullptr;
    nccl.ncclCommInitRank(&made, 2, id, group.rank());
    const auto r = static_cast<std::size_t>(group.rank());
    nccl.ncclAllGather(&numbers[r], r == 0 ? &numbers[2] : &other[2], sizeof(int), cuda::Nccl::bytes, made,
                       device.stream());
    if (group.rank() == 1) {
      while (count("fake_moving") < 2) std::this_thread::yield();
      require(nccl.ncclCommAbort(made) == cuda::Nccl::Result::invalid_usage, "test", "a transfer was aborted");
      stall = 0;
    }
    emulated::finish(device.stream());
    group.meet();
    nccl.ncclCommDestroy(made);
  });
  CHECK(numbers[2] == 7);
  CHECK(other[3] == 8);
  CHECK(count("fake_late_aborts") == late + 1);
  of<std::atomic<int>>("fake_late_aborts") = 0;
}

TEST_CASE("devices that cannot be connected: all ranks are told why, and go on without") {
  const auto reasons = [](int ranks, const auto& nccl_of, const auto& device_of) {
    std::mutex mutex;
    std::map<int, std::string> out;
    on_threads(ranks, [&](const Group& group) {
      Device device(device_of(group.rank()));
      const std::string reason = device.connect(group, nccl_of(group.rank()));
      check_engine(group, 20, 1);
      require(!group.has_devices(), "test", "expected no devices");
      const std::lock_guard lock(mutex);
      out[group.rank()] = reason;
    });
    for (const auto& [rank, reason] : out) CHECK(reason == out[0]);
    return out[0];
  };
  const auto same = [](int rank) { return rank; };
  const auto usual = [](int) -> const cuda::Nccl& { return stand_ins().nccl; };

  const TemporaryFolder empty;
  const cuda::Nccl absent(empty.path());
  const auto absent_on_1 = [&](int rank) -> const cuda::Nccl& { return rank == 1 ? absent : stand_ins().nccl; };
  const std::string no_library = reasons(3, absent_on_1, same);
  CHECK(no_library.starts_with("rank 1: [nccl] "));
  CHECK(contains(no_library, "libnccl.so.2: cannot open shared object file"));

  std::filesystem::copy_file(SETTLE_EMULATED_CUDA_RUNTIME, empty.path() / "libnccl.so.2");
  const cuda::Nccl another(empty.path());
  CHECK(reasons(
            2, [&](int) -> const cuda::Nccl& { return another; }, same) ==
        "rank 0: [nccl] libnccl.so.2 has no function ncclGetVersion");

  const auto old_on_1 = [](int rank) -> const cuda::Nccl& { return rank == 1 ? stand_ins().old : stand_ins().nccl; };
  CHECK(reasons(2, old_on_1, same) ==
        "rank 0 has NCCL 2.28.3 and rank 1 NCCL 2.10.3: they do not speak with each other");
  CHECK(reasons(3, usual, [](int rank) { return rank % 2; }) ==
        "ranks 0 and 2 are on one GPU, and NCCL takes one rank on each");
  {
    const Fault refused("fake_init_result", 1, 0);
    CHECK(contains(reasons(3, usual, same), "rank 0: [nccl] could not connect the devices: a result of the test"));
  }
  stand_ins().of<int>("fake_error") = 100;
  CHECK(contains(reasons(2, usual, same), "rank 0: [cuda] could not find the current device"));
  stand_ins().of<int>("fake_error") = 0;
  CHECK(cuda::connect_devices(Group(), stand_ins().runtime, stand_ins().nccl, [] { return cudaStream_t(); }) ==
        "one rank has nobody to send to");
  CHECK(cuda::detail::nccl_version(2708) == "2.7.8");
}

TEST_CASE("NCCL itself has the functions that are asked for") {
  const cuda::Nccl nccl;
  if (!nccl.library.usable()) {
    MESSAGE("SKIP: " << nccl.library.reason());
    return;
  }
  int version = 0;
  CHECK(nccl.ncclGetVersion(&version) == cuda::Nccl::Result::success);
  CHECK(version >= 2700);
  CHECK((nccl.ncclCommInitRankConfig != nullptr) == (version >= 21400));
  CHECK((nccl.ncclCommFinalize != nullptr) == (version >= 21400));
  CHECK(std::string(nccl.ncclGetErrorString(cuda::Nccl::Result::remote_error)) != "");
#ifdef NCCL_MAJOR
  CHECK(sizeof(cuda::Nccl::UniqueId) == sizeof(ncclUniqueId));
  CHECK(static_cast<int>(cuda::Nccl::Result::invalid_usage) == ncclInvalidUsage);
  CHECK(static_cast<int>(cuda::Nccl::Result::in_progress) == ncclInProgress);
  CHECK(cuda::Nccl::bytes == ncclUint8);
  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  const cuda::Nccl::Config ours;
  CHECK(ours.magic == theirs.magic);
  CHECK(offsetof(cuda::Nccl::Config, version) == offsetof(ncclConfig_t, version));
  CHECK(offsetof(cuda::Nccl::Config, blocking) == offsetof(ncclConfig_t, blocking));
  CHECK(ours.unused == theirs.cgaClusterSize);
#endif
}
