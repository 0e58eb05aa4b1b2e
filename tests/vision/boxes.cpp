// Boxes, anchors, matching, sampling and non-maximum suppression.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "errors.hpp"
#include "settle/vision/anchors.hpp"
#include "settle/vision/matching.hpp"
#include "settle/vision/nms.hpp"

using namespace settle;

namespace {

template <class T = double>
Tensor<T> boxes(const std::vector<T>& values) {
  return Tensor<T>(Shape{std::ssize(values) / 4, 4}, values);
}

void check(const Tensor<double>& found, const std::vector<double>& expected, double tolerance) {
  REQUIRE(found.size() == std::ssize(expected));
  for (std::size_t k = 0; k < expected.size(); ++k) {
    CAPTURE(k);
    CHECK(std::abs(found.values()[k] - expected[k]) <= tolerance);
  }
}

Tensor<double> random_boxes(Index count, Random& random) {
  Tensor<double> out(Shape{count, 4});
  for (Index n = 0; n < count; ++n) {
    double* b = out.mutable_data() + 4 * n;
    b[0] = random.uniform(0, 100), b[1] = random.uniform(0, 100);
    b[2] = b[0] + random.uniform(1, 40), b[3] = b[1] + random.uniform(1, 40);
  }
  return out;
}

std::vector<double> random_scores(Index count, Random& random) {
  std::vector<double> out(static_cast<std::size_t>(count));
  for (double& score : out) score = random.uniform();
  return out;
}

double iou(const Tensor<double>& b, Index i, Index j) {
  return box_ious(boxes(std::vector<double>(b.data() + 4 * i, b.data() + 4 * i + 4)),
                  boxes(std::vector<double>(b.data() + 4 * j, b.data() + 4 * j + 4)))
      .item();
}

/// Non-maximum suppression as its definition reads.
std::vector<Index> plain_nms(const Tensor<double>& b, const std::vector<double>& scores, double threshold,
                             const std::vector<Index>& groups = {}) {
  std::vector<Index> left(scores.size()), kept;
  for (std::size_t k = 0; k < left.size(); ++k) left[k] = static_cast<Index>(k);
  while (!left.empty()) {
    const Index best = *std::max_element(left.begin(), left.end(), [&](Index i, Index j) {
      return scores[static_cast<std::size_t>(i)] < scores[static_cast<std::size_t>(j)];
    });
    kept.push_back(best);
    std::erase_if(left, [&](Index k) {
      const bool together =
          groups.empty() || groups[static_cast<std::size_t>(k)] == groups[static_cast<std::size_t>(best)];
      return k == best || (together && iou(b, best, k) > threshold);
    });
  }
  return kept;
}

using Indexes = std::vector<Index>;

}  // namespace

TEST_CASE("intersections over unions of boxes, as detectron2's test has them") {
  const auto one = boxes({0, 0, 1, 1}),
             others = boxes({0, 0, 1, 1, 0, 0, .5, 1, 0, 0, 1, .5, 0, 0, .5, .5, .5, .5, 1, 1, .5, .5, 1.5, 1.5});
  check(box_ious(one, others), {1, .5, .5, .25, .25, .25 / 1.75}, 1e-15);
  check(box_ious(others, one), {1, .5, .5, .25, .25, .25 / 1.75}, 1e-15);
  check(box_ious(boxes({0, 0, 1, 1, 3, 3, 3, 3}), boxes({1, 0, 2, 1, 3, 3, 3, 3})), {0, 0, 0, 0}, 0);
  CHECK(box_ious(boxes({}), others).shape() == Shape{0, 6});
  CHECK(box_ious(others, boxes({})).shape() == Shape{6, 0});
  CHECK(contains(error_of([] {
                   box_ious(Tensor<double>(Shape{3}), Tensor<double>(Shape{0, 4}));
                 }),
                 "[box_ious] expected boxes (N, 4), got (3)"));
}

TEST_CASE("areas, clipping, and boxes that are of use") {
  check(box_areas(boxes({1, 2, 4, 8, 0, 0, 0, 5})), {18, 0}, 0);
  check(clip_boxes(boxes({-3, -4, 50, 60, 5, 6, 7, 8, 70, 80, 90, 95}), 40, 30),
        {0, 0, 30, 40, 5, 6, 7, 8, 30, 40, 30, 40}, 0);
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const auto some = boxes({0, 0, 1, 1, 0, 0, 0, 1, 3, 3, 2, 4, 0, 0, infinity, 1, 0, nan, 1, 1, 5, 5, 9, 6});
  CHECK(usable_boxes(some) == Indexes{0, 5});
  CHECK(usable_boxes(some, 1.) == Indexes{});
  CHECK(box_areas(boxes({})).size() == 0);
  CHECK(clip_boxes(boxes({}), 4, 4).shape() == Shape{0, 4});
  CHECK(usable_boxes(boxes({})).empty());
}

TEST_CASE("boxes are coded and decoded") {
  check(encode_boxes(boxes({10, 20, 50, 100}), boxes({15, 10, 45, 130}), {{10, 10, 5, 5}}),
        {0, 1.25, -1.438410362, 2.027325541}, 1e-9);
  // detectron2's test_fast_rcnn.py
  check(encode_boxes(boxes({.8, 1.1, 3.2, 2.8, 2.3, 2.5, 7, 8}), boxes({1, 1, 3, 3, 2, 2, 6, 6}), {{10, 10, 5, 5}}),
        {0, .2941173911, -.9116078615, .8125948906, -1.3829779625, -2.2727272511, -.8063406348, -1.5922684669}, 2e-6);
  Random random(8);
  const auto sources = random_boxes(50, random), targets = random_boxes(50, random);
  for (const BoxCoding& coding : {BoxCoding{}, BoxCoding{{5, 5, 10, 10}}, BoxCoding{{10, 10, 5, 5}}}) {
    const auto values = targets.values();
    check(decode_boxes(sources, encode_boxes(sources, targets, coding), coding), {values.begin(), values.end()}, 1e-12);
  }
  const auto grown = decode_boxes(boxes({0, 0, 16, 16}), boxes({0, 0, 1e9, 0}));
  CHECK(grown.values()[2] - grown.values()[0] == doctest::Approx(1000).epsilon(1e-12));
  CHECK(grown.values()[3] - grown.values()[1] == 16);
  // Two codes for each source.
  check(decode_boxes(
            boxes({0, 0, 10, 10, 0, 0, 20, 20}),
            Tensor<double>(Shape{2, 8}, std::vector<double>{0, 0, 0, 0, .1, .2, 0, 0, 0, 0, 0, 0, .1, .2, 0, 0})),
        {0, 0, 10, 10, 1, 2, 11, 12, 0, 0, 20, 20, 2, 4, 22, 24}, 1e-14);
  CHECK(encode_boxes(boxes({}), boxes({})).shape() == Shape{0, 4});
  CHECK(decode_boxes(boxes({}), Tensor<double>(Shape{0, 320})).shape() == Shape{0, 320});
  CHECK(contains(error_of([] {
                   encode_boxes(boxes({0, 0, 0, 1}), boxes({0, 0, 1, 1}));
                 }),
                 "got sides 0 and 1 in row 0"));
  CHECK(contains(error_of([] { encode_boxes(boxes({0, 0, 1, 1}), boxes({})); }), "as many sources as targets"));
  CHECK(contains(error_of([] { decode_boxes(boxes({0, 0, 1, 1}), Tensor<double>(Shape{1, 5})); }), "codes (N, 4 K)"));
}

TEST_CASE("boxes go to the levels of a pyramid by their size") {
  Tensor<float> some(Shape{9, 4}, 0.f);
  const double sides[] = {16, 32, 56, 111.9, 112, 223.9, 224, 447, 448};
  for (Index n = 0; n < 9; ++n)
    some.mutable_data()[4 * n + 2] = some.mutable_data()[4 * n + 3] = static_cast<float>(sides[n]);
  CHECK(box_levels(some) == Indexes{2, 2, 2, 2, 3, 3, 4, 4, 5});
  CHECK(box_levels(some, {3, 4, 4, 224}) == Indexes{3, 3, 3, 3, 3, 3, 4, 4, 4});
  CHECK(box_levels(boxes({0, 0, 0, 0, 0, 0, 1e9, 1e9})) == Indexes{2, 5});
  CHECK(box_levels(boxes({})).empty());
  CHECK(contains(error_of([] { box_levels(boxes({0, 0, -1, 1})); }), "an area of at least 0, got -1"));
  CHECK(contains(error_of([] { box_levels(boxes({}), {5, 2}); }), "levels in order"));
}

TEST_CASE("anchors of detectron2's test") {
  const AnchorOptions options{{32, 64}, {.25, 1, 4}, 0};
  const std::vector<double> cell{-32, -8,  32, 8,  -16, -16, 16, 16, -8,  -32, 8,  32,
                                 -64, -16, 64, 16, -32, -32, 32, 32, -16, -64, 16, 64};
  for (const double offset : {0., .5}) {
    AnchorOptions moved = options;
    moved.offset = offset;
    std::vector<double> expected;
    for (const double x : {0, 4})
      for (std::size_t k = 0; k < cell.size(); ++k) expected.push_back(cell[k] + 4 * offset + (k % 2 == 0 ? x : 0));
    check(make_anchors<double>(1, 2, 4, moved), expected, 1e-13);
  }
  check(make_anchors<double>(1, 1, 8),
        {-22.6274, -11.3137, 22.6274, 11.3137, -16, -16, 16, 16, -11.3137, -22.6274, 11.3137, 22.6274}, 1e-4);
  const auto column = make_anchors<double>(2, 1, 8, {{2}, {1}, 0});
  check(column, {-1, -1, 1, 1, -1, 7, 1, 9}, 1e-14);
  CHECK(make_anchors<float>(0, 5, 8).shape() == Shape{0, 4});
  CHECK(make_anchors<float>(2, 5, 8, {{}, {1}, 0}).shape() == Shape{0, 4});
  CHECK(contains(error_of([] { make_anchors<float>(1, 1, 8, {{0}, {1}, 0}); }), "sizes and ratios above 0"));
  CHECK(contains(error_of([] { make_anchors<float>(1, 1, 0); }), "a stride of at least 1"));
}

TEST_CASE("the matcher of detectron2's test, and what it does without objects") {
  const Tensor<double> likeness(Shape{3, 4}, std::vector<double>{.15, .45, .2, .6, .3, .65, .05, .1, .05, .4, .25, .4});
  const Matches found = match_objects(likeness);
  CHECK(found.object == Indexes{1, 1, 2, 0});
  CHECK(found.label == std::vector<int>{-1, 1, 0, 1});
  const MatchOptions plain{{.3, .7}, {0, -1, 1}, false};
  CHECK(match_objects(likeness, plain).label == std::vector<int>{-1, -1, 0, -1});
  CHECK(match_objects(cast<float>(likeness), plain).label == std::vector<int>{-1, -1, 0, -1});  // .3f is at .3
  // Ties: both predictions that an object is most like, and the first object.
  const Tensor<double> ties(Shape{2, 3}, std::vector<double>{.2, .2, .1, .2, .1, .2});
  CHECK(match_objects(ties).label == std::vector<int>{1, 1, 1});
  CHECK(match_objects(ties).object == Indexes{0, 0, 1});
  const MatchOptions one{{.5}, {0, 1}, false};
  CHECK(match_objects(Tensor<double>(Shape{1, 3}, std::vector<double>{.49, .5, .51}), one).label ==
        std::vector<int>{0, 1, 1});
  CHECK(match_objects(Tensor<double>(Shape{0, 3})).label == std::vector<int>{0, 0, 0});
  CHECK(match_objects(Tensor<double>(Shape{0, 3})).object == Indexes{0, 0, 0});
  CHECK(match_objects(Tensor<double>(Shape{3, 0})).label.empty());
  CHECK(contains(error_of([&] { match_objects(likeness, {{.7, .3}, {0, -1, 1}}); }), "thresholds that rise"));
  CHECK(contains(error_of([&] { match_objects(likeness, {{.7}, {0, -1, 1}}); }), "one label more"));
}

TEST_CASE("samples have the sizes that are asked for, and depend on the stream alone") {
  std::vector<int> labels(1000, 0);
  for (std::size_t k = 0; k < labels.size(); ++k) labels[k] = k % 10 == 0 ? 1 : k % 10 == 1 ? -1 : 0;
  const auto sizes = [&](Index count, double fraction) {
    Random random(1);
    const Sampled s = sample_labels(labels, count, fraction, random);
    CHECK(std::is_sorted(s.positive.begin(), s.positive.end()));
    CHECK(std::adjacent_find(s.negative.begin(), s.negative.end()) == s.negative.end());
    for (const Index k : s.positive) CHECK(labels[static_cast<std::size_t>(k)] == 1);
    for (const Index k : s.negative) CHECK(labels[static_cast<std::size_t>(k)] == 0);
    return std::pair(s.positive.size(), s.negative.size());
  };
  CHECK(sizes(128, .5) == std::pair<std::size_t, std::size_t>{64, 64});
  CHECK(sizes(256, .5) == std::pair<std::size_t, std::size_t>{100, 156});
  CHECK(sizes(5, .5) == std::pair<std::size_t, std::size_t>{2, 3});
  CHECK(sizes(2000, .25) == std::pair<std::size_t, std::size_t>{100, 800});
  CHECK(sizes(0, .5) == std::pair<std::size_t, std::size_t>{0, 0});
  CHECK(sizes(10, 0) == std::pair<std::size_t, std::size_t>{0, 10});

  Random a(5, 3), b(5, 3), c(5, 4);
  const Sampled first = sample_labels(labels, 50, .5, a);
  CHECK(first.negative == sample_labels(labels, 50, .5, b).negative);
  CHECK(first.negative != sample_labels(labels, 50, .5, c).negative);
  std::vector<int> chosen(labels.size());  // each as often as the others: 25 of 100 positives, 400 times
  for (int round = 0; round < 400; ++round)
    for (const Index k : sample_labels(labels, 50, .5, a).positive) ++chosen[static_cast<std::size_t>(k)];
  for (std::size_t k = 0; k < labels.size(); k += 10) CHECK(std::abs(chosen[k] - 100) < 45);  // 5 deviations

  const Sampled classes = sample_labels({7, 80, 3, -1, 80}, 4, .25, a, 80);  // a box head's: 80 is background
  CHECK(classes.positive.size() == 1);
  CHECK(classes.negative == Indexes{1, 4});
  CHECK(sample_labels({}, 4, .5, a).negative.empty());
  CHECK(sample_labels({-1, -1}, 4, .5, a).negative.empty());
  CHECK(contains(error_of([&] { sample_labels({}, 4, 1.5, a); }), "a fraction from 0 to 1"));
}

TEST_CASE("top scores come from the largest down, ties in their order") {
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  const std::vector<double> scores{1, 3, nan, 2, 3, -infinity, 3};
  CHECK(top_scores<double>(scores, 10) == Indexes{1, 4, 6, 3, 0, 5, 2});
  CHECK(top_scores<double>(scores, 2) == Indexes{1, 4});
  CHECK(top_scores<double>(scores, 0).empty());
  CHECK(top_scores<double>({}, 3).empty());
  CHECK(top_scores<double>(std::vector<double>(100, .5), 3) == Indexes{0, 1, 2});
  CHECK(contains(error_of([&] { top_scores<double>(scores, -1); }), "at least 0, got -1"));
}

TEST_CASE("non-maximum suppression of torchvision's boxes") {
  const std::vector<float> values{285.3538f,  185.5758f, 1193.5110f, 851.4551f, 285.1472f,  188.7374f,
                                  1192.4984f, 851.0669f, 279.2440f,  197.9812f, 1189.4746f, 849.2019f};
  const auto some = boxes<float>(values);
  const std::vector<float> scores{.6370f, .7569f, .3966f};
  const Tensor<float> ious = box_ious(some, some);
  CHECK(ious.values()[1] == doctest::Approx(.9933352).epsilon(1e-6));
  CHECK(ious.values()[2] == doctest::Approx(.9672751).epsilon(1e-6));
  CHECK(ious.values()[5] == doctest::Approx(.9737223).epsilon(1e-6));
  CHECK(nms<float>(some, scores, .2) == Indexes{1});
  CHECK(nms<float>(some, scores, .97) == Indexes{1});
  CHECK(nms<float>(some, scores, .98) == Indexes{1, 2});
}

TEST_CASE("non-maximum suppression is what its definition reads, also in groups") {
  Random random(9);
  for (const double threshold : {.2, .5, .8}) {
    auto some = random_boxes(300, random);
    auto scores = random_scores(300, random);
    // A pair just above the threshold: the second box is a part of the first.
    double* b = some.mutable_data();
    b[0] = b[1] = b[4] = b[5] = 200, b[2] = b[3] = b[7] = 210, b[6] = 200 + 10 * (threshold + 1e-5);
    scores[0] = .9, scores[1] = .8;
    scores[10] = scores[20] = scores[30];
    CHECK(nms<double>(some, scores, threshold) == plain_nms(some, scores, threshold));
    std::vector<Index> groups(300);
    for (Index& group : groups) group = random.below(4);
    CHECK(nms<double>(some, scores, threshold, groups) == plain_nms(some, scores, threshold, groups));
  }
  // At exactly the threshold both stay.
  const auto half = boxes({0, 0, 2, 1, 0, 0, 1, 1});
  CHECK(nms<double>(half, std::vector<double>{.1, .2}, .5) == Indexes{1, 0});
  CHECK(nms<double>(half, std::vector<double>{.1, .1}, .49) == Indexes{0});
  CHECK(nms<double>(boxes({3, 3, 3, 3, 3, 3, 3, 3}), std::vector<double>{1, 2}, .5) == Indexes{1, 0});
  CHECK(nms<double>(boxes({}), {}, .5).empty());
  CHECK(contains(error_of([&] { nms<double>(half, {}, .5); }), "[nms] expected 2 scores, got 0"));
  CHECK(contains(error_of([&] { nms<double>(half, std::vector<double>{1, std::nan("")}, .5); }), "that are numbers"));
  CHECK(contains(error_of([&] { nms<double>(half, std::vector<double>{1, 2}, .5, Indexes{1}); }), "2 groups, got 1"));
}
