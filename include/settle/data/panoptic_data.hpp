#pragma once
#include "settle/core/macros_off.hpp"
#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "settle/data/data_set.hpp"
#include "settle/data/image.hpp"
#include "settle/vision/panoptic.hpp"

namespace settle::inline v0_2 {

/// An image with its panoptic truth.
struct PanopticSample {
  Index image_id = 0;
  Image8 image;                   ///< red, green, blue
  SegmentMap map;                 ///< of the image's size
  std::vector<Segment> segments;  ///< those of the map, with their boxes and areas there
};

/// Height and width.
using Extent = std::array<Index, 2>;

/// A data set of panoptic truth is anything with a size, samples and categories. sample(i) is called from several
/// threads at once. Where there is extent(i), it tells an image's size without reading it: batches can then be made of
/// images of like shape.
template <class D>
concept PanopticSource = requires(const D& data, Index i) {
  { data.size() } -> std::convertible_to<Index>;
  { data.sample(i) } -> std::convertible_to<PanopticSample>;
  { data.categories() } -> std::convertible_to<std::vector<Category>>;
};

/// A panoptic data set of a kind chosen at run time; copies share it.
class PanopticData {
 public:
  PanopticData() = default;

  template <PanopticSource D>
  requires(!std::same_as<D, PanopticData>) PanopticData(D data)
      : size_(static_cast<Index>(data.size())), categories_(data.categories()) {
    const auto shared = std::make_shared<const D>(std::move(data));
    sample_ = [shared](Index i) -> PanopticSample { return shared->sample(i); };
    if constexpr (requires { shared->extent(Index{}); }) extent_ = [shared](Index i) { return shared->extent(i); };
  }

  Index size() const { return size_; }
  const std::vector<Category>& categories() const { return categories_; }

  /// The i-th sample. Throws Error where there is none.
  PanopticSample sample(Index i) const {
    require_number(i);
    return sample_(i);
  }

  /// Height and width of the i-th image; zeros where the data set does not tell. Throws Error where there is none.
  Extent extent(Index i) const {
    require_number(i);
    return extent_ ? extent_(i) : Extent{};
  }

 private:
  void require_number(Index i) const {
    require(i >= 0 && i < size_, "panoptic_data", "expected a sample number below ", size_, ", got ", i);
  }

  Index size_ = 0;
  std::vector<Category> categories_;
  std::function<PanopticSample(Index)> sample_;
  std::function<Extent(Index)> extent_;
};

/// The memory that a sample's pixels take.
inline std::size_t sample_bytes(const PanopticSample& sample) {
  return sample.image.pixels.size() + 4 * sample.map.ids.size();
}

/// The same data set, whose samples are kept once they were made, until they fill `bytes`.
inline PanopticData cached(const PanopticData& data, std::size_t bytes) {
  return PanopticData(detail::CachedSource<PanopticData, PanopticSample>(data, bytes));
}

/// How a net numbers a data set's categories, as detectron2 does: things from 0 in the order of their ids, kinds of
/// stuff from 1 in the order of the list; the label 0 of stuff stands for all things.
class PanopticClasses {
 public:
  PanopticClasses() = default;
  explicit PanopticClasses(std::vector<Category> categories) : categories_(std::move(categories)) {
    for (const Category& category : categories_) (category.thing ? things_ : stuff_).push_back(category.id);
    std::sort(things_.begin(), things_.end());
    for (std::size_t k = 0; k < things_.size(); ++k) numbers_[things_[k]] = {true, static_cast<Index>(k)};
    for (std::size_t k = 0; k < stuff_.size(); ++k) numbers_[stuff_[k]] = {false, static_cast<Index>(k) + 1};
  }

  const std::vector<Category>& categories() const { return categories_; }
  const std::vector<Index>& things() const { return things_; }  ///< ids by number
  const std::vector<Index>& stuff() const { return stuff_; }    ///< ids by label - 1

  bool is_thing(Index category) const { return find(category).first; }
  /// The number of a thing, the label of stuff. Throws Error for an unknown category.
  Index number(Index category) const { return find(category).second; }

 private:
  std::pair<bool, Index> find(Index category) const {
    const auto found = numbers_.find(category);
    require(found != numbers_.end(), "panoptic_classes", "expected one of ", numbers_.size(), " categories, got ",
            category);
    return found->second;
  }

  std::vector<Category> categories_;
  std::vector<Index> things_, stuff_;
  std::map<Index, std::pair<bool, Index>> numbers_;  ///< by id: whether a thing, and its number
};

}  // namespace settle
#include "settle/core/macros_on.hpp"
