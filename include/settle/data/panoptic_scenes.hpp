#pragma once
#include "settle/core/macros_off.hpp"
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <utility>
#include <vector>

#include "settle/core/random.hpp"
#include "settle/data/panoptic_data.hpp"

namespace settle::inline v0_2 {

/// Drawn scenes with panoptic truth: two kinds of stuff on the sides of a wavy line, and shapes in front.
struct PanopticSceneOptions {
  Index size = 96;     ///< height and width in pixels
  bool hard = false;   ///< colours tell nothing: shapes and stuff have any; else they share few hues, one set each
  double crowds = 0;   ///< share of the scenes with a cluster of 5 to 8 small shapes that are one crowd
  double void_patches = 0.3;  ///< share with a patch, an eighth of the side or so, that is not labelled
  Index most_shapes = 4;      ///< from 1 to so many shapes, beside a crowd's
  double least_radius = 11. / 96, most_radius = 22. / 96;  ///< of the shapes, as shares of the side
  double noise = 0.04;                                     ///< deviation of each value's noise, as a share of 255
};

/// A data set of scenes. Scene i is a function of the options, the seed and i alone. Categories 1 to 3 are things
/// (disk, square, triangle), 4 to 6 stuff (stripes, checks, noise). Later shapes hide earlier ones; of what is hidden
/// but for a small part, the rest is void.
class PanopticScenes {
 public:
  PanopticScenes(PanopticSceneOptions options, std::uint64_t seed, std::uint64_t first, Index count)
      : options_(options), seed_(seed), first_(first), count_(count) {
    require(options_.size >= 24, "panoptic_scenes", "expected a size of at least 24, got ", options_.size);
    require(options_.most_shapes >= 1, "panoptic_scenes", "expected at least 1 shape, got ", options_.most_shapes);
    require(options_.least_radius > 0 && options_.most_radius >= options_.least_radius, "panoptic_scenes",
            "expected radii above 0 that rise, got ", options_.least_radius, " and ", options_.most_radius);
  }

  Index size() const { return count_; }
  Extent extent(Index) const { return {options_.size, options_.size}; }
  std::vector<Category> categories() const {
    return {{1, "disk", "shape", true, {220, 20, 60}},     {2, "square", "shape", true, {0, 80, 220}},
            {3, "triangle", "shape", true, {250, 170, 30}}, {4, "stripes", "texture", false, {107, 142, 35}},
            {5, "checks", "texture", false, {70, 130, 180}}, {6, "noise", "texture", false, {190, 153, 153}}};
  }

  PanopticSample sample(Index i) const {
    const Index n = options_.size;
    Random random(seed_, first_ + static_cast<std::uint64_t>(i));
    PanopticSample out{static_cast<Index>(first_) + i + 1, blank_image(n, n, 3), void_map(n, n), {}};
    draw_stuff(out, random);
    if (random.uniform() < options_.crowds) draw_crowd(out, random);
    const Index shapes = 1 + random.below(options_.most_shapes);
    for (Index k = 0; k < shapes; ++k) {
      const auto id = add_segment(out, 1 + random.below(3), false);
      const double side = static_cast<double>(n);
      const double radius = side * random.uniform(options_.least_radius, options_.most_radius);
      const double x = random.uniform(0.1, 0.9) * side, y = random.uniform(0.1, 0.9) * side;
      draw_shape(out, id, x, y, radius, random);
    }
    hide_small_parts(out);
    if (random.uniform() < options_.void_patches) {
      const Index side = (n * 10 + 48) / 96, top = random.below(n - side), left = random.below(n - side);
      for (Index y = top; y < top + side; ++y)
        for (Index x = left; x < left + side; ++x) out.map(y, x) = 0;
    }
    drop_empty(out);
    out.segments = measured_segments(out.map, std::move(out.segments), "", "panoptic_scenes");
    for (std::uint8_t& value : out.image.pixels)
      value = static_cast<std::uint8_t>(
          std::clamp(std::round(value + 255 * options_.noise * random.normal()), 0., 255.));
    return out;
  }

 private:
  using Rgb = std::array<double, 3>;

  static std::uint32_t add_segment(PanopticSample& out, Index category, bool crowd) {
    const Index id = std::ssize(out.segments) + 1;
    out.segments.push_back({.id = id, .category = category, .crowd = crowd});
    return static_cast<std::uint32_t>(id);
  }

  static void paint(PanopticSample& out, Index y, Index x, const Rgb& colour) {
    for (std::size_t c = 0; c < 3; ++c)
      out.image.pixels[static_cast<std::size_t>(3 * (y * out.image.width + x)) + c] =
          static_cast<std::uint8_t>(std::clamp(std::round(colour[c]), 0., 255.));
  }

  static Rgb varied(const Rgb& colour, double by, Random& random) {
    return {colour[0] + random.uniform(-by, by), colour[1] + random.uniform(-by, by),
            colour[2] + random.uniform(-by, by)};
  }
  static Rgb any_colour(Random& random) { return varied({127.5, 127.5, 127.5}, 110, random); }

  /// A texture: its kind (0 stripes, 1 checks, 2 noise) and what it looks like.
  struct Texture {
    Index kind;
    Rgb light, dark;
    double angle, period, phase;

    Rgb at(double x, double y, Random& random) const {
      const double u = (x * std::cos(angle) + y * std::sin(angle)) / period + phase,
                   v = (y * std::cos(angle) - x * std::sin(angle)) / period;
      const auto half = [](double t) { return t - std::floor(t) < 0.5; };
      const bool bright = kind == 0 ? half(u) : kind == 1 ? half(u) != half(v) : random.uniform() < 0.5;
      return bright ? light : dark;
    }
  };

  Texture texture(Index kind, Random& random) const {
    constexpr std::array<Rgb, 3> bases{Rgb{60, 120, 60}, Rgb{60, 90, 150}, Rgb{120, 120, 120}};
    const Rgb base = options_.hard ? any_colour(random) : varied(bases[static_cast<std::size_t>(kind)], 15, random);
    const double contrast = random.uniform(25, 45);
    return {kind,
            {base[0] + contrast, base[1] + contrast, base[2] + contrast},
            {base[0] - contrast, base[1] - contrast, base[2] - contrast},
            random.uniform(0, std::numbers::pi),
            random.uniform(6, 11),
            random.uniform()};
  }

  void draw_stuff(PanopticSample& out, Random& random) const {
    const Index n = options_.size;
    const Index first = random.below(3), second = (first + 1 + random.below(2)) % 3;
    const std::array<Texture, 2> textures{texture(first, random), texture(second, random)};
    const std::array<std::uint32_t, 2> ids{add_segment(out, 4 + first, false), add_segment(out, 4 + second, false)};
    // The line: where the distance from it, along a direction, is that of a wave.
    const double side = static_cast<double>(n), angle = random.uniform(0, 2 * std::numbers::pi);
    const double offset = random.uniform(-0.15, 0.15) * side, height = random.uniform(0.03, 0.09) * side;
    const double waves = random.uniform(1, 2.5) * 2 * std::numbers::pi / side, phase = random.uniform(0, 6.283);
    for (Index y = 0; y < n; ++y)
      for (Index x = 0; x < n; ++x) {
        const double a = static_cast<double>(x) + 0.5 - side / 2, b = static_cast<double>(y) + 0.5 - side / 2;
        const double along = a * std::cos(angle) + b * std::sin(angle);
        const double across = b * std::cos(angle) - a * std::sin(angle);
        const std::size_t which = across > offset + height * std::sin(waves * along + phase) ? 1 : 0;
        out.map(y, x) = ids[which];
        paint(out, y, x, textures[which].at(static_cast<double>(x), static_cast<double>(y), random));
      }
  }

  /// A shape of the segment's category around (x, y), turned at random.
  void draw_shape(PanopticSample& out, std::uint32_t id, double x, double y, double radius, Random& random) const {
    constexpr std::array<Rgb, 3> hues{Rgb{215, 60, 50}, Rgb{225, 185, 40}, Rgb{190, 60, 190}};
    const auto hue = static_cast<std::size_t>(random.below(3));
    const Rgb colour = options_.hard ? any_colour(random) : varied(hues[hue], 20, random);
    const double angle = random.uniform(0, 2 * std::numbers::pi);
    const Index category = out.segments[id - 1].category, n = options_.size;
    const auto inside = [&](double a, double b) {
      const double u = (a * std::cos(angle) + b * std::sin(angle)) / radius,
                   v = (b * std::cos(angle) - a * std::sin(angle)) / radius;
      if (category == 1) return u * u + v * v <= 0.8;
      if (category == 2) return std::max(std::abs(u), std::abs(v)) <= 0.79;
      return v >= -0.5 && v <= 1 - std::sqrt(3.) * std::abs(u);  // corners at distance 1
    };
    const auto within = [&](double at) { return static_cast<Index>(std::clamp(at, 0., static_cast<double>(n))); };
    for (Index row = within(y - 1.2 * radius); row < within(y + 1.2 * radius + 1); ++row)
      for (Index column = within(x - 1.2 * radius); column < within(x + 1.2 * radius + 1); ++column)
        if (inside(static_cast<double>(column) + 0.5 - x, static_cast<double>(row) + 0.5 - y)) {
          out.map(row, column) = id;
          paint(out, row, column, colour);
        }
  }

  void draw_crowd(PanopticSample& out, Random& random) const {
    const auto id = add_segment(out, 1 + random.below(3), true);
    const double side = static_cast<double>(options_.size), x = random.uniform(0.2, 0.8) * side,
                 y = random.uniform(0.2, 0.8) * side;
    for (Index k = 5 + random.below(4); k > 0; --k) {
      const double radius = random.uniform(0.06, 0.09) * side;
      const double dx = random.uniform(-0.17, 0.17) * side, dy = random.uniform(-0.17, 0.17) * side;
      draw_shape(out, id, x + dx, y + dy, radius, random);
    }
  }

  /// Things of which less than 40 pixels of 96 x 96 are to be seen become void.
  void hide_small_parts(PanopticSample& out) const {
    const double least = 40. / (96 * 96) * static_cast<double>(options_.size * options_.size);
    std::vector<Index> areas(out.segments.size() + 1);
    for (const std::uint32_t id : out.map.ids) ++areas[id];
    for (std::uint32_t& id : out.map.ids)
      if (id != 0 && out.segments[id - 1].category <= 3 && static_cast<double>(areas[id]) < least) id = 0;
  }

  static void drop_empty(PanopticSample& out) {
    std::vector<Index> areas(out.segments.size() + 1);
    for (const std::uint32_t id : out.map.ids) ++areas[id];
    std::erase_if(out.segments, [&](const Segment& s) { return areas[static_cast<std::size_t>(s.id)] == 0; });
  }

  PanopticSceneOptions options_;
  std::uint64_t seed_, first_;
  Index count_;
};

}  // namespace settle
#include "settle/core/macros_on.hpp"
