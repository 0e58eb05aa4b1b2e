// What the experiments' tables and figures are made of.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "errors.hpp"
#include "settle/experiments/all.hpp"
#include "settle/nn/conv_gru.hpp"
#include "temporary_folder.hpp"

using namespace settle;
using namespace settle::experiments;

TEST_CASE("spreads, quantiles and ranks of known numbers") {
  const Spread s = spread({1, 2, 3, 6});
  CHECK(s.mean == 3);
  CHECK(s.deviation == doctest::Approx(std::sqrt(14.0 / 3)));
  CHECK(s.least == 1);
  CHECK(s.most == 6);
  CHECK(spread({}).count == 0);
  CHECK(spread({4}).deviation == 0);
  CHECK(quantile({4, 1, 3, 2}, 0.5) == 2.5);
  CHECK(quantile({4, 1, 3, 2}, 1) == 4);
  CHECK(ranks({10, 30, 20, 20}) == std::vector<double>{1, 4, 2.5, 2.5});
  CHECK(rank_correlation({1, 2, 3, 4}, {1, 8, 27, 64}) == doctest::Approx(1));
  CHECK(rank_correlation({1, 2, 3, 4}, {4, 3, 2, 1}) == doctest::Approx(-1));
  // With ties, by hand: ranks 1.5 1.5 3 4 and 1 2 3.5 3.5.
  CHECK(rank_correlation({1, 1, 2, 3}, {1, 2, 3, 3}) == doctest::Approx(4.0 / 4.5));
  CHECK(rank_correlation({1, 1, 1}, {1, 2, 3}) == 0);
  CHECK_THROWS_AS(correlation({1, 2}, {1}), Error);
  CHECK_THROWS_AS(quantile({}, 0.5), Error);
}

TEST_CASE("the two-sample Kolmogorov-Smirnov test against counted orders") {
  // Of the 20 orders of 3 and 3 values 2 keep the samples apart; of the 6 of 2 and 2 two do.
  CHECK(ks_test({1, 2, 3}, {4, 5, 6}).statistic == 1);
  CHECK(ks_test({1, 2, 3}, {4, 5, 6}).p == doctest::Approx(0.1));
  CHECK(ks_test({1, 2}, {3, 4}).p == doctest::Approx(1.0 / 3));
  // 1 and 3 against 2 and 4: a distance of a half, which every order has.
  CHECK(ks_test({1, 3}, {2, 4}).statistic == 0.5);
  CHECK(ks_test({1, 3}, {2, 4}).p == doctest::Approx(1));
  CHECK(ks_test({1, 2, 3}, {1, 2, 3}).statistic == 0);
  CHECK(ks_test({1, 2, 3}, {1, 2, 3}).p == doctest::Approx(1));
  // Beyond counting: Smirnov's series, known at lambda = 1 to be 0.26999967.
  std::vector<double> a, b;
  for (int k = 0; k < 4000; ++k) a.push_back(k), b.push_back(k + 4000 / std::sqrt(2000.0) - 0.5);
  const KsTest far = ks_test(a, b);
  CHECK(far.p == doctest::Approx(0.27).epsilon(0.05));
  CHECK_THROWS_AS(ks_test({}, {1}), Error);
}

TEST_CASE("principal components of points on a line and beside it") {
  std::vector<std::vector<float>> rows;
  for (int k = -3; k <= 3; ++k) {
    const auto along = static_cast<float>(k), beside = k % 2 == 0 ? 0.1f : -0.1f;
    rows.push_back({3 * along - 4 * beside + 1, 4 * along + 3 * beside + 2, 7});
  }
  const PrincipalComponents found = principal_components(rows, 2);
  CHECK(found.shares[0] > 0.99);
  CHECK(found.shares[0] + found.shares[1] == doctest::Approx(1));
  // The first coordinate is 5 k up to its sign and a little of the other.
  const double sign = found.projected[6][0] > 0 ? 1 : -1;
  for (int k = 0; k < 7; ++k)
    CHECK(sign * found.projected[static_cast<std::size_t>(k)][0] == doctest::Approx(5 * (k - 3)).epsilon(0.05));
  CHECK_THROWS_AS(principal_components({}, 1), Error);
}

TEST_CASE("a chart has its lines, bands, marks and words") {
  const Chart chart{
      .title = "a < b & c",
      .x_label = "steps",
      .y_label = "IoU",
      .series = {{.name = "one", .x = {1, 2, 3}, .y = {0.1, 0.5, NAN}, .low = {0, 0.4, 0}, .high = {0.2, 0.6, 1}},
                 {.name = "two", .x = {1, 2}, .y = {0.3, 0.2}, .dotted = true}},
      .marks = {{"one", 2, 0.9}}};
  const std::string text = svg(chart);
  const auto count = [&](const std::string& what) {
    std::size_t n = 0;
    for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size()) ++n;
    return n;
  };
  CHECK(count("<polyline") == 2);
  CHECK(count("<polygon") == 1);
  CHECK(count("stroke-dasharray") == 1);
  CHECK(count("a &lt; b &amp; c") == 1);
  CHECK(count("the paper's") == 1);
  CHECK(text.find("nan") == std::string::npos);
  CHECK(text.substr(text.size() - 7) == "</svg>\n");
  CHECK(svg({.title = "empty", .x_label = "", .y_label = "", .series = {}}).find("nan") == std::string::npos);
}

TEST_CASE("every size's cells are options that go together, each with a folder of its own") {
  for (const char* size : {"tiny", "small", "overnight", "paper"}) {
    const Plan plan = plan_of(size);
    std::set<std::string> folders;
    std::size_t cells = 0;
    for (const Algorithm& algorithm : plan.algorithms())
      for (std::size_t length = 0; length < 3; ++length)
        for (const std::uint64_t seed : plan.seeds) {
          Cell cell = plan.cell(algorithm, length, seed);
          folders.insert(cell.folder()), ++cells;
          CHECK(cell.options.data.contour_length == plan.lengths[length]);
          CHECK(cell.options.train.seed == seed);
          CHECK(cell.folder() == plan.cell(algorithm, length, seed).folder());
        }
    CHECK(folders.size() == cells);
  }
  CHECK_THROWS_WITH_AS(plan_of("huge"), doctest::Contains("tiny, small, overnight or paper"), UsageError);
  const Plan paper = plan_of("paper");
  const SegmentationOptions crbp = paper.cell(paper.algorithm("crbp_released"), 0, 1).options;
  CHECK(crbp.model.kernel == 15);
  CHECK(crbp.algorithm.steps == 20);
  CHECK(crbp.train.batch == 128);
  CHECK(paper.cell(paper.algorithm("bptt"), 2, 1).options.algorithm.steps == 6);
}

TEST_CASE("a training that falls after its best validation has collapsed") {
  const TemporaryFolder folder;
  const auto course = [&](const std::vector<double>& scores) {
    const auto path = folder.path() / "metrics.jsonl";
    AtomicFile file(path);
    int step = 0;
    for (const double score : scores)
      file.write(Json{{"step", ++step}, {"validation", {{"f1", score}}}}.dump() + "\n{\"step\": 1, \"loss\": 2}\n");
    file.commit();
    return validation_course(path);
  };
  CHECK_FALSE(course({0.2, 0.6, 0.8, 0.7})["collapsed"].get<bool>());
  CHECK(course({0.2, 0.8, 0.5, 0.8})["collapsed"].get<bool>());
  CHECK_FALSE(course({0.2, 0.8, 0.5, 0.8})["ended_collapsed"].get<bool>());
  CHECK(course({0.2, 0.8, 0.7, 0.5})["ended_collapsed"].get<bool>());
  CHECK(course({0.1, 0.3})["best"].get<double>() == 0.3);
  CHECK_FALSE(course({}).contains("best"));
}

TEST_CASE("a pixel's distance along the contour grows from the disc to the far end") {
  const PathfinderOptions task{.size = 32, .window = 112, .contour_length = 6, .distractors = 0, .thickness = 3};
  const Pathfinder pathfinder(task);
  for (std::uint64_t index = 0; index < 5; ++index) {
    const PathfinderScene scene = pathfinder.scene(3, index);
    const auto ways = experiments::detail::path_distances(scene, pathfinder.options());
    const auto way_at = [&](Pixel p) {
      const double scale = 112.0 / 32;
      const auto cell = [&](Index v) { return static_cast<Index>((static_cast<double>(v) + 0.5) / scale); };
      return ways[static_cast<std::size_t>(cell(p.y) * 32 + cell(p.x))];
    };
    CHECK(way_at(scene.marker) <= 3);
    double before = 0;
    for (std::size_t k = 1; k < scene.target.size(); ++k) {
      const double way = way_at(scene.target[k].head);
      CHECK(way > before);
      before = way;
    }
    // Dashes and gaps are 11 pixels each.
    CHECK(before == doctest::Approx(6 * 11.0 - 6).epsilon(0.12));
  }
}

namespace {

SegmentationOptions small_pathfinder(const std::vector<std::string>& more) {
  SegmentationOptions options;
  Config config(options);
  for (const char* setting : {"data.kind=pathfinder", "data.size=16", "data.window=96", "data.contour_length=4",
                              "data.distractors=0", "data.count=6", "train.steps=8", "train.batch=2"})
    config.set(setting);
  for (const std::string& setting : more) config.set(setting);
  options.check();
  return options;
}

bool equal(const Tensor<float>& a, const Tensor<float>& b) {
  return a.shape() == b.shape() && std::equal(a.data(), a.data() + a.size(), b.data());
}

}  // namespace

TEST_CASE("a curriculum begins with shorter contours and ends with the longest") {
  const SegmentationOptions options = small_pathfinder({"data.curriculum=[2, 3]", "data.curriculum_share=0.25"});
  const SegmentationData data = open_data(options);
  CHECK_FALSE(data.shuffle);
  CHECK(data.training.size() >= 16);
  // 16 samples: 4 of 2 dashes, 4 of 3, 8 of 4, which come round after 6.
  const auto alone = [&](const std::string& length) {
    return open_data(small_pathfinder({"data.contour_length=" + length})).training;
  };
  const DataSet two = alone("2"), three = alone("3"), four = alone("4");
  for (Index k = 0; k < 16; ++k) {
    const DataSet& lesson = k < 4 ? two : k < 8 ? three : four;
    const Sample expected = lesson.sample((k < 4 ? k : k < 8 ? k - 4 : k - 8) % 6), found = data.training.sample(k);
    CHECK(equal(found.image, expected.image));
    CHECK(equal(found.target, expected.target));
  }
}

namespace {

/// A read-out by which samples do not see one another.
struct PlainReadout {
  ConvLayer<float> conv6;
  bool whole_image = false;
  Var<float> operator()(const Var<float>& h) const { return conv6(h); }
  void parameters(auto&& visit) { visit_part("conv6", conv6, visit); }
};

}  // namespace

TEST_CASE("a frame that is not finite does not spoil those after it") {
  SegmentationOptions options;
  options.model.kernel = 3, options.model.orientations = 2;
  using Net = RecurrentNet<SquaringStem<float>, ConvGruCell<float>, PlainReadout>;
  const auto released = conv_gru_net<float>(options.model_options());
  SegmentationOf<Net, Cpu> segmentation(Net{released.stem, released.cell, {released.readout.conv6}}, options);
  Random random(1);
  const Tensor<float> frame = uniform<float>({2, 1, 12, 12}, 0, 1, random);
  Tensor<float> broken = frame.clone();
  broken.mutable_data()[144 + 70] = std::numeric_limits<float>::quiet_NaN();  // in the second sample
  const auto logits = [&](const std::vector<Tensor<float>>& frames, bool warm = true) {
    std::vector<Tensor<float>> out;
    segmentation.track(frames, 4, warm, [&](std::size_t, const Tensor<float>& shown) { out.push_back(shown); });
    return out;
  };
  const auto same = [](const Tensor<float>& a, const Tensor<float>& b, Index sample) {
    const Index count = a.size() / 2;
    return std::equal(a.data() + sample * count, a.data() + (sample + 1) * count, b.data() + sample * count);
  };
  const auto right = logits({frame, frame, frame}), found = logits({frame, broken, frame});
  CHECK_FALSE(same(right[0], right[1], 1));  // a warm start tells
  CHECK_FALSE(same(found[1], found[1], 1));  // NaN
  CHECK(same(found[2], right[2], 0));
  CHECK(same(found[2], right[1], 1));  // as if the broken frame had not been
  const auto first = logits({broken, frame});
  CHECK(same(first[1], right[1], 0));
  CHECK(same(first[1], right[0], 1));
  CHECK(same(logits({frame, frame}, false)[1], right[0], 1));
}

TEST_CASE("the classification task marks both ends of one contour, or an end each of two") {
  const SegmentationOptions options = small_pathfinder({"data.task=same_contour", "model.readout=image"});
  const DataSet data = open_data(options).training;
  const Pathfinder pathfinder({.size = 16, .window = 96, .contour_length = 4, .distractors = 0});
  for (Index k = 0; k < 6; ++k) {
    const Sample sample = data.sample(k);
    const float expected = k % 2 == 1 ? 1.f : 0.f;
    for (Index i = 0; i < sample.target.size(); ++i) REQUIRE(sample.target.data()[i] == expected);
    const PathfinderScene scene = pathfinder.scene(options.train.seed, static_cast<std::uint64_t>(k));
    const PathfinderScene other = pathfinder.far_end_marked(k % 2 == 1 ? scene : pathfinder.rival_marked(scene));
    CHECK_FALSE(scene.marker == other.marker);
    const auto one = to_sample(pathfinder.draw(scene), 16).image, both = sample.image;
    double more = 0;
    for (Index i = 0; i < both.size(); ++i) more += static_cast<double>(both.data()[i] - one.data()[i]);
    CHECK(more > 0.3);  // the second disc
  }
}
