#include "settle/core/threads.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "settle/autodiff/grad.hpp"
#include "settle/core/denormals.hpp"
#include "settle/core/random.hpp"
#include "settle/core/tensor.hpp"
#include "settle/ops/convolution.hpp"
#include "settle/ops/map.hpp"
#include "settle/ops/reduce.hpp"

using namespace settle;

TEST_CASE("every index of a loop is visited once, for any number of threads") {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(pool.size() == threads);
    for (Index count : {0, 1, 2, 7, 1000}) {
      for (Index grain : {0, 1, 3, 2000}) {
        std::vector<int> visits(static_cast<std::size_t>(count));
        pool.parallel_for(count, grain, [&](Index begin, Index end) {
          for (Index i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
        });
        CHECK(visits == std::vector<int>(static_cast<std::size_t>(count), 1));
      }
    }
  }
}

TEST_CASE("parts may outnumber the threads, and each is called once") {
  ThreadPool pool(3);
  std::vector<int> calls(20);
  pool.run(20, [&](int part) { ++calls[static_cast<std::size_t>(part)]; });
  CHECK(calls == std::vector<int>(20, 1));
  pool.run(0, [&](int) { FAIL("no part was asked for"); });
}

TEST_CASE("parts flush denormal results to zero, and leave the caller's arithmetic as it was") {
  volatile float tiny = 1e-30f, scale = 1e-10f;  // the product is for the processor to find
  const auto product = [&] {
    volatile float result = tiny * scale;
    return static_cast<float>(result);
  };
  const float outside = product();
  CHECK(outside > 0);
  const float expected = FlushDenormals::supported ? 0.0f : outside;
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    std::vector<float> inside(static_cast<std::size_t>(threads), 1);
    std::atomic<int> begun{0};
    pool.run(threads, [&](int part) {
      ++begun;
      while (threads > 1 && begun < threads) std::this_thread::yield();  // until each thread has taken one
      pool.run(1, [](int) {});  // the end of an inner loop is not the end of the outer one
      inside[static_cast<std::size_t>(part)] = product();
    });
    CHECK(inside == std::vector<float>(static_cast<std::size_t>(threads), expected));
    CHECK(product() == outside);
    CHECK_THROWS_AS(pool.run(threads, [](int) { throw std::runtime_error("a part failed"); }), std::runtime_error);
    CHECK(product() == outside);
  }
  float alone = 1;
  ThreadPool(1).run(2, [&](int) { alone = product(); });  // with more parts than threads
  CHECK(alone == expected);
}

TEST_CASE("a denormal input is read as it is") {
  ThreadPool pool(1);
  volatile float denormal = std::numeric_limits<float>::denorm_min(), two_to_100 = 1.2676506e30f;
  float product = 0;
  pool.run(1, [&](int) { product = denormal * two_to_100; });
  CHECK(product == 1.7763568e-15f);  // 2^(100 - 149)
}

TEST_CASE("parts are as long as the grain asks; small ones are several for each thread, if each is long") {
  ThreadPool pool(4);
  CHECK(pool.parts_for(100, 1) == 4);
  CHECK(pool.parts_for(100, 40) == 2);
  CHECK(pool.parts_for(100, 1000) == 1);
  CHECK(pool.parts_for(3, 1) == 3);
  CHECK(pool.small_parts_for(100000, 1) == 32);
  CHECK(pool.small_parts_for(100, 1) == 12);
  CHECK(pool.small_parts_for(100, 40) == 2);
  CHECK(pool.small_parts_for(3, 1) == 3);
  CHECK(pool.small_parts_for(0, 1) == 1);
  CHECK(pool.small_parts_for(10, std::numeric_limits<Index>::max()) == 1);
  pool.resize(1);
  CHECK(pool.small_parts_for(100000, 1) == 1);
}

TEST_CASE("each thread takes the parts of its own share, so that a part's memory stays with one thread") {
  ThreadPool pool(3);
  std::vector<std::thread::id> first(3), second(3);
  std::atomic<int> begun{0};
  const auto note = [&](std::vector<std::thread::id>& who) {
    begun = 0;
    pool.run(3, [&](int part) {
      who[static_cast<std::size_t>(part)] = std::this_thread::get_id();
      CHECK(pool.thread() == part);
      ++begun;
      while (begun < 3) std::this_thread::yield();  // until each has taken one
    });
  };
  note(first);
  note(second);
  CHECK(first == second);
  CHECK(first[0] == std::this_thread::get_id());
  CHECK(first[1] != first[0]);
  CHECK(first[2] != first[1]);
}

TEST_CASE("what a thread that is held up has not begun is done by others") {
  for (int held : {0, 1}) {
    ThreadPool pool(2);
    std::atomic<int> begun{0}, done{0};
    std::vector<int> by(8, -1);
    pool.run(8, [&](int part) {
      by[static_cast<std::size_t>(part)] = pool.thread();
      if (part % 4 == 0) {
        ++begun;
        while (begun < 2) std::this_thread::yield();  // until both threads are there
      }
      if (part == 4 * held)
        while (done < 7) std::this_thread::yield();
      ++done;
    });
    std::vector<int> expected(8, 1 - held);
    expected[static_cast<std::size_t>(4 * held)] = held;
    CHECK(by == expected);
  }
}

TEST_CASE("a loop inside a loop runs on its own thread") {
  ThreadPool pool(4);
  std::vector<int> sums(8);
  pool.parallel_for(8, 1, [&](Index begin, Index end) {
    CHECK(pool.parts_for(1000, 1) == 1);
    CHECK(pool.small_parts_for(1000, 1) == 1);
    for (Index i = begin; i < end; ++i)
      pool.parallel_for(10, 1, [&](Index b, Index e) { sums[static_cast<std::size_t>(i)] += static_cast<int>(e - b); });
  });
  CHECK(sums == std::vector<int>(8, 10));
}

TEST_CASE("a loop inside a loop counts its one thread anew") {
  ThreadPool pool(2);
  std::atomic<int> begun{0};
  pool.run(2, [&](int part) {
    ++begun;
    while (begun < 2) std::this_thread::yield();
    pool.run(3, [&](int) { CHECK(pool.thread() == 0); });
    CHECK(pool.thread() == part);
  });
}

TEST_CASE("an exception in any part reaches the caller, and the pool goes on working") {
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int bad = 0; bad < 4; ++bad)
      CHECK_THROWS_WITH_AS(pool.run(4,
                                    [&](int part) {
                                      if (part == bad) throw std::runtime_error("part failed");
                                    }),
                           "part failed", std::runtime_error);
    std::atomic<int> calls{0};
    pool.run(4, [&](int) { ++calls; });
    CHECK(calls == 4);
  }
}

TEST_CASE("many short loops in a row, from several callers, lose no work") {
  ThreadPool pool(3);
  std::atomic<Index> total{0};
  const auto caller = [&] {
    for (int round = 0; round < 300; ++round)
      pool.parallel_for(30, 1, [&](Index begin, Index end) { total += end - begin; });
  };
  std::thread other(caller);
  caller();
  other.join();
  CHECK(total == 2 * 300 * 30);
}

TEST_CASE("a loop has no more parts than a word holds") {
  for (int threads : {1, 2}) {
    ThreadPool pool(threads);
    std::atomic<int> calls{0};
    pool.run(65535, [&](int) { ++calls; });
    CHECK(calls == 65535);
    CHECK_THROWS_AS(pool.run(65536, [&](int) { ++calls; }), Error);
    CHECK(calls == 65535);
  }
}

TEST_CASE("a pool can be resized between loops, and refuses to have no threads") {
  ThreadPool pool(2);
  std::vector<int> data(100, 1);
  for (int threads : {1, 4, 2, 3}) {
    pool.resize(threads);
    CHECK(pool.size() == threads);
    std::atomic<int> total{0};
    pool.parallel_for(
        100, 1, [&](Index begin, Index end) { total += std::accumulate(data.begin() + begin, data.begin() + end, 0); });
    CHECK(total == 100);
  }
  CHECK_THROWS_WITH_AS(ThreadPool(0), "[threads] expected 1 to 4096 threads, got 0", Error);
  for (const int too_many : {4097, 1 << 30}) CHECK_THROWS_AS(pool.resize(too_many), Error);
  CHECK_THROWS_WITH_AS(ThreadPool(1 << 30), "[threads] expected 1 to 4096 threads, got 1073741824", Error);
  CHECK(pool.size() == 3);
}

TEST_CASE("random numbers are the same for any number of threads") {
  const auto draw = [](int threads) {
    ThreadPool pool(threads);
    std::vector<double> out(64);
    pool.parallel_for(64, 1, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i)
        out[static_cast<std::size_t>(i)] = Random(5, static_cast<std::uint64_t>(i)).normal();
    });
    return out;
  };
  const auto expected = draw(1);
  CHECK(draw(2) == expected);
  CHECK(draw(5) == expected);
}

TEST_CASE("tensors may be made, shared and dropped on several threads") {
  ThreadPool pool(4);
  const MemoryUse before = Memory::instance().use();
  const Tensor<float> source({256}, 1.f);
  std::vector<Tensor<float>> out(64);
  pool.run(64, [&](int part) {
    const MemoryTag tag(part % 2 ? "threads test, odd" : "threads test, even");
    Tensor<float> copy = source;
    copy.mutable_data()[0] = static_cast<float>(part);
    out[static_cast<std::size_t>(part)] = copy;
  });
  for (int part = 0; part < 64; ++part) {
    CHECK(out[static_cast<std::size_t>(part)].data()[0] == static_cast<float>(part));
    CHECK(out[static_cast<std::size_t>(part)].data()[1] == 1.f);
  }
  CHECK(source.data()[0] == 1.f);
  out.clear();
  CHECK(Memory::instance().use().current == before.current + 1024);
}

TEST_CASE("two threads may train at the same time: each finds what it would find alone") {
  const auto train = [](std::uint64_t seed) {
    Random random(seed);
    const Var<float> x(normal<float>({2, 3, 8, 8}, 0, 1, random));
    Tensor<float> kernel = normal<float>({3, 3, 3, 3}, 0, 0.1, random);
    for (int step = 0; step < 5; ++step) {
      Tape<float> tape;
      const Var<float> w = tape.leaf(kernel);
      const Var<float> y = map([](auto v) { return tanh(v); }, conv(x, w, ConvOptions::same(w.shape())));
      kernel = map([](auto old, auto slope) { return old - 0.1 * slope; }, Var(kernel),
                   grad(mean(map([](auto v) { return v * v; }, y)), {w})[0])
                   .value();
    }
    return std::vector<float>(kernel.data(), kernel.data() + kernel.size());
  };
  for (int threads : {1, 2}) {
    ThreadPool::instance().resize(threads);
    const std::vector<float> expected[] = {train(1), train(2)};
    std::vector<float> found[2];
    {
      std::jthread other([&, algorithm = PreferredConvAlgorithm::or_preferred(ConvAlgorithm::automatic)] {
        const PreferredConvAlgorithm as_here(algorithm);  // a preference is a thread's own
        found[1] = train(2);
      });
      found[0] = train(1);
    }
    CHECK(found[0] == expected[0]);
    CHECK(found[1] == expected[1]);
  }
  ThreadPool::instance().resize(ThreadPool::default_threads());
}

namespace {

/// Runs f on several threads at once, each many times, and returns how many runs ended in an Error about the tape.
template <class F>
int refused_runs(const F& f) {
  std::atomic<int> ready{0}, refused{0}, other{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      ++ready;
      while (ready < 4) std::this_thread::yield();
      for (int k = 0; k < 200; ++k) try {
          f();
        } catch (const Error& error) {
          ++(std::string(error.what()).find("another thread is using the tape") != std::string::npos ? refused : other);
        }
    });
  for (auto& thread : threads) thread.join();
  CHECK(other == 0);
  return refused;
}

}  // namespace

TEST_CASE("a graph that several threads differentiate at once gives the right gradient or an Error") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>({2}, {2, 3}));
  Var<double> h = x;
  for (int k = 0; k < 20; ++k) h = map([](auto a) { return a + 0.0 * a; }, h);
  const Var<double> y = sum(h * h);
  std::atomic<int> wrong{0}, right{0};
  const auto check = [&](const Var<double>& g) {
    ++(g.value().data()[0] == 4 && g.value().data()[1] == 6 ? right : wrong);
  };
  const int refused = refused_runs([&] { check(grad(y, {x}, {.keep_graph = true}).front()); });
  CHECK(wrong == 0);
  CHECK(right + refused == 800);
  // Recorded gradients, products prepared once, and paused tapes.
  (void)refused_runs([&] { check(grad(y, {x}, {.create_graph = true}).front()); });
  Pullback<double> pullback({y}, {x}, true);
  (void)refused_runs([&] { check(pullback({Tensor<double>(Shape{}, 1.0)}).front()); });
  (void)refused_runs([&] {
    const NoGrad pause(tape);
    if ((x * x).tape()) ++wrong;
  });
  CHECK(wrong == 0);
  check(grad(y, {x}).front());  // and the tape is none the worse
  CHECK(wrong == 0);
}

TEST_CASE("a tape that several threads record on at once keeps whole operations") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>({2}, {2, 3}));
  std::atomic<int> recorded{0};
  const int refused = refused_runs([&] {
    const Var<double> y = x * x;
    recorded += y.tape() != nullptr;
    (void)tape.leaf(Tensor<double>(Shape{1}, 1.0));
  });
  CHECK(recorded >= 800 - refused);
  CHECK(grad(sum(x * x), {x}).front().value().data()[1] == 6);
}

TEST_CASE("a tape may go from one thread to another") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>({2}, {2, 3}));
  const Var<double> y = sum(x * x);
  double found = 0;
  std::thread([&] { found = grad(y, {x}, {.keep_graph = true}).front().value().data()[1]; }).join();
  CHECK(found == 6);
  CHECK(grad(y, {x}).front().value().data()[1] == 6);
}
