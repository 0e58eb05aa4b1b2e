// Sums over ranks of what is on a device, by NCCL: ranks that are processes, each with an emulated device of its own
// and stand-ins for CUDA's libraries; or, with SETTLE_ON_GPUS, with a GPU and the libraries themselves. A process is
// forked for each rank before it uses the device.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "distributed/free_port.hpp"
#include "errors.hpp"
#include "settle/autodiff/grad.hpp"
#include "settle/cuda/cuda.hpp"
#include "settle/cuda/nccl.hpp"
#include "settle/distributed/all_reduce.hpp"
#include "settle/distributed/sockets.hpp"
#include "settle/ops/map.hpp"
#include "settle/ops/reduce.hpp"
#include "temporary_folder.hpp"

using namespace settle;
using distributed::all_reduce;
using distributed::Group;

namespace {

/// What a process of a rank is left with: "no error", or an Error's text.
template <class F>
std::string end_of_rank(int rank, int ranks, int port, const F& f) {
  return error_of([&] {
    cuda::use_local_device(rank);
    const cuda::Runtime runtime(cuda::libraries_folder());
    if (int* const place = runtime.library.find_newer<int>("fake_first_place")) *place = 16 * rank;
    const Group group =
        distributed::sockets({.rank = rank, .size = ranks, .port = port, .patience = std::chrono::seconds(60)});
    group.patience(std::chrono::seconds(60));
    try {
      f(group);
    } catch (const Error& error) {
      group.abandon(error.what());
      throw;
    }
  });
}

/// Runs f(group) in a process for each rank. What each was left with.
template <class F>
std::vector<std::string> on_processes(int ranks, const F& f) {
  const int port = free_port();
  const TemporaryFolder folder;
  std::fflush(stdout);
  std::vector<pid_t> processes;
  const auto file_of = [&](int rank) { return folder.path() / std::to_string(rank); };
  for (int r = 0; r < ranks; ++r) {
    const pid_t process = ::fork();
    if (process == 0) {
      const std::string end = end_of_rank(r, ranks, port, f);
      std::FILE* const file = std::fopen(file_of(r).c_str(), "w");
      std::fputs(end.c_str(), file);
      std::fclose(file);
      std::_Exit(0);
    }
    processes.push_back(process);
  }
  std::vector<std::string> ends;
  for (int r = 0; r < ranks; ++r) {
    int status = 0;
    ::waitpid(processes[static_cast<std::size_t>(r)], &status, 0);
    CHECK(status == 0);
    std::string text(10000, ' ');
    std::FILE* const file = std::fopen(file_of(r).c_str(), "r");
    REQUIRE(file != nullptr);
    text.resize(std::fread(text.data(), 1, text.size(), file));
    std::fclose(file);
    ends.push_back(text);
  }
  return ends;
}

void connect(const Group& group) {
  const std::string reason = cuda::connect_devices(group);
  require(reason.empty(), "test", reason);
}

/// How often the stand-in was called; none for NCCL itself.
std::optional<int> calls_of_nccl() {
  const cuda::Library library("libnccl.so.2", cuda::libraries_folder());
  const auto* const calls = library.find_newer<std::atomic<int>>("fake_calls");
  return calls ? std::optional<int>(*calls) : std::nullopt;
}
/// Throws Error where the stand-in was called less often than that since it was `before`.
void require_calls(std::optional<int> before, int more) {
  require(!before || *calls_of_nccl() >= *before + more, "test", "expected at least ", more, " more calls of NCCL");
}

/// Whether there are so many devices; says so where not.
bool enough_devices([[maybe_unused]] int ranks) {
#ifdef SETTLE_ON_GPUS
  const pid_t process = ::fork();  // what asks CUDA cannot be forked afterwards
  if (process == 0) {
    const cuda::Runtime runtime(cuda::libraries_folder());
    const bool emulated = runtime.library.find_newer<int>("fake_first_place") != nullptr;
    std::_Exit(emulated ? 100 : cuda::probe(runtime).devices);
  }
  int status = 0;
  ::waitpid(process, &status, 0);
  if (WEXITSTATUS(status) >= ranks) return true;
  MESSAGE("SKIP: " << ranks << " ranks need as many GPUs, and there are " << WEXITSTATUS(status));
  return false;
#else
  return true;
#endif
}

/// Numbers of a rank, among them zeros of both signs, and tiny ones whose sums are denormal.
template <class T>
Tensor<T> numbers(const Shape& shape, int rank, unsigned seed) {
  std::mt19937 random(31 * seed + static_cast<unsigned>(rank));
  Tensor<T> out(shape);
  T* const to = out.mutable_data();
  for (Index k = 0; k < out.size(); ++k) {
    to[k] = static_cast<T>(random()) * T(0x1p-31) - 1;
    if (k % 7 == 3) to[k] *= std::numeric_limits<T>::min();
    if (k % 11 == 5) to[k] = T(-0.0);
  }
  return out;
}

template <class T, class D>
void require_same_bits(const Tensor<T, D>& a, const Tensor<T>& b, const char* what) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  const Tensor<T> here = to<Cpu>(a);
  require(here.shape() == b.shape(), "test", what, ": shapes ", here.shape(), " and ", b.shape());
  for (Index k = 0; k < b.size(); ++k)
    require(std::bit_cast<Bits>(here.data()[k]) == std::bit_cast<Bits>(b.data()[k]), "test", what, ": number ", k, ": ",
            here.data()[k], " and ", b.data()[k]);
}

/// By NCCL, through the processor's memory, and by the processor: the same bits.
template <class T>
void check_sums(const Group& group, const std::vector<Shape>& shapes) {
  std::vector<Var<T>> here;
  std::vector<Var<T, Cuda>> there;
  for (const Shape& shape : shapes) {
    here.emplace_back(numbers<T>(shape, group.rank(), static_cast<unsigned>(shape.size())));
    there.emplace_back(to<Cuda>(here.back().value()));
  }
  const auto expected = all_reduce(here, group);
  const auto before = calls_of_nccl();
  const auto got = all_reduce(there, group);
  require_calls(before, group.has_devices() ? 1 : 0);
  for (std::size_t k = 0; k < shapes.size(); ++k) require_same_bits(got[k].value(), expected[k].value(), "sum");
}

}  // namespace

TEST_CASE("sums of what is on devices have the same bits by NCCL, through the processor, and of the processor") {
  for (const int ranks : {2, 3}) {
    if (!enough_devices(ranks)) continue;
    for (const std::string& end : on_processes(ranks, [](const Group& group) {
           const std::vector<Shape> few{{5}, {}, {0}, {2, 3, 7}}, many{{1}, {300007}, {3, 50000}};
           for (const bool connected : {false, true}) {
             if (connected) connect(group);
             check_sums<float>(group, few), check_sums<double>(group, few);
             check_sums<float>(group, many), check_sums<double>(group, many);
           }
           // Nothing of it came by the group's own engine but the headings.
           const auto before = group.traffic().operations;
           all_reduce(Var<float, Cuda>(Tensor<float, Cuda>(Shape{400000}, 1.0f)), group);
           require(group.traffic().operations == before + 2, "test", "expected an exchange and a gather");
         }))
      CHECK(end == "no error");
  }
}

TEST_CASE("first and second derivatives through a sum over devices are those without NCCL, to the bit") {
  if (!enough_devices(2)) return;
  for (const std::string& end : on_processes(2, [](const Group& group) {
         using V = Var<double, Cuda>;
         const V given(to<Cuda>(numbers<double>(Shape{2, 5}, group.rank(), 1)));
         const V weights(to<Cuda>(numbers<double>(Shape{2, 5}, group.rank(), 2)));
         const auto derivatives = [&] {
           Tape<double, Cuda> tape;
           const V x = tape.leaf(given.value());
           const V total = all_reduce(x, group);
           const auto first = grad(sum(weights * total * total * x), {x}, {.create_graph = true}).front();
           const auto second = grad(sum(first * first), {x}).front();
           return std::array{to<Cpu>(total.value()), to<Cpu>(first.value()), to<Cpu>(second.value())};
         };
         const auto without = derivatives();
         connect(group);
         const auto before = calls_of_nccl();
         const auto with = derivatives();
         require_calls(before, 4);  // at every order
         for (std::size_t k = 0; k < 3; ++k) require_same_bits(with[k], without[k], "derivative");
       }))
    CHECK(end == "no error");
}

TEST_CASE("a graph holds sums over devices where all ranks capture it, and is refused where one does not") {
  if (!enough_devices(2)) return;
  for (const std::string& end : on_processes(2, [](const Group& group) {
         connect(group);
         const Tensor<float, Cuda> x(Shape{50}, static_cast<float>(group.rank() + 1));
         Tensor<float, Cuda> sum(Shape{50});
         float* const to_sum = sum.mutable_data();
         const auto add_up = [&] {
           const auto all = all_reduce(Var<float, Cuda>(x), group);
           Cuda::copy(to_sum, all.value().data(), sum.bytes());
         };
         add_up();  // once before: it compiles
         cuda::Graph graph(add_up);
         const auto before = calls_of_nccl();
         for (int k = 0; k < 3; ++k) {
           Cuda::fill(to_sum, sum.size(), -1.0f);
           graph.launch();
           require(to<Cpu>(sum).data()[49] == 3, "test", "launch ", k, ": ", to<Cpu>(sum).data()[49]);
         }
         require(calls_of_nccl() == before, "test", "expected no further calls");
       }))
    CHECK(end == "no error");
  for (const std::string& end : on_processes(2, [&](const Group& group) {
         connect(group);
         const Tensor<float, Cuda> x(Shape{50}, 1.0f);
         const auto add_up = [&] { all_reduce(Var<float, Cuda>(x), group); };
         add_up();
         if (group.rank() == 0) return add_up();
         const cuda::Graph graph(add_up);
       })) {
    CHECK(contains(end, "a gather on the devices of 200 bytes, and rank 1 at operation "));
    CHECK(contains(end, "a captured gather on the devices of 200 bytes"));
  }
}

TEST_CASE("ranks without NCCL are told why, and sums go through the processor's memory") {
  if (cuda::libraries_folder().empty()) {
    MESSAGE("SKIP: the libraries are the system's");
    return;
  }
  for (const std::string& end : on_processes(2, [](const Group& group) {
         const TemporaryFolder none;
         if (group.rank() == 1) {  // a machine with CUDA's libraries, but not this one
           for (const auto& file : std::filesystem::directory_iterator(cuda::libraries_folder())) {
             const auto name = file.path().filename();
             if (!name.string().starts_with("libnccl"))
               std::filesystem::create_symlink(std::filesystem::canonical(file.path()), none.path() / name);
           }
           ::setenv("SETTLE_CUDA_LIBRARIES", none.path().c_str(), 1);
         }
         const std::string reason = cuda::connect_devices(group);
         require(reason.starts_with("rank 1: [nccl] ") && contains(reason, "libnccl.so.2"), "test", reason);
         const auto sum = all_reduce(Var<float, Cuda>(Tensor<float, Cuda>(Shape{3}, 2.0f)), group);
         require(to<Cpu>(sum.value()).data()[2] == 4, "test", "expected 4");
       }))
    CHECK(end == "no error");
}

int main(int count, char** arguments) {
#ifndef SETTLE_ON_GPUS
  const TemporaryFolder folder;
  const std::string version = ".so." + std::to_string(CUDART_VERSION / 1000);
  std::filesystem::create_symlink(SETTLE_EMULATED_CUDA_RUNTIME, folder.path() / ("libcudart" + version));
  std::filesystem::create_symlink(SETTLE_EMULATED_NVRTC, folder.path() / ("libnvrtc" + version));
  std::filesystem::create_symlink(SETTLE_EMULATED_NCCL, folder.path() / "libnccl.so.2");
  ::setenv("SETTLE_CUDA_LIBRARIES", folder.path().c_str(), 1);
  ::setenv("SETTLE_CACHE", SETTLE_EMULATED_CACHE, 1);
#endif
  return doctest::Context(count, arguments).run();
}
