// Panoptic quality by COCO's rules, and scores of masks and boundaries.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "settle/vision/mask_metrics.hpp"
#include "settle/vision/panoptic_quality.hpp"

using namespace settle;

namespace {

Category thing(Index id) { return {id, "thing", "", true, {}}; }
Category stuff(Index id) { return {id, "stuff", "", false, {}}; }

struct Annotated {
  SegmentMap map;
  std::vector<Segment> segments;
};

PanopticQuality quality(const Annotated& truth, const Annotated& predicted, const std::vector<Category>& categories) {
  return panoptic_quality(match_segments(truth.map, truth.segments, predicted.map, predicted.segments), categories);
}

void check(const Quality& found, double pq, double sq, double rq, Index n, double digits) {
  CHECK(found.pq == doctest::Approx(pq).epsilon(digits));
  CHECK(found.sq == doctest::Approx(sq).epsilon(digits));
  CHECK(found.rq == doctest::Approx(rq).epsilon(digits));
  CHECK(found.n == n);
}

}  // namespace

TEST_CASE("panoptic quality of mmdetection's boxes") {
  // tests/test_data/test_datasets/test_panoptic_dataset.py
  const auto paint = [](const std::vector<std::array<Index, 4>>& boxes) {
    Annotated out{void_map(60, 80), {{.id = 4, .category = 2}}};
    std::fill(out.map.ids.begin(), out.map.ids.end(), 4u);
    for (std::size_t k = 0; k < boxes.size(); ++k) {
      const auto [x, y, width, height] = boxes[k];
      for (Index i = y; i < y + height; ++i)
        for (Index j = x; j < x + width; ++j) out.map(i, j) = static_cast<std::uint32_t>(k + 1);
      out.segments.push_back({.id = static_cast<Index>(k + 1), .category = k < 2 ? 0 : 1});
    }
    return out;
  };
  Annotated truth = paint({{10, 10, 10, 40}, {30, 10, 10, 40}, {50, 10, 10, 5}});
  truth.segments[0].area = 3950;
  const Annotated predicted = paint({{11, 11, 10, 40}, {38, 10, 10, 40}, {51, 10, 10, 5}});
  const PanopticCounts counts = match_segments(truth.map, truth.segments, predicted.map, predicted.segments);
  CHECK(counts.at(0).iou_sum == doctest::Approx(351. / 449).epsilon(1e-14));
  CHECK(counts.at(1).iou_sum == doctest::Approx(45. / 55).epsilon(1e-14));
  CHECK(counts.at(2).iou_sum == doctest::Approx(3576. / 4324).epsilon(1e-14));
  const PanopticQuality q = panoptic_quality(counts, {thing(0), thing(1), stuff(2)});
  check(q.all, .67869, .80898, .83333, 3, 1e-5);
  check(q.things, .60453, .79996, .75, 2, 1e-5);
  check(q.stuff, .82701, .82701, 1, 1, 1e-5);
  CHECK(q.all.pq == doctest::Approx(.678687480).epsilon(1e-9));
}

TEST_CASE("panoptic quality of torchmetrics' pixels") {
  // tests/unittests/detection/test_panoptic_quality.py; category.instance
  const auto read = [](const std::vector<double>& pixels) {
    Annotated out{void_map(5, 5), {}};
    for (std::size_t k = 0; k < pixels.size(); ++k) {
      const auto code = static_cast<std::uint32_t>(pixels[k] * 10 + .5) + 1;
      out.map.ids[k] = code;
      const bool known = std::any_of(out.segments.begin(), out.segments.end(), [&](auto& s) { return s.id == code; });
      if (!known) out.segments.push_back({.id = code, .category = static_cast<Index>(pixels[k])});
    }
    return out;
  };
  const Annotated predicted = read({6, 0, 6, 6, .1, 0, 0, 6, .1, .1, 0, 0, 6, .1, 1, 0, 7, 6, 1, 1, 0, 7, 7, 7, 7});
  const Annotated truth = read({6, 6, 6, 6, 0, .1, .1, 6, 0, 0, .1, .1, 6, 1, 1, .1, 7, 7, 1, 1, .1, 7, 7, 7, 7});
  const PanopticQuality q = quality(truth, predicted, {thing(0), thing(1), stuff(6), stuff(7)});
  CHECK(q.all.pq == doctest::Approx(.775297619).epsilon(1e-9));
  CHECK(q.things.pq == doctest::Approx(.776785714).epsilon(1e-9));
  CHECK(q.stuff.pq == doctest::Approx(.773809524).epsilon(1e-9));
}

TEST_CASE("void is left out, and crowds are neither missed nor matched") {
  const Annotated truth{{4, 6, {1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 2, 2, 2, 5, 5, 5, 2, 2, 2, 5, 5, 5}},
                        {{.id = 1, .category = 1}, {.id = 2, .category = 2}, {.id = 5, .category = 1, .crowd = true}}},
      predicted{{4, 6, {1, 1, 1, 1, 1, 9, 1, 1, 1, 1, 9, 9, 2, 2, 2, 7, 7, 8, 2, 2, 0, 7, 7, 8}},
                {{.id = 1, .category = 1},
                 {.id = 7, .category = 1},
                 {.id = 9, .category = 1},
                 {.id = 2, .category = 2},
                 {.id = 8, .category = 2}}};
  const PanopticCounts counts = match_segments(truth.map, truth.segments, predicted.map, predicted.segments);
  const auto expect = [&](Index category, Index tp, Index fp, Index fn, double iou) {
    CHECK(counts.at(category).true_positives == tp);
    CHECK(counts.at(category).false_positives == fp);
    CHECK(counts.at(category).false_negatives == fn);
    CHECK(counts.at(category).iou_sum == doctest::Approx(iou).epsilon(1e-14));
  };
  expect(1, 1, 0, 0, 1);
  expect(2, 1, 1, 0, 5. / 6);
  const PanopticQuality q = panoptic_quality(counts, {thing(1), stuff(2)});
  CHECK(q.all.pq == doctest::Approx(.777777778).epsilon(1e-9));
  CHECK(q.things.pq == 1);
  CHECK(q.stuff.pq == doctest::Approx(.555555556).epsilon(1e-9));
}

TEST_CASE("of several crowds of a category the list's last excuses a prediction") {
  Annotated truth{{1, 6, {5, 5, 5, 6, 6, 6}},
                  {{.id = 5, .category = 1, .crowd = true}, {.id = 6, .category = 1, .crowd = true}}};
  const Annotated predicted{{1, 6, {3, 3, 3, 0, 0, 0}}, {{.id = 3, .category = 1}}};
  CHECK(quality(truth, predicted, {thing(1)}).all.n == 1);
  std::swap(truth.segments[0], truth.segments[1]);
  CHECK(quality(truth, predicted, {thing(1)}).all.n == 0);
}

TEST_CASE("exactly one half is no match, and excuses nothing") {
  const Annotated truth{{1, 4, {1, 1, 0, 0}}, {{.id = 1, .category = 1}}};
  const Annotated half{{1, 4, {2, 0, 0, 0}}, {{.id = 2, .category = 1}}};
  CHECK(quality(truth, half, {thing(1)}).all.pq == 0);
  const Annotated half_void{{1, 4, {0, 2, 2, 0}}, {{.id = 2, .category = 3}}};
  CHECK(match_segments(truth.map, truth.segments, half_void.map, half_void.segments).at(3).false_positives == 1);
}

TEST_CASE("nothing predicted is 0, nothing at all is 0 of no category") {
  const Annotated truth{{1, 2, {1, 1}}, {{.id = 1, .category = 1}}}, nothing{void_map(1, 2), {}},
      empty{void_map(0, 0), {}};
  const PanopticQuality missed = quality(truth, nothing, {thing(1), stuff(2)});
  check(missed.all, 0, 0, 0, 1, 1e-15);
  check(missed.stuff, 0, 0, 0, 0, 1e-15);
  check(quality(nothing, nothing, {thing(1)}).all, 0, 0, 0, 0, 1e-15);
  check(quality(empty, empty, {thing(1)}).all, 0, 0, 0, 0, 1e-15);
  check(quality(nothing, truth, {thing(1)}).all, 0, 0, 0, 0, 1e-15);  // all of it is void: no fault
  check(panoptic_quality({}, {}).all, 0, 0, 0, 0, 1e-15);
  const PanopticQuality itself = quality(truth, truth, {thing(1), stuff(2)});
  check(itself.all, 1, 1, 1, 1, 1e-15);
  CHECK(itself.per_category.at(2).n == 0);
}

TEST_CASE("what panoptic quality cannot be made of is an error that says why") {
  const Annotated truth{{1, 2, {1, 1}}, {{.id = 1, .category = 1}}}, other{void_map(2, 1), {}};
  const auto error = [](const Annotated& t, const Annotated& p) {
    return error_of([&] { match_segments(t.map, t.segments, p.map, p.segments, "a.png"); });
  };
  CHECK(contains(error(truth, other),
                 "[panoptic_quality] a.png: expected a prediction of the truth's size, 1 x 2, got 2 x 1"));
  CHECK(contains(error(truth, {truth.map, {}}), "a.png: prediction: segment 1: has pixels"));
  CHECK(contains(error({truth.map, {}}, truth), "a.png: truth: segment 1: has pixels"));
  CHECK(contains(error({truth.map, {{.id = 1, .category = 1, .area = 1}}}, truth),
                 "a.png: truth: segment 1: expected an area of 1 pixels as the list says, found 2"));
  CHECK(contains(error(truth, {{1, 2, {1}}, {}}), "expected 1 x 2 ids, got 1"));
  CHECK(contains(error_of([] { quality_of({1.1, 1, 0, 0}); }), "intersections over unions of at most 1 each"));
  CHECK(contains(error_of([] { quality_of({0, 0, -1, 0}); }), "counts of at least 0"));
  CHECK(contains(error_of([] { panoptic_quality({{7, {}}}, {thing(1)}); }), "category 7 is not in the list"));
}

TEST_CASE("the intersection over union of masks in true boxes") {
  const Tensor<double> predicted(Shape{3, 2, 2}, std::vector<double>{.9, .5, .2, .1, 0, 0, 0, 0, .6, .6, .6, .6}),
      truth(Shape{3, 2, 2}, std::vector<double>{1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1});
  const auto ious = mask_ious(predicted, truth, .5);
  REQUIRE(ious.size() == 3);
  CHECK(ious[0] == doctest::Approx(2. / 3));
  CHECK(ious[1] == 0);
  CHECK(ious[2] == 1);
  CHECK(mask_ious(Tensor<double>(Shape{0, 28, 28}), Tensor<double>(Shape{0, 28, 28}), .5).empty());
  CHECK(contains(error_of([&] {
                   mask_ious(predicted, Tensor<double>(Shape{3, 2, 3}), .5);
                 }),
                 "of one shape, got (3, 2, 2)"));
}

TEST_CASE("boundaries within a tolerance") {
  Mask square = empty_mask(9, 9);
  for (Index y = 2; y < 7; ++y)
    for (Index x = 2; x < 7; ++x) square(y, x) = 1;
  const Mask outline = inner_boundary(square);
  CHECK(rle_area(encode_rle(outline)) == 16);
  CHECK(boundary_score(outline, outline, 0).f == 1);

  Mask column = empty_mask(5, 9), moved = empty_mask(5, 9);
  for (Index y = 0; y < 5; ++y) column(y, 3) = 1, moved(y, 5) = 1;
  moved(0, 3) = 1;
  CHECK(boundary_score(moved, column, 1.9).precision == doctest::Approx(1. / 6));
  CHECK(boundary_score(moved, column, 1).recall == doctest::Approx(2. / 5));
  CHECK(boundary_score(moved, column, 1).f == doctest::Approx(2 * (1. / 6) * (2. / 5) / (1. / 6 + 2. / 5)));
  CHECK(boundary_score(moved, column, 2).f == 1);
  Mask corner = empty_mask(5, 9), other = empty_mask(5, 9);
  corner(1, 1) = 1, other(3, 3) = 1;
  CHECK(boundary_score(corner, other, 2.8).f == 0);
  CHECK(boundary_score(corner, other, 2.83).f == 1);
  CHECK(boundary_score(empty_mask(5, 9), column, 2).f == 0);
  CHECK(boundary_score(empty_mask(5, 9), empty_mask(5, 9), 2).f == 0);
  CHECK(contains(error_of([&] { boundary_score(column, outline, 1); }), "maps of one size"));
  CHECK(contains(error_of([&] { boundary_score(column, column, -1); }), "tolerance from 0"));
}
