#include "errors.hpp"
#include "settle/data/pathfinder_folder.hpp"
#include "temporary_folder.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

using namespace settle;

namespace {

/// How many of the first `count` labels are empty. An Error ends it, and says so in `complaint`.
Index empty_labels(const PathfinderOptions& options, std::uint64_t count, std::string& complaint) {
  Index empty = 0;
  complaint = error_of([&] {
    const Pathfinder generator(options);
    for (std::uint64_t index = 0; index < count; ++index) {
      const PathfinderSample sample = generator.sample(1, index);
      const auto& values = sample.target.values();
      empty += std::none_of(values.begin(), values.end(), [](float v) { return v == 1.f; });
    }
  });
  return empty;
}

double seconds_of(const auto& action) {
  const auto start = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

TEST_CASE("no label is empty") {
  std::string complaint;
  // The second end, 300 pixels away, used to lie off the canvas.
  CHECK(empty_labels({.contour_length = 1, .distractors = 0, .seed_distance = 300}, 3, complaint) == 0);
  CHECK(complaint == "no error");
  CHECK(empty_labels({.size = 40, .contour_length = 1, .distractors = 0, .seed_distance = 70}, 40, complaint) == 0);
  CHECK(complaint == "no error");
  CHECK(empty_labels({.size = 32, .contour_length = 2, .distractors = 2, .padding = 0, .seed_border = 0}, 40,
                     complaint) == 0);
  CHECK(complaint == "no error");
  // Strokes at the least thickness, on the window's own scale.
  CHECK(empty_labels(
            {.size = 60, .window = 60, .contour_length = 2, .distractors = 0, .thickness = 0.5, .marker_radius = 0.5},
            20, complaint) == 0);
}

TEST_CASE("what would vanish in a smaller label is refused") {
  std::string complaint;
  for (const Index size : {1, 8, 16, 24}) {
    CAPTURE(size);
    CHECK(empty_labels({.size = size, .window = 300}, 40, complaint) == 0);
    CHECK(contains(complaint, "dashes of 5 x 1.5 pixels in a window of 300 leave nothing in a label of"));
  }
  CHECK(empty_labels({.size = 20, .window = 2000, .dash_length = 20, .thickness = 8, .margin = 10}, 40, complaint) ==
        0);
  CHECK(contains(complaint, "dashes of 20 x 8 pixels in a window of 2000 leave nothing"));

  const Pathfinder generator({.size = 48, .contour_length = 6, .distractors = 2});
  const PathfinderPictures pictures = generator.draw(generator.scene(1, 1));
  CHECK(contains(error_of([&] { to_sample(pictures, 2); }), "nothing is left of a label of 96 x 96 pixels at 2 x 2"));
  PathfinderPictures blank = pictures;
  blank.target = blank_image(96, 96);  // a label that shows nothing at any size is the caller's own
  CHECK(error_of([&] { to_sample(blank, 2); }) == "no error");
  const TemporaryFolder folder;
  write_pathfinder_folder(folder.path(), folder.path() / "list", generator, 1, 0, 1);
  CHECK(contains(error_of([&] { PathfinderFolder(folder.path(), folder.path() / "list", 2).sample(0); }),
                 "nothing is left of a label of 96 x 96 pixels"));
}

TEST_CASE("without a border too, dashes and discs are on the canvas") {
  for (const Index contour_length : {1, 2, 6})
    for (const double radius : {3., 9.}) {
      CAPTURE(contour_length);
      CAPTURE(radius);
      PathfinderOptions options{.size = 40, .contour_length = contour_length, .distractors = 6, .seed_distance = 30};
      options.marker_radius = radius;
      options.padding = options.seed_border = 0;
      const Pathfinder generator(options);
      double nearest = 1e9, nearest_disc = 1e9;
      const auto to_border = [](Pixel p) { return static_cast<double>(std::min({p.x, p.y, 79 - p.x, 79 - p.y})); };
      for (std::uint64_t index = 0; index < 40; ++index) {
        const PathfinderScene scene = generator.scene(7, index);
        nearest_disc = std::min(nearest_disc, to_border(scene.marker) - radius);
        std::vector<std::vector<Dash>> contours{scene.target, scene.rival};
        contours.insert(contours.end(), scene.distractors.begin(), scene.distractors.end());
        for (const auto& contour : contours)
          for (const Dash& dash : contour) nearest = std::min(nearest, to_border(dash.head));
      }
      CHECK(nearest_disc >= 0);
      CHECK(nearest >= 2);  // the margin, less soft edges
    }
}

TEST_CASE("impossible geometries are refused at once, with the reason") {
  const struct {
    PathfinderOptions options;
    std::string reason;
  } cases[] = {
      {{.dash_length = 500}, "expected dash_length <= 128, got 500"},
      {{.margin = 500}, "expected margin <= 64, got 500"},
      {{.dash_length = std::numeric_limits<Index>::max()}, "expected dash_length <= 128"},
      {{.margin = std::numeric_limits<Index>::max()}, "expected margin <= 64"},
      {{.size = 100000}, "expected size <= 4096, got 100000"},
      {{.size = std::numeric_limits<Index>::max()}, "expected size <= 4096"},
      {{.window = 1 << 20}, "expected window <= 8192"},
      {{.contour_length = std::numeric_limits<Index>::max()}, "expected contour_length <= 1000000"},
      {{.distractors = std::numeric_limits<Index>::max()}, "expected distractors <= 1000000"},
      {{.distractor_length = std::numeric_limits<Index>::max()}, "expected distractor_length <= 1000000"},
      {{.thickness = 1e9}, "expected thickness <= 64, got 1e+09"},
      {{.thickness = std::numeric_limits<double>::infinity()}, "expected thickness <= 64, got inf"},
      {{.marker_radius = 1e9}, "expected marker_radius <= 128, got 1e+09"},
      {{.continuity = std::numeric_limits<double>::infinity()}, "expected continuity <= 90, got inf"},
      {{.seed_distance = std::numeric_limits<Index>::max()}, "expected seed_distance <= 16384"},
      {{.padding = std::numeric_limits<double>::infinity()}, "expected padding <= 0.5, got inf"},
      {{.seed_border = 1e300}, "expected seed_border <= 0.5, got 1e+300"},
      {{.size = 50, .dash_length = 128}, "a dash with its margin takes a square of about 95.57"},
      {{.size = 1}, "two contours of 14 dashes do not fit in a window of 2 pixels: a dash with its margin takes"},
      {{.margin = 64}, "margins of 64 do not go between ends 27 apart"},
      {{.margin = 20}, "margins of 20 do not go between ends 27 apart"},
      {{.size = 600, .dash_length = 128, .continuity = 90}, "12 dashes that turn by at most 1 degrees span"},
      {{.dash_length = 100, .continuity = 3.6}, "dashes that turn by at most 25 degrees span"},
      {{.seed_distance = 320}, "ends 320 apart, of which both can lie inside, are at most 313.955 apart"},
      {{.seed_distance = 16384}, "ends 16384 apart"},
      {{.size = 100, .marker_radius = 120}, "there is no place for the first end, and the disc of radius 120"},
      {{.contour_length = 1000000}, "dashes do not fit in a window of 300 pixels: they cover at least"},
      {{.contour_length = 3000, .distractors = 0}, "they cover at least"},
  };
  for (const auto& c : cases) {
    CAPTURE(c.reason);
    std::string complaint;
    CHECK(seconds_of([&] { complaint = error_of([&] { Pathfinder generator(c.options); }); }) < 10);
    INFO(complaint);
    CHECK(contains(complaint, c.reason));
  }
}

TEST_CASE("what is too crowded for any draw ends, too") {
  std::string complaint;
  const auto ends = [&](const PathfinderOptions& options) {
    return seconds_of([&] { CHECK(empty_labels(options, 1, complaint) == 0); });
  };
  CHECK(ends({.size = 40, .contour_length = 60, .distractors = 0}) < 60);
  CHECK(contains(complaint, "starts ended in dead ends"));
  CHECK(ends({.size = 40, .contour_length = 4, .distractors = 1000000, .seed_border = 0.1}) < 60);
  CHECK(complaint == "no error");
  CHECK(ends({.size = 40, .contour_length = 4, .distractors = 3, .distractor_length = 1000000}) < 60);
  CHECK(complaint == "no error");
}
