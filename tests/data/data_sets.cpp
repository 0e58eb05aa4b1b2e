// Data sets, their loader, transforms of image and mask together, folders of images.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "errors.hpp"
#include "files.hpp"
#include "settle/data/image_folder.hpp"
#include "settle/data/transforms.hpp"
#include "temporary_folder.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

/// Sample i is an image of 2 x 2 pixels of value i.
struct Numbers {
  Index count = 10;
  Index size() const { return count; }
  Sample sample(Index i) const {
    return {Tensor<float>({1, 2, 2}, static_cast<float>(i)), Tensor<float>(Shape{2, 2}, 0.f), {}};
  }
};

/// Counts the samples that were made.
struct Counted : Numbers {
  std::atomic<int>* made = nullptr;
  Sample sample(Index i) const {
    ++*made;
    return Numbers::sample(i);
  }
};

/// Adds a random number to the image.
void add_noise(Sample& sample, Random& random) {
  float* values = sample.image.mutable_data();
  const auto noise = static_cast<float>(random.uniform(0, 0.5));
  for (Index k = 0; k < sample.image.size(); ++k) values[k] += noise;
}

/// The first values of each sample of some batches.
std::vector<std::vector<float>> taken(const LoaderOptions& options, Index count, Index batches, Index first = 0) {
  Loader<> loader(Numbers{count}, options, first);
  std::vector<std::vector<float>> out;
  for (Index k = 0; k < batches; ++k) {
    const Batch batch = loader.next();
    out.emplace_back();
    for (Index n = 0; n < batch.image.shape(0); ++n) out.back().push_back(batch.image.data()[4 * n]);
  }
  return out;
}

std::vector<float> joined(const std::vector<std::vector<float>>& parts) {
  std::vector<float> out;
  for (const auto& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

/// 2 x 3 pixels 0 ... 5, with the classes 10 ... 15, none ignored.
Sample small() {
  std::vector<float> image(6), target(6);
  std::iota(image.begin(), image.end(), 0.f), std::iota(target.begin(), target.end(), 10.f);
  return {Tensor<float>({1, 2, 3}, image), Tensor<float>({2, 3}, target), {}};
}

std::vector<float> numbers(const Tensor<float>& x) { return {x.values().begin(), x.values().end()}; }

Sample changed(Sample sample, const Transform& transform, std::uint64_t stream = 0) {
  Random random(1, stream);
  transform(sample, random);
  return sample;
}

}  // namespace

TEST_CASE("an epoch's order is a permutation, another in each epoch and for each seed") {
  for (const Index count : {Index{0}, Index{1}, Index{2}, Index{17}}) {
    auto order = permutation(count, 3, 5);
    CHECK(order == permutation(count, 3, 5));
    std::sort(order.begin(), order.end());
    std::vector<Index> all(static_cast<std::size_t>(count));
    std::iota(all.begin(), all.end(), 0);
    CHECK(order == all);
  }
  CHECK(permutation(17, 3, 5) != permutation(17, 3, 6));
  CHECK(permutation(17, 3, 5) != permutation(17, 4, 5));
  // All six orders of three are about equally frequent.
  std::map<std::vector<Index>, int> counts;
  for (Index epoch = 0; epoch < 6000; ++epoch) ++counts[permutation(3, 1, epoch)];
  CHECK(counts.size() == 6);
  for (const auto& [order, count] : counts) CHECK(std::abs(count - 1000) < 150);
}

TEST_CASE("batches come in the same order, with the same noise, for any number of workers, and from any start") {
  LoaderOptions options{.batch = 4, .seed = 5, .transforms = {add_noise}};
  const auto expected = taken(options, 10, 12);
  for (const int workers : {2, 3, 7}) {
    options.workers = workers;
    CHECK(taken(options, 10, 12) == expected);
  }
  options.workers = 3;
  const std::vector<std::vector<float>> rest(expected.begin() + 7, expected.end());
  CHECK(taken(options, 10, 5, 7) == rest);
  CHECK(expected[0] != expected[5]);  // the next epoch's noise and order are others
}

TEST_CASE("each epoch has every sample once, across batches' borders, for all shards together") {
  for (const Index count : {1, 2, 5, 10, 13})
    for (const Index batch : {1, 2, 3, 7})
      for (const Index shards : {1, 2, 3}) {
        const Index batches = (3 * count + batch - 1) / batch;
        std::vector<std::vector<std::vector<float>>> parts;
        for (Index shard = 0; shard < shards; ++shard)
          if (shards <= batch)  // a shard of an endless loader may not be empty
            parts.push_back(taken({.batch = batch, .seed = 2, .shard = shard, .shards = shards}, count, batches));
        if (parts.empty()) continue;
        std::vector<float> all;
        for (Index k = 0; k < batches; ++k)
          for (const auto& part : parts)
            all.insert(all.end(), part[static_cast<std::size_t>(k)].begin(), part[static_cast<std::size_t>(k)].end());
        for (Index epoch = 0; epoch < 3; ++epoch) {
          const auto begin = all.begin() + epoch * count;
          CHECK(std::set<float>(begin, begin + count).size() == static_cast<std::size_t>(count));
        }
        if (shards > 1) CHECK(all == joined(taken({.batch = batch, .seed = 2}, count, batches)));
      }
}

TEST_CASE("a loader of one epoch ends with what is left") {
  Loader<> loader(Numbers{10}, {.batch = 4, .shuffle = false, .endless = false, .workers = 2});
  CHECK(loader.batches() == 3);
  std::vector<float> seen;
  while (!loader.done()) {
    const Batch batch = loader.next();
    for (Index n = 0; n < batch.image.shape(0); ++n) seen.push_back(batch.image.data()[4 * n]);
  }
  CHECK(seen == std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  CHECK_THROWS_WITH(loader.next(), "[loader] there are only 3 batches");
}

TEST_CASE("a sample that cannot be had is told where its batch is asked for, as a fault of the data") {
  struct Broken : Numbers {
    Sample sample(Index i) const {
      require(i != 7, "test", "sample 7 is broken");
      return Numbers::sample(i);
    }
  };
  Loader<> loader(Broken{}, {.batch = 2, .shuffle = false, .workers = 3});
  for (int k = 0; k < 3; ++k) loader.next();
  CHECK_THROWS_AS(loader.next(), DataError);
  CHECK_THROWS_WITH(loader.next(), "[test] sample 7 is broken");
}

TEST_CASE("loaders of impossible options are errors") {
  const auto refusal = [](const LoaderOptions& options, Index count) {
    return error_of([&] { Loader<>(Numbers{count}, options); });
  };
  CHECK(refusal({.batch = 0}, 3) == "[loader] expected batches of at least 1, got 0");
  CHECK(refusal({}, 0) == "[loader] expected at least 1 sample, got a data set of 0");
  CHECK(refusal({.shard = 2, .shards = 2}, 3) == "[loader] expected a shard below 2, got 2");
  CHECK(refusal({.workers = 0}, 3) == "[loader] expected at least 1 worker, got 0");
}

TEST_CASE("workers make no more batches ahead than may wait") {
  std::atomic<int> made = 0;
  Counted data;
  data.made = &made;
  Loader<> loader(data, {.batch = 1, .workers = 2, .ahead = 3});
  for (int k = 1; k <= 50; ++k) {
    loader.next();
    CHECK(made <= k + 3);
  }
}

TEST_CASE("samples are kept once made, as far as there is room") {
  std::atomic<int> made = 0;
  Counted data;
  data.made = &made;
  const DataSet kept = cached(data, 100);  // each has 32 bytes: three of them
  for (int round = 0; round < 3; ++round)
    for (Index i = 0; i < 10; ++i) CHECK(kept.sample(i).image.data()[0] == static_cast<float>(i));
  CHECK(made == 10 + 7 + 7);
  Sample first = kept.sample(0);
  first.image.mutable_data()[0] = 99;
  CHECK(kept.sample(0).image.data()[0] == 0);
}

TEST_CASE("parts of a data set") {
  const DataSet all = Numbers{10};
  CHECK(all.range(7, 3).size() == 3);
  CHECK(all.range(7, 3).sample(2).image.data()[0] == 9);
  CHECK(all.subset({4, 2}).sample(1).image.data()[0] == 2);
  CHECK_THROWS_AS(all.range(8, 3), Error);
  CHECK_THROWS_AS(all.subset({10}), Error);
  CHECK_THROWS_AS(all.sample(10), Error);
}

TEST_CASE("samples of different shapes make no batch") {
  const Sample one = small();
  CHECK(contains(error_of([&] {
                   stack({one, changed(one, transforms::rotate90(1))});
                 }),
                 "expected images of one shape, (1, 2, 3), got (1, 3, 2) too: crop, pad or resize"));
  CHECK(stack({one, one}).image.shape() == Shape{2, 1, 2, 3});
  CHECK(stack({one, one}).ignore.size() == 0);
  const Batch mixed = stack({one, changed(one, transforms::rotate(0))});  // the second has an ignore mask
  CHECK(mixed.ignore.shape() == Shape{2, 2, 3});
}

TEST_CASE("image and target move together: flips, turns by quarters, crops, borders") {
  const auto check = [](const Sample& sample, const Shape& shape, const std::vector<float>& image) {
    CHECK(sample.image.shape() == Shape{1, shape[0], shape[1]});
    CHECK(sample.target.shape() == shape);
    CHECK(numbers(sample.image) == image);
    for (Index k = 0; k < sample.target.size(); ++k) CHECK(sample.target.data()[k] == sample.image.data()[k] + 10);
  };
  // numpy.rot90
  check(changed(small(), transforms::rotate90(1)), {3, 2}, {2, 5, 1, 4, 0, 3});
  check(changed(small(), transforms::rotate90(2)), {2, 3}, {5, 4, 3, 2, 1, 0});
  check(changed(small(), transforms::rotate90(-1)), {3, 2}, {3, 0, 4, 1, 5, 2});
  check(changed(small(), transforms::rotate90(4)), {2, 3}, {0, 1, 2, 3, 4, 5});
  check(changed(small(), transforms::centre_crop(2, 1)), {2, 1}, {1, 4});
  CHECK_THROWS_WITH(changed(small(), transforms::random_crop(3, 3)),
                    "[crop] expected an image of at least 3 x 3, got 2 x 3");
  std::set<std::vector<float>> flips, crops, turns;
  for (std::uint64_t stream = 0; stream < 64; ++stream) {
    flips.insert(numbers(changed(small(), transforms::random_flip(), stream).image));
    const Sample crop = changed(small(), transforms::random_crop(1, 2), stream);
    check(crop, {1, 2}, numbers(crop.image));
    crops.insert(numbers(crop.image));
    turns.insert(numbers(changed(small(), transforms::random_rotate90(), stream).image));
  }
  CHECK(flips ==
        std::set<std::vector<float>>{{0, 1, 2, 3, 4, 5}, {2, 1, 0, 5, 4, 3}, {3, 4, 5, 0, 1, 2}, {5, 4, 3, 2, 1, 0}});
  CHECK(crops == std::set<std::vector<float>>{{0, 1}, {1, 2}, {3, 4}, {4, 5}});
  CHECK(turns.size() == 4);
  for (std::uint64_t stream = 0; stream < 16; ++stream)
    CHECK(numbers(changed(small(), transforms::random_flip(true, false), stream).image)[0] <= 2);

  const Sample padded = changed(small(), transforms::pad(4, 3));
  CHECK(numbers(padded.image) == std::vector<float>{0, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0});
  CHECK(numbers(padded.ignore) == std::vector<float>{1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1});
  CHECK(changed(small(), transforms::pad(1, 1)).ignore.size() == 0);
}

TEST_CASE("turns by an angle: quarters are exact, what comes from outside is ignored") {
  const Sample whole = changed(small(), transforms::rotate(0));
  CHECK(numbers(whole.image) == numbers(small().image));
  CHECK(numbers(whole.ignore) == std::vector<float>(6, 0.f));
  Sample square{
      Tensor<float>({1, 3, 3}, {0, 1, 2, 3, 4, 5, 6, 7, 8}), Tensor<float>({3, 3}, {0, 1, 2, 3, 4, 5, 6, 7, 8}), {}};
  const Sample quarter = changed(square, transforms::rotate(90));
  const std::vector<float> expected{2, 5, 8, 1, 4, 7, 0, 3, 6};
  for (std::size_t k = 0; k < 9; ++k) {
    CHECK(quarter.image.data()[k] == doctest::Approx(expected[k]).epsilon(1e-6));
    CHECK(quarter.target.data()[k] == expected[k]);
    CHECK(quarter.ignore.data()[k] == 0);
  }
  const Sample eighth = changed(square, transforms::rotate(45));
  CHECK(eighth.image.data()[4] == doctest::Approx(4));
  // The pixel right of the middle comes from (1 + sin 45, 1 + cos 45): 3.707 + 1.121
  const double s = std::sqrt(0.5);
  CHECK(eighth.image.data()[5] == doctest::Approx(4 + s + 3 * s).epsilon(1e-6));
  CHECK(eighth.ignore.data()[0] == 0);  // from 1.41 away: within the border's pixels
  Sample large{Tensor<float>({1, 9, 9}, 1.f), Tensor<float>(Shape{9, 9}, 1.f), {}};
  const Sample turned = changed(large, transforms::rotate(45));
  CHECK(turned.ignore.data()[0] == 1);
  CHECK(turned.ignore.data()[40] == 0);
  CHECK(turned.image.data()[0] == 1);
}

TEST_CASE("other sizes: the image by Pillow's filter, the masks from the nearest pixel") {
  Image8 picture = blank_image(9, 7);
  Random random(3);
  for (auto& value : picture.pixels) value = static_cast<std::uint8_t>(80 + random.below(96));
  Tensor<float> target({9, 7});
  for (Index k = 0; k < 63; ++k) target.mutable_data()[k] = static_cast<float>(k);
  for (const auto& [height, width] : {std::pair<Index, Index>{4, 3}, {18, 14}, {5, 20}}) {
    const Sample out = changed({to_tensor(picture), target, {}}, transforms::resize(height, width));
    const Image8 expected = resize_image(picture, height, width);
    double worst = 0;
    for (std::size_t k = 0; k < expected.pixels.size(); ++k) {
      const double value = std::clamp(255 * static_cast<double>(out.image.data()[k]), 0.0, 255.0);
      worst = std::max(worst, std::abs(value - expected.pixels[k]));
    }
    CHECK(worst < 1.6);  // Pillow rounds after each pass
    CHECK(out.target.shape() == Shape{height, width});
    CHECK(out.target.data()[0] == static_cast<float>((9 / height / 2) * 7 + 7 / width / 2));
  }
  const Sample twice = changed(small(), transforms::resize(4, 6));
  CHECK(numbers(twice.target) == std::vector<float>{10, 10, 11, 11, 12, 12, 10, 10, 11, 11, 12, 12,
                                                    13, 13, 14, 14, 15, 15, 13, 13, 14, 14, 15, 15});
  std::set<Index> heights;
  for (std::uint64_t stream = 0; stream < 200; ++stream) {
    const Sample scaled = changed({to_tensor(picture), target, {}}, transforms::random_scale(0.5, 2), stream);
    heights.insert(scaled.image.shape(-2));
    CHECK(std::abs(static_cast<double>(scaled.image.shape(-1)) / 7 - static_cast<double>(scaled.image.shape(-2)) / 9) <
          0.13);
  }
  CHECK(*heights.begin() == 5);
  CHECK(*heights.rbegin() == 18);
  CHECK(heights.size() > 10);
  CHECK_THROWS_AS(transforms::random_scale(0, 1), Error);
}

TEST_CASE("brightness, contrast and normalisation change the image alone") {
  const Sample varied = changed(small(), transforms::random_brightness_contrast(0.2, 0.5));
  const double slope = static_cast<double>(varied.image.data()[5] - varied.image.data()[0]) / 5;
  CHECK(std::abs(slope - 1) <= 0.5);
  CHECK(slope != doctest::Approx(1));
  double mean = 0;
  for (const float v : varied.image.values()) mean += static_cast<double>(v) / 6;
  CHECK(std::abs(mean - 2.5) <= 0.2);
  CHECK(numbers(varied.target) == numbers(small().target));
  const Sample same = changed(small(), transforms::random_brightness_contrast(0, 0));
  for (std::size_t k = 0; k < 6; ++k) CHECK(same.image.data()[k] == doctest::Approx(static_cast<double>(k)));

  Sample colour{Tensor<float>({3, 1, 2}, {1, 2, 3, 4, 5, 6}), Tensor<float>(Shape{1, 2}, 0.f), {}};
  CHECK(numbers(changed(colour, transforms::normalise({1, 2, 3}, {1, 2, 4})).image) ==
        std::vector<float>{0, 1, 0.5, 1, 0.5, 0.75});
  CHECK(numbers(changed(colour, transforms::normalise({1}, {2})).image) == std::vector<float>{0, 0.5, 1, 1.5, 2, 2.5});
  CHECK_THROWS_WITH(changed(colour, transforms::normalise({1, 2}, {1})),
                    "[normalise] expected 1 or 3 numbers for an image of 3 channels, got 2");
  CHECK_THROWS_AS(transforms::normalise({0}, {0}), Error);
}

// --- folders -------------------------------------------------------------------------------------

namespace {

/// A folder with images/ and labels/ of `count` grey pictures of 3 x 4 pixels: image i is of value 10 i, its mask 255
/// on the left half.
void make_folder(const fs::path& root, int count) {
  fs::create_directories(root / "images"), fs::create_directories(root / "labels");
  for (int i = 0; i < count; ++i) {
    Image8 mask = blank_image(3, 4);
    for (std::size_t k = 0; k < mask.pixels.size(); ++k) mask.pixels[k] = k % 4 < 2 ? 255 : 0;
    const std::string name = std::to_string(i) + ".png";
    write_png(root / "images" / name, blank_image(3, 4, 1, static_cast<std::uint8_t>(10 * i)));
    write_png(root / "labels" / name, mask);
  }
}

}  // namespace

TEST_CASE("a folder of images with a folder of masks is a data set, in the order of the names' numbers") {
  const TemporaryFolder folder;
  make_folder(folder.path(), 12);
  const ImageFolder data(folder.path());
  CHECK(data.size() == 12);
  CHECK(data.classes() == 2);
  for (Index i = 0; i < 12; ++i) {
    CHECK(data.path(i).stem() == std::to_string(i));
    CHECK(data.sample(i).image.data()[0] == static_cast<float>(10 * i) / 255.f);
  }
  CHECK(data.sample(0).image.shape() == Shape{1, 3, 4});
  CHECK(numbers(data.sample(0).target) == std::vector<float>{1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0});
  CHECK(data.sample(0).ignore.size() == 0);
  const ImageFolder turned(folder.path(), {.channels = 3, .classes = {"255", "0"}});
  CHECK(turned.sample(1).image.shape() == Shape{3, 3, 4});
  CHECK(numbers(turned.sample(1).target) == std::vector<float>{0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1});
  const ImageFolder ignoring(folder.path(), {.classes = {"0", "7"}, .ignore = "255"});
  CHECK(numbers(ignoring.sample(1).ignore) == std::vector<float>{1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0});
}

TEST_CASE("masks in colours") {
  const TemporaryFolder folder;
  make_folder(folder.path(), 1);
  Image8 mask = blank_image(3, 4, 3);
  for (std::size_t k = 0; k < 12; ++k) mask.pixels[3 * k + k % 3] = 255;
  write_png(folder.path() / "labels" / "0.png", mask);
  const ImageFolder data(folder.path(), {.classes = {"#00ff00", "#FF0000", "#0000ff"}});
  CHECK(data.classes() == 3);
  CHECK(numbers(data.sample(0).target) == std::vector<float>{1, 0, 2, 1, 0, 2, 1, 0, 2, 1, 0, 2});
  const ImageFolder fewer(folder.path(), {.classes = {"#00ff00", "#ff0000"}});
  CHECK(contains(error_of([&] { fewer.sample(0); }), "labels/0.png: row 0, column 2: the value 255 "));
}

TEST_CASE("what is wrong with a folder is told with the file's name") {
  const TemporaryFolder folder;
  const fs::path root = folder.path();
  const auto refusal = [&](const ImageFolderOptions& options = {}) {
    return error_of([&] { ImageFolder(root, options); });
  };
  CHECK(contains(refusal(), (root / "images").string() + ": cannot be opened: No such file"));
  fs::create_directories(root / "images");
  CHECK(contains(refusal(), "images: expected images (.png, .jpg), found none"));
  make_folder(root, 3);
  CHECK(refusal() == "no error");
  fs::remove(root / "labels" / "1.png");
  CHECK(contains(refusal(), "images/1.png: there is no mask of this name in " + (root / "labels").string()));
  fs::remove(root / "images" / "1.png"), fs::remove(root / "images" / "2.png");
  CHECK(contains(refusal(), "labels/2.png: there is no image of this name in"));
  CHECK_THROWS_AS(ImageFolder{root}, DataError);
  make_folder(root, 3);
  CHECK(contains(refusal({.classes = {"0", "256"}}), "expected a mask's value as a grey value, 0 to 255, or a colour"));
  CHECK(contains(refusal({.classes = {"0", "#ff"}}), "got '#ff'"));
  CHECK(contains(refusal({.classes = {"0", "0"}}), "is given for two classes"));
  CHECK(contains(refusal({.classes = {"0"}}), "expected at least 2 classes"));
  CHECK(contains(refusal({.classes = {"0", "#000000"}}), "expected colours, #rrggbb, for all classes, or for none"));
  CHECK(contains(refusal({.classes = {"0", "255"}, .ignore = "255"}), "is ignored and given for a class"));
  CHECK(contains(refusal({.channels = 2}), "1 or 3 channels, got 2"));
  write_png(root / "labels" / "2.png", blank_image(4, 4));
  CHECK(contains(error_of([&] { ImageFolder(root).sample(2); }),
                 "labels/2.png: expected the image's size, 3 x 4, found 4 x 4"));
  write_png(root / "labels" / "2.png", blank_image(3, 4, 1, 9));
  CHECK(contains(error_of([&] {
                   ImageFolder(root, {.classes = {"0", "255"}}).sample(2);
                 }),
                 "labels/2.png: row 0, column 0: the value 9 belongs to no class"));
}

TEST_CASE("a damaged file names itself, or is left out and counted") {
  const TemporaryFolder folder;
  const fs::path root = folder.path(), damaged = root / "images" / "1.png";
  make_folder(root, 3);
  const std::string bytes = bytes_of(damaged);
  write_bytes(damaged, bytes.substr(0, bytes.size() - 20));
  write_bytes(root / "images" / ".hidden.png", "not looked at");
  CHECK_THROWS_AS(ImageFolder(root).sample(1), DataError);
  CHECK(contains(error_of([&] { ImageFolder(root).sample(1); }), damaged.string() + ": damaged PNG"));
  const ImageFolder rest(root, {.on_corrupt = OnCorrupt::skip});
  CHECK(rest.size() == 2);
  CHECK(rest.path(1).stem() == "2");
  REQUIRE(rest.skipped().size() == 1);
  CHECK(contains(rest.skipped()[0], damaged.string()));
  for (const char* name : {"0.png", "2.png"}) write_bytes(root / "labels" / name, "x");
  CHECK(contains(error_of([&] { ImageFolder(root, {.on_corrupt = OnCorrupt::skip}); }), "no image can be read"));
}
