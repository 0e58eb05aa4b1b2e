#include "settle/data/prefetch.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <thread>

#include "settle/core/tensor.hpp"

using namespace settle;

TEST_CASE("prefetched values come in order, made on one other thread, and no more ahead than asked for") {
  for (const std::size_t ahead : {1u, 3u}) {
    std::atomic<Index> made = 0;
    std::thread::id maker;
    Prefetch<std::unique_ptr<Index>> values(
        [&](Index k) {
          if (k == 0) maker = std::this_thread::get_id();
          CHECK(std::this_thread::get_id() == maker);
          ++made;
          return std::make_unique<Index>(k * k);
        },
        ahead);
    for (Index k = 0; k < 100; ++k) {
      CHECK(*values.next() == k * k);
      CHECK(made <= k + 1 + static_cast<Index>(ahead));
    }
    CHECK(maker != std::this_thread::get_id());
    while (made < 100 + static_cast<Index>(ahead)) std::this_thread::yield();  // it is made before it is asked for
  }
}

TEST_CASE("several workers make values at once, and they come in order whoever is done first") {
  std::atomic<int> working = 0, most = 0;
  Prefetch<Index> values(
      [&](Index k) {
        most = std::max<int>(most, ++working);
        std::this_thread::sleep_for(std::chrono::milliseconds(k % 3 == 0 ? 4 : 1));
        --working;
        if (k == 40) throw std::runtime_error("no value 40");
        return k;
      },
      4, 3);
  for (Index k = 0; k < 40; ++k) CHECK(values.next() == k);
  CHECK_THROWS_WITH(values.next(), "no value 40");
  CHECK_THROWS_WITH(values.next(), "no value 40");
  CHECK(most > 1);
  CHECK(most <= 3);
  CHECK_THROWS_WITH(Prefetch<Index>([](Index k) { return k; }, 1, 0), "[prefetch] expected at least 1 worker, got 0");
}

TEST_CASE("an exception takes the place of its value, for good") {
  Prefetch<Index> values(
      [](Index k) {
        if (k == 2) throw std::runtime_error("no third value");
        return k;
      },
      5);
  CHECK(values.next() == 0);
  CHECK(values.next() == 1);
  CHECK_THROWS_WITH(values.next(), "no third value");
  CHECK_THROWS_WITH(values.next(), "no third value");
  CHECK_THROWS_WITH(Prefetch<Index>([](Index k) { return k; }, 0), "[prefetch] expected at least 1 value ahead, got 0");
}

TEST_CASE("prefetching stops at any time, and gives its values back") {
  const std::size_t held = Memory::instance().use().current;
  for (int taken = 0; taken < 20; ++taken) {
    Prefetch<Tensor<float>> values([](Index k) { return Tensor<float>(Shape{100}, static_cast<float>(k)); }, 2);
    for (int k = 0; k < taken; ++k) CHECK(values.next().data()[99] == static_cast<float>(k));
  }
  CHECK(Memory::instance().use().current == held);
}
