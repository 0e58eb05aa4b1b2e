#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "engine_contract.hpp"
#include "free_port.hpp"
#include "settle/autodiff/grad.hpp"
#include "settle/distributed/all_reduce.hpp"
#include "settle/distributed/sockets.hpp"
#include "settle/distributed/threads.hpp"
#include "settle/distributed/world.hpp"
#include "settle/ops/map.hpp"
#include "settle/ops/reduce.hpp"

using namespace settle;
using namespace settle::distributed;

namespace {

std::string error_of(const auto& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

/// As on_threads, but the ranks are connected by sockets.
template <class F>
void on_sockets(int ranks, const F& f) {
  const int port = free_port();
  std::exception_ptr first;
  std::mutex mutex;
  {
    std::vector<std::jthread> threads;
    for (int r = 0; r < ranks; ++r)
      threads.emplace_back([&, r] {
        try {
          const Group group = sockets({.rank = r, .size = ranks, .port = port, .patience = std::chrono::seconds(20)});
          try {
            f(group);
          } catch (const std::exception& error) {
            group.abandon(error.what());
            throw;
          }
        } catch (...) {
          const std::lock_guard lock(mutex);
          if (!first) first = std::current_exception();
        }
      });
  }
  if (first) std::rethrow_exception(first);
}

/// Ranks of either kind.
constexpr auto with_threads = [](int ranks, const auto& f) { on_threads(ranks, f); };
constexpr auto with_sockets = [](int ranks, const auto& f) { on_sockets(ranks, f); };
void on_each_engine(const auto& check) {
  check(with_threads, "threads");
  check(with_sockets, "sockets");
}

}  // namespace

TEST_CASE("gather, exchange and broadcast bring every byte, of any length and for any number of ranks") {
  on_each_engine([](const auto& on_ranks, const char* engine) {
    for (const int ranks : {1, 2, 3, 4, 7})
      for (const std::size_t bytes : {0u, 1u, 488u, 489u, 513u, 100003u})
        CHECK_NOTHROW_MESSAGE(on_ranks(ranks, [&](const Group& g) { check_engine(g, bytes, 5); }), engine);
  });
}

TEST_CASE("a thousand operations with random delays") {
  on_each_engine([](const auto& on_ranks, const char*) {
    on_ranks(4, [](const Group& g) {
      std::mt19937 delays(static_cast<unsigned>(g.rank()));
      for (std::uint64_t k = 0; k < 350; ++k) {
        if (delays() % 50 == 0) std::this_thread::sleep_for(std::chrono::microseconds(delays() % 300));
        check_engine(g, (k * 37) % 700, k);
      }
    });
  });
}

TEST_CASE("a group alone copies and records nothing") {
  const Group alone;
  check_engine(alone, 1000, 3);
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{2}, {1.0, 2.0}));
  const auto before = tape.size();
  CHECK(all_reduce(x, alone).value().data() == x.value().data());
  CHECK(tape.size() == before);
  CHECK(alone.traffic().operations == 0);
}

TEST_CASE("ranks that do not do the same hear of it, both sides named") {
  const auto both = [](const auto& f) { return error_of([&] { on_threads(2, f); }); };
  std::vector<std::byte> eight(8), nine(9), all(18);
  CHECK(both([&](const Group& g) {
          std::vector<std::byte> mine(g.rank() == 0 ? 8 : 9), to(mine.size() * 2);
          g.gather(mine, to);
        }) ==
        "[distributed] the ranks have parted: rank 0 is at operation 1, a gather of 8 bytes, and rank 1 at operation 1, a "
        "gather of 9 bytes");
  CHECK(both([&](const Group& g) {
          std::vector<std::byte> mine(600), to(1200);
          g.meet();
          if (g.rank() == 0)
            g.gather(mine, to);
          else
            g.broadcast(mine, 1);
        }) ==
        "[distributed] the ranks have parted: rank 0 is at operation 2, a gather of 600 bytes, and rank 1 at operation 2, "
        "a broadcast of 600 bytes from rank 1");
  CHECK_THROWS_AS(Group().broadcast(eight, 1), Error);
  CHECK_THROWS_AS(Group().gather(eight, nine), Error);
}

TEST_CASE("an error on one rank reaches all, whenever it comes, and nobody waits") {
  on_each_engine([](const auto& on_ranks, const char* engine) {
    for (const int ranks : {2, 3, 5})
      for (int at = 0; at < 4; ++at)
        for (int thrower = 0; thrower < ranks; ++thrower) {
          std::atomic<int> told = 0;
          const auto start = std::chrono::steady_clock::now();
          const std::string text = error_of([&] {
            on_ranks(ranks, [&](const Group& g) {
              try {
                for (int k = 0; k < 4; ++k) {
                  if (k == at && g.rank() == thrower) fail("step", "diverged on rank ", thrower);
                  check_engine(g, 70000, 1);
                }
              } catch (const Error& error) {
                if (std::string(error.what()).find("[step] diverged") != std::string::npos) ++told;
                throw;
              }
            });
          });
          CAPTURE(engine);
          CAPTURE(ranks);
          CAPTURE(at);
          CAPTURE(thrower);
          CHECK(text.ends_with("[step] diverged on rank " + std::to_string(thrower)));
          CHECK(told == ranks);
          CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(30));
        }
  });
}

TEST_CASE("who does not come is named after the deadline") {
  std::mutex mutex;
  std::vector<std::string> texts;
  const std::string first = error_of([&] {
    on_threads(3, [&](const Group& g) {
      g.meet();  // on a machine with much to do threads may begin far from each other
      g.patience(std::chrono::seconds(2));
      if (g.rank() == 2) std::this_thread::sleep_for(std::chrono::seconds(5));
      const std::string text = error_of([&] { g.meet(); });
      const std::lock_guard lock(mutex);
      texts.push_back(text);
      throw Error(text);
    });
  });
  // Ranks 0 and 1 may find it out at the same time; rank 2 hears it from either.
  REQUIRE(texts.size() == 3);
  CHECK(first == texts.front());
  for (const auto& text : texts)
    CHECK(text.find(" waited 2 s for rank 2 at operation 2, a gather of 0 bytes") != std::string::npos);
}

TEST_CASE("sockets: a rank that goes without a word is named by the others at once") {
  for (const int gone : {0, 2}) {
    std::mutex mutex;
    std::vector<std::string> texts;
    on_sockets(3, [&](const Group& g) {
      g.meet();
      if (g.rank() == gone) return;
      const std::string text = error_of([&] {
        g.meet();
        g.meet();
      });
      const std::lock_guard lock(mutex);
      texts.push_back(text);
    });
    REQUIRE(texts.size() == 2);
    for (const auto& text : texts)
      CHECK_MESSAGE(text.find("rank " + std::to_string(gone) + " is gone") != std::string::npos, text);
  }
}

TEST_CASE("sockets: a port that is taken, ranks that do not come and ranks of another size are errors") {
  const int port = free_port();
  const auto call = [&](int rank, int size) {
    return error_of([&] { sockets({.rank = rank, .size = size, .port = port, .patience = std::chrono::milliseconds(200)}); });
  };
  CHECK(call(0, 3).find("[distributed] rank 0 waited 0.2 s on port " + std::to_string(port) + " for rank 1, rank 2") == 0);
  CHECK(call(1, 2).find("[distributed] rank 1 found no rank 0 at 127.0.0.1:" + std::to_string(port)) == 0);
  CHECK(call(2, 2).find("[distributed] rank 2 of 2 ranks") == 0);
  std::string text;
  std::jthread zero([&] {
    text = error_of([&] { sockets({.rank = 0, .size = 2, .port = port, .patience = std::chrono::seconds(10)}); });
  });
  error_of([&] {
    const Group other = sockets({.rank = 1, .size = 3, .port = port, .patience = std::chrono::seconds(10)});
    other.meet();
  });
  zero.join();
  CHECK(text == "[distributed] rank 0 of 2 was called by rank 1 of 3");
}

TEST_CASE("what a launcher says of ranks is read, and what it says wrong is told") {
  const auto with = [](std::vector<std::pair<const char*, const char*>> variables, const auto& f) {
    for (const auto& [name, value] : variables) ::setenv(name, value, 1);
    f();
    for (const auto& [name, value] : variables) ::unsetenv(name);
  };
  CHECK(launch().by == Launch::By::alone);
  with({{"WORLD_SIZE", "4"}, {"RANK", "3"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "29500"}, {"LOCAL_RANK", "1"}},
       [] {
         const Launch l = launch();
         CHECK((l.by == Launch::By::sockets && l.rank == 3 && l.size == 4 && l.local_rank == 1));
       });
  with({{"OMPI_COMM_WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_RANK", "1"}}, [] {
    CHECK((launch().by == Launch::By::mpi && launch().rank == 1));
    CHECK(error_of([] { world(); }).find("mpirun started 2 processes of a program that was built without MPI") !=
          std::string::npos);
  });
  with({{"OMPI_COMM_WORLD_SIZE", "1"}}, [] { CHECK(launch().by == Launch::By::alone); });
  with({{"WORLD_SIZE", "4"}}, [] {
    CHECK(error_of([] { launch(); }) ==
          "[distributed] WORLD_SIZE is 4, and one of RANK, MASTER_ADDR, MASTER_PORT is missing");
  });
  with({{"WORLD_SIZE", "four"}}, [] {
    CHECK(error_of([] { launch(); }) == "[distributed] the variable WORLD_SIZE holds 'four', expected a whole number");
  });
  with({{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}}, [] {
    CHECK(error_of([] { launch(); }).find("Slurm started 8 tasks that cannot find each other") != std::string::npos);
  });
}

TEST_CASE("sums: the same bits on all ranks, those of a tree over the ranks, near the exact sum") {
  for (const int ranks : {1, 2, 3, 4, 7})
    for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{33}, std::size_t{200001}}) {
      std::vector<std::vector<float>> given(static_cast<std::size_t>(ranks)), got(given.size());
      std::mt19937 random(7);
      for (auto& list : given)
        for (std::size_t k = 0; k < count; ++k)
          list.push_back(static_cast<float>(std::uniform_real_distribution<double>(-1, 1)(random)));
      on_threads(ranks, [&](const Group& g) {
        auto mine = given[static_cast<std::size_t>(g.rank())];
        sum_over_ranks(std::span(mine), g);
        got[static_cast<std::size_t>(g.rank())] = mine;
      });
      auto tree = given;
      for (std::size_t step = 1; step < tree.size(); step *= 2)
        for (std::size_t r = 0; r + step < tree.size(); r += 2 * step)
          for (std::size_t k = 0; k < count; ++k) tree[r][k] += tree[r + step][k];
      for (const auto& list : got) CHECK(list == tree.front());
      const double levels = std::ceil(std::log2(ranks));
      for (std::size_t k = 0; k < count; k += 997) {
        double exact = 0, size = 0;
        for (const auto& list : given) exact += list[k], size += std::abs(static_cast<double>(list[k]));
        CHECK(std::abs(static_cast<double>(tree.front()[k]) - exact) <= levels * 6e-8 * size + 1e-300);
      }
    }
}

TEST_CASE("sums of what is not finite, of zeros and of denormals are alike on all ranks") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<std::vector<float>> got(3);
  on_threads(3, [&](const Group& g) {
    const std::vector<std::vector<float>> given{{inf, inf, nan, 0.f, -0.f, 1e-40f},
                                                {1.f, -inf, 1.f, -0.f, -0.f, 0.f},
                                                {2.f, 1.f, 2.f, 0.f, -0.f, 0.f}};
    auto mine = given[static_cast<std::size_t>(g.rank())];
    sum_over_ranks(std::span(mine), g);
    got[static_cast<std::size_t>(g.rank())] = mine;
  });
  for (const auto& list : got) {
    CHECK(list[0] == inf);
    CHECK(std::isnan(list[1]));
    CHECK(std::isnan(list[2]));
    CHECK(std::memcmp(list.data(), got[0].data(), list.size() * sizeof(float)) == 0);
    CHECK(std::signbit(list[4]));
  }
}

namespace {

/// What rank `rank` of `ranks` differentiates: f of the sum over the ranks of its numbers and of their squares, of which
/// each rank holds another multiple.
Var<double> share(const Var<double>& x, const Group& group) {
  const double weight = 1.0 + 0.5 * group.rank();
  const Var<double> total = all_reduce(weight * x * x, group), plain = all_reduce(x, group);
  return sum(map([](auto t, auto p, auto v) { return exp(0.3 * t) * p + v * v * t; }, total, plain, x));
}

/// The sum of all shares, on one tape, from the numbers of all ranks.
Var<double> together(const std::vector<Var<double>>& x) {
  Var<double> total = 1.0 * x[0] * x[0], plain = x[0];
  for (std::size_t r = 1; r < x.size(); ++r) {
    total = total + (1.0 + 0.5 * static_cast<double>(r)) * x[r] * x[r];
    plain = plain + x[r];
  }
  Var<double> out;
  for (const auto& v : x) {
    const Var<double> term = sum(map([](auto t, auto p, auto w) { return exp(0.3 * t) * p + w * w * t; }, total, plain, v));
    out = out.defined() ? out + term : term;
  }
  return out;
}

}  // namespace

TEST_CASE("all_reduce: first and second derivatives of the sum of all ranks' shares") {
  for (const int ranks : {2, 3}) {
    std::vector<Tensor<double>> points, cotangents;
    Random random(3);
    for (int r = 0; r < ranks; ++r) {
      points.push_back(normal<double>(Shape{4}, 0, 0.5, random));
      cotangents.push_back(normal<double>(Shape{4}, 0, 1, random));
    }
    // on one tape
    Tape<double> tape;
    std::vector<Var<double>> x;
    for (const auto& p : points) x.push_back(tape.leaf(p));
    const auto first = grad(together(x), x, {.create_graph = true});
    Var<double> along;
    for (std::size_t r = 0; r < x.size(); ++r) {
      const Var<double> term = sum(first[r] * Var<double>(cotangents[r]));
      along = along.defined() ? along + term : term;
    }
    const auto second = grad(along, x);
    // each rank with its own numbers
    on_threads(ranks, [&](const Group& g) {
      const auto me = static_cast<std::size_t>(g.rank());
      Tape<double> own;
      const Var<double> mine = own.leaf(points[me]);
      const auto slope = grad(share(mine, g), {mine}, {.create_graph = true}).front();
      const auto curvature = grad(sum(slope * Var<double>(cotangents[me])), {mine}).front();
      for (Index k = 0; k < 4; ++k) {
        require(std::abs(slope.value().data()[k] - first[me].value().data()[k]) < 1e-12, "test", "first order");
        require(std::abs(curvature.value().data()[k] - second[me].value().data()[k]) < 1e-11, "test", "second order");
      }
    });
  }
}

TEST_CASE("a differentiated all-reduced loss counts once for each rank, as its docs say") {
  on_threads(3, [](const Group& g) {
    Tape<double> tape;
    const Var<double> x = tape.leaf(Tensor<double>(Shape{1}, 2.0));
    require(grad(all_reduce(x * x, g), {x}).front().item() == 3 * 4.0, "test", "expected three times the slope");
  });
}

TEST_CASE("several tensors are summed over the ranks in one message") {
  on_threads(3, [](const Group& g) {
    const double r = g.rank() + 1;
    const auto sums = all_reduce<float, Cpu>({Tensor<float>(Shape{2, 2}, static_cast<float>(r)), Tensor<float>(Shape{0}),
                                              Tensor<float>(Shape{}, static_cast<float>(10 * r))},
                                             g);
    require(sums[0].value().data()[3] == 6.f && sums[1].size() == 0 && sums[2].item() == 60.f, "test", "gradients");
    require(g.traffic().operations == 1, "test", "one message");
  });
}
