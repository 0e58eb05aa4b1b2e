#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

#include "settle/core/random.hpp"
#include "settle/core/tensor.hpp"

namespace settle::inline v0_2 {

/// How predictions are given to true objects by their likeness (intersection over union).
struct MatchOptions {
  std::vector<double> thresholds{0.3, 0.7};  ///< rising; they cut the likenesses into one interval more
  std::vector<int> labels{0, -1, 1};         ///< of the intervals, each with its lower end: 0 none, -1 either, 1 match
  bool low_quality = true;                   ///< every object also takes the predictions that are most like it
};

/// For each of N predictions the object that it is most like, and the label that goes with how much.
struct Matches {
  std::vector<Index> object;
  std::vector<int> label;
};

/// Matches predictions to objects by likenesses (objects, predictions). Of equal likenesses the first object counts.
/// With options.low_quality all predictions that attain an object's largest likeness become 1, also where that is 0,
/// and keep the object that they are most like. Without objects all have label labels[0] and object 0. Throws Error for
/// thresholds that do not rise, and where labels are not one more.
template <Scalar T>
Matches match_objects(const Tensor<T>& likeness, const MatchOptions& options = {}) {
  require(likeness.rank() == 2, "match_objects", "expected likenesses (objects, predictions), got ", likeness.shape());
  require(std::is_sorted(options.thresholds.begin(), options.thresholds.end()) &&
              options.labels.size() == options.thresholds.size() + 1,
          "match_objects", "expected thresholds that rise and one label more, got ", options.thresholds.size(),
          " thresholds and ", options.labels.size(), " labels");
  const Index objects = likeness.shape(0), predictions = likeness.shape(1);
  const auto count = static_cast<std::size_t>(predictions);
  Matches out{std::vector<Index>(count), std::vector<int>(count, options.labels[0])};
  if (objects == 0) return out;
  std::vector<T> thresholds;
  for (const double threshold : options.thresholds) thresholds.push_back(static_cast<T>(threshold));
  const T* value = likeness.data();
  for (Index n = 0; n < predictions; ++n) {
    Index best = 0;
    for (Index m = 1; m < objects; ++m)
      if (value[m * predictions + n] > value[best * predictions + n]) best = m;
    const auto at = static_cast<std::size_t>(n);
    const auto above = std::upper_bound(thresholds.begin(), thresholds.end(), value[best * predictions + n]);
    out.object[at] = best;
    out.label[at] = options.labels[static_cast<std::size_t>(above - thresholds.begin())];
  }
  if (!options.low_quality) return out;
  for (Index m = 0; m < objects && predictions > 0; ++m) {
    const T* row = value + m * predictions;
    const T largest = *std::max_element(row, row + predictions);
    for (std::size_t n = 0; n < count; ++n)
      if (row[n] == largest) out.label[n] = 1;
  }
  return out;
}

/// A choice of positions, each list in rising order.
struct Sampled {
  std::vector<Index> positive, negative;
};

/// Chooses at most `count` positions at random: at most the whole part of count * fraction of those with positive
/// labels (neither -1 nor `background`), and for the rest of those with the label `background`. The same random stream
/// gives the same choice. Throws Error for a negative count and a fraction outside [0, 1].
inline Sampled sample_labels(const std::vector<int>& labels, Index count, double fraction, Random& random,
                             int background = 0) {
  require(count >= 0 && fraction >= 0 && fraction <= 1, "sample_labels",
          "expected a count of at least 0 and a fraction from 0 to 1, got ", count, " and ", fraction);
  Sampled out;
  for (std::size_t k = 0; k < labels.size(); ++k) {
    if (labels[k] == background)
      out.negative.push_back(static_cast<Index>(k));
    else if (labels[k] != -1)
      out.positive.push_back(static_cast<Index>(k));
  }
  const auto choose = [&](std::vector<Index>& from, Index most) {
    const Index size = std::ssize(from), chosen = std::min(size, most);
    for (Index k = 0; k < chosen && chosen < size; ++k)  // the beginning of a random permutation
      std::swap(from[static_cast<std::size_t>(k)], from[static_cast<std::size_t>(k + random.below(size - k))]);
    from.resize(static_cast<std::size_t>(chosen));
    std::sort(from.begin(), from.end());
    return chosen;
  };
  const Index positive = choose(out.positive, static_cast<Index>(static_cast<double>(count) * fraction));
  choose(out.negative, count - positive);
  return out;
}

}  // namespace settle
