#include <doctest/doctest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "errors.hpp"
#include "settle/core/tensor.hpp"
#include "settle/core/sanitizer.hpp"
#include "settle/core/threads.hpp"
#include "settle/data/prefetch.hpp"
#include "temporary_folder.hpp"

// Threads where a process forks or ends, and how many there are.

using namespace settle;

namespace {

// The address sanitizer's own locks do not survive the fork() of a program with threads: children hang now and then.
#ifdef SETTLE_ADDRESS_SANITIZER
constexpr bool cannot_fork = true;
#else
constexpr bool cannot_fork = false;
#endif

/// What a child process returns for f(), -1 when it has not ended after ten seconds.
int in_child(const std::function<int()>& f, bool runs_exit = true) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const int code = f();
    runs_exit ? std::exit(code) : ::_exit(code);
  }
  for (int wait = 0; wait < 2000; ++wait) {
    int status = 0;
    if (::waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) ? WEXITSTATUS(status) : -2;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  return -1;
}

/// A loop of all threads; whether each part was done once.
bool loop_works(ThreadPool& pool) {
  std::vector<int> done(64);
  pool.run(64, [&](int part) { ++done[static_cast<std::size_t>(part)]; });
  return std::all_of(done.begin(), done.end(), [](int n) { return n == 1; });
}

}  // namespace

TEST_CASE("a child of fork() works, with as many threads, and ends" * doctest::skip(cannot_fork)) {
  ThreadPool own(3);
  REQUIRE(loop_works(own));
  REQUIRE(loop_works(ThreadPool::instance()));
  CHECK(in_child([] { return 7; }) == 7);
  CHECK(in_child([&] { return loop_works(ThreadPool::instance()) && loop_works(own) && own.size() == 3 ? 8 : 0; }) == 8);
  CHECK(in_child([] {  // a pool's destructor in the child
          {
            ThreadPool mine(2);
            if (!loop_works(mine)) return 1;
          }
          return in_child([] { return loop_works(ThreadPool::instance()) ? 9 : 0; });  // and a child of the child
        }) == 9);
  CHECK(in_child([&] {
          own.resize(2);
          return loop_works(own) ? 3 : 0;
        }) == 3);
  CHECK(loop_works(own));
}

TEST_CASE("fork() while other threads work and allocate leaves no lock behind" * doctest::skip(cannot_fork)) {
  std::atomic<bool> stop = false;
  std::thread busy([&] {
    while (!stop) {
      const Tensor<float> t(Shape{1000});
      (void)loop_works(ThreadPool::instance());
    }
  });
  const auto works = [] {
    const Tensor<float> t(Shape{2000}, 1.0f);
    return loop_works(ThreadPool::instance()) && t.data()[1999] == 1 ? 5 : 0;
  };
  // By _exit: what the other thread held when the child was made would look lost to a checker of leaks.
  for (int k = 0; k < 20; ++k) CHECK(in_child(works, false) == 5);
  stop = true;
  busy.join();
}

TEST_CASE("a Prefetch that was there before fork() ends in the child, and says that it makes nothing there" * doctest::skip(cannot_fork)) {
  Prefetch<int> values([](Index k) { return static_cast<int>(k); });
  CHECK(values.next() == 0);
  CHECK(in_child([&] {
          return contains(error_of([&] { (void)values.next(); }), "[prefetch]") ? 4 : 0;
        }) == 4);
  CHECK(in_child([] {
          static Prefetch<int> mine([](Index k) { return static_cast<int>(k); });
          return mine.next() + mine.next();
        }) == 1);
  CHECK(values.next() == 1);
}

TEST_CASE("a Prefetch that is older than the pool, and static, ends with the process" * doctest::skip(cannot_fork)) {
  // In a program of its own the pool starts after the Prefetch; here a child's exit destroys both in that order.
  CHECK(in_child([] {
          static Prefetch<int> values([](Index) {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            return loop_works(ThreadPool::instance()) ? 1 : 0;
          });
          return values.next();
        }) == 1);
}

TEST_CASE("a part may wait for a thread that has a loop of its own, and loops inside it") {
  ThreadPool pool(2);
  std::atomic<int> good = 0;
  pool.run(4, [&](int) {
    std::thread other([&] {
      std::atomic<int> inner = 0;
      pool.run(8, [&](int) {
        CHECK(ThreadPool::thread() == 0);
        pool.run(3, [&](int) { ++inner; });
      });
      if (inner == 24) ++good;
    });
    other.join();
  });
  CHECK(good == 4);
}

TEST_CASE("the number of threads comes from SETTLE_THREADS, or the processors that the process may use" * doctest::skip(cannot_fork)) {
  const char* const before = std::getenv("SETTLE_THREADS");
  const std::string kept = before ? before : "";
  for (const char* const number : {"1", "3", "17"}) {
    ::setenv("SETTLE_THREADS", number, 1);
    CHECK(ThreadPool::default_threads() == std::atoi(number));
  }
  for (const char* const wrong : {"", "0", "-2", "two", "2 threads", "4097", "99999999999999999999"}) {
    ::setenv("SETTLE_THREADS", wrong, 1);
    CHECK(contains(error_of([] { (void)ThreadPool::default_threads(); }), "SETTLE_THREADS"));
  }
  ::unsetenv("SETTLE_THREADS");
  CHECK(ThreadPool::default_threads() == usable_processors());
  CHECK(usable_processors() >= 1);
#ifdef __linux__
  CHECK(in_child([] {
          cpu_set_t one;
          CPU_ZERO(&one);
          CPU_SET(::sched_getcpu(), &one);
          return ::sched_setaffinity(0, sizeof(one), &one) == 0 ? usable_processors() : 1;
        }) == 1);
#endif
  if (before) ::setenv("SETTLE_THREADS", kept.c_str(), 1);
}

TEST_CASE("a container's quota of processors is the least of its groups'") {
  const TemporaryFolder folder;
  const auto write = [&](const std::string& name, const std::string& text) {
    const auto file = folder.path() / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  };
  const auto quota = [&](const std::string& groups) {
    write("groups", groups);
    return detail::processor_quota((folder.path() / "groups").string(), folder.path().string());
  };
  const double none = std::numeric_limits<double>::infinity();
  CHECK(quota("0::/\n") == none);
  CHECK(quota("") == none);
  CHECK(detail::processor_quota("/no/such/file", "/no/such/folder") == none);
  write("a/b/cpu.max", "max 100000\n");
  CHECK(quota("0::/a/b\n") == none);
  write("a/b/cpu.max", "250000 100000\n");
  CHECK(quota("0::/a/b\n") == 2.5);
  write("a/cpu.max", "150000 100000\n");
  CHECK(quota("0::/a/b\n") == 1.5);
  CHECK(quota("0::/a/b/not/there\n") == 1.5);
  CHECK(quota("0::/elsewhere\n") == none);
  write("cpu.max", "50000 100000");  // what a container sees as its root
  CHECK(quota("0::/elsewhere\n") == 0.5);
  // Version 1: controllers by name.
  CHECK(quota("4:memory:/x\n3:cpu,cpuacct:/x\n") == none);
  write("cpu/x/cpu.cfs_quota_us", "-1\n"), write("cpu/x/cpu.cfs_period_us", "100000\n");
  CHECK(quota("3:cpu,cpuacct:/x\n") == none);
  write("cpu/x/cpu.cfs_quota_us", "300000\n");
  CHECK(quota("3:cpu,cpuacct:/x\n") == 3);
  CHECK(quota("3:cpuset:/x\n") == none);
}
