// Masks as runs and polygons, JPEG, and COCO's files of panoptic segments and instances.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "files.hpp"
#include "settle/core/random.hpp"
#include "settle/io/coco_instances.hpp"
#include "settle/io/coco_panoptic.hpp"
#include "temporary_folder.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

const fs::path pictures = fs::path(SETTLE_DATA_DIR) / "fixtures" / "pictures";

bool same(const Image8& a, const Image8& b) {
  return a.height == b.height && a.width == b.width && a.channels == b.channels && a.pixels == b.pixels;
}

using Counts = std::vector<std::uint32_t>;

/// A grey JPEG file in which each bit of each frequency has a scan of its own, which is allowed: 10 + 63 * 11 of them.
std::string jpeg_of_many_scans() {
  std::vector<jpeg_scan_info> scans;
  const auto add = [&](int frequency, int high, int low) {
    scans.push_back({1, {0, 0, 0, 0}, frequency, frequency, high, low});
  };
  for (int frequency = 0; frequency < 64; ++frequency) {
    add(frequency, 0, 10);
    for (int bit = 10; bit > 0; --bit) add(frequency, bit, bit - 1);
  }
  jpeg_compress_struct jpeg = {};
  jpeg_error_mgr errors = {};
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&jpeg, &bytes, &size);
  jpeg.image_width = jpeg.image_height = 8;
  jpeg.input_components = 1;
  jpeg.in_color_space = JCS_GRAYSCALE;
  jpeg_set_defaults(&jpeg);
  jpeg.scan_info = scans.data();
  jpeg.num_scans = static_cast<int>(scans.size());
  jpeg_start_compress(&jpeg, TRUE);
  for (int y = 0; y < 8; ++y) {
    JSAMPLE pixels[8] = {0, 40, 80, 120, 160, 200, 240, 255};
    JSAMPROW row = pixels;
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  const std::string out(reinterpret_cast<const char*>(bytes), size);
  std::free(bytes);
  return out;
}

Mask random_mask(Index height, Index width, double share, Random& random) {
  Mask mask = empty_mask(height, width);
  for (auto& value : mask.values) value = random.uniform() < share;
  return mask;
}

}  // namespace

// --- runs ----------------------------------------------------------------------------------------

TEST_CASE("runs as COCO's documentation and tests give them") {
  const struct {
    Rle rle;
    std::string text;
  } cases[] = {
      {{7, 1, {2, 3, 1, 1}}, "231N"}, {{7, 1, {0, 6, 1}}, "061"}, {{10, 10, {32, 2, 8, 2, 8, 2, 46}}, "P128000V1"},
      {{10, 10, {0, 100}}, "0T3"},    {{10, 10, {100}}, "T3"},    {{4, 4, {4, 12}}, "4<"}};
  for (const auto& c : cases) {
    CHECK(rle_text(c.rle) == c.text);
    CHECK(rle_of_text(c.text, c.rle.height, c.rle.width) == c.rle);
    CHECK(encode_rle(decode_rle(c.rle)) == c.rle);
  }
  CHECK(encode_rle({7, 1, {0, 0, 1, 1, 1, 0, 1}}).counts == Counts{2, 3, 1, 1});
  CHECK(encode_rle({7, 1, {1, 1, 1, 1, 1, 1, 0}}).counts == Counts{0, 6, 1});
  CHECK(encode_rle({2, 2, {0, 1, 1, 1}}).counts == Counts{1, 3});
  CHECK(rle_box({2, 2, {1, 3}}) == CocoBox{0, 0, 2, 2});
  CHECK(rle_box({10, 10, {32, 2, 8, 2, 8, 2, 46}}) == CocoBox{3, 2, 3, 2});
  CHECK(rle_area({10, 10, {0, 100}}) == 100);
  CHECK(rle_area({10, 10, {100}}) == 0);
  CHECK(rle_box({10, 10, {100}}) == CocoBox{});
}

TEST_CASE("texts of runs from panopticapi's sample file") {
  const struct {
    std::string text;
    Index height, width, area;
    CocoBox box;
    Counts counts;
  } cases[] = {
      {R"(^Pm23V;2M3N1N200O100000N5I\SP4)", 360, 640, 96, {264, 206, 11, 21}, {95246, 3,  358, 5,  355, 8,  353,   9,
                                                                               351,   11, 351, 11, 350, 12, 350,   12,
                                                                               350,   12, 350, 10, 355, 3,  131535}},
      {R"(b7\1P<VOi001O1O1O4L2N3LokV8)",
       427,
       640,
       153,
       {0, 242, 9, 44},
       {242, 44, 384, 18, 409, 18, 410, 17, 411, 16, 412, 15, 416, 11, 418, 9, 421, 5, 269604}},
      {R"(fWf42W=4M2N2N2KEWC<h<41O001O1O1N101N3N2Knn]3)", 427, 640, 175, {360, 116, 16, 17}, {}}};
  for (const auto& c : cases) {
    const Rle rle = rle_of_text(c.text, c.height, c.width);
    CHECK(rle_area(rle) == c.area);
    CHECK(rle_box(rle) == c.box);
    if (!c.counts.empty()) CHECK(rle.counts == c.counts);
    CHECK(rle_text(rle) == c.text);
    CHECK(rle_text(encode_rle(decode_rle(rle))) == c.text);
  }
}

TEST_CASE("the runs of a ring") {
  Mask ring = empty_mask(100, 100);
  for (Index y = 0; y < 100; ++y)
    for (Index x = 0; x < 100; ++x) {
      const double distance = std::hypot(static_cast<double>(x - 50), static_cast<double>(y - 50));
      ring(y, x) = distance > 10 && distance < 20;
    }
  const Rle rle = encode_rle(ring);
  CHECK(rle_area(rle) == 928);
  CHECK(rle.counts.size() == 121);
  CHECK(Counts(rle.counts.begin(), rle.counts.begin() + 8) == Counts{3144, 13, 85, 17, 81, 21, 78, 23});
  CHECK(rle_text(rle).size() == 169);
  CHECK(rle_text(rle).starts_with("XR3=e24L4M2M4M2N2O0O2N@oM0P2"));
}

TEST_CASE("runs of length 0 change nothing") {
  const Rle odd{3, 4, {0, 0, 0, 2, 1, 0, 2, 3, 0, 1, 3}}, plain = encode_rle(decode_rle(odd));
  CHECK(plain.counts == Counts{0, 2, 3, 4, 3});
  CHECK(rle_box(odd) == rle_box(plain));
  CHECK(rle_area(odd) == rle_area(plain));
  CHECK(rle_of_text(rle_text(odd), 3, 4) == odd);
  CHECK(merge_rle(odd, odd) == plain);
  CHECK(rle_iou(odd, plain) == 1);
}

TEST_CASE("merged runs, overlaps and boxes are those of the masks") {
  Random random(3);
  for (const auto& [height, width] : {std::pair<Index, Index>{1, 1}, {1, 9}, {9, 1}, {5, 7}, {16, 16}})
    for (const double share : {0., 0.1, 0.5, 0.9, 1.}) {
      const Mask a = random_mask(height, width, share, random), b = random_mask(height, width, 0.5, random);
      const Rle ra = encode_rle(a), rb = encode_rle(b);
      CHECK(decode_rle(ra) == a);
      CHECK(rle_of_text(rle_text(ra), height, width) == ra);
      Mask either = a, both = a;
      Index left = width, right = -1, top = height, bottom = -1, common = 0, united = 0, ones = 0;
      for (Index y = 0; y < height; ++y)
        for (Index x = 0; x < width; ++x) {
          either(y, x) |= b(y, x), both(y, x) &= b(y, x);
          common += both(y, x), united += either(y, x), ones += a(y, x);
          if (a(y, x)) {
            left = std::min(left, x), right = std::max(right, x);
            top = std::min(top, y), bottom = std::max(bottom, y);
          }
        }
      CHECK(merge_rle(ra, rb) == encode_rle(either));
      CHECK(merge_rle(ra, rb, true) == encode_rle(both));
      CHECK(rle_area(ra) == ones);
      if (ones > 0)
        CHECK(rle_box(ra) == CocoBox{static_cast<double>(left), static_cast<double>(top),
                                     static_cast<double>(right - left + 1), static_cast<double>(bottom - top + 1)});
      const auto ratio = [](Index part, Index of) {
        return part == 0 ? 0 : static_cast<double>(part) / static_cast<double>(of);
      };
      CHECK(rle_iou(ra, rb) == ratio(common, united));
      CHECK(rle_iou(ra, rb, true) == ratio(common, ones));
    }
}

TEST_CASE("what is no run is an error that says why") {
  CHECK(contains(error_of([] { rle_of_text("P128000V", 10, 10); }), "ends within a number"));
  CHECK(contains(error_of([] { rle_of_text("0T3 ", 10, 10); }), "found code 32 at position 3"));
  CHECK(contains(error_of([] { rle_of_text("0T3\xff", 10, 10); }), "found code 255"));
  CHECK(contains(error_of([] { rle_of_text("0T3", 10, 11); }), "runs of 110 pixels in all (10 x 11), got 100"));
  CHECK(contains(error_of([] { rle_of_text("N", 1, 1); }), "expected counts of at least 0, found -2"));
  CHECK(contains(error_of([] { rle_of_text("oooooooooooooooooooo0", 10, 10); }), "too long"));
  CHECK(contains(error_of([] { rle_of_text("", 1, 1); }), "got 0"));
  CHECK(contains(error_of([] { decode_rle({2, 2, {1, 4}}); }), "got 5"));
  CHECK(contains(error_of([] { decode_rle({-2, -2, {4}}); }), "expected a mask's size"));
  CHECK(contains(error_of([] { merge_rle({2, 2, {4}}, {4, 1, {4}}); }), "one size, got 2 x 2 and 4 x 1"));
  CHECK(contains(error_of([] { decode_rle({Index{1} << 40, Index{1} << 40, {}}); }), "at most 2^31 - 1 pixels"));
}

// --- polygons ------------------------------------------------------------------------------------

TEST_CASE("polygons have the pixels that COCO's code gives them") {
  const Polygon square{1, 0, 4, 0, 4, 4, 1, 4}, triangle{1.5, 2.2, 17.3, 4.1, 8.8, 15.6},
      pentagon{10, 1.2, 18.5, 7.9, 15.1, 18.3, 4.6, 18.9, .7, 8.4};
  const Rle of_square = rle_of_polygon(square, 4, 4);
  CHECK(of_square.counts == Counts{4, 12});
  CHECK(rle_box(of_square) == CocoBox{1, 0, 3, 4});
  CHECK(rle_text(of_square) == "4<");

  const Rle of_triangle = rle_of_polygon(triangle, 20, 20);
  CHECK(of_triangle.counts == Counts{42, 2,  18, 4, 17, 4, 16, 6, 14, 8, 12, 10, 10, 12, 8, 12,
                                     8,  10, 10, 9, 12, 7, 13, 5, 15, 4, 16, 3,  17, 1,  75});
  CHECK(rle_area(of_triangle) == 97);
  CHECK(rle_box(of_triangle) == CocoBox{2, 2, 15, 13});
  CHECK(rle_text(of_triangle) == "Z12b02O0O2N2N2N2N00N2O2N1N2O1O1Nj1");

  const Rle of_pentagon = rle_of_polygon(pentagon, 20, 20);
  CHECK(rle_area(of_pentagon) == 212);
  CHECK(rle_box(of_pentagon) == CocoBox{1, 2, 17, 17});

  const Rle common = merge_rle(of_triangle, of_pentagon, true);
  CHECK(rle_area(rle_of_polygons({triangle, pentagon}, 20, 20)) == 226);
  CHECK(rle_area(common) == 83);
  CHECK(rle_box(common) == CocoBox{4, 3, 12, 12});
  CHECK(rle_iou(of_triangle, of_pentagon) == doctest::Approx(.367256637168).epsilon(1e-11));
  CHECK(rle_iou(of_triangle, of_pentagon, true) == doctest::Approx(.855670103093).epsilon(1e-11));

  const Rle of_rectangle = rle_of_box({2.3, 3.7, 9.6 - 2.3, 8.2 - 3.7}, 12, 14);
  CHECK(of_rectangle.counts == Counts{28, 4, 8, 4, 8, 4, 8, 4, 8, 4, 8, 4, 8, 4, 8, 4, 52});
  CHECK(rle_box(of_rectangle) == CocoBox{2, 4, 8, 4});

  CHECK(rle_of_polygon({0, 0, 10, 0, 10, 10, 0, 10}, 10, 10).counts == Counts{0, 100});
  for (const auto& [x0, y0, x1, y1] : {std::array<double, 4>{1, 0, 4, 4}, {1, 1, 3, 4}}) {
    const Mask mask = decode_rle(rle_of_polygon({x0, y0, x1, y0, x1, y1, x0, y1}, 4, 4));
    for (Index y = 0; y < 4; ++y)
      for (Index x = 0; x < 4; ++x) {
        const auto px = static_cast<double>(x), py = static_cast<double>(y);
        CHECK(mask(y, x) == (px >= x0 && px < x1 && py >= y0 && py < y1));
      }
  }
}

TEST_CASE("polygons that leave the image, cross themselves or have corners twice") {
  // Counts of pycocotools 2.0.11.
  CHECK(rle_of_polygon({-5, -5, 30, -5, 30, 30, -5, 30}, 6, 7).counts == Counts{0, 42});
  CHECK(rle_of_polygon({30, 30, 40, 30, 40, 40}, 6, 7).counts == Counts{42});
  CHECK(rle_of_polygon({-3.3, 2.2, 4.4, -1.7, 9.1, 3.9, 2.2, 8.8}, 6, 7).counts == Counts{0, 36, 1, 5});
  CHECK(rle_of_polygon({0, 0, 6, 6, 6, 0, 0, 6}, 6, 7).counts == Counts{0, 5, 2, 3, 4, 1, 5, 1, 4, 3, 2, 5, 7});
  CHECK(rle_of_polygon({1, 1, 1, 1, 5, 1, 5, 1, 5, 4, 1, 4, 1, 4}, 6, 7).counts == Counts{7, 3, 3, 3, 3, 3, 3, 3, 14});
  CHECK(rle_of_polygon({2, 2, 2, 2, 2, 2}, 6, 7).counts == Counts{42});
}

TEST_CASE("areas within polygons and lengths of their outlines") {
  CHECK(polygon_area({0, 0, 3, 0, 3, 3, 0, 3}) == 9);
  CHECK(polygon_area({0, 0, 0, 3, 3, 3}) == 4.5);
  CHECK(polygon_perimeter({0, 0, 3, 0, 3, 4}) == 12);
}

TEST_CASE("what is no polygon is an error that says why") {
  CHECK(contains(error_of([] { rle_of_polygon({1, 2, 3, 4}, 5, 5); }), "at least 3 corners"));
  CHECK(contains(error_of([] { rle_of_polygon({1, 2, 3, 4, 5, 6, 7}, 5, 5); }), "got 7 numbers"));
  CHECK(contains(error_of([] { rle_of_polygon({1, 2, 3, 1e9, 5, 6}, 5, 5); }), "within 2^20, got 1e+09"));
  CHECK(contains(error_of([] { rle_of_polygon({1, 2, 3, std::nan(""), 5, 6}, 5, 5); }), "within 2^20, got nan"));
  CHECK(contains(error_of([] { rle_of_polygons({}, 5, 5); }), "at least one polygon"));
}

// --- JPEG ----------------------------------------------------------------------------------------

TEST_CASE("JPEG files of every kind have Pillow's pixels") {
  for (const std::string name : {"photo", "photo_progressive", "photo_444", "photo_grey"}) {
    CAPTURE(name);
    const Image8 expected = read_png(pictures / ("decoded_" + name + ".png"), 0);
    CHECK(expected.channels == (name == "photo_grey" ? 1 : 3));
    CHECK(same(read_jpeg(pictures / (name + ".jpg"), 0), expected));
    CHECK(same(read_image(pictures / (name + ".jpg"), 3), with_channels(expected, 3)));
    CHECK(same(read_jpeg(pictures / (name + ".jpg")), with_channels(expected, 1)));
  }
  CHECK(same(read_image(pictures / "colour.png", 3), read_png(pictures / "colour.png", 3)));
  CHECK(contains(error_of([] { read_jpeg(pictures / "photo_cmyk.jpg"); }),
                 "photo_cmyk.jpg: expected a grey or RGB picture, found CMYK of 4 channels"));
}

TEST_CASE("what write_jpeg writes, read_jpeg reads, nearly") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.jpg";
  for (const Index channels : {1, 3}) {
    Image8 image = blank_image(61, 300, channels);
    for (std::size_t k = 0; k < image.pixels.size(); ++k)
      image.pixels[k] = static_cast<std::uint8_t>(128 + 100 * std::sin(static_cast<double>(k / 3 % 300) / 40));
    write_jpeg(path, image, 95);
    const Image8 back = read_image(path, 0);
    REQUIRE(back.pixels.size() == image.pixels.size());
    for (std::size_t k = 0; k < image.pixels.size(); ++k) CHECK(std::abs(back.pixels[k] - image.pixels[k]) <= 6);
  }
  Random random(4);
  Image8 noise = blank_image(200, 200, 3);  // more than one block of the file
  for (auto& value : noise.pixels) value = static_cast<std::uint8_t>(random.below(256));
  write_jpeg(path, noise, 100);
  CHECK(fs::file_size(path) > 3 * (1 << 14));
  CHECK(read_jpeg(path, 0).pixels.size() == noise.pixels.size());
  write_jpeg(path, blank_image(1, 1), 1);
  CHECK(read_jpeg(path, 0).pixels.size() == 1);
  CHECK(folder.files() == 1);
  CHECK(contains(error_of([&] { write_jpeg(path, noise, 0); }), "quality from 1 to 100, got 0"));
  CHECK(contains(error_of([&] { write_jpeg(path, blank_image(1, 65501)); }), "at most 65500, got 1 x 65501"));
  CHECK(contains(error_of([&] { write_jpeg(path, Image8{}); }), "at least one pixel"));
  CHECK(contains(error_of([&] { write_jpeg(folder.path() / "no" / "a.jpg", noise); }), "a.jpg"));
}

TEST_CASE("a malformed JPEG file is an error that names the file and what was found") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "bad.jpg";
  const std::string good = bytes_of(pictures / "photo.jpg");
  const std::string progressive = bytes_of(pictures / "photo_progressive.jpg");
  std::string huge = good;
  const std::size_t size = huge.find("\xFF\xC0") + 5;  // marker, length, depth; then height and width
  huge.replace(size, 4, "\xFF\xDC\xFF\xDC");
  const struct {
    std::string what, bytes, found;
  } cases[] = {
      {"empty", "", "found 0 bytes"},
      {"text", "not a picture", "expected a JPEG file, found 13 bytes"},
      {"signature alone", good.substr(0, 3), "damaged JPEG"},
      {"header alone", good.substr(0, 200), "Premature end"},
      {"half", good.substr(0, good.size() / 2), "Premature end"},
      {"no end", good.substr(0, good.size() - 2), "Premature end"},
      {"half of a progressive one", progressive.substr(0, progressive.size() / 2), "Premature end"},
      {"65500 x 65500", huge, "expected at most 2^28 values, found 65500 x 65500 pixels of 3 channels"},
      {"757 scans", jpeg_of_many_scans(), "more than 500 scans"},
  };
  for (const auto& c : cases) {
    CAPTURE(c.what);
    write_bytes(path, c.bytes);
    const std::string error = error_of([&] { read_jpeg(path); });
    CAPTURE(error);
    CHECK(contains(error, "[read_jpeg]"));
    CHECK(contains(error, "bad.jpg"));
    CHECK(contains(error, c.found));
  }
  CHECK(contains(error_of([&] { read_jpeg(folder.path() / "none.jpg"); }), "cannot be opened: No such file"));
  CHECK(contains(error_of([&] { read_image(folder.path() / "none.jpg"); }), "cannot be opened: No such file"));
  CHECK(contains(error_of([&] { read_image(folder.path()); }), "found a folder"));
  CHECK(contains(error_of([&] { read_jpeg(pictures / "photo.jpg", 2); }), "channels to be asked for, got 2"));
  for (const std::string bytes : {"", "\xFF", "GIF89a"}) {
    write_bytes(path, bytes);
    CHECK(contains(error_of([&] { read_image(path); }), "expected a PNG or JPEG file"));
  }
}

TEST_CASE("a JPEG file cut short is an error, and one with a byte changed does no harm") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "cut.jpg";
  for (const std::string name : {"photo.jpg", "photo_progressive.jpg", "photo_grey.jpg"}) {
    CAPTURE(name);
    const std::string good = bytes_of(pictures / name);
    for (std::size_t length = 0; length < good.size(); length += 3) {
      CAPTURE(length);
      write_bytes(path, good.substr(0, length));
      CHECK(contains(error_of([&] { read_jpeg(path); }), "cut.jpg"));
    }
    Random random(5);
    for (std::size_t k = 0; k < good.size(); k += 2) {
      std::string changed = good;
      changed[k] = static_cast<char>(changed[k] ^ (1 + random.below(255)));
      write_bytes(path, changed);
      const std::string error = error_of([&] { read_jpeg(path, 0); });
      CHECK((error == "no error" || contains(error, "cut.jpg")));
    }
  }
}

// --- COCO's JSON ---------------------------------------------------------------------------------

namespace {

/// A data set of two images in a folder: truth.json, truth/ and images/.
struct TinySet {
  TemporaryFolder folder;
  fs::path json = folder.path() / "truth.json", maps = folder.path() / "truth", images = folder.path() / "images";
  std::string text;

  TinySet() {
    fs::create_directories(images);
    CocoPanopticWriter writer(json, maps,
                              {{1, "disk", "shape", true, {220, 20, 60}}, {2, "sky", "background", false, {0, 0, 9}}});
    SegmentMap one = void_map(4, 5), two = void_map(3, 2);
    std::fill(one.ids.begin(), one.ids.begin() + 8, 3937500u);
    std::fill(one.ids.begin() + 10, one.ids.end(), 7u);
    std::fill(two.ids.begin(), two.ids.end(), 16777215u);
    writer.add({20, "two.png", 3, 2, ""}, two, {{.id = 16777215, .category = 1, .crowd = true}});
    writer.add({10, "one.jpg", 4, 5, "wide"}, one, {{.id = 3937500, .category = 1}, {.id = 7, .category = 2}});
    writer.finish();
    write_jpeg(images / "one.jpg", blank_image(4, 5, 3, 100));
    write_png(images / "two.png", blank_image(3, 2, 1, 50));
    text = bytes_of(json);
  }

  /// Writes the JSON with a part of it replaced.
  void change(const std::string& from, const std::string& to) const {
    std::string changed = text;
    const std::size_t at = changed.find(from);
    REQUIRE(at != std::string::npos);
    write_bytes(json, changed.replace(at, from.size(), to));
  }

  std::string error() const {
    return error_of([&] {
      const CocoPanoptic set = read_coco_panoptic(json);
      for (const auto& annotation : set.annotations) read_segments(maps, set, annotation);
      for (const auto& image : set.images) read_coco_image(images, set, image);
    });
  }
};

}  // namespace

TEST_CASE("a panoptic data set that is written is read again") {
  const TinySet tiny;
  const CocoPanoptic set = read_coco_panoptic(tiny.json);
  REQUIRE(set.images.size() == 2);
  CHECK(set.images[0].id == 10);
  CHECK(set.images[0].file_name == "one.jpg");
  CHECK(set.images[0].kind == "wide");
  CHECK(set.image(20).height == 3);
  REQUIRE(set.categories.size() == 2);
  CHECK(set.categories[0].name == "disk");
  CHECK(set.categories[0].colour == std::array<std::uint8_t, 3>{220, 20, 60});
  CHECK(set.categories[0].thing);
  CHECK(!set.categories[1].thing);
  REQUIRE(set.annotations.size() == 2);
  const auto& one = set.annotations[0];
  CHECK(one.file_name == "one.png");
  REQUIRE(one.segments.size() == 2);
  CHECK(one.segments[0].id == 3937500);
  CHECK(one.segments[0].area == 8);
  CHECK(one.segments[0].box == CocoBox{0, 0, 5, 2});
  CHECK(one.segments[1].category == 2);
  CHECK(one.segments[1].box == CocoBox{0, 2, 5, 2});
  CHECK(set.annotations[1].segments[0].crowd);
  const auto [map, segments] = read_segments(tiny.maps, set, one);
  CHECK(map(0, 0) == 3937500);
  CHECK(map(1, 3) == 0);
  CHECK(map(3, 4) == 7);
  CHECK(segments.size() == 2);
  const Image8 png = read_png(tiny.maps / "one.png", 3);
  CHECK(std::vector<std::uint8_t>(png.pixels.begin(), png.pixels.begin() + 3) ==
        std::vector<std::uint8_t>{220, 20, 60});
  CHECK(read_coco_image(tiny.images, set, set.images[1]).channels == 3);
  CHECK(tiny.error() == "no error");
}

TEST_CASE("each fault of a panoptic data set is an error that names file, image and segment") {
  TinySet tiny;
  const struct {
    std::string from, to;
    std::vector<std::string> found;
  } cases[] = {
      {"\"image_id\":10", "\"image_id\":11", {"image 11: is not in the list of images"}},
      {"\"image_id\":10", "\"image_id\":20", {"image 20 has an annotation before this one"}},
      {"\"image_id\":10", "\"image_id\":\"10\"", {"annotations[0]", "'image_id'", "whole number", "found \"10\""}},
      {"\"id\":20", "\"id\":10", {"images[1]", "image 10 is there twice"}},
      {"\"height\":4", "\"height\":0", {"images[0]", "'height': expected a whole number of at least 1, found 0"}},
      {"\"height\":4", "\"height\":3", {"image 10 (one.jpg)", "expected 3 x 5 pixels, found 4 x 5"}},
      {"\"height\":4", "\"height\":1e30", {"found 1e+30"}},
      {"\"height\":4", "\"height\":18446744073709551615", {"found 18446744073709551615"}},
      {"\"height\":4,", "", {"images[0]: expected a field 'height', found none"}},
      {"\"width\":5", "\"width\":4.5", {"'width': expected a whole number", "4.5"}},
      {"\"file_name\":\"one.jpg\"", "\"file_name\":\"\"", {"images[0]", "'file_name'"}},
      {"\"file_name\":\"one.jpg\"", "\"file_name\":\"none.jpg\"", {"image 10 (none.jpg)", "cannot be opened"}},
      {"\"file_name\":\"one.png\"",
       "\"file_name\":\"none.png\"",
       {"image 10 (one.jpg)", "none.png", "cannot be opened"}},
      {"\"file_name\":\"one.png\"",
       "\"file_name\":\"two.png\"",
       {"two.png", "image 10 (one.jpg)", "expected 4 x 5 pixels, found 3 x 2"}},
      {"\"category_id\":2", "\"category_id\":3", {"image 10 (one.jpg): segment 7", "category of the list, found 3"}},
      {"\"category_id\":2,", "", {"segments_info[1]", "expected a field 'category_id'"}},
      {"\"id\":2,\"name\"", "\"id\":1,\"name\"", {"categories[1]", "category 1 is there twice"}},
      {"\"isthing\":0", "\"isthing\":2", {"categories[1]", "'isthing': expected 0 or 1, found 2"}},
      {"\"color\":[0,0,9]", "\"color\":[0,0,900]", {"categories[1]", "values from 0 to 255, found 900"}},
      {"\"id\":7,", "\"id\":8,", {"one.png: image 10 (one.jpg): segment 7: has pixels, the first at row 2, column 0"}},
      {"{\"id\":7,",
       "{\"id\":9,\"category_id\":1,\"area\":1,\"bbox\":[0,0,1,1],\"iscrowd\":0},{\"id\":7,",
       {"one.png: image 10 (one.jpg): segment 9: is in the list of segments and has no pixel"}},
      {"\"id\":7,", "\"id\":3937500,", {"image 10: segment 3937500: is there twice"}},
      {"\"id\":7,", "\"id\":0,", {"annotations[0]: image 10: segments_info[1]", "at least 1, found 0"}},
      {"\"id\":7,", "\"id\":16777216,", {"image 10: segment 16777216", "below 2^24"}},
      {"\"area\":10", "\"area\":11", {"one.png: image 10 (one.jpg): segment 7: expected an area of 11", "found 10"}},
      {"\"area\":10", "\"area\":0", {"image 10: segment 7", "'area'", "found 0"}},
      {"\"bbox\":[0,2,5,2]", "\"bbox\":[0,2,50,2]", {"image 10 (one.jpg): segment 7", "box in the image of 5 x 4"}},
      {"\"bbox\":[0,2,5,2]", "\"bbox\":[0,2,5]", {"image 10: segment 7", "'bbox': expected x, y, width and height"}},
      {"\"iscrowd\":1", "\"iscrowd\":\"yes\"", {"image 20: segment 16777215", "expected 0 or 1, found \"yes\""}},
      {"\"segments_info\":[", "\"segments_info\":7,\"other\":[", {"image 10", "expected a list, found 7"}},
      {"\"images\": [", "\"pictures\": [", {"expected a list 'images', found none"}},
      {"\"categories\": [", "\"categories\": 3,\n\"other\": [", {"expected a list as 'categories', found 3"}},
      {"\"categories\": [", "\"categories\": {},\n\"other\": [", {"expected a list as 'categories', found an object"}},
      {"\"categories\": [", "\"categories\": [7,", {"categories[0]: expected an object, found 7"}},
      {"\"categories\": [", "\"images\": [],\n\"categories\": [", {"'images' is there twice"}},
      {"\"id\":7,", "\"id\":7,\"id\":8,", {"annotations[0]: 'id' is there twice"}},
      {"}]}]}", "}]},]}", {"no JSON: line ", "unexpected ']'"}},
      {"}]}]}", "}]}]", {"no JSON: line ", "unexpected end of input"}},
      {"}]}]}", "}]}]} x", {"no JSON: line ", "expected end of input"}},
  };
  for (const auto& c : cases) {
    CAPTURE(c.to);
    tiny.change(c.from, c.to);
    const std::string error = tiny.error();
    CAPTURE(error);
    CHECK(contains(error, "truth"));
    for (const std::string& part : c.found) CHECK(contains(error, part));
  }
  for (const std::string text : {"", "[]", "7", "null", "\"text\"", "{}"}) {
    CAPTURE(text);
    write_bytes(tiny.json, text);
    CHECK(contains(tiny.error(), "truth.json: "));
  }
  CHECK(contains(error_of([&] { read_coco_panoptic(tiny.maps / "none.json"); }), "none.json: cannot be opened"));
  CHECK(contains(error_of([&] { read_coco_panoptic(tiny.maps); }), "found a folder"));
}

TEST_CASE("each fault of a panoptic PNG, or of an image, is an error that names file and image") {
  TinySet tiny;
  const std::string map = bytes_of(tiny.maps / "one.png"), image = bytes_of(tiny.images / "one.jpg");
  const std::string place = "image 10 (one.jpg)";

  write_bytes(tiny.maps / "one.png", map.substr(0, map.size() / 2));
  CHECK(contains(tiny.error(), place));
  CHECK(contains(tiny.error(), "one.png: damaged PNG"));
  write_png(tiny.maps / "one.png", blank_image(4, 5, 1, 7));
  CHECK(contains(tiny.error(), "one.png: expected RGB colours"));
  fs::remove(tiny.maps / "one.png");
  CHECK(contains(tiny.error(), "one.png: cannot be opened"));
  write_bytes(tiny.maps / "one.png", map);

  write_bytes(tiny.images / "one.jpg", image.substr(0, image.size() - 10));
  CHECK(contains(tiny.error(), place));
  CHECK(contains(tiny.error(), "one.jpg: damaged JPEG"));
  write_jpeg(tiny.images / "one.jpg", blank_image(5, 4));
  CHECK(contains(tiny.error(), place));
  CHECK(contains(tiny.error(), "expected 4 x 5 pixels, found 5 x 4"));
  fs::remove(tiny.images / "one.jpg");
  CHECK(contains(tiny.error(), place));
  CHECK(contains(tiny.error(), "one.jpg: cannot be opened"));
}

TEST_CASE("a JSON file cut anywhere is an error, and one with any byte changed does no harm") {
  TinySet tiny;
  const std::string good = tiny.text.substr(0, tiny.text.size() - 1);  // the line's end may go
  for (std::size_t length = 0; length < good.size(); ++length) {
    CAPTURE(length);
    write_bytes(tiny.json, good.substr(0, length));
    CHECK(contains(error_of([&] { read_coco_panoptic(tiny.json); }), "truth.json"));
  }
  Random random(6);
  for (std::size_t k = 0; k < good.size(); ++k) {
    std::string changed = good;
    changed[k] = static_cast<char>(changed[k] ^ (1 + random.below(255)));
    write_bytes(tiny.json, changed);
    const std::string error = error_of([&] { read_coco_panoptic(tiny.json); });
    CHECK((error == "no error" || contains(error, "truth.json")));
  }
}

TEST_CASE("what a JSON file has besides is passed over, and deep nests are refused") {
  TinySet tiny;
  tiny.change("{\"images\"",
              "{\"info\": {\"a\": [1, {\"images\": [[]]}]}, \"licenses\": [{}, 3], \"version\": 1.5, \"images\"");
  CHECK(tiny.error() == "no error");
  tiny.change("\"id\":10", "\"more\":{\"x\":[[1],{\"y\":null}]},\"id\":10");
  CHECK(tiny.error() == "no error");
  tiny.change("{\"images\"", "{\"info\": " + std::string(100000, '[') + ", \"images\"");
  CHECK(contains(tiny.error(), "at most 100 levels"));
}

TEST_CASE("the writer of a panoptic data set names what does not fit, and leaves no half files") {
  const TemporaryFolder folder;
  CocoPanopticWriter writer(folder.path() / "a.json", folder.path() / "a", {{1, "disk", "", true, {}}});
  SegmentMap map = void_map(2, 2);
  map.ids = {1, 1, 0, 0};
  const auto add = [&](CocoImage image, std::vector<Segment> segments) {
    return error_of([&] { writer.add(image, map, segments); });
  };
  CHECK(contains(add({5, "x.jpg", 2, 3, ""}, {{1, 1}}), "image 5 (x.jpg): expected a map of 2 x 3, got 2 x 2"));
  CHECK(contains(add({5, "x.jpg", 2, 2, ""}, {{1, 2}}), "segment 1: expected a category of the list, got 2"));
  CHECK(contains(add({5, "x.jpg", 2, 2, ""}, {}), "segment 1: has pixels"));
  CHECK(contains(add({5, "x.jpg", 2, 2, ""}, {{1, 1}, {2, 1}}),
                 "segment 2: is in the list of segments and has no pixel"));
  CHECK(add({5, "x.jpg", 2, 2, ""}, {{1, 1}}) == "no error");
  CHECK(contains(add({5, "y.jpg", 2, 2, ""}, {{1, 1}}), "a new image's id"));
  CHECK(contains(add({6, "b/x.png", 2, 2, ""}, {{1, 1}}), "another image's PNG is named x.png"));
  CHECK(contains(error_of([&] {
                   CocoPanopticWriter(folder.path() / "b.json", folder.path() / "b",
                                      {{1, "a", "", true, {}}, {1, "b", "", true, {}}});
                 }),
                 "distinct ids"));
  CHECK(!fs::exists(folder.path() / "a.json"));
  writer.finish();
  CHECK(read_coco_panoptic(folder.path() / "a.json").annotations.size() == 1);
}

TEST_CASE("instances are read as polygons, texts and lists of runs, and written again") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "instances.json";
  const std::string text = R"({"info": {}, "annotations": [
{"id": 1, "image_id": 5, "category_id": 3, "iscrowd": 0, "area": 97.2, "bbox": [1.5, 2.2, 15.8, 13.4],
 "segmentation": [[1.5, 2.2, 17.3, 4.1, 8.8, 15.6]]},
{"id": 2, "image_id": 5, "category_id": 3, "iscrowd": 1, "area": 12, "bbox": [1, 0, 3, 4],
 "segmentation": {"size": [20, 20], "counts": [20, 4, 16, 4, 16, 4, 336]}},
{"id": 3, "image_id": 5, "category_id": 3, "iscrowd": 0, "area": 97, "bbox": [2, 2, 15, 13],
 "segmentation": {"size": [20, 20], "counts": "Z12b02O0O2N2N2N2N00N2O2N1N2O1O1Nj1"}}],
"images": [{"id": 5, "file_name": "5.jpg", "height": 20, "width": 20}],
"categories": [{"id": 3, "name": "car", "supercategory": "vehicle"}]})";
  write_bytes(path, text);
  CocoInstances set = read_coco_instances(path);
  for (int round = 0; round < 2; ++round) {
    REQUIRE(set.annotations.size() == 3);
    CHECK(set.categories[0].thing);
    CHECK(rle_area(instance_mask(set.annotations[0], 20, 20)) == 97);
    CHECK(instance_mask(set.annotations[0], 20, 20) == instance_mask(set.annotations[2], 20, 20));
    CHECK(set.annotations[1].crowd);
    CHECK(rle_box(instance_mask(set.annotations[1], 20, 20)) == set.annotations[1].box);
    CHECK(set.annotations[0].area == 97.2);
    write_coco_instances(path, set);
    set = read_coco_instances(path);
  }
  CHECK(read_coco_instances(path, [](const Instance& i) { return !i.crowd; }).annotations.size() == 2);
  CHECK(contains(error_of([&] { instance_mask(set.annotations[1], 20, 21); }), "a mask of 20 x 21, got 20 x 20"));

  const struct {
    std::string from, to, found;
  } cases[] = {
      {"\"id\": 2", "\"id\": 1", "segment 1 is there twice"},
      {"\"image_id\": 5", "\"image_id\": 6", "image 6: is not in the list"},
      {"\"category_id\": 3", "\"category_id\": 4",
       "image 5 (5.jpg): segment 1: expected a category of the list, found 4"},
      {"[1.5, 2.2, 17.3, 4.1, 8.8, 15.6]", "[1.5, 2.2, 17.3, 4.1]",
       "image 5: segment 1: [polygon] expected a polygon of at least 3"},
      {"[1.5, 2.2, 17.3, 4.1, 8.8, 15.6]", "[1.5, 2.2, 17.3, 4.1, 8.8, \"a\"]",
       "segment 1: 'segmentation': expected numbers, found \"a\""},
      {"[[1.5, 2.2, 17.3, 4.1, 8.8, 15.6]]", "[]", "image 5: segment 1: 'segmentation': expected at least one polygon"},
      {"\"area\": 97.2", "\"area\": 197.2", "image 5 (5.jpg): segment 1: expected an area of about 97 pixels"},
      {"\"area\": 12", "\"area\": 13",
       "image 5 (5.jpg): segment 2: expected an area of 12 pixels, as its runs have, found 13"},
      {"[20, 4, 16", "[20, 5, 16", "image 5: segment 2: [rle] expected runs of 400 pixels in all (20 x 20), got 401"},
      {"[20, 4, 16", "[20, -4, 16",
       "image 5: segment 2: segmentation: 'counts': expected whole numbers of at least 0, found -4"},
      {"\"size\": [20, 20], \"counts\": [", "\"size\": [20, 0], \"counts\": [",
       "segment 2: segmentation: 'size': expected height and width"},
      {"\"size\": [20, 20], \"counts\": [", "\"size\": [40, 10], \"counts\": [",
       "segment 2: expected a mask of 20 x 20, found 40 x 10"},
      {"Z12b02O", "Z12b02~", "image 5: segment 3: [rle] expected characters"},
      {"[2, 2, 15, 13]", "[2, 2, 25, 13]", "image 5 (5.jpg): segment 3: expected a box in the image"},
      {"[2, 2, 15, 13]", "[2, 2, 15, -13]", "image 5: segment 3: 'bbox'"},
      {"\"area\": 97,", "", "image 5: segment 3: expected a field 'area', found none"},
      {"5.jpg\", \"height\": 20", "5.jpg\", \"height\": 21", "expected a mask of 21 x 20, found 20 x 20"},
  };
  for (const auto& c : cases) {
    CAPTURE(c.to);
    std::string changed = text;
    const std::size_t at = changed.find(c.from);
    REQUIRE(at != std::string::npos);
    write_bytes(path, changed.replace(at, c.from.size(), c.to));
    const std::string error = error_of([&] { read_coco_instances(path); });
    CAPTURE(error);
    CHECK(contains(error, "instances.json: "));
    CHECK(contains(error, c.found));
  }
}
