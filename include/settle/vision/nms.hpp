#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "settle/vision/boxes.hpp"

namespace settle::inline v0_2 {

/// The positions of the `count` largest scores, or of all where there are fewer, from the largest down; of equal scores
/// the first comes first, and those that are no numbers come last.
template <Scalar T>
std::vector<Index> top_scores(std::span<const T> scores, Index count) {
  require(count >= 0, "top_scores", "expected a count of at least 0, got ", count);
  std::vector<Index> order(scores.size());
  std::iota(order.begin(), order.end(), Index{0});
  const auto key = [&](Index k) {
    const T score = scores[static_cast<std::size_t>(k)];
    return std::pair(!std::isnan(score), std::isnan(score) ? T(0) : score);
  };
  const auto end = order.begin() + std::min<Index>(count, std::ssize(order));
  std::partial_sort(order.begin(), end, order.end(), [&](Index a, Index b) {
    const auto key_a = key(a), key_b = key(b);
    return key_a > key_b || (key_a == key_b && a < b);
  });
  order.erase(end, order.end());
  return order;
}

/// Non-maximum suppression: goes through the boxes from the largest score down (of equal scores the first first) and
/// keeps each whose intersection over union with none kept before, of its own group, is above `threshold`. Returns the
/// positions of those kept in that order. `groups`, by box, are classes or levels; none: all are of one.
/// Throws Error where scores or groups are not as many as boxes, or a score is no number.
template <Scalar T>
std::vector<Index> nms(const Tensor<T>& boxes, std::span<const T> scores, double threshold,
                       std::span<const Index> groups = {}) {
  require_boxes(boxes, "nms");
  const Index count = boxes.shape(0);
  require(std::ssize(scores) == count, "nms", "expected ", count, " scores, got ", scores.size());
  require(groups.empty() || std::ssize(groups) == count, "nms", "expected ", count, " groups, got ", groups.size());
  require(std::none_of(scores.begin(), scores.end(), [](T score) { return std::isnan(score); }), "nms",
          "expected scores that are numbers");
  std::vector<Index> kept;
  const auto suppress = [&](const std::vector<Index>& order) {
    // Coordinates side by side, so that the loop over all later boxes runs on vectors.
    const std::size_t size = order.size();
    std::vector<T> left(size), top(size), right(size), bottom(size), area(size);
    for (std::size_t k = 0; k < size; ++k) {
      const T* b = boxes.data() + 4 * order[k];
      left[k] = b[0], top[k] = b[1], right[k] = b[2], bottom[k] = b[3];
      area[k] = (b[2] - b[0]) * (b[3] - b[1]);
    }
    std::vector<unsigned char> suppressed(size);
    for (std::size_t i = 0; i < size; ++i) {
      if (suppressed[i]) continue;
      kept.push_back(order[i]);
      const T l = left[i], t = top[i], r = right[i], b = bottom[i], a = area[i];
      for (std::size_t j = i + 1; j < size; ++j) {
        const T width = std::max(std::min(r, right[j]) - std::max(l, left[j]), T(0));
        const T height = std::max(std::min(b, bottom[j]) - std::max(t, top[j]), T(0));
        const T common = width * height;
        suppressed[j] |= static_cast<double>(common / (a + area[j] - common)) > threshold;
      }
    }
  };
  const std::vector<Index> order = top_scores(scores, count);
  if (groups.empty()) {
    suppress(order);
    return kept;
  }
  std::vector<Index> by_group = order;
  const auto group = [&](Index k) { return groups[static_cast<std::size_t>(k)]; };
  std::stable_sort(by_group.begin(), by_group.end(), [&](Index a, Index b) { return group(a) < group(b); });
  for (auto begin = by_group.begin(); begin != by_group.end();) {
    const auto end = std::find_if(begin, by_group.end(), [&](Index k) { return group(k) != group(*begin); });
    suppress(std::vector<Index>(begin, end));
    begin = end;
  }
  std::vector<Index> rank(order.size());
  for (std::size_t k = 0; k < order.size(); ++k) rank[static_cast<std::size_t>(order[k])] = static_cast<Index>(k);
  std::sort(kept.begin(), kept.end(),
            [&](Index a, Index b) { return rank[static_cast<std::size_t>(a)] < rank[static_cast<std::size_t>(b)]; });
  return kept;
}

}  // namespace settle
