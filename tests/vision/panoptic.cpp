// Masks pasted into images, and things and stuff merged to one segmentation.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <vector>

#include "errors.hpp"
#include "settle/core/random.hpp"
#include "settle/vision/panoptic_merge.hpp"
#include "settle/vision/paste.hpp"
#include "settle/vision/polygon.hpp"

using namespace settle;

namespace {

Mask mask(Index height, Index width, const std::vector<std::uint8_t>& values) { return {height, width, values}; }

}  // namespace

TEST_CASE("a mask pasted as detectron2 does") {
  Tensor<double> small(Shape{4, 4});
  for (Index k = 0; k < 16; ++k) small.mutable_data()[k] = static_cast<double>(k) / 15;
  const auto pasted = paste_mask<double>(small, {2.3, 1.7, 9.1, 7.9}, 10, 12);
  double sum = 0;
  for (const double value : pasted.values()) sum += value;
  CHECK(sum == doctest::Approx(20.7685958254).epsilon(1e-11));
  CHECK(rle_area(encode_rle(mask_above(pasted))) == 19);
  const double row[] = {0,        .0102467, .2151803, .3621126, .4013283, .4405440,
                        .4797596, .5189753, .4677419, .1451613, 0,        0};
  for (Index x = 0; x < 12; ++x) CHECK(std::abs(pasted.values()[static_cast<std::size_t>(48 + x)] - row[x]) < 1e-7);
}

TEST_CASE("masks pasted beyond the image, without area, or of nothing") {
  const Tensor<double> ones(Shape{2, 2}, 1.), none(Shape{0, 0});
  const auto area = [](const Tensor<double>& pasted) { return rle_area(encode_rle(mask_above(pasted))); };
  CHECK(area(paste_mask<double>(ones, {0, 0, 4, 3}, 6, 7)) == 12);
  CHECK(area(paste_mask<double>(ones, {-2, -1, 4, 3}, 6, 7)) == 12);
  CHECK(area(paste_mask<double>(ones, {-1e6, -1e6, 1e6, 1e6}, 6, 7)) == 42);
  CHECK(area(paste_mask<double>(ones, {20, 20, 30, 30}, 6, 7)) == 0);
  CHECK(area(paste_mask<double>(ones, {2, 2, 2, 5}, 6, 7)) == 0);
  CHECK(area(paste_mask<double>(ones, {3, 2, 2, 5}, 6, 7)) == 0);
  CHECK(area(paste_mask<double>(ones, {std::nan(""), 2, 2, 5}, 6, 7)) == 0);
  CHECK(area(paste_mask<double>(none, {0, 0, 4, 3}, 6, 7)) == 0);
  CHECK(paste_mask<double>(ones, {0, 0, 4, 3}, 0, 7).shape() == Shape{0, 7});
  CHECK(contains(error_of([] { paste_mask<double>(Tensor<double>(Shape{1, 2, 2}), {}, 3, 3); }), "a mask (h, w)"));
}

TEST_CASE("a polygon cut to its box at 28 x 28 and pasted is nearly the polygon") {
  Random random(10);
  double sum = 0;
  const int count = 40;
  for (int k = 0; k < count; ++k) {
    Polygon shape, in_box;
    for (int corner = 0; corner < 7; ++corner) {
      const double angle = 2 * 3.14159265358979 * corner / 7, radius = random.uniform(30, 60);
      shape.push_back(100 + radius * std::cos(angle)), shape.push_back(90 + radius * std::sin(angle));
    }
    double left = 1e9, right = 0, top = 1e9, bottom = 0;
    for (std::size_t c = 0; c < shape.size(); c += 2) {
      left = std::min(left, shape[c]), right = std::max(right, shape[c]);
      top = std::min(top, shape[c + 1]), bottom = std::max(bottom, shape[c + 1]);
    }
    for (std::size_t c = 0; c < shape.size(); c += 2) {
      in_box.push_back((shape[c] - left) / (right - left) * 28);
      in_box.push_back((shape[c + 1] - top) / (bottom - top) * 28);
    }
    const Mask target = decode_rle(rle_of_polygon(in_box, 28, 28));
    Tensor<double> small(Shape{28, 28});
    std::copy(target.values.begin(), target.values.end(), small.mutable_data());
    const auto pasted = paste_mask<double>(small, {left, top, right, bottom}, 180, 200);
    const double iou = rle_iou(encode_rle(mask_above(pasted)), rle_of_polygon(shape, 180, 200));
    CHECK(iou > .9);
    sum += iou;
  }
  CHECK(sum / count > .94);
}

TEST_CASE("things take free pixels by score, stuff takes the rest where it is enough") {
  const SegmentMap stuff{2, 6, {1, 1, 1, 1, 2, 2, 1, 1, 1, 0, 0, 2}};
  const std::vector<FoundInstance> found{
      {7, .6, mask(2, 6, {0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})},   // half of it is taken: it has the other half
      {8, .9, mask(2, 6, {1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0})},   // first
      {9, .7, mask(2, 6, {1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})},   // two thirds are taken
      {7, .49, mask(2, 6, {0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0})},  // not sure enough
      {7, .8, mask(2, 6, std::vector<std::uint8_t>(12))},          // empty
  };
  const PanopticSegments merged = merge_panoptic(found, stuff, {100, 200}, {.least_stuff_area = 3});
  CHECK(merged.map.ids == std::vector<std::uint32_t>{1, 1, 2, 3, 4, 4, 1, 3, 3, 0, 0, 4});
  REQUIRE(merged.segments.size() == 4);
  const Index categories[] = {8, 7, 100, 200}, areas[] = {3, 1, 3, 3};
  for (std::size_t k = 0; k < 4; ++k) {
    CHECK(merged.segments[k].id == static_cast<Index>(k + 1));
    CHECK(merged.segments[k].category == categories[k]);
    CHECK(merged.segments[k].area == areas[k]);
  }
  CHECK(merge_panoptic(found, stuff, {100, 200}, {.least_stuff_area = 4}).segments.size() == 2);
  CHECK(merge_panoptic(found, stuff, {100, 200}).segments.size() == 2);
  CHECK(merge_panoptic(found, stuff, {100, 200}, {.least_score = .95, .least_stuff_area = 1}).segments.size() == 2);
}

TEST_CASE("of equal scores the first comes first; nothing merged is void") {
  const Mask all = mask(1, 2, {1, 1});
  const SegmentMap nothing = void_map(1, 2);
  CHECK(merge_panoptic({{3, .7, all}, {4, .7, all}}, nothing, {}).segments[0].category == 3);
  CHECK(merge_panoptic({{3, .7, all}, {4, .7, all}}, nothing, {}, {.largest_overlap = 1}).segments.size() == 1);
  CHECK(merge_panoptic({}, nothing, {}).segments.empty());
  CHECK(merge_panoptic({}, nothing, {}).map.ids == nothing.ids);
  CHECK(merge_panoptic({}, void_map(0, 0), {}).map.ids.empty());
  CHECK(contains(error_of([&] {
                   merge_panoptic({{3, .7, mask(2, 1, {1, 1})}}, nothing, {});
                 }),
                 "masks of the image's size, 1 x 2, got 2 x 1"));
  CHECK(contains(error_of([&] { merge_panoptic({{3, std::nan(""), all}}, nothing, {}); }), "scores that are numbers"));
  CHECK(contains(error_of([&] { merge_panoptic({}, {1, 2, {0, 3}}, {5, 6}); }), "labels up to 2, got 3"));
}
