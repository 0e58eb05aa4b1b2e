#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "settle/core/denormals.hpp"
#include "settle/core/round_up.hpp"
#include "settle/distributed/group.hpp"
#include "settle/distributed/tree.hpp"

namespace settle::inline v0_2::distributed {

namespace detail {

/// Below this many bytes over all ranks a sum is gathered whole; above, each rank adds a part of it for all.
inline constexpr std::size_t gathered_bytes = std::size_t{1} << 20;

/// Adds up what the ranks gave, `count` numbers each, one after the other; the sum is then in the first.
template <class T>
void add_up(std::vector<T>& terms, std::size_t count, int ranks) {
  const FlushDenormals flush;  // as in the loops of one rank
  add_in_tree(ranks, [&](Index to, Index from) {
    T* const a = terms.data() + static_cast<std::size_t>(to) * count;
    const T* const b = terms.data() + static_cast<std::size_t>(from) * count;
    for (std::size_t k = 0; k < count; ++k) a[k] += b[k];
  });
}

}  // namespace detail

/// What each rank gives, one after the other, on every rank: lists of one length.
template <class T>
std::vector<T> gather_numbers(std::span<const T> mine, const Group& group) {
  std::vector<T> all(mine.size() * static_cast<std::size_t>(group.size()));
  group.gather(std::as_bytes(mine), std::as_writable_bytes(std::span(all)));
  return all;
}

/// Replaces numbers by their sums over the ranks, the same bits on each rank and engine: added in the order of
/// add_in_tree, in T. The lists must be of one length on all ranks: Error.
template <class T>
void sum_over_ranks(std::span<T> numbers, const Group& group) {
  if (group.size() == 1) return;
  const auto ranks = static_cast<std::size_t>(group.size());
  if (numbers.size_bytes() * ranks <= detail::gathered_bytes) {
    std::vector<T> all = gather_numbers(std::span<const T>(numbers), group);
    detail::add_up(all, numbers.size(), group.size());
    std::copy_n(all.begin(), numbers.size(), numbers.begin());
    return;
  }
  const std::size_t part = divide_up(numbers.size(), ranks);
  std::vector<T> padded(part * ranks), mine(padded.size());
  std::copy(numbers.begin(), numbers.end(), padded.begin());
  group.exchange(std::as_bytes(std::span(padded)), std::as_writable_bytes(std::span(mine)));
  detail::add_up(mine, part, group.size());
  group.gather(std::as_bytes(std::span(mine).first(part)), std::as_writable_bytes(std::span(padded)));
  std::copy_n(padded.begin(), numbers.size(), numbers.begin());
}

/// Lists of any lengths of all ranks, one after the other.
inline std::vector<double> gather_lists(const std::vector<double>& mine, const Group& group) {
  const std::vector<double> length{static_cast<double>(mine.size())};
  const std::vector<double> lengths = gather_numbers(std::span(length), group);
  const auto longest = static_cast<std::size_t>(*std::max_element(lengths.begin(), lengths.end()));
  std::vector<double> padded = mine, out;
  padded.resize(longest);
  const std::vector<double> all = gather_numbers(std::span<const double>(padded), group);
  for (std::size_t r = 0; r < lengths.size(); ++r) {
    const auto first = all.begin() + static_cast<std::ptrdiff_t>(r * longest);
    out.insert(out.end(), first, first + static_cast<std::ptrdiff_t>(lengths[r]));
  }
  return out;
}

/// Replaces numbers by the largest that a rank has; by NaN where one has that.
inline void largest_over_ranks(std::span<double> numbers, const Group& group) {
  if (group.size() == 1) return;
  const std::vector<double> all = gather_numbers(std::span<const double>(numbers), group);
  for (std::size_t k = 0; k < all.size(); ++k) {
    double& largest = numbers[k % numbers.size()];
    if (!(all[k] <= largest) && !std::isnan(largest)) largest = all[k];
  }
}

}  // namespace settle::distributed
