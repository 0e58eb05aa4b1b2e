#include "settle/data/pathfinder.hpp"
#include "errors.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "settle/data/pathfinder_folder.hpp"
#include "temporary_folder.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

/// The pool's size, put back at the end.
struct Threads {
  int before = ThreadPool::instance().size();
  explicit Threads(int count) { ThreadPool::instance().resize(count); }
  ~Threads() { ThreadPool::instance().resize(before); }
};

bool same(const Tensor<float>& a, const Tensor<float>& b) {
  return a.shape() == b.shape() && std::equal(a.data(), a.data() + a.size(), b.data());
}

template <class Samples>
bool same_samples(const Samples& a, const Samples& b) {
  return same(a.image, b.image) && same(a.target, b.target) && same(a.dashes, b.dashes);
}

double sum(const Tensor<float>& x) {
  double out = 0;
  for (const float v : x.values()) out += v;
  return out;
}

/// A small task: 48 x 48, quick to make.
PathfinderOptions small_task() {
  PathfinderOptions options;
  options.size = 48;
  options.contour_length = 6;
  options.distractors = 6;
  return options;
}

struct Point {
  double x = 0, y = 0;
};
struct Segment {
  Point a, b;
};

Point point(Pixel p) { return {static_cast<double>(p.x), static_cast<double>(p.y)}; }

/// The axis of a dash's stroke.
Segment axis(const Dash& dash, const PathfinderOptions& options) {
  const double angle = static_cast<double>(dash.heading) * std::numbers::pi / 180;
  const double length = static_cast<double>(options.dash_length);
  const Point head = point(dash.head);
  return {{head.x - length * std::cos(angle), head.y - length * std::sin(angle)}, head};
}

double distance(Point p, const Segment& s) {
  const double dx = s.b.x - s.a.x, dy = s.b.y - s.a.y, squared = dx * dx + dy * dy;
  const double t = squared > 0 ? std::clamp(((p.x - s.a.x) * dx + (p.y - s.a.y) * dy) / squared, 0.0, 1.0) : 0.0;
  return std::hypot(p.x - s.a.x - t * dx, p.y - s.a.y - t * dy);
}

double side(const Segment& s, Point p) { return (s.b.x - s.a.x) * (p.y - s.a.y) - (s.b.y - s.a.y) * (p.x - s.a.x); }

bool cross(const Segment& s, const Segment& t) {
  return side(s, t.a) * side(s, t.b) < 0 && side(t, s.a) * side(t, s.b) < 0;
}

double distance(const Segment& s, const Segment& t) {
  if (cross(s, t)) return 0;
  return std::min({distance(s.a, t), distance(s.b, t), distance(t.a, s), distance(t.b, s)});
}

/// The line that the eye follows: from pivot to pivot, to the last head.
std::vector<Segment> path(const std::vector<Dash>& contour) {
  std::vector<Segment> out;
  for (std::size_t i = 0; i < contour.size(); ++i)
    out.push_back({point(contour[i].pivot), point(i + 1 < contour.size() ? contour[i + 1].pivot : contour[i].head)});
  return out;
}

std::vector<std::vector<Dash>> all_contours(const PathfinderScene& scene) {
  std::vector<std::vector<Dash>> out{scene.target, scene.rival};
  out.insert(out.end(), scene.distractors.begin(), scene.distractors.end());
  return out;
}

int turn(const Dash& from, const Dash& to) {
  const int t = static_cast<int>(((to.heading - from.heading) % 360 + 360) % 360);
  return std::min(t, 360 - t);
}

}  // namespace

TEST_CASE("a Pathfinder sample is a function of options, seed and index") {
  const Pathfinder generator(small_task());
  const PathfinderSample sample = generator.sample(3, 5);
  CHECK(sample.image.shape() == Shape{1, 48, 48});
  CHECK(sample.target.shape() == Shape{48, 48});
  CHECK(sample.dashes.shape() == Shape{48, 48});
  generator.sample(9, 9);
  CHECK(same_samples(generator.sample(3, 5), sample));
  CHECK(same_samples(pathfinder(small_task(), 3, 5), sample));
  CHECK(!same_samples(generator.sample(3, 6), sample));
  CHECK(!same_samples(generator.sample(4, 5), sample));
}

TEST_CASE("a Pathfinder batch stacks the samples, whatever the number of threads") {
  const Pathfinder generator(small_task());
  const auto batch_with = [&](int threads) {
    const Threads pool(threads);
    return generator.batch(1, 100, 7);
  };
  const PathfinderBatch batch = batch_with(1);
  CHECK(batch.image.shape() == Shape{7, 1, 48, 48});
  CHECK(batch.target.shape() == Shape{7, 48, 48});
  CHECK(batch.dashes.shape() == Shape{7, 48, 48});
  for (const int threads : {2, 3, 5}) CHECK(same_samples(batch_with(threads), batch));
  CHECK(same_samples(pathfinder_batch(small_task(), 1, 100, 7), batch));
  for (Index i = 0; i < 7; ++i) {
    const PathfinderSample sample = generator.sample(1, 100 + static_cast<std::uint64_t>(i));
    CHECK(std::equal(sample.image.data(), sample.image.data() + 48 * 48, batch.image.data() + i * 48 * 48));
    CHECK(std::equal(sample.target.data(), sample.target.data() + 48 * 48, batch.target.data() + i * 48 * 48));
    CHECK(std::equal(sample.dashes.data(), sample.dashes.data() + 48 * 48, batch.dashes.data() + i * 48 * 48));
  }
}

TEST_CASE("contours are as long, and cover as much, as in the published data") {
  const struct {
    Index contour_length;
    double pixels, positive_percent;
  } published[] = {{14, 77, 0.29}, {20, 110, 0.41}, {25, 138, 0.50}};
  for (const auto& expected : published) {
    CAPTURE(expected.contour_length);
    PathfinderOptions options;
    options.contour_length = expected.contour_length;
    const Pathfinder generator(options);
    const Index count = 40;
    double length = 0, positive = 0, distractors = 0;
    for (Index i = 0; i < count; ++i) {
      const PathfinderScene scene = generator.scene(11, static_cast<std::uint64_t>(i));
      CHECK(static_cast<Index>(scene.target.size()) == expected.contour_length);
      CHECK(static_cast<Index>(scene.rival.size()) == expected.contour_length);
      length += generator.length(scene.target) / count;
      distractors += static_cast<double>(scene.distractors.size()) / count;
      positive += 100 * sum(to_sample(generator.draw(scene), 150).target) / (150 * 150 * count);
      CHECK(scene.distractors.size() <= 15);
      for (const auto& distractor : scene.distractors)
        CHECK(static_cast<Index>(distractor.size()) == expected.contour_length / 3);
    }
    CHECK(length == doctest::Approx(expected.pixels).epsilon(0.01));
    CHECK(positive == doctest::Approx(expected.positive_percent).epsilon(0.04).scale(0));
    CHECK(distractors > 12);
  }
}

TEST_CASE("contours never cross, and their dashes keep apart") {
  for (const Index contour_length : {14, 25}) {
    PathfinderOptions options;
    options.contour_length = contour_length;
    const Pathfinder generator(options);
    double nearest = 1e9, nearest_own = 1e9;
    Index crossings = 0;
    for (std::uint64_t index = 0; index < 30; ++index) {
      const auto contours = all_contours(generator.scene(5, index));
      for (std::size_t a = 0; a < contours.size(); ++a)
        for (std::size_t b = 0; b <= a; ++b)
          for (std::size_t i = 0; i < contours[a].size(); ++i)
            for (std::size_t j = 0; j < contours[b].size(); ++j) {
              if (a == b && i < j + 2) continue;  // neighbours on one contour touch
              const double apart = distance(axis(contours[a][i], options), axis(contours[b][j], options));
              (a == b ? nearest_own : nearest) = std::min(a == b ? nearest_own : nearest, apart);
              crossings += cross(path(contours[a])[i], path(contours[b])[j]);
            }
    }
    CAPTURE(contour_length);
    CHECK(crossings == 0);
    CHECK(nearest > 5);  // twice the margin, less the antialiased edges
    CHECK(nearest_own > 5);
  }
}

TEST_CASE("contours grow as the rule says: period, turns, start and border") {
  const Pathfinder generator;
  const auto& options = generator.options();
  for (std::uint64_t index = 0; index < 30; ++index) {
    const PathfinderScene scene = generator.scene(6, index);
    for (const auto& contour : all_contours(scene))
      for (std::size_t i = 0; i < contour.size(); ++i) {
        for (const Pixel p : {contour[i].head, contour[i].pivot})
          for (const Index x : {p.x, p.y}) CHECK((x >= 22 && x < 300 - 22));
        const Segment stroke{point(contour[i].pivot), point(contour[i].head)};
        CHECK(distance(stroke.a, {stroke.b, stroke.b}) == doctest::Approx(8).epsilon(0.1));
        if (i == 0) continue;
        CHECK(turn(contour[i - 1], contour[i]) <= 50);
        const Point previous = point(contour[i - 1].pivot);
        CHECK(distance(previous, {stroke.a, stroke.a}) == doctest::Approx(11).epsilon(0.07));
      }
    const auto end = [&](const Dash& first) { return axis(first, options).a; };
    const Point marked = end(scene.target[0]), other = end(scene.rival[0]);
    CHECK(distance(marked, {other, other}) == doctest::Approx(27).epsilon(0.06));
    CHECK(distance(point(scene.marker), {marked, marked}) < 1);
  }
}

TEST_CASE("where nothing is in the way, turns follow the squared cosine") {
  PathfinderOptions options;
  options.size = 300;
  options.contour_length = 3;
  options.distractors = 0;
  options.seed_distance = 100;
  const Pathfinder generator(options);
  double mean = 0, squares = 0, left = 0, count = 0;
  for (std::uint64_t index = 0; index < 500; ++index) {
    const PathfinderScene scene = generator.scene(8, index);
    for (const auto& contour : {scene.target, scene.rival})
      for (std::size_t i = 1; i < contour.size(); ++i) {
        const int degrees = turn(contour[i - 1], contour[i]);
        mean += degrees;
        squares += degrees * degrees;
        left += (contour[i].heading - contour[i - 1].heading + 360) % 360 < 180 ? 0.5 + 0.5 * (degrees > 0) : 0;
        ++count;
      }
  }
  double weight = 0, expected_mean = 0, expected_squares = 0;
  for (double t = 0; t < 50; t += 0.01) {
    const double w = std::pow(std::cos(1.8 * t * std::numbers::pi / 180), 2);
    weight += w;
    expected_mean += w * t;
    expected_squares += w * t * t;
  }
  CHECK(mean / count == doctest::Approx(expected_mean / weight).epsilon(0.05));
  CHECK(squares / count == doctest::Approx(expected_squares / weight).epsilon(0.08));
  CHECK(left / count == doctest::Approx(0.5).epsilon(0.1).scale(0));
}

TEST_CASE("the label is the marked contour and its disc, and nothing else") {
  const Pathfinder generator;
  Index left_marked = 0;
  for (std::uint64_t index = 0; index < 20; ++index) {
    const PathfinderScene scene = generator.scene(2, index);
    const PathfinderPictures pictures = generator.draw(scene);
    for (Index y = 0; y < 300; ++y)
      for (Index x = 0; x < 300; ++x) {
        const Point here{static_cast<double>(x), static_cast<double>(y)};
        const auto value = [&](const Image8& picture) { return picture.pixels[static_cast<std::size_t>(y * 300 + x)]; };
        if (value(pictures.image) == 0) continue;
        double away = distance(here, {point(scene.marker), point(scene.marker)}) - 3;
        for (const Dash& dash : scene.target)
          away = std::min(away, distance(here, axis(dash, generator.options())) - 0.75);
        if (away < -0.75) CHECK(value(pictures.target) == 255);
        if (away > 1) CHECK(value(pictures.target) == 0);
        if (value(pictures.target)) CHECK(value(pictures.image) > 127);
      }
    left_marked += scene.target[0].pivot.x < scene.rival[0].pivot.x;
    const PathfinderSample sample = to_sample(pictures, 150);
    const auto [least, most] = std::minmax_element(sample.image.data(), sample.image.data() + sample.image.size());
    CHECK(*least == 0.f);
    CHECK(*most <= 1.f);
    CHECK(*most > 0.9f);
    for (Index i = 0; i < sample.target.size(); ++i) {
      const float target = sample.target.data()[i];
      CHECK((target == 0.f || target == 1.f));
      CHECK(target <= sample.dashes.data()[i]);
    }
    CHECK(sum(sample.dashes) > 3 * sum(sample.target));
  }
  CHECK(left_marked > 3);
  CHECK(left_marked < 17);
}

TEST_CASE("other sizes, windows and dashes make tasks of their own scale") {
  PathfinderOptions tiny;  // 32 x 32, drawn twice as large with shorter dashes
  tiny.size = 32;
  tiny.contour_length = 6;
  tiny.distractors = 4;
  tiny.dash_length = 4;
  tiny.margin = 2;
  tiny.seed_distance = 14;
  PathfinderOptions sharp = small_task();  // drawn at its own size
  sharp.size = sharp.window = 96;
  PathfinderOptions enlarged = small_task();
  enlarged.size = 64;
  enlarged.window = 96;
  for (const auto& task : {std::pair{small_task(), 33.}, {tiny, 24.}, {sharp, 66.}, {enlarged, 44.}}) {
    const PathfinderOptions& options = task.first;
    const Pathfinder generator(options);
    CAPTURE(options.size);
    double mean = 0;
    for (std::uint64_t index = 0; index < 20; ++index) {
      const PathfinderScene scene = generator.scene(1, index);
      mean += generator.length(scene.target) / 20;
      const PathfinderSample sample = generator.sample(1, index);
      CHECK(sample.image.shape() == Shape{1, options.size, options.size});
      CHECK(sum(sample.target) >= static_cast<double>(2 * options.contour_length));
      CHECK(sum(sample.target) < sum(sample.dashes));
    }
    CHECK(mean == doctest::Approx(task.second).epsilon(0.02));
  }
}

TEST_CASE("flips mirror image and label alike") {
  const Tensor<float> x({1, 2, 3}, {1, 2, 3, 4, 5, 6});
  const auto values = [&](Flip flip) {
    const Tensor<float> y = flipped(x, flip);
    return std::vector<float>(y.data(), y.data() + y.size());
  };
  CHECK(values(Flip::none) == std::vector<float>{1, 2, 3, 4, 5, 6});
  CHECK(values(Flip::horizontal) == std::vector<float>{3, 2, 1, 6, 5, 4});
  CHECK(values(Flip::vertical) == std::vector<float>{4, 5, 6, 1, 2, 3});
  CHECK(values(Flip::both) == std::vector<float>{6, 5, 4, 3, 2, 1});

  PathfinderOptions options = small_task();
  const Pathfinder plain(options);
  options.random_flips = true;
  const Pathfinder flipping(options);
  std::array<int, 4> seen{};
  for (std::uint64_t index = 0; index < 60; ++index) {
    const PathfinderSample a = plain.sample(4, index), b = flipping.sample(4, index);
    int matches = 0;
    for (int flip = 0; flip < 4; ++flip)
      if (same_samples(flipped(a, static_cast<Flip>(flip)), b)) {
        ++matches;
        ++seen[static_cast<std::size_t>(flip)];
      }
    CHECK(matches == 1);
  }
  for (const int count : seen) CHECK(count > 5);
}

TEST_CASE("Pathfinder options out of range are errors that name them") {
  const struct {
    void (*change)(PathfinderOptions&);
    std::string found;
  } cases[] = {
      {[](auto& o) { o.size = 0; }, "expected size >= 1, got 0"},
      {[](auto& o) { o.window = -3; }, "expected window >= 1, got -3"},
      {[](auto& o) { o.contour_length = 0; }, "expected contour_length >= 1, got 0"},
      {[](auto& o) { o.distractors = -1; }, "expected distractors >= 0, got -1"},
      {[](auto& o) { o.distractor_length = -1; }, "expected distractor_length >= 1, got -1"},
      {[](auto& o) { o.dash_length = 0; }, "expected dash_length >= 1, got 0"},
      {[](auto& o) { o.thickness = 0; }, "expected thickness >= 0.5, got 0"},
      {[](auto& o) { o.margin = 0; }, "expected margin >= 1, got 0"},
      {[](auto& o) { o.marker_radius = std::nan(""); }, "expected marker_radius >= 0.5, got nan"},
      {[](auto& o) { o.continuity = 0; }, "expected continuity >= 0.5, got 0"},
      {[](auto& o) { o.seed_distance = 0; }, "expected seed_distance >= 1, got 0"},
      {[](auto& o) { o.padding = -0.1; }, "expected padding >= 0, got -0.1"},
      {[](auto& o) { o.padding = 0.5; }, "padding 0.5 leaves no room in a window of 300 pixels"},
      {[](auto& o) { o.seed_border = 0.5; }, "seed_border 0.5 leaves no room in a window of 300 pixels"},
  };
  for (const auto& c : cases) {
    PathfinderOptions options;
    c.change(options);
    CHECK(contains(error_of([&] { Pathfinder generator(options); }), c.found));
  }
  PathfinderOptions crowded;
  crowded.size = 20;
  CHECK(
      contains(error_of([&] { pathfinder(crowded, 1, 1); }), "two contours of 14 dashes do not fit in a window of 40"));
  CHECK(contains(error_of([&] { pathfinder_batch(crowded, 1, 1, 0); }), "at least 1 sample, got 0"));
  CHECK(contains(error_of([&] { pathfinder_batch(crowded, 1, 1, 3); }), "do not fit"));
}

TEST_CASE("a data set written to the published folders reads back as the generator's samples") {
  const TemporaryFolder folder;
  const fs::path list = folder.path() / "list.txt";
  const Pathfinder generator(small_task());
  write_pathfinder_folder(folder.path(), list, generator, 3, 4, 5, 6);  // images 4 ... 8 in shards of 6
  std::ifstream lines(list);
  const std::string text{std::istreambuf_iterator<char>(lines), {}};
  CHECK(text ==
        "curv_contour_length_6/imgs/1/sample_4.png 0\n"
        "curv_contour_length_6/imgs/1/sample_5.png 0\n"
        "curv_contour_length_6/imgs/2/sample_0.png 0\n"
        "curv_contour_length_6/imgs/2/sample_1.png 0\n"
        "curv_contour_length_6/imgs/2/sample_2.png 0\n");
  const Image8 picture = read_png(folder.path() / "curv_contour_length_6/seg/2/sample_1.png");
  CHECK(picture.height == 96);
  CHECK(picture.width == 96);

  const PathfinderFolder data(folder.path(), list, 48);
  CHECK(data.size() == 5);
  for (Index i = 0; i < 5; ++i)
    CHECK(same_samples(data.sample(i), generator.sample(3, 4 + static_cast<std::uint64_t>(i))));
  CHECK(same_samples(data.batch(1, 3), generator.batch(3, 5, 3)));
  CHECK(PathfinderFolder(folder.path(), list, 30).sample(0).image.shape() == Shape{1, 30, 30});
  CHECK(contains(error_of([&] { data.sample(5); }), "below 5, got 5"));
  CHECK(contains(error_of([&] { data.batch(3, 3); }), "below 5, got 5"));
}

TEST_CASE("a data folder that is not in order is an error that names the file") {
  const TemporaryFolder folder;
  const fs::path list = folder.path() / "list.txt";
  const Pathfinder generator(small_task());
  write_pathfinder_folder(folder.path(), list, generator, 3, 0, 3);
  const fs::path labels = folder.path() / "curv_contour_length_6/seg/1";
  fs::remove(labels / "sample_0.png");
  write_png(labels / "sample_1.png", blank_image(96, 95));
  std::ofstream(labels / "sample_2.png") << "nonsense";
  const PathfinderFolder data(folder.path(), list, 48);
  CHECK(contains(error_of([&] { data.sample(0); }), "seg/1/sample_0.png: cannot be opened"));
  CHECK(contains(error_of([&] { data.sample(1); }), "sample_1.png: expected the image's size, 96 x 96, found 96 x 95"));
  CHECK(contains(error_of([&] { data.sample(2); }), "sample_2.png: expected a PNG file"));

  const auto open = [&](const std::string& text) {
    std::ofstream(list) << text;
    return error_of([&] { PathfinderFolder(folder.path(), list, 48); });
  };
  CHECK(contains(open(""), "list.txt: expected at least one image, found none"));
  CHECK(contains(open("a/imgs/b.png 0\na/imgs/c.png\n"), "line 2: expected 'path class', found 'a/imgs/c.png'"));
  CHECK(contains(open("a/pictures/b.png 0\n"), "expected a path with a folder imgs/, got 'a/pictures/b.png'"));
  CHECK(open("a/imgs/b.png 0\r\n\nimgs/c.png 1\n") == "no error");
  CHECK(contains(error_of([&] { PathfinderFolder(folder.path(), folder.path() / "none", 48); }),
                 "none: cannot be opened"));
  CHECK(contains(error_of([&] { PathfinderFolder(folder.path(), list, 0); }), "size of at least 1, got 0"));
  CHECK(contains(error_of([&] { write_pathfinder_folder(list, list, generator, 1, 0, 1); }), "list.txt"));
}
