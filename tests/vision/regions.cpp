// RoIAlign against detectron2's own values, and pooling from a pyramid.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <vector>

#include "errors.hpp"
#include "settle/autodiff/grad.hpp"
#include "settle/ops/map.hpp"
#include "settle/ops/reduce.hpp"
#include "settle/vision/paste.hpp"
#include "settle/vision/regions.hpp"

using namespace settle;

namespace {

using V = Var<double>;

void check(const Tensor<double>& found, const std::vector<double>& expected, double tolerance, std::size_t from = 0) {
  REQUIRE(found.size() >= std::ssize(expected));
  for (std::size_t k = 0; k < expected.size(); ++k) {
    CAPTURE(k);
    CHECK(std::abs(found.values()[from + k] - expected[k]) <= tolerance * std::max(1., std::abs(expected[k])));
  }
}

Tensor<double> range(const Shape& shape, double factor = 1, double power = 1, double first = 0) {
  Tensor<double> out(shape);
  for (Index k = 0; k < out.size(); ++k)
    out.mutable_data()[k] = factor * std::pow(static_cast<double>(k) + first, power);
  return out;
}

const Tensor<double> four_boxes(Shape{4, 4}, std::vector<double>{-3.2, -1.5, 7.3, 9.1, .4, 1.7, 5.2, 3.9, 2, 2, 2, 2,
                                                                 4.6, 4.9, 12, 11});

}  // namespace

TEST_CASE("RoIAlign of detectron2's test: aligned and not, an empty box, an empty batch") {
  const V x = range({1, 1, 5, 5});
  const Tensor<double> box(Shape{1, 4}, std::vector<double>{1, 1, 3, 3});
  std::vector<double> aligned, legacy;
  for (int y = 0; y < 4; ++y)
    for (int k = 0; k < 4; ++k) {
      aligned.push_back(4.5 + 2.5 * y + .5 * k);
      legacy.push_back(7.5 + 2.5 * y + .5 * k);
    }
  check(roi_align(x, box, {0}, {{4, 4}}).value(), aligned, 1e-14);
  check(roi_align(x, box, {0}, {{4, 4}, 1, 0, false}).value(), legacy, 1e-14);

  Tape<double> tape;
  const V leaf = tape.leaf(range({1, 2, 5, 5}));
  const V y = roi_align(leaf, Tensor<double>(Shape{1, 4}, std::vector<double>{3, 4, 5, 4}), {0});
  check(y.value(), std::vector<double>(98), 0);
  check(grad(sum(y), {leaf})[0].value(), std::vector<double>(50), 0);
  CHECK(roi_align(V(Tensor<double>(Shape{0, 3, 5, 5})), Tensor<double>(Shape{0, 4}), {}).shape() == Shape{0, 3, 7, 7});
}

TEST_CASE("RoIAlign has the values and gradients of detectron2's code") {
  Tape<double> tape;
  const V x = tape.leaf(range({1, 2, 6, 6}, .01, 2));
  const std::vector<Index> images(4);
  const V y = roi_align(x, four_boxes, images, {{2, 2}, .5});
  check(y.value(),
        {0.08416389, 0.240075, 1.962496, 3.569987, 9.737164, 16.01107, 18.4715,  29.62499, .2505,    .3625,   .5943,
         .7855,      16.1265,  17.1025,  18.8463,  19.9015,  0,        0,        0,        0,        0,       0,
         0,          0,        3.721363, 4.449372, 8.045037, 9.108166, 30.36136, 32.40787, 41.27304, 43.65467},
        1e-6);
  const V two = roi_align(x, four_boxes, images, {{2, 2}, .5, 2});
  check(two.value(), {.066375, .2541219, 1.44225, 3.525425, 7.342875, 16.13012, 13.80825, 29.58042}, 1e-6);
  check(two.value(), {.2505,    .3625,    .5943,    .7855,    16.1265,  17.1025,  18.8463,  19.9015,  //
                      .215,     .215,     .215,     .215,     15.695,   15.695,   15.695,   15.695,
                      3.721363, 4.449372, 8.045037, 9.108166, 30.36136, 32.40787, 41.27304, 43.65467},
        1e-6, 8);

  const V weighted = sum(map([](auto a, auto g) { return a * g; }, y, V(range({4, 2, 2, 2}, 1, 1, 1))));
  const Tensor<double> dx = grad(weighted, {x})[0].value();
  check(dx,
        {2.796806, 3.398287, 2.366667, .3113889, 0,        0,        10.62177, 12.83716, 8.4125,   .21375,  0,
         0,        2.077986, 2.218403, 4.690853, 4.846775, 4.641543, 4.835898, .7304861, .5909028, 6.97804, 9.71115,
         9.664004, 10.06812, .3979514, .3219097, 6.896725, 9.802131, 9.904863, 10.31496, 0,        0,       3.080215,
         4.489805, 4.62709,  4.818516, 5.55125,  5.658102, 4.1,      .9341667, 0,        0},
        1e-6);
  check(dx, {0, 0, 3.536543, 5.154961, 5.292246, 5.506875}, 1e-6, 66);

  const V whole = roi_align(x, four_boxes, images, {{3, 3}});
  check(whole.value(), {.033375, .2199187, .3440531, 1.08075, 4.971425, 4.715587, .5625, 2.491156, 2.226047}, 1e-6);
  const Tensor<double> of_sum = grad(sum(whole), {x})[0].value();
  double total = 0;
  for (const double value : of_sum.values()) total += value;
  CHECK(total == doctest::Approx(26.8888889).epsilon(1e-9));
}

TEST_CASE("RoIAlign names what is wrong with its arguments, and is not held up by large boxes") {
  const V x = range({1, 1, 4, 4});
  const auto error = [&](std::vector<double> box, std::vector<Index> images, RoiAlignOptions options = {}) {
    return error_of([&] { roi_align(x, Tensor<double>(Shape{1, 4}, box), images, options); });
  };
  CHECK(contains(error({2, 0, 1, 1}, {0}), "[roi_align] expected boxes of finite sides of at least 0, got 2, 0, 1, 1"));
  CHECK(contains(error({0, 0, std::nan(""), 1}, {0}), "finite sides"));
  CHECK(contains(error({0, 0, 1, 1}, {1}), "images below 1, got 1"));
  CHECK(contains(error({0, 0, 1, 1}, {}), "an image for each of 1 boxes, got 0"));
  CHECK(contains(error({0, 0, 1, 1}, {0}, {{0, 7}}), "at least 1 x 1 bins"));
  CHECK(contains(error({0, 0, 1, 1}, {0}, {{7, 7}, 1, 1 << 20}), "0 to 65536 samples"));
  CHECK(contains(error({0, 0, 1, 1}, {0}, {{Index{1} << 60, 1}}), "is no tensor's shape"));
  CHECK(contains(error({0, 0, 1, 1}, {0}, {{Index{1} << 40, 1}}), "[roi_align] out of memory"));
  CHECK(contains(error_of([&] { roi_align(x, Tensor<double>(Shape{4}), {0}); }), "boxes (R, 4), got (4)"));
  const V far = roi_align(x, Tensor<double>(Shape{1, 4}, std::vector<double>{-1e12, -1e12, 1e12, 1e12}), {0}, {{1, 1}});
  CHECK(std::abs(far.item()) < 1e-15);
}

TEST_CASE("regions are pooled from the levels that go with their sizes, in their order") {
  std::vector<V> pyramid;
  for (const double level : {2, 3, 4, 5}) {
    const auto side = static_cast<Index>(512 / std::pow(2, level));
    pyramid.push_back(Tensor<double>(Shape{2, 3, side, side}, level));
  }
  Tensor<double> boxes(Shape{4, 4});
  const double sides[] = {300, 50, 460, 150};
  for (Index r = 0; r < 4; ++r) {
    double* b = boxes.mutable_data() + 4 * r;
    b[0] = b[1] = 10, b[2] = b[3] = 10 + sides[r];
  }
  const V pooled = pool_regions(pyramid, boxes, {0, 1, 1, 0}, {{2, 2}});
  REQUIRE(pooled.shape() == Shape{4, 3, 2, 2});
  for (Index r = 0; r < 4; ++r)
    for (Index k = 0; k < 12; ++k)
      CHECK(pooled.value().data()[12 * r + k] ==
            doctest::Approx(std::array<double, 4>{4, 2, 5, 3}[static_cast<std::size_t>(r)]));
  CHECK(pool_regions(pyramid, Tensor<double>(Shape{0, 4}), {}, {{7, 7}}).shape() == Shape{0, 3, 7, 7});
  Tape<double> tape;
  pyramid[1] = tape.leaf(pyramid[1].value());
  double total = 0;
  const Tensor<double> gradient =
      grad(sum(pool_regions(pyramid, boxes, {0, 1, 1, 0}, {{2, 2}})), {pyramid[1]})[0].value();
  for (const double value : gradient.values()) total += value;
  CHECK(total == doctest::Approx(12));
  CHECK(contains(error_of([&] {
                   pool_regions(pyramid, boxes, {0, 1, 1, 0}, {}, {3, 5});
                 }),
                 "expected 3 levels, got 4"));
  CHECK(contains(error_of([&] { pool_regions(pyramid, boxes, {0}); }), "an image for each of 4 boxes, got 1"));
}

TEST_CASE("a mask and its outline give nearly the same targets, and pasted back nearly the mask") {
  const Polygon shape{20.5, 10.2, 80.1, 25.7, 70.9, 90.4, 15.3, 70.6};
  const Mask whole = decode_rle(rle_of_polygon(shape, 100, 100));
  const std::array<double, 4> box{15.3, 10.2, 80.1, 90.4};
  const Mask of_polygon = polygons_in_box({shape}, box, 28), of_mask = mask_in_box(whole, box, 28);
  CHECK(rle_iou(encode_rle(of_polygon), encode_rle(of_mask)) > .95);
  Tensor<double> small(Shape{28, 28});
  std::copy(of_mask.values.begin(), of_mask.values.end(), small.mutable_data());
  CHECK(rle_iou(encode_rle(mask_above(paste_mask(small, box, 100, 100))), encode_rle(whole)) > .95);
  CHECK(polygons_in_box({{0, 0, 4, 0, 4, 4, 0, 4}}, {0, 0, 4, 4}, 3) == Mask{3, 3, std::vector<std::uint8_t>(9, 1)});
  CHECK(mask_in_box({2, 2, {1, 0, 1, 0}}, {0, 0, 2, 2}, 2) == Mask{2, 2, {1, 0, 1, 0}});
  CHECK(rle_area(encode_rle(mask_in_box(whole, {5, 5, 5, 5}, 28))) == 0);
  CHECK(rle_area(encode_rle(mask_in_box(empty_mask(0, 0), {5, 5, 6, 6}, 28))) == 0);
  CHECK(contains(error_of([&] {
                   mask_in_box(whole, {6, 5, 5, 5}, 28);
                 }),
                 "[mask_in_box] expected boxes of finite sides"));
}
