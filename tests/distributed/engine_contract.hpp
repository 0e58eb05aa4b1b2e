#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/distributed/group.hpp"

// What every engine promises, in one text.

inline std::vector<std::byte> noise(std::size_t bytes, int rank, std::uint64_t seed) {
  std::mt19937_64 random(seed * 31 + static_cast<std::uint64_t>(rank));
  std::vector<std::byte> out(bytes);
  for (auto& b : out) b = static_cast<std::byte>(random());
  return out;
}

/// The numbers that a rank gives to a sum.
inline std::vector<float> terms_of_rank(int rank, std::size_t count) {
  std::mt19937 random(static_cast<unsigned>(rank) + 7);
  std::vector<float> out(count);
  for (auto& v : out) v = static_cast<float>(random()) * 0x1p-31f - 1;
  return out;
}

/// Throws Error where an operation does not bring every byte.
inline void check_engine(const settle::distributed::Group& group, std::size_t bytes, std::uint64_t seed) {
  const auto n = static_cast<std::size_t>(group.size());
  const auto part_of = [&](const std::vector<std::byte>& list, std::size_t r) {
    return std::vector<std::byte>(list.begin() + static_cast<std::ptrdiff_t>(r * bytes),
                                  list.begin() + static_cast<std::ptrdiff_t>((r + 1) * bytes));
  };
  std::vector<std::byte> all(bytes * n);
  group.gather(noise(bytes, group.rank(), seed), all);
  for (std::size_t r = 0; r < n; ++r)
    settle::require(part_of(all, r) == noise(bytes, static_cast<int>(r), seed), "test", "gather of ", bytes,
                    " bytes: wrong from rank ", r);
  group.exchange(noise(bytes * n, group.rank(), seed + 1), all);
  for (std::size_t r = 0; r < n; ++r)
    settle::require(part_of(all, r) == part_of(noise(bytes * n, static_cast<int>(r), seed + 1),
                                               static_cast<std::size_t>(group.rank())),
                    "test", "exchange of ", bytes, " bytes: wrong from rank ", r);
  const int root = static_cast<int>(seed % n);
  auto what = noise(bytes, group.rank(), seed + 2);
  group.broadcast(what, root);
  settle::require(what == noise(bytes, root, seed + 2), "test", "broadcast of ", bytes, " bytes: wrong");
}
