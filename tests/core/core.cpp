#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#ifdef __linux__
#include <unistd.h>
#endif

#include "errors.hpp"
#include "settle/core/error.hpp"
#include "settle/core/large_blocks.hpp"
#include "settle/core/memory.hpp"
#include "settle/core/random.hpp"
#include "settle/core/shape.hpp"
#include "settle/core/tensor.hpp"
#include "settle/version.hpp"

using namespace settle;

namespace {

MemoryUse use_of(const std::string& tag) {
  for (const auto& [name, use] : Memory::instance().use_by_tag())
    if (name == tag) return use;
  return {};
}

}  // namespace

TEST_CASE("the version's text is made of its numbers") {
  std::ostringstream text;
  text << SETTLE_VERSION_MAJOR << '.' << SETTLE_VERSION_MINOR << '.' << SETTLE_VERSION_PATCH;
  CHECK(text.str() == version);
  CHECK(text.str() == SETTLE_MESON_VERSION);
}

// Programs may hold parts that were compiled against two versions: no function of one may be linked to the other's.
TEST_CASE("every namespace of the library bears its version") {
  const std::string opening = "namespace settle::inline v" + std::to_string(SETTLE_VERSION_MAJOR) + "_" +
                              std::to_string(SETTLE_VERSION_MINOR);
  int found = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(SETTLE_SOURCE_DIR "/include/settle")) {
    if (entry.path().extension() != ".hpp") continue;
    std::ifstream file(entry.path());
    for (std::string line; std::getline(file, line);) {
      if (!line.starts_with("namespace settle")) continue;
      INFO(entry.path().string() << ": " << line);
      CHECK((line.starts_with(opening + " ") || line.starts_with(opening + "::")));
      ++found;
    }
  }
  CHECK(found > 200);
  CHECK(std::is_same_v<Tensor<float>, v0_2::Tensor<float>>);
}

TEST_CASE("an error's text starts with the operation") {
  CHECK(error_of([] { fail("conv", "expected ", 25, ", got ", 24); }) == "[conv] expected 25, got 24");
  CHECK(error_of([] { require(true, "conv", "unused"); }) == "no error");
  CHECK(error_of([] { require(false, "conv", "used"); }) == "[conv] used");
}

TEST_CASE("a shape counts its elements and its axes from either end") {
  const Shape shape{2, 3, 5};
  CHECK(shape.rank() == 3);
  CHECK(shape.size() == 30);
  CHECK(shape[0] == 2);
  CHECK(shape[-1] == 5);
  CHECK(shape.axis(-3) == 0);
  CHECK(Shape{}.size() == 1);
  CHECK(Shape{4, 0, 2}.size() == 0);
  CHECK(shape == Shape{2, 3, 5});
  CHECK_FALSE(shape == Shape{2, 3});
  CHECK_FALSE(shape == Shape{2, 3, 4});
  CHECK(reduced(shape, std::vector<int>{0, -1}) == Shape{1, 3, 1});
  std::ostringstream text;
  text << shape << Shape{} << Shape{7};
  CHECK(text.str() == "(2, 3, 5)()(7)");
}

TEST_CASE("impossible shapes and axes are refused") {
  CHECK(error_of([] { return Shape{2, -1}; }) == "[shape] an extent must not be negative, got -1");
  CHECK(error_of([] { return Shape{1, 1, 1, 1, 1, 1, 1}; }) == "[shape] a tensor has at most 6 axes");
  const Shape shape{2, 3};
  CHECK(error_of([&] { return shape[2]; }) == "[shape] axis 2 is out of range for rank 2");
  CHECK(error_of([&] { return shape[-3]; }) == "[shape] axis -3 is out of range for rank 2");
}

TEST_CASE("shapes broadcast as in NumPy") {
  CHECK(broadcast({2, 3, 4}, {3, 1}) == Shape{2, 3, 4});
  CHECK(broadcast({2, 1}, {1, 5}) == Shape{2, 5});
  CHECK(broadcast({}, {4}) == Shape{4});
  CHECK(broadcast({1}, {0}) == Shape{0});
  CHECK(error_of([] { return broadcast({2, 3}, {2, 4}); }) == "[broadcast] shapes (2, 3) and (2, 4) disagree");
  CHECK_THROWS_AS(broadcast({0}, {2}), Error);
  CHECK(broadcasts_to({3, 1}, {2, 3, 4}));
  CHECK(broadcasts_to({}, {2}));
  CHECK_FALSE(broadcasts_to({2, 3}, {3}));
  CHECK_FALSE(broadcasts_to({2}, {1}));
}

TEST_CASE("a tensor is a value: writing one leaves its copies as they were") {
  Tensor<float> a({2, 2}, {1, 2, 3, 4});
  const Tensor<float> b = a;
  CHECK(a.data() == b.data());
  CHECK_FALSE(a.unique());
  a.mutable_data()[0] = 9;
  CHECK(a.data() != b.data());
  CHECK(a.unique());
  CHECK(a.data()[0] == 9);
  CHECK(b.data()[0] == 1);

  const float* before = a.data();
  a.mutable_data()[1] = 8;
  CHECK(a.data() == before);

  Tensor<float> moved = std::move(a);
  CHECK(moved.data() == before);
  CHECK(moved.unique());
  CHECK(a.size() == 0);
  CHECK(a.data() == nullptr);

  const Tensor<float> copy = moved.clone();
  CHECK(copy.data() != moved.data());
  CHECK(std::vector<float>(copy.values().begin(), copy.values().end()) == std::vector<float>{9, 8, 3, 4});
  moved = b;
  CHECK(moved.data() == b.data());
}

TEST_CASE("a reshape shares the values until one side is written") {
  const Tensor<double> a({2, 3}, {1, 2, 3, 4, 5, 6});
  Tensor<double> b = a.reshape({3, 2});
  CHECK(b.shape() == Shape{3, 2});
  CHECK(b.data() == a.data());
  b.mutable_data()[0] = 7;
  CHECK(a.data()[0] == 1);
  CHECK(error_of([&] { return a.reshape({4}); }) == "[reshape] expected 6 elements for shape (2, 3), got shape (4)");
}

TEST_CASE("tensors are made, converted and read with their sizes checked") {
  CHECK(Tensor<float>().shape() == Shape{0});
  CHECK(Tensor<float>(Shape{}, 3.f).item() == 3.f);
  CHECK(Tensor<float>(Shape{3, 0}).data() == nullptr);
  CHECK(error_of([] { return Tensor<float>({2, 2}, {1, 2, 3}); }) == "[tensor] shape (2, 2) holds 4 values, got 3");
  CHECK(error_of([] { return Tensor<float>({2}, 1.f).item(); }) == "[item] expected one element, got shape (2)");
  const Tensor<float> narrow = cast<float>(Tensor<double>({2}, {0.1, -2}));
  CHECK(narrow.data()[0] == 0.1f);
  CHECK(narrow.data()[1] == -2.f);
}

TEST_CASE("a tensor is made of values that stand elsewhere, by a copy or by a view") {
  std::vector<float> values{1, 2, 3, 4, 5, 6};
  const auto copy = Tensor<float>::from(values, {2, 3});
  const auto part = Tensor<float>::from(std::span(values).subspan(2, 2), {2});
  CHECK(copy.shape() == Shape{2, 3});
  CHECK(std::ranges::equal(copy.values(), values));
  CHECK(part.data()[1] == 4);
  CHECK(Tensor<float>::from({}, {0, 3}).data() == nullptr);
  CHECK(error_of([&] { return Tensor<float>::from(values, {2, 2}); }) ==
        "[tensor] shape (2, 2) holds 4 values, got 6");

  int given_back = 0;
  const MemoryUse before = Memory::instance().use();
  {
    const std::shared_ptr<const void> owner(values.data(), [&](const void*) { ++given_back; });
    Tensor<float> view = Tensor<float>::view(values.data(), {2, 3}, owner);
    CHECK(view.data() == values.data());
    CHECK_FALSE(view.unique());
    const Tensor<float> same = view, other = view.reshape({3, 2});
    CHECK(other.data() == values.data());
    CHECK(Memory::instance().use().current == before.current);
    CHECK(Memory::instance().references().at(values.data()) == 3);
    view.mutable_data()[0] = 9;  // in a copy
    CHECK(view.data() != values.data());
    CHECK(view.unique());
    CHECK(values[0] == 1);
    CHECK(same.data()[0] == 1);
    CHECK(Memory::instance().use().current == before.current + 24);
  }
  CHECK(given_back == 1);
  CHECK(Memory::instance().use().current == before.current);
  CHECK_FALSE(Memory::instance().references().contains(values.data()));
}

TEST_CASE("an owner may be a tensor, and goes with the last view") {
  auto inner = std::make_shared<Tensor<double>>(Shape{4}, 2.0);
  const std::weak_ptr<Tensor<double>> watched = inner;
  Tensor<double> view = Tensor<double>::view(inner->data() + 1, {3}, inner);
  inner.reset();
  CHECK_FALSE(watched.expired());
  CHECK(view.data()[2] == 2);
  view.mutable_data();
  CHECK(watched.expired());
}

TEST_CASE("views of nothing, of nobody's and of crooked memory") {
  alignas(8) const std::array<char, 16> bytes{};
  const auto owner = std::make_shared<int>(0);
  const auto* crooked = reinterpret_cast<const double*>(bytes.data() + 4);
  CHECK(Tensor<double>::view(nullptr, {0, 2}, owner).data() == nullptr);
  CHECK(owner.use_count() == 1);
  CHECK(error_of([&] { return Tensor<double>::view(nullptr, {2}, owner); }) ==
        "[tensor] expected the address of 2 values, got none");
  CHECK(contains(error_of([&] { return Tensor<double>::view(crooked, {1}, owner); }),
                 "[tensor] expected values aligned to 8 bytes, got the address "));
  CHECK(error_of([&] { return Tensor<double>::view(crooked, {1}, nullptr); }) ==
        "[tensor] expected the owner of the memory that is viewed, got none");
}

TEST_CASE("what is kept beside a tensor's values is lost when they are written") {
  CHECK(Tensor<float>().derived() == nullptr);
  Tensor<float> a({4}, 1.f);
  *a.derived() = std::make_shared<int>(5);
  const Tensor<float> b = a;
  CHECK(*b.derived() != nullptr);
  a.mutable_data();  // a gets values of its own; b keeps the old ones and what was derived from them
  CHECK(*a.derived() == nullptr);
  CHECK(*b.derived() != nullptr);
  *a.derived() = std::make_shared<int>(6);
  a.mutable_data();
  CHECK(*a.derived() == nullptr);
}

TEST_CASE("memory counts what tensors hold, by tag, and its peak") {
  Memory& memory = Memory::instance();
  memory.reset_peak();
  const MemoryUse before = memory.use();
  {
    const MemoryTag tag("memory test");
    const Tensor<float> a({1000});
    CHECK(memory.use().current == before.current + 4000);
    {
      const MemoryTag inner("memory test, inner");
      const Tensor<double> b({1000});
      CHECK(use_of("memory test, inner").current == 8000);
    }
    const Tensor<float> shared = a;
    CHECK(use_of("memory test").current == 4000);
    CHECK(use_of("memory test").allocations <= 1);
  }
  CHECK(memory.use().current == before.current);
  CHECK(memory.use().peak == before.current + 12000);
  CHECK(use_of("memory test").current == 0);
  CHECK(use_of("memory test").peak == 4000);
  CHECK(use_of("memory test, inner").peak == 8000);
  memory.reset_peak();
  CHECK(memory.use().peak == before.current);
  CHECK(use_of("memory test").peak == 0);
}

#ifdef __linux__
TEST_CASE("large blocks follow each other, and one that is released leaves its neighbours as they are") {
  LargeBlocks blocks;
  constexpr std::size_t bytes = LargeBlocks::least + 4096;
  const auto block = [&](char value) {
    char* const at = static_cast<char*>(blocks.allocate(bytes));
    CHECK(reinterpret_cast<std::uintptr_t>(at) % 64 == 0);
    std::fill_n(at, bytes, value);
    return at;
  };
  const auto holds = [&](const char* at, char value) {
    return std::all_of(at, at + bytes, [&](char c) { return c == value; });
  };
  char* const a = block(1);
  char* const b = block(2);
  char* const c = block(3);
  CHECK(b - a == c - b);
  CHECK(b - a >= static_cast<std::ptrdiff_t>(bytes));
  CHECK(b - a < static_cast<std::ptrdiff_t>(bytes + LargeBlocks::least));  // in whole pages
  blocks.release(b, bytes);
  CHECK(holds(a, 1));
  CHECK(holds(c, 3));
  char* const d = block(4);
  CHECK(holds(a, 1));
  CHECK(holds(c, 3));
  CHECK(holds(d, 4));
}

TEST_CASE("what large blocks took goes back to the system") {
  const auto mapped = [] {  // bytes of this process's address space
    std::ifstream file("/proc/self/statm");
    std::size_t pages = 0;
    file >> pages;
    return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  };
  LargeBlocks blocks;
  const std::size_t before = mapped();
  void* const small = blocks.allocate(LargeBlocks::least);
  void* const large = blocks.allocate(3 * LargeBlocks::region);  // a region of its own
  CHECK(mapped() >= before + 4 * LargeBlocks::region);
  blocks.release(large, 3 * LargeBlocks::region);
  CHECK(mapped() < before + 2 * LargeBlocks::region);
  blocks.release(small, LargeBlocks::least);
  CHECK(mapped() < before + LargeBlocks::region);
  {
    LargeBlocks others;
    others.allocate(2 * LargeBlocks::region);
  }
  CHECK(mapped() < before + LargeBlocks::region);
}

TEST_CASE("memory that cannot be had is an error, and what is there stays usable") {
  LargeBlocks blocks;
  const auto most = std::numeric_limits<std::size_t>::max();
  for (const std::size_t bytes : {most, most - 5000, most / 2 - 5000})
    CHECK_THROWS_AS(blocks.allocate(bytes), std::bad_alloc);
  CHECK(blocks.allocate(LargeBlocks::least) != nullptr);
}
#endif

TEST_CASE("a loop allocates nothing after its first round, until the free blocks are returned") {
  const auto round = [] {
    const Tensor<float> a({12345});
    const Tensor<float> b({12340});  // of the same size class
    CHECK(reinterpret_cast<std::uintptr_t>(a.data()) % 64 == 0);
    CHECK(a.data() != b.data());
  };
  round();
  const std::size_t warm = Memory::instance().use().allocations;
  for (int i = 0; i < 10; ++i) round();
  CHECK(Memory::instance().use().allocations == warm);
  Memory::instance().trim();
  round();
  CHECK(Memory::instance().use().allocations == warm + 2);
}

TEST_CASE("philox gives the published known answers") {
  // Random123, tests/kat_vectors, the lines of philox4x32 with 10 rounds.
  using Words = std::array<std::uint32_t, 4>;
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("random streams repeat for the same seed and differ for another seed or stream") {
  const auto words = [](std::uint64_t seed, std::uint64_t stream) {
    Random random(seed, stream);
    std::vector<std::uint32_t> out(9);
    for (auto& word : out) word = random.bits();
    return out;
  };
  CHECK(words(1, 2) == words(1, 2));
  CHECK(words(1, 2) != words(1, 3));
  CHECK(words(1, 2) != words(2, 2));
  CHECK(words(1, std::uint64_t{1} << 32) != words(1, 0));
  CHECK(words(std::uint64_t{1} << 32, 0) != words(0, 0));
  const auto first = philox({0, 0, 2, 0}, {1, 0}), second = philox({1, 0, 2, 0}, {1, 0});
  const auto stream = words(1, 2);
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(stream[i] == first[i]);
    CHECK(stream[i + 4] == second[i]);
  }
}

TEST_CASE("random numbers have the moments of their distributions") {
  constexpr int count = 200000;
  Random random(11);
  double sum = 0, squares = 0, normal_sum = 0, normal_squares = 0, normal_fourth = 0;
  std::array<int, 7> hits{};
  for (int i = 0; i < count; ++i) {
    const double u = random.uniform();
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
    sum += u;
    squares += u * u;
    const double z = random.normal();
    normal_sum += z;
    normal_squares += z * z;
    normal_fourth += z * z * z * z;
    ++hits.at(static_cast<std::size_t>(random.below(7)));
  }
  // Each bound is about five standard errors of the mean.
  CHECK(sum / count == doctest::Approx(0.5).epsilon(0.0065).scale(0));
  CHECK(squares / count == doctest::Approx(1.0 / 3).epsilon(0.01).scale(0));
  CHECK(std::abs(normal_sum / count) < 0.0112);
  CHECK(std::abs(normal_squares / count - 1) < 0.0158);
  CHECK(std::abs(normal_fourth / count - 3) < 0.11);
  for (int h : hits) CHECK(std::abs(h - count / 7.0) < 5 * std::sqrt(count * 6.0 / 49));
  for (int i = 0; i < 1000; ++i) {
    const double u = random.uniform(-2, 3);
    CHECK(u >= -2);
    CHECK(u < 3);
  }
}
