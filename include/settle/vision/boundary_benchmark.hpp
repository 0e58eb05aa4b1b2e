#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "settle/core/tensor.hpp"
#include "settle/vision/mask_metrics.hpp"
#include "settle/vision/sparse_assignment.hpp"
#include "settle/vision/thinning.hpp"

namespace settle::inline v0_2 {

/// The pixels of two maps that are given to each other, as many of the one as of the other.
struct BoundaryMatch {
  Mask first, second;
};

/// Gives each boundary pixel of a map to at most one of another, at most `max_distance` pixels away (Euclidean), so
/// that
///
///     Σ over pairs of their distance + 100 max_distance (number of pixels of the smaller map without a partner)
///
/// is least: as many pairs as there can be, and of those the nearest. Distances count in whole hundredths of a pixel.
/// This is the assignment of Martin, Fowlkes and Malik 2004 (correspondPixels of the Berkeley benchmark), solved
/// exactly: the authors' program joins pixels without a partner by a few random edges, which costs about one pair in
/// two thousand. Throws Error for maps of different sizes and a distance outside 0 ... 1000.
inline BoundaryMatch match_boundaries(const Mask& first, const Mask& second, double max_distance) {
  detail::require_one_size(first, second, "match_boundaries");
  require(max_distance >= 0 && max_distance <= 1000, "match_boundaries", "expected a distance from 0 to 1000, got ",
          max_distance);
  const auto pixels_of = [](const Mask& mask) {
    std::vector<std::pair<Index, Index>> out;
    for (Index y = 0; y < mask.height; ++y)
      for (Index x = 0; x < mask.width; ++x)
        if (mask(y, x)) out.emplace_back(y, x);
    return out;
  };
  auto rows = pixels_of(first), columns = pixels_of(second);
  const bool swapped = columns.size() < rows.size();
  if (swapped) std::swap(rows, columns);

  std::vector<int> number(static_cast<std::size_t>(first.height * first.width), -1);
  for (std::size_t k = 0; k < columns.size(); ++k)
    number[static_cast<std::size_t>(columns[k].first * first.width + columns[k].second)] = static_cast<int>(k);
  struct Offset {
    Index y, x;
    std::int64_t cost;
  };
  std::vector<Offset> offsets;
  const auto reach = static_cast<Index>(max_distance);
  for (Index y = -reach; y <= reach; ++y)
    for (Index x = -reach; x <= reach; ++x)
      if (const auto square = static_cast<double>(y * y + x * x); square <= max_distance * max_distance)
        offsets.push_back({y, x, std::llround(100 * std::sqrt(square))});
  SparseCosts costs;
  costs.columns = static_cast<int>(columns.size());
  for (const auto& pixel : rows) {
    for (const Offset& offset : offsets) {
      const Index y = pixel.first + offset.y, x = pixel.second + offset.x;
      if (y < 0 || y >= first.height || x < 0 || x >= first.width) continue;
      if (const int column = number[static_cast<std::size_t>(y * first.width + x)]; column >= 0)
        costs.add(column, offset.cost);
    }
    costs.end_row();
  }
  const auto assigned = sparse_assignment(costs, static_cast<std::int64_t>(std::ceil(100 * 100 * max_distance)));
  BoundaryMatch out{empty_mask(first.height, first.width), empty_mask(first.height, first.width)};
  for (std::size_t k = 0; k < rows.size(); ++k) {
    if (assigned[k] < 0) continue;
    const auto& row = rows[k];
    const auto& column = columns[static_cast<std::size_t>(assigned[k])];
    (swapped ? out.second : out.first)(row.first, row.second) = 1;
    (swapped ? out.first : out.second)(column.first, column.second) = 1;
  }
  return out;
}

/// How the Berkeley benchmark looks at a map of boundaries.
struct BoundaryBenchmark {
  int thresholds = 99;           ///< at k / (thresholds + 1) for k = 1 ... thresholds
  double max_distance = 0.0075;  ///< between matched pixels, in diagonals of the image
  bool thin = true;              ///< what is above a threshold is thinned first

  /// The k-th from 0, as MATLAB's linspace rounds them: that decides about values of 8 bits that are equal to one.
  double threshold(int k) const {
    const double first = 1.0 / (thresholds + 1), last = 1 - first;
    return k + 1 == thresholds ? last : first + k * ((last - first) / (thresholds - 1));
  }
};

/// What was counted for one threshold.
struct BoundaryCounts {
  Index found = 0;      ///< annotators' boundary pixels, of all annotators, that were matched
  Index marked = 0;     ///< all of them
  Index right = 0;      ///< predicted pixels that were matched with at least one annotator's
  Index predicted = 0;  ///< all of them

  BoundaryCounts& operator+=(const BoundaryCounts& other) {
    found += other.found, marked += other.marked, right += other.right, predicted += other.predicted;
    return *this;
  }
  /// recall = found / marked, precision = right / predicted, 0 of none.
  BoundaryScore score() const {
    return BoundaryScore::of(detail::share_of(right, predicted), detail::share_of(found, marked));
  }
};

/// Counts one image's map (H, W), of numbers from 0 (no boundary) to 1, against each annotator's boundaries: for each
/// threshold, the pixels at or above it are thinned and matched with each annotator's (match_boundaries, within
/// max_distance √(H² + W²) pixels). Throws Error where sizes differ.
inline std::vector<BoundaryCounts> count_boundaries(const Tensor<double>& map, const std::vector<Mask>& annotators,
                                                    const BoundaryBenchmark& benchmark = {}) {
  require(map.rank() == 2, "count_boundaries", "expected a map (H, W), got ", map.shape());
  require(benchmark.thresholds >= 1, "count_boundaries", "expected at least 1 threshold, got ", benchmark.thresholds);
  const Index height = map.shape(0), width = map.shape(1);
  const double distance = benchmark.max_distance * std::hypot(static_cast<double>(height), static_cast<double>(width));
  std::vector<BoundaryCounts> out;
  Mask last;
  for (int k = 0; k < benchmark.thresholds; ++k) {
    const double threshold = benchmark.threshold(k);
    Mask above = empty_mask(height, width);
    for (std::size_t at = 0; at < above.values.size(); ++at) above.values[at] = map.data()[at] >= threshold;
    if (k > 0 && above == last) {
      out.push_back(out.back());
      continue;
    }
    last = above;
    const Mask predicted = benchmark.thin ? thinned(above) : above;
    Mask right = empty_mask(height, width);
    BoundaryCounts counts;
    const auto ones = [](const Mask& mask) {
      return static_cast<Index>(std::count(mask.values.begin(), mask.values.end(), std::uint8_t{1}));
    };
    for (const Mask& annotator : annotators) {
      const BoundaryMatch match = match_boundaries(predicted, annotator, distance);
      counts.marked += ones(annotator), counts.found += ones(match.second);
      for (std::size_t at = 0; at < right.values.size(); ++at) right.values[at] |= match.first.values[at];
    }
    counts.predicted = ones(predicted), counts.right = ones(right);
    out.push_back(counts);
  }
  return out;
}

/// A score and the threshold that gave it.
struct BoundaryPoint {
  double threshold = 0;
  BoundaryScore score = {};
};

/// The figures of the Berkeley benchmark (Arbeláez, Maire, Fowlkes and Malik 2011).
struct BoundaryResult {
  BoundaryPoint ods;                  ///< optimal data set scale: one threshold for all images
  BoundaryScore ois;                  ///< optimal image scale: each image's own best threshold
  double ap = 0;                      ///< average precision: the mean of precision over recall 0, 0.01 ... 1
  std::vector<BoundaryPoint> curve;   ///< of all images together, by threshold
  std::vector<BoundaryPoint> images;  ///< each image's best
};

namespace detail {

/// The best F on the curve through points, where precision and recall between two are interpolated in 99 steps.
inline BoundaryPoint best_point(const std::vector<BoundaryPoint>& curve) {
  BoundaryPoint best = curve.front();
  for (std::size_t k = 1; k < curve.size(); ++k)
    for (int step = 0; step < 100; ++step) {
      const double d = step / 99.0;
      const auto between = [d](double a, double b) { return b * d + a * (1 - d); };
      const BoundaryPoint &a = curve[k - 1], &b = curve[k];
      const BoundaryPoint point{between(a.threshold, b.threshold),
                                BoundaryScore::of(between(a.score.precision, b.score.precision),
                                                          between(a.score.recall, b.score.recall))};
      if (point.score.f > best.score.f) best = point;
    }
  return best;
}

/// The mean over recall 0, 0.01 ... 1 of the precision, linear between points and 0 outside them.
inline double average_precision(const std::vector<BoundaryPoint>& curve) {
  std::map<double, double> precision;  // by recall; of points of one recall the first
  for (const BoundaryPoint& point : curve) precision.emplace(point.score.recall, point.score.precision);
  double sum = 0;
  for (int k = 0; k <= 100 && precision.size() > 1; ++k) {
    const double recall = k / 100.0;
    const auto above = precision.lower_bound(recall);
    if (above == precision.end() || (above == precision.begin() && above->first > recall)) continue;
    if (above->first == recall) {
      sum += above->second;
      continue;
    }
    const auto below = std::prev(above);
    const double share = (recall - below->first) / (above->first - below->first);
    sum += below->second + share * (above->second - below->second);
  }
  return sum / 100;
}

}  // namespace detail

/// The figures of images that were counted by count_boundaries with the same benchmark. Counts are summed over images
/// before precision and recall are taken of them. Throws Error for no images and lists of another length.
inline BoundaryResult boundary_result(const std::vector<std::vector<BoundaryCounts>>& images,
                                      const BoundaryBenchmark& benchmark = {}) {
  const auto thresholds = static_cast<std::size_t>(benchmark.thresholds);
  require(!images.empty(), "boundary_result", "expected at least 1 image");
  const auto curve_of = [&](const std::vector<BoundaryCounts>& counts) {
    std::vector<BoundaryPoint> curve;
    for (std::size_t k = 0; k < thresholds; ++k)
      curve.push_back({benchmark.threshold(static_cast<int>(k)), counts[k].score()});
    return curve;
  };
  BoundaryResult out;
  std::vector<BoundaryCounts> all(thresholds);
  BoundaryCounts best;
  for (const auto& image : images) {
    require(image.size() == thresholds, "boundary_result", "expected counts for ", thresholds, " thresholds, got ",
            image.size());
    for (std::size_t k = 0; k < thresholds; ++k) all[k] += image[k];
    best += *std::max_element(image.begin(), image.end(), [](const BoundaryCounts& a, const BoundaryCounts& b) {
      return a.score().f < b.score().f;
    });
    out.images.push_back(detail::best_point(curve_of(image)));
  }
  out.curve = curve_of(all);
  out.ods = detail::best_point(out.curve);
  out.ois = best.score();
  out.ap = detail::average_precision(out.curve);
  return out;
}

}  // namespace settle
