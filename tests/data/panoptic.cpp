// Data sets with panoptic truth: drawn scenes, folders in COCO's format and with a mask for each object; changes of
// image and segments together; batches.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "errors.hpp"
#include "files.hpp"
#include "settle/data/panoptic_batches.hpp"
#include "settle/data/panoptic_folders.hpp"
#include "settle/data/panoptic_picture.hpp"
#include "settle/data/panoptic_scenes.hpp"
#include "settle/data/panoptic_training.hpp"
#include "settle/data/panoptic_transforms.hpp"
#include "temporary_folder.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

/// 2 x 3 pixels of value 10, 20, ... 60 in red, one more in green, two more in blue; segment 7 (a thing) has the first
/// two pixels of the first row, 9 (stuff) the second row, the rest is void.
PanopticSample small() {
  PanopticSample out{5, blank_image(2, 3, 3), {2, 3, {7, 7, 0, 9, 9, 9}}, {}};
  for (std::size_t k = 0; k < 18; ++k) out.image.pixels[k] = static_cast<std::uint8_t>(10 * (k / 3 + 1) + k % 3);
  out.segments = measured_segments(out.map, {{.id = 7, .category = 1}, {.id = 9, .category = 2}});
  return out;
}

std::vector<int> reds(const PanopticSample& sample) {
  std::vector<int> out;
  for (std::size_t k = 0; k < sample.image.pixels.size(); k += 3) {
    CHECK(sample.image.pixels[k + 1] == sample.image.pixels[k] + 1);
    out.push_back(sample.image.pixels[k]);
  }
  return out;
}

using Ids = std::vector<std::uint32_t>;

/// Boxes that are those of the map, in the order of the segments.
void check_boxes(const PanopticSample& sample) {
  const auto measured = measured_segments(sample.map, sample.segments);
  for (std::size_t k = 0; k < measured.size(); ++k) CHECK(sample.segments[k].box == measured[k].box);
}

Random stream(std::uint64_t k) { return Random(3, k); }

}  // namespace

TEST_CASE("the bilinear resize gives Pillow's values") {
  Image8 image = blank_image(4, 5);
  for (std::size_t k = 0; k < 20; ++k) image.pixels[k] = static_cast<std::uint8_t>((k * k * 37 + 11) % 256);
  const struct {
    Index height, width;
    std::vector<int> pixels;
  } cases[] = {
      {3, 4, {57, 81, 100, 112, 136, 111, 109, 132, 116, 116, 200, 99}},
      {6, 7, {11,  32,  80,  159, 108, 89, 91, 90, 70,  67,  96,  86,  107, 142, 161, 112, 72, 63,  77,  122, 176,
              134, 128, 142, 188, 134, 112, 111, 136, 100, 114, 214, 184, 130, 76, 144, 68, 67, 208, 219, 151, 56}},
      {4, 2, {63, 103, 90, 102, 151, 135, 108, 157}},
      {2, 9, {95, 85, 70, 87, 113, 99, 92, 119, 135, 140, 118, 80, 124, 188, 171, 150, 114, 92}}};
  for (const auto& c : cases) {
    const Image8 resized = resize_image(image, c.height, c.width, Filter::bilinear);
    CHECK(std::vector<int>(resized.pixels.begin(), resized.pixels.end()) == c.pixels);
  }
}

TEST_CASE("the shorter side of an image decides its size, as in detectron2") {
  const auto extent = [](Index h, Index w, Index side) { return short_side_extent({h, w}, side, 1333); };
  CHECK(extent(427, 640, 800) == Extent{800, 1199});
  CHECK(extent(360, 640, 800) == Extent{750, 1333});
  CHECK(extent(480, 640, 800) == Extent{800, 1067});
  CHECK(extent(640, 480, 800) == Extent{1067, 800});
  CHECK(extent(200, 300, 800) == Extent{800, 1200});
  CHECK(extent(427, 640, 640) == Extent{640, 959});
  CHECK(extent(1, 5000, 800) == Extent{1, 1333});
  CHECK_THROWS_WITH(short_side_extent({0, 3}, 8, 8), "[resize] expected sides above 0, got 0 x 3 to 8, at most 8");
}

TEST_CASE("image, segments and boxes are moved together") {
  const PanopticSample from = small();
  const PanopticSample left = mirrored(from);
  CHECK(reds(left) == std::vector<int>{30, 20, 10, 60, 50, 40});
  CHECK(left.map.ids == Ids{0, 7, 7, 9, 9, 9});
  check_boxes(left);
  const PanopticSample quarter = turned(from);
  CHECK(quarter.image.height == 3);
  CHECK(reds(quarter) == std::vector<int>{30, 60, 20, 50, 10, 40});
  CHECK(quarter.map.ids == Ids{0, 9, 7, 9, 7, 9});
  check_boxes(quarter);
  const PanopticSample around = turned(turned(turned(quarter)));
  CHECK(around.map.ids == from.map.ids);
  CHECK(reds(around) == reds(from));

  const PanopticSample window = cropped(from, 0, 1, {2, 2});
  CHECK(reds(window) == std::vector<int>{20, 30, 50, 60});
  CHECK(window.map.ids == Ids{7, 0, 9, 9});
  CHECK(window.segments[0].area == 1);
  CHECK(window.segments[0].box == CocoBox{0, 0, 1, 1});
  const PanopticSample below = cropped(from, 1, 0, {1, 3});
  REQUIRE(below.segments.size() == 1);
  CHECK(below.segments[0].id == 9);
  CHECK_THROWS_WITH(cropped(from, 1, 0, {2, 2}),
                    "[crop] expected a window in the image of 2 x 3, got 2 x 2 at row 1, column 0");
}

TEST_CASE("a resized sample: the map from the nearest pixel, boxes by the ratio of the sides") {
  const PanopticSample larger = resized(small(), {4, 9});
  CHECK(larger.map.ids == Ids{7, 7, 7, 7, 7, 7, 0, 0, 0, 7, 7, 7, 7, 7, 7, 0, 0, 0,
                              9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9});
  CHECK(larger.segments[0].box == CocoBox{0, 0, 6, 2});
  CHECK(larger.segments[0].area == 12);
  CHECK(larger.image.pixels == resize_image(small().image, 4, 9, Filter::bilinear).pixels);
  const PanopticSample flat = resized(small(), {1, 3});  // the row under the centre is the second
  REQUIRE(flat.segments.size() == 1);
  CHECK(flat.segments[0].id == 9);
  CHECK(flat.segments[0].box == CocoBox{0, 0.5, 3, 0.5});
}

TEST_CASE("random changes follow their stream, and reach all eight positions") {
  const PanopticAugmentation turns{.turn = true};
  std::set<Ids> maps;
  for (std::uint64_t k = 0; k < 64; ++k) {
    Random random = stream(k), same = stream(k);
    const PanopticSample a = augmented(small(), turns, random), b = augmented(small(), turns, same);
    CHECK(a.map.ids == b.map.ids);
    CHECK(random.words() == same.words());
    check_boxes(a);
    maps.insert(a.map.ids);
  }
  CHECK(maps.size() == 8);

  std::set<Extent> extents;
  const PanopticAugmentation sizes{.short_sides = {2, 4, 6}, .long_side = 7, .mirror = false};
  for (std::uint64_t k = 0; k < 32; ++k) {
    Random random = stream(k);
    const PanopticSample a = augmented(small(), sizes, random);
    extents.insert({a.map.height, a.map.width});
  }
  CHECK(extents == std::set<Extent>{{2, 3}, {4, 6}, {5, 7}});

  Random random = stream(0);
  const PanopticSample window = augmented(small(), {.crop = 2}, random);
  CHECK(window.map.ids.size() == 4);
}

TEST_CASE("colours: a factor about the middle, and a shift") {
  Image8 image = blank_image(1, 4);
  image.pixels = {0, 100, 128, 255};
  change_colours(image, 0.5, 0.1);
  CHECK(image.pixels == std::vector<std::uint8_t>{89, 139, 153, 217});  // 63.75 + v / 2 + 25.5
  change_colours(image, 1, 1);
  CHECK(image.pixels == std::vector<std::uint8_t>{255, 255, 255, 255});
}

TEST_CASE("nets count things by their ids and stuff by its place in the list") {
  const PanopticClasses classes({{9, "b", "", true, {}}, {7, "sea", "", false, {}}, {2, "a", "", true, {}},
                                 {3, "sky", "", false, {}}});
  CHECK(classes.things() == std::vector<Index>{2, 9});
  CHECK(classes.stuff() == std::vector<Index>{7, 3});
  CHECK(classes.number(9) == 1);
  CHECK(classes.number(3) == 2);
  CHECK(classes.is_thing(2));
  CHECK(!classes.is_thing(7));
  CHECK_THROWS_WITH(classes.number(1), "[panoptic_classes] expected one of 4 categories, got 1");
}

// --- scenes --------------------------------------------------------------------------------------

TEST_CASE("a drawn scene is a function of seed and number, and its truth is whole") {
  const PanopticScenes scenes({}, 5, 100, 40);
  CHECK(scenes.size() == 40);
  int patches = 0;
  std::set<Index> categories;
  for (Index i = 0; i < scenes.size(); ++i) {
    const PanopticSample scene = scenes.sample(i);
    CHECK(scene.image_id == 101 + i);
    CHECK(scene.image.pixels.size() == 3 * 96 * 96);
    CHECK(measured_segments(scene.map, scene.segments).size() == scene.segments.size());
    int things = 0;
    for (const Segment& segment : scene.segments) {
      categories.insert(segment.category);
      CHECK(!segment.crowd);
      things += segment.category <= 3;
    }
    CHECK(things <= 4);
    patches += std::count(scene.map.ids.begin(), scene.map.ids.end(), 0) > 0;
  }
  CHECK(categories == std::set<Index>{1, 2, 3, 4, 5, 6});
  CHECK(patches >= 6);
  CHECK(patches <= 24);
  const PanopticSample again = PanopticScenes({}, 5, 103, 1).sample(0);
  CHECK(again.image.pixels == scenes.sample(3).image.pixels);
  CHECK(again.map.ids == scenes.sample(3).map.ids);
  CHECK(PanopticScenes({}, 6, 103, 1).sample(0).image.pixels != again.image.pixels);
}

TEST_CASE("scenes with crowds, of other sizes, hard ones") {
  const PanopticScenes scenes({.size = 64, .hard = true, .crowds = 1, .void_patches = 0}, 1, 0, 10);
  for (Index i = 0; i < scenes.size(); ++i) {
    const PanopticSample scene = scenes.sample(i);
    CHECK(scene.map.height == 64);
    Index crowds = 0, least = 64 * 64;
    for (const Segment& segment : scene.segments) {
      crowds += segment.crowd;
      if (segment.category <= 3) least = std::min(least, segment.area);
    }
    CHECK(crowds <= 1);
    CHECK(least * 96 * 96 >= 40 * 64 * 64);
  }
  CHECK_THROWS_AS(PanopticScenes({.size = 8}, 1, 0, 1), Error);
}

TEST_CASE("a cached data set makes each sample once, while there is room") {
  struct Counted {
    std::shared_ptr<std::vector<Index>> made = std::make_shared<std::vector<Index>>();
    Index size() const { return 3; }
    std::vector<Category> categories() const { return {{1, "a", "", true, {}}}; }
    Extent extent(Index) const { return {2, 3}; }
    PanopticSample sample(Index i) const {
      made->push_back(i);
      return small();
    }
  };
  const Counted counted;
  const PanopticData kept = cached(counted, 2 * (18 + 24));
  for (int round = 0; round < 2; ++round)
    for (Index i = 0; i < 3; ++i) CHECK(kept.sample(i).map.ids == small().map.ids);
  CHECK(*counted.made == std::vector<Index>{0, 1, 2, 2});
  CHECK(kept.extent(0) == Extent{2, 3});
  CHECK(kept.categories().size() == 1);
  CHECK_THROWS_WITH(kept.sample(3), "[panoptic_data] expected a sample number below 3, got 3");
}

// --- folders -------------------------------------------------------------------------------------

TEST_CASE("a folder in COCO's format") {
  const TemporaryFolder folder;
  const fs::path root = folder.path();
  fs::create_directories(root / "images");
  const PanopticScenes scenes({.crowds = 0.5}, 2, 0, 4);
  {
    CocoPanopticWriter writer(root / "truth.json", root / "maps", scenes.categories());
    for (Index i = 0; i < 4; ++i) {
      PanopticSample scene = scenes.sample(i);
      const std::string name = std::to_string(i);
      write_png(root / "images" / (name + ".png"), scene.image);
      if (i == 3)  // no things
        for (Segment& segment : scene.segments) segment.category = 4 + segment.id % 2;
      writer.add({scene.image_id, name + ".png", 96, 96, ""}, scene.map, scene.segments);
    }
    writer.finish();
  }
  const CocoPanopticFolder data(root / "truth.json", root / "images", root / "maps");
  REQUIRE(data.size() == 4);
  CHECK(data.extent(1) == Extent{96, 96});
  for (Index i = 0; i < 3; ++i) {
    const PanopticSample read = data.sample(i), made = scenes.sample(i);
    CHECK(read.image_id == made.image_id);
    CHECK(read.image.pixels == made.image.pixels);
    CHECK(read.map.ids == made.map.ids);
    REQUIRE(read.segments.size() == made.segments.size());
    for (std::size_t k = 0; k < made.segments.size(); ++k) {
      CHECK(read.segments[k].category == made.segments[k].category);
      CHECK(read.segments[k].crowd == made.segments[k].crowd);
      CHECK(read.segments[k].box == made.segments[k].box);
    }
  }
  CHECK(CocoPanopticFolder(root / "truth.json", root / "images", root / "maps", true).size() == 3);
  fs::remove(root / "images" / "1.png");
  CHECK_THROWS_AS(data.sample(1), DataError);
  CHECK(contains(error_of([&] { data.sample(1); }), "image 2 (1.png)"));
  CHECK_THROWS_AS(CocoPanopticFolder(root / "none.json", root, root), DataError);
}

TEST_CASE("a folder with a mask for each object, in both layouts") {
  const TemporaryFolder folder;
  const auto mask = [](std::vector<std::uint8_t> values) {
    Image8 out = blank_image(2, 3);
    out.pixels = std::move(values);
    return out;
  };
  for (const bool together : {true, false}) {
    const fs::path root = folder.path() / (together ? "together" : "apart");
    for (const char* name : {"10", "9"}) {
      const fs::path images = together ? root / "images" : root / name / "images",
                     masks = together ? root / "masks" / name : root / name / "masks";
      fs::create_directories(images), fs::create_directories(masks);
      Image8 image = small().image;
      image.pixels[0] = static_cast<std::uint8_t>(std::atoi(name));
      write_png(images / (std::string(name) + ".png"), image);
      write_png(masks / "b.png", mask({255, 255, 0, 0, 0, 0}));
      write_png(masks / "c.png", mask({0, 128, 255, 127, 0, 0}));
      write_png(masks / "a.png", mask({255, 0, 0, 0, 0, 0}));  // hidden by b
    }
    const ObjectMaskFolder data(root, "cell");
    REQUIRE(data.size() == 2);
    CHECK(data.categories()[0].name == "cell");
    CHECK(data.sample(0).image.pixels[0] == 9);
    const PanopticSample read = data.sample(1);
    CHECK(read.image.pixels[0] == 10);
    CHECK(read.map.ids == Ids{3, 4, 4, 1, 1, 1});
    REQUIRE(read.segments.size() == 3);
    CHECK(read.segments[0].category == 2);
    CHECK(read.segments[1].category == 1);
    CHECK(read.segments[2].box == CocoBox{1, 0, 2, 1});

    const fs::path masks = together ? root / "masks" / "9" : root / "9" / "masks";
    write_png(masks / "d.png", blank_image(3, 3));
    CHECK(contains(error_of([&] { data.sample(0); }), "d.png: expected the image's size, 2 x 3, found 3 x 3"));
    fs::remove_all(masks);
    CHECK(contains(error_of([&] { ObjectMaskFolder{root}; }), "9.png: there is no folder of masks " + masks.string()));
  }
  CHECK_THROWS_AS(ObjectMaskFolder(folder.path() / "none"), DataError);
  fs::create_directories(folder.path() / "empty");
  CHECK(contains(error_of([&] { ObjectMaskFolder(folder.path() / "empty"); }), "expected images with masks"));
}

// --- batches -------------------------------------------------------------------------------------

namespace {

/// Image i is of value i, and broader than high where i is a multiple of 3.
struct Shapes {
  Index count = 10;
  Index size() const { return count; }
  std::vector<Category> categories() const { return {{1, "a", "", true, {}}}; }
  Extent extent(Index i) const { return i % 3 == 0 ? Extent{2, 3} : Extent{3, 2}; }
  PanopticSample sample(Index i) const {
    const auto [h, w] = extent(i);
    return {i, blank_image(h, w, 3, static_cast<std::uint8_t>(i)), void_map(h, w), {}};
  }
};

std::vector<Index> ids(const PanopticBatch& batch) {
  std::vector<Index> out;
  for (const PanopticSample& sample : batch.samples) out.push_back(sample.image_id);
  return out;
}

}  // namespace

TEST_CASE("batches hold images of like shape, each once in an epoch") {
  const PanopticBatches batches(Shapes{}, {.batch = 3, .seed = 4, .augmentation = {.mirror = false}});
  CHECK(batches.batches_per_epoch() == 4);  // of 4 and 6 images: 1 + 2, and one left over
  std::set<std::vector<Index>> orders;
  for (Index epoch = 0; epoch < 3; ++epoch) {
    std::vector<Index> seen;
    for (Index k = 4 * epoch; k < 4 * epoch + 4; ++k) {
      const PanopticBatch batch = batches.batch(k);
      CHECK(batch.number == k);
      CHECK(batch.samples.size() == (k % 4 == 3 ? 1 : 3));
      for (const PanopticSample& sample : batch.samples)
        CHECK(sample.map.height == batch.samples[0].map.height);
      for (const Index i : ids(batch)) seen.push_back(i);
    }
    orders.insert(seen);
    std::sort(seen.begin(), seen.end());
    std::vector<Index> all(10);
    std::iota(all.begin(), all.end(), Index{0});
    CHECK(seen == all);
  }
  CHECK(orders.size() == 3);
  // A training that goes on asks another object for the same batches.
  const PanopticBatches again(Shapes{}, {.batch = 3, .seed = 4, .augmentation = {.mirror = false}});
  CHECK(ids(again.batch(9)) == ids(batches.batch(9)));
  const PanopticBatches plain(Shapes{}, {.batch = 4, .shuffle = false, .group_aspects = false});
  CHECK(plain.batches_per_epoch() == 3);
  CHECK(ids(plain.batch(4)) == std::vector<Index>{4, 5, 6, 7});
  CHECK(ids(plain.batch(5)) == std::vector<Index>{8, 9});
  CHECK_THROWS_AS(PanopticBatches(Shapes{0}, {}), Error);
}

TEST_CASE("a batch's random changes are those of seed, epoch and image") {
  const PanopticBatchOptions options{.batch = 2, .seed = 8, .augmentation = {.turn = true, .brightness = 0.2}};
  const PanopticScenes scenes({.size = 32}, 1, 0, 6);
  const PanopticBatches one(scenes, options), other(scenes, options);
  for (const Index k : {Index{0}, Index{5}, Index{2}}) {
    const PanopticBatch a = one.batch(k), b = other.batch(k);
    REQUIRE(ids(a) == ids(b));
    for (std::size_t n = 0; n < a.samples.size(); ++n) {
      CHECK(a.samples[n].image.pixels == b.samples[n].image.pixels);
      CHECK(a.samples[n].map.ids == b.samples[n].map.ids);
    }
  }
}

TEST_CASE("what a net is told of a sample") {
  PanopticSample sample = small();
  sample.map.ids = {7, 7, 8, 9, 9, 0};
  sample.segments = measured_segments(sample.map, {{.id = 9, .category = 20},
                                                   {.id = 7, .category = 10},
                                                   {.id = 8, .category = 5, .crowd = true}});
  const PanopticClasses classes({{5, "a", "", true, {}}, {10, "b", "", true, {}}, {4, "sea", "", false, {}},
                                 {20, "sky", "", false, {}}});
  const PanopticTruth truth = truth_of(sample, classes);
  CHECK(truth.classes == std::vector<Index>{1, 0});
  CHECK(truth.crowd == std::vector<bool>{false, true});
  CHECK(truth.boxes.shape() == Shape{2, 4});
  const auto corners = truth.boxes.values();
  CHECK(std::vector<double>(corners.begin(), corners.end()) == std::vector<double>{0, 0, 2, 1, 2, 0, 3, 1});
  CHECK(truth.masks[0].values == std::vector<std::uint8_t>{1, 1, 0, 0, 0, 0});
  CHECK(truth.masks[1].values == std::vector<std::uint8_t>{0, 0, 1, 0, 0, 0});
  const auto labels = truth.semantic.values();
  CHECK(std::vector<float>(labels.begin(), labels.end()) == std::vector<float>{0, 0, 0, 2, 2, 255});
  require_truth(truth, 2, 3, "test");

  const PanopticTrainingBatch batch = training_batch({4, {sample, sample}}, classes);
  CHECK(batch.number == 4);
  REQUIRE(batch.images.size() == 2);
  CHECK(batch.images[0].shape() == Shape{3, 2, 3});
  CHECK(batch.images[0].data()[0] == 10);
  CHECK(batch.images[0].data()[5] == 60);
  CHECK(batch.images[0].data()[6] == 11);
  // Nothing but void.
  sample.map = void_map(2, 3), sample.segments.clear();
  const PanopticTruth none = truth_of(sample, classes);
  CHECK(none.boxes.shape() == Shape{0, 4});
  CHECK(none.semantic.data()[0] == 255);
  require_truth(none, 2, 3, "test");
}

// --- pictures ------------------------------------------------------------------------------------

TEST_CASE("a picture of segments: things tinted and outlined, stuff in its colour, void as it is") {
  const Image8 grey = blank_image(3, 4, 3, 100);
  const SegmentMap map{3, 4, {1, 1, 1, 0, 1, 1, 1, 2, 1, 1, 1, 2}};
  const std::vector<Category> categories{{1, "a", "", true, {}}, {2, "sea", "", false, {0, 0, 200}}};
  const std::vector<Segment> segments{{.id = 1, .category = 1}, {.id = 2, .category = 2}};
  const Image8 plain = panoptic_picture(grey, map, segments, categories, {.tint = 0.5, .least_side = 1});
  const auto pixel = [](const Image8& image, Index y, Index x) {
    const auto* p = image.pixels.data() + 3 * (y * image.width + x);
    return Colour{p[0], p[1], p[2]};
  };
  const Colour edge = detail::hue_colour(0, 1);
  CHECK(edge == Colour{255, 38, 38});
  CHECK(pixel(plain, 0, 0) == edge);
  CHECK(pixel(plain, 1, 2) == edge);
  CHECK(pixel(plain, 1, 1) == Colour{178, 69, 69});
  CHECK(pixel(plain, 0, 3) == Colour{100, 100, 100});
  CHECK(pixel(plain, 1, 3) == Colour{50, 50, 150});
  const Image8 large = panoptic_picture(grey, map, segments, categories, {.least_side = 12});
  CHECK(large.height == 9);
  CHECK(large.width == 12);
  CHECK(pixel(large, 1, 1) != edge);
  CHECK(pixel(large, 8, 8) == edge);
  const Image8 row = side_by_side({plain, large}, 2);
  CHECK(row.height == 9);
  CHECK(row.width == 18);
  CHECK(pixel(row, 0, 4) == Colour{255, 255, 255});
  CHECK(pixel(row, 8, 17) == pixel(large, 8, 11));
  CHECK(pixel(row, 5, 0) == Colour{255, 255, 255});
  CHECK_THROWS_AS(panoptic_picture(grey, map, {}, categories), Error);
  CHECK_THROWS_AS(panoptic_picture(blank_image(2, 4, 3), map, segments, categories), Error);
}
