#pragma once
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "settle/vision/panoptic.hpp"

namespace settle::inline v0_2 {

/// What panoptic quality counts of a category: segments that were found (with the sum of their intersections over
/// unions), that were made up, and that were missed.
struct MatchCounts {
  double iou_sum = 0;
  Index true_positives = 0, false_positives = 0, false_negatives = 0;

  Index all() const { return true_positives + false_positives + false_negatives; }
  MatchCounts& operator+=(const MatchCounts& other) {
    iou_sum += other.iou_sum;
    true_positives += other.true_positives;
    false_positives += other.false_positives;
    false_negatives += other.false_negatives;
    return *this;
  }
};

/// Counts by category id.
using PanopticCounts = std::map<Index, MatchCounts>;

inline PanopticCounts& operator+=(PanopticCounts& counts, const PanopticCounts& more) {
  for (const auto& [category, of_it] : more) counts[category] += of_it;
  return counts;
}

/// Compares the predicted segments of an image with the true ones, by the rules of COCO's panoptic task (Kirillov et
/// al. 2019, panopticapi): a true and a predicted segment of one category match when their intersection over union is
/// above 1/2, pixels of true void left out of the union; crowds match nothing and are not missed; a predicted segment
/// that matches nothing is not held against its maker when more than half of it is void or crowd of its category, of
/// which the list's last counts. Throws Error "[panoptic_quality] place: ..." where maps differ in size, or map and
/// list do not agree (see measured_segments).
inline PanopticCounts match_segments(const SegmentMap& truth, const std::vector<Segment>& true_segments,
                                     const SegmentMap& predicted, const std::vector<Segment>& predicted_segments,
                                     const std::string& place = "") {
  const char* where = "panoptic_quality";
  const std::string prefix = place.empty() ? "" : place + ": ";
  const auto in_truth = measured_segments(truth, true_segments, prefix + "truth", where);
  const auto in_prediction = measured_segments(predicted, predicted_segments, prefix + "prediction", where);
  require(truth.height == predicted.height && truth.width == predicted.width, where, prefix,
          "expected a prediction of the truth's size, ", truth.height, " x ", truth.width, ", got ", predicted.height,
          " x ", predicted.width);

  std::map<std::pair<std::uint32_t, std::uint32_t>, Index> overlaps;
  for (std::size_t begin = 0; begin < truth.ids.size();) {
    const auto pair = std::pair(truth.ids[begin], predicted.ids[begin]);
    std::size_t end = begin + 1;
    while (end < truth.ids.size() && truth.ids[end] == pair.first && predicted.ids[end] == pair.second) ++end;
    overlaps[pair] += static_cast<Index>(end - begin);
    begin = end;
  }
  const auto overlap = [&](Index true_id, Index predicted_id) {
    const auto found = overlaps.find({static_cast<std::uint32_t>(true_id), static_cast<std::uint32_t>(predicted_id)});
    return found == overlaps.end() ? 0 : found->second;
  };
  const auto by_id = [](const std::vector<Segment>& segments) {
    std::map<Index, const Segment*> out;
    for (const Segment& segment : segments) out[segment.id] = &segment;
    return out;
  };
  const auto true_by_id = by_id(in_truth), predicted_by_id = by_id(in_prediction);

  PanopticCounts counts;
  std::set<Index> matched_true, matched_predicted;
  for (const auto& [pair, common] : overlaps) {
    if (pair.first == 0 || pair.second == 0) continue;
    const Segment &t = *true_by_id.at(pair.first), &p = *predicted_by_id.at(pair.second);
    if (t.crowd || t.category != p.category) continue;
    const Index united = t.area + p.area - common - overlap(0, p.id);
    if (2 * common <= united) continue;
    counts[t.category].iou_sum += static_cast<double>(common) / static_cast<double>(united);
    ++counts[t.category].true_positives;
    matched_true.insert(t.id), matched_predicted.insert(p.id);
  }
  std::map<Index, Index> crowds;  // by category
  for (const Segment& t : in_truth) {
    if (t.crowd)
      crowds[t.category] = t.id;
    else if (!matched_true.contains(t.id))
      ++counts[t.category].false_negatives;
  }
  for (const Segment& p : in_prediction) {
    if (matched_predicted.contains(p.id)) continue;
    const auto crowd = crowds.find(p.category);
    const Index excused = overlap(0, p.id) + (crowd == crowds.end() ? 0 : overlap(crowd->second, p.id));
    if (2 * excused <= p.area) ++counts[p.category].false_positives;
  }
  return counts;
}

/// Panoptic quality pq = sq rq: segmentation quality sq is the mean intersection over union of matched segments,
/// recognition quality rq = TP / (TP + FP / 2 + FN / 2). All from 0 to 1.
struct Quality {
  double pq = 0, sq = 0, rq = 0;
  Index n = 0;  ///< the number of categories that it is the mean of
};

struct PanopticQuality {
  Quality all, things, stuff;             ///< means over the categories that the truth or the prediction has
  std::map<Index, Quality> per_category;  ///< of every category, n = 0 and zeros where neither has it
};

/// The quality of one category. Throws Error for counts that no images give: negative ones, intersections above unions.
inline Quality quality_of(const MatchCounts& counts) {
  const auto tp = static_cast<double>(counts.true_positives), fp = static_cast<double>(counts.false_positives),
             fn = static_cast<double>(counts.false_negatives);
  require(tp >= 0 && fp >= 0 && fn >= 0, "panoptic_quality", "expected counts of at least 0, got ", tp, ", ", fp, ", ",
          fn);
  require(counts.iou_sum >= 0 && counts.iou_sum <= tp * (1 + 1e-12), "panoptic_quality", "expected ", tp,
          " intersections over unions of at most 1 each, got a sum of ", counts.iou_sum);
  if (counts.all() == 0) return {};
  const double segments = tp + fp / 2 + fn / 2;
  return {counts.iou_sum / segments, tp > 0 ? counts.iou_sum / tp : 0, tp / segments, 1};
}

/// The quality by category, and its means over all categories, things and stuff, of the counts of one or more images.
/// Throws Error for counts of a category that is not in the list.
inline PanopticQuality panoptic_quality(const PanopticCounts& counts, const std::vector<Category>& categories) {
  PanopticQuality out;
  std::set<Index> known;
  for (const Category& category : categories) {
    known.insert(category.id);
    const auto found = counts.find(category.id);
    const Quality quality = found == counts.end() ? Quality{} : quality_of(found->second);
    out.per_category[category.id] = quality;
    for (Quality* mean : {&out.all, category.thing ? &out.things : &out.stuff}) {
      mean->pq += quality.pq, mean->sq += quality.sq, mean->rq += quality.rq;
      mean->n += quality.n;
    }
  }
  for (const auto& [category, unused] : counts)
    require(known.contains(category), "panoptic_quality", "category ", category, " is not in the list of categories");
  for (Quality* mean : {&out.all, &out.things, &out.stuff})
    if (mean->n > 0) {
      const auto n = static_cast<double>(mean->n);
      mean->pq /= n, mean->sq /= n, mean->rq /= n;
    }
  return out;
}

}  // namespace settle
