#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <optional>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/random.hpp"
#include "settle/core/tensor.hpp"
#include "settle/core/threads.hpp"
#include "settle/data/image.hpp"
#include "settle/data/resize.hpp"

namespace settle::inline v0_2 {

/// A Pathfinder task. Images are drawn on a square canvas, the window, and then resized; lengths are in the window's
/// pixels unless they say otherwise. The defaults are the public generator's (drewlinsley/pathfinder,
/// snakes2_wrapper.py), with its class defaults for thickness and disc: they give the share of positive pixels that the
/// published runs logged (0.29, 0.41, 0.50 % at 14, 20, 25 dashes; here 0.29, 0.40, 0.50 %), where the wrapper's later
/// thickness 2 and radius 5 give 0.38, 0.50, 0.61 %.
struct PathfinderOptions {
  Index size = 150;             ///< height and width of image and target; at most 4096
  Index window = 0;             ///< height and width of the canvas, at most 8192; 0: twice `size`, the published scale
  Index contour_length = 14;    ///< dashes in the marked contour, and in its rival; at most 10^6
  Index distractors = 15;       ///< short contours, at most 10^6; fewer are drawn where there is no room
  Index distractor_length = 0;  ///< dashes in each of these; 0: a third of `contour_length`, rounded down, at least 1
  Index dash_length = 5;        ///< of the stroke; 1 to 128
  double thickness = 1.5;       ///< of the stroke; 0.5 to 64
  Index margin = 3;            ///< kept free around a stroke, 1 to 64; a dash with its gap takes dash_length + 2 margin
  double marker_radius = 3;    ///< of the disc at the marked contour's end; 0.5 to 128
  double continuity = 1.8;     ///< a dash turns by at most 90 / continuity degrees; 0.5 to 90
  Index seed_distance = 27;    ///< between the first ends of the two long contours
  double padding = 22. / 300;  ///< width of the free border, as a share of the window
  double seed_border = 54. / 300;  ///< the first contour's end stays this far from the border, a share of the window
  bool random_flips = false;       ///< mirror each sample left-right, top-bottom, both or not, at random
};

/// A position on the window: x to the right, y down.
struct Pixel {
  Index x = 0, y = 0;
  friend bool operator==(const Pixel&, const Pixel&) = default;
};

/// One dash of a contour. It turns about its pivot into `heading` (degrees, from x towards y) and its stroke covers the
/// last dash_length pixels before `head`; the next dash's pivot lies dash_length + 2 margin further along the heading.
struct Dash {
  Pixel pivot, head;
  Index heading = 0;
};

/// What one image shows: two long contours, of which the marked one is the target, and short ones that distract.
struct PathfinderScene {
  std::vector<Dash> target, rival;
  std::vector<std::vector<Dash>> distractors;
  Pixel marker;  ///< the centre of the disc, at the target's first end
};

/// A scene drawn on the window, 8-bit grey: what the published PNG files hold.
struct PathfinderPictures {
  Image8 image;   ///< all contours and the disc, antialiased
  Image8 target;  ///< 255 on the marked contour and the disc, else 0
};

/// How a sample is mirrored.
enum class Flip { none, horizontal, vertical, both };

/// One image with its label. Values of `image` are in [0, 1], those of the others 0 or 1.
struct PathfinderSample {
  Tensor<float> image;   ///< (1, S, S)
  Tensor<float> target;  ///< (S, S): the marked contour and the disc
  Tensor<float> dashes;  ///< (S, S): every contour and the disc; the answer of a predictor that cannot trace
};

/// Samples stacked.
struct PathfinderBatch {
  Tensor<float> image;   ///< (N, 1, S, S)
  Tensor<float> target;  ///< (N, S, S)
  Tensor<float> dashes;  ///< (N, S, S)
};

namespace detail {

inline constexpr std::uint8_t label_threshold = 51;  // 0.2 of the full value

/// A small picture that is laid on the canvas so that its pixel (0, 0) falls on the centre's place plus `corner`.
struct Stamp {
  Pixel corner;
  Image8 picture;
};

/// The stamp of a shape on the pixels from `corner` to `end`, both included, counted from the centre's: a point (x, y)
/// is inside where inside(x, y) says so. Drawn four times as large and reduced with Lanczos' filter.
template <class Inside>
Stamp make_stamp(Pixel corner, Pixel end, const Inside& inside) {
  constexpr Index antialias = 4;
  const Index width = end.x - corner.x + 1, height = end.y - corner.y + 1;
  Image8 fine = blank_image(antialias * height, antialias * width);
  const auto position = [](Index i, Index first) {
    return (static_cast<double>(i) + 0.5) / antialias - 0.5 + static_cast<double>(first);
  };
  for (Index i = 0; i < fine.height; ++i)
    for (Index j = 0; j < fine.width; ++j)
      if (inside(position(j, corner.x), position(i, corner.y)))
        fine.pixels[static_cast<std::size_t>(i * fine.width + j)] = 255;
  return {corner, resize_image(fine, height, width, Filter::lanczos)};
}

/// Calls visit(canvas value, stamp value) for every pixel of the stamp that lies on the canvas.
template <class Canvas, class Visit>
void overlay(Canvas& canvas, const Stamp& stamp, Pixel centre, const Visit& visit) {
  const Index left = centre.x + stamp.corner.x, top = centre.y + stamp.corner.y, width = stamp.picture.width;
  const Index first_x = std::max<Index>(left, 0), end_x = std::min(left + width, canvas.width);
  for (Index y = std::max<Index>(top, 0); y < std::min(top + stamp.picture.height, canvas.height); ++y) {
    auto* row = canvas.pixels.data() + y * canvas.width;
    const std::uint8_t* stamp_row = stamp.picture.pixels.data() + (y - top) * width - left;
    for (Index x = first_x; x < end_x; ++x) visit(row[x], stamp_row[x]);
  }
}

/// The stamp's largest value among its pixels that fall off a square canvas.
inline int most_outside(Index side, const Stamp& stamp, Pixel centre) {
  const Index left = centre.x + stamp.corner.x, top = centre.y + stamp.corner.y;
  const Index width = stamp.picture.width, height = stamp.picture.height;
  const auto inside = [side](Index first, Index extent) { return first >= 0 && first + extent <= side; };
  if (inside(left, width) && inside(top, height)) return 0;
  int most = 0;
  for (Index y = 0; y < height; ++y)
    for (Index x = 0; x < width; ++x)
      if (!inside(left + x, 1) || !inside(top + y, 1))
        most = std::max<int>(most, stamp.picture.pixels[static_cast<std::size_t>(y * width + x)]);
  return most;
}

/// Makes the canvas at least as bright as the stamp.
inline void paint(Image8& canvas, const Stamp& stamp, Pixel centre) {
  overlay(canvas, stamp, centre, [](std::uint8_t& to, std::uint8_t value) { to = std::max(to, value); });
}

}  // namespace detail

/// Mirrors the last two axes of a tensor: horizontal swaps left and right, vertical top and bottom.
template <Scalar T>
Tensor<T> flipped(const Tensor<T>& x, Flip flip) {
  require(x.rank() >= 2, "flipped", "expected at least 2 axes, got shape ", x.shape());
  const bool horizontal = flip == Flip::horizontal || flip == Flip::both;
  const bool vertical = flip == Flip::vertical || flip == Flip::both;
  const Index height = x.shape(-2), width = x.shape(-1);
  Tensor<T> out(x.shape());
  T* to = out.mutable_data();
  for (Index row = 0; row < x.size() / std::max<Index>(width, 1); ++row) {
    const Index y = row % height;
    const T* from = x.data() + (row - y + (vertical ? height - 1 - y : y)) * width;
    if (horizontal)
      std::reverse_copy(from, from + width, to + row * width);
    else
      std::copy_n(from, width, to + row * width);
  }
  return out;
}

/// Mirrors a sample, label and all.
inline PathfinderSample flipped(const PathfinderSample& sample, Flip flip) {
  return {flipped(sample.image, flip), flipped(sample.target, flip), flipped(sample.dashes, flip)};
}

/// One of the four flips, each equally likely.
inline Flip random_flip(Random& random) { return static_cast<Flip>(random.below(4)); }

/// The picture made of black and white only: 255 above half of the full value.
inline Image8 binarised(Image8 picture) {
  for (auto& value : picture.pixels) value = value > 127 ? 255 : 0;
  return picture;
}

/// 8-bit pictures of a sample as tensors: resized to size x size as Pillow's bicubic filter does, divided by 255; masks
/// are 1 where the quotient exceeds 0.2. The pipeline of the released training code; `dashes` gets the target's
/// treatment. Throws Error when so small a size leaves nothing of what the target shows.
inline PathfinderSample to_sample(const PathfinderPictures& pictures, Index size) {
  const auto tensor = [size](const Image8& picture, const Shape& shape, const auto& value) {
    require(picture.channels == 1, "pathfinder", "expected a grey picture, got ", picture.channels, " channels");
    const Image8 resized = resize_image(picture, size, size);
    Tensor<float> out(shape);
    std::transform(resized.pixels.begin(), resized.pixels.end(), out.mutable_data(), value);
    return out;
  };
  const auto grey = [](std::uint8_t v) { return static_cast<float>(v) / 255.f; };
  const auto mask = [](std::uint8_t v) { return v > detail::label_threshold ? 1.f : 0.f; };
  PathfinderSample out{tensor(pictures.image, {1, size, size}, grey), tensor(pictures.target, {size, size}, mask),
                       tensor(binarised(pictures.image), {size, size}, mask)};
  const auto shows = [&](const auto& values) {
    return std::any_of(values.begin(), values.end(), [&](auto v) { return v > 0; });
  };
  require(shows(out.target.values()) || !shows(pictures.target.pixels), "pathfinder", "nothing is left of a label of ",
          pictures.target.height, " x ", pictures.target.width, " pixels at ", size, " x ", size);
  return out;
}

/// count samples stacked, sample_of(i) giving the i-th; made in parallel, the same values for any number of threads.
template <class SampleOf>
PathfinderBatch stack_samples(Index count, Index size, const SampleOf& sample_of) {
  require(count >= 1, "pathfinder", "expected at least 1 sample, got ", count);
  const Index area = size * size;
  PathfinderBatch batch{Tensor<float>({count, 1, size, size}), Tensor<float>({count, size, size}),
                        Tensor<float>({count, size, size})};
  float* image = batch.image.mutable_data();
  float* target = batch.target.mutable_data();
  float* dashes = batch.dashes.mutable_data();
  ThreadPool::instance().parallel_for(count, 1, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const PathfinderSample sample = sample_of(i);
      std::copy_n(sample.image.data(), area, image + i * area);
      std::copy_n(sample.target.data(), area, target + i * area);
      std::copy_n(sample.dashes.data(), area, dashes + i * area);
    }
  });
  return batch;
}

/// The Pathfinder generator (Linsley et al. 2018, "Learning long-range spatial dependencies with horizontal gated
/// recurrent units"; drewlinsley/pathfinder, snakes2.py): an image is a pure function of the options, a seed and an
/// index, so a data set is a range of indices.
///
/// Two contours start seed_distance apart and grow in turns, one dash at a time. A dash turns by the angle t with
/// probability proportional to (1 - occupied) cos(min(continuity t, 90 degrees))^2 and may not touch what is occupied:
/// every earlier dash, widened by `margin`, and the border. A contour's own newest dash is occupied one step late,
/// because its successor must touch it. A dead end starts both contours anew. Then the distractors grow in the room
/// left.
class Pathfinder {
 public:
  /// Draws the stamps of every heading. Throws Error when an option is out of its range, when two contours cannot fit
  /// in the window wherever they start, and when no dash would be seen in the label.
  explicit Pathfinder(const PathfinderOptions& options = {}) : options_(options) {
    check_options();
    padding_ = std::llround(options_.padding * static_cast<double>(options_.window));
    seed_border_ = std::llround(options_.seed_border * static_cast<double>(options_.window));
    const auto leaves_room = [&](const char* name, double share, Index pixels) {
      require(2 * pixels < options_.window, "pathfinder", name, " ", share, " leaves no room in a window of ",
              options_.window, " pixels");
    };
    leaves_room("padding", options_.padding, padding_);
    leaves_room("seed_border", options_.seed_border, seed_border_);
    check_geometry();
    make_stamps();
    check_labels();
    make_candidates();
  }

  /// The options, with the lengths that 0 stood for filled in.
  const PathfinderOptions& options() const { return options_; }

  /// The contours of one image. Throws Error when two long contours do not fit in the window.
  PathfinderScene scene(std::uint64_t seed, std::uint64_t index) const {
    Random random(seed, index);
    auto [contours, occupied] = grow_pair(random);
    PathfinderScene out;
    int failures = 0;  // in a row
    for (Index i = 0; i < options_.distractors && failures < distractor_failures && has_room(occupied); ++i) {
      ++failures;
      for (int attempt = 0; attempt < 5; ++attempt)
        if (auto distractor = grow_distractor(occupied, random)) {
          out.distractors.push_back(std::move(*distractor));
          failures = 0;
          break;
        }
    }
    const std::size_t marked = static_cast<std::size_t>(random.below(2));
    out.target = std::move(contours[marked]);
    out.rival = std::move(contours[1 - marked]);
    out.marker = marker_of(out.target[0]);
    return out;
  }

  /// The same scene with the rival for its target.
  PathfinderScene rival_marked(PathfinderScene scene) const {
    std::swap(scene.target, scene.rival);
    scene.marker = marker_of(scene.target[0]);
    return scene;
  }

  /// The same scene with the disc at the target's last end.
  PathfinderScene far_end_marked(PathfinderScene scene) const {
    scene.marker = scene.target.back().head;
    return scene;
  }

  /// The scene on the window.
  PathfinderPictures draw(const PathfinderScene& scene) const {
    Image8 target = blank_image(options_.window, options_.window);
    draw_contour(target, scene.target);
    detail::paint(target, marker_, scene.marker);
    Image8 image = target;
    draw_contour(image, scene.rival);
    for (const auto& contour : scene.distractors) draw_contour(image, contour);
    return {std::move(image), binarised(std::move(target))};
  }

  /// One sample. With random_flips it is mirrored by a draw of its own stream, so that the scene stays the same.
  PathfinderSample sample(std::uint64_t seed, std::uint64_t index) const {
    const PathfinderSample out = to_sample(draw(scene(seed, index)), options_.size);
    if (!options_.random_flips) return out;
    Random random(~seed, index);
    return flipped(out, random_flip(random));
  }

  /// The samples first_index ... first_index + count - 1.
  PathfinderBatch batch(std::uint64_t seed, std::uint64_t first_index, Index count) const {
    return stack_samples(count, options_.size,
                         [&](Index i) { return sample(seed, first_index + static_cast<std::uint64_t>(i)); });
  }

  /// The way from end to end along a contour, gaps included, in pixels of the output image.
  double length(const std::vector<Dash>& contour) const {
    double sum = static_cast<double>(period());
    for (std::size_t i = 1; i < contour.size(); ++i)
      sum += std::hypot(static_cast<double>(contour[i].pivot.x - contour[i - 1].pivot.x),
                        static_cast<double>(contour[i].pivot.y - contour[i - 1].pivot.y));
    return sum * static_cast<double>(options_.size) / static_cast<double>(options_.window);
  }

 private:
  /// A place where the next dash's head may fall, counted from its pivot.
  struct Candidate {
    Pixel offset;
    Index heading = 0;
  };
  using Contours = std::array<std::vector<Dash>, 2>;

  static constexpr int dash_attempts = 3;          // draws of a dash before the contour is given up
  static constexpr int pair_attempts = 20000;      // starts of the two contours
  static constexpr int pair_dashes = 300000;       // drawn in all these
  static constexpr int pair_misplaced = 2000000;   // starts beside these, of single dashes that are not on the window
  static constexpr int distractor_failures = 100;  // after so many that did not fit in the room left, no more are tried
  static constexpr int seed_attempts = 2000;       // draws of a free place; all fail only where next to none is left

  Index period() const { return options_.dash_length + 2 * options_.margin; }
  Index marker_reach() const { return static_cast<Index>(std::ceil(options_.marker_radius)); }

  /// The centre of the disc at a first dash's end.
  Pixel marker_of(const Dash& first) const { return moved(first.head, first.heading + 180, options_.dash_length); }

  /// Whether a contour's dashes are on the window, but for soft edges of what they keep free.
  bool is_on_window(const std::vector<Dash>& contour) const {
    return std::ranges::all_of(contour, [&](const Dash& dash) {
      const detail::Stamp& territory = territories_[static_cast<std::size_t>(dash.heading)];
      return detail::most_outside(options_.window, territory, dash.head) < touching;
    });
  }

  /// Whether the disc at a contour's first end would be on the window, too.
  bool can_be_marked(const std::vector<Dash>& contour) const {
    const Pixel centre = marker_of(contour.front());
    const Index least = marker_reach(), most = options_.window - 1 - least;
    return is_on_window(contour) && std::min(centre.x, centre.y) >= least && std::max(centre.x, centre.y) <= most;
  }

  /// Fills in what 0 stood for, once it is known to be in its range.
  void check_options() {
    auto& o = options_;
    const auto between = [](const char* name, auto value, auto least, auto most) {
      require(value >= least, "pathfinder", "expected ", name, " >= ", least, ", got ", value);
      require(value <= most, "pathfinder", "expected ", name, " <= ", most, ", got ", value);
    };
    constexpr Index most_size = 4096, most_window = 2 * most_size, many = 1000000;
    between("size", o.size, Index{1}, most_size);
    if (o.window == 0) o.window = 2 * o.size;
    between("window", o.window, Index{1}, most_window);
    between("contour_length", o.contour_length, Index{1}, many);
    if (o.distractor_length == 0) o.distractor_length = std::max<Index>(1, o.contour_length / 3);
    between("distractors", o.distractors, Index{0}, many);
    between("distractor_length", o.distractor_length, Index{1}, many);
    between("dash_length", o.dash_length, Index{1}, Index{128});
    between("thickness", o.thickness, 0.5, 64.0);
    between("margin", o.margin, Index{1}, Index{64});
    between("marker_radius", o.marker_radius, 0.5, 128.0);
    between("continuity", o.continuity, 0.5, 90.0);
    between("seed_distance", o.seed_distance, Index{1}, 2 * most_window);
    between("padding", o.padding, 0.0, 0.5);
    between("seed_border", o.seed_border, 0.0, 0.5);
  }

  /// Refuses what no draw can make fit. Each condition is a necessary one, less a pixel or two for rounding and soft
  /// edges; what passes may still be too crowded, which scene() finds out.
  void check_geometry() const {
    const auto& o = options_;
    const auto fits = [&](bool condition, const auto&... reason) {
      require(condition, "pathfinder", "two contours of ", o.contour_length, " dashes do not fit in a window of ",
              o.window, " pixels: ", reason...);
    };
    const double window = static_cast<double>(o.window), room = window - 2 * static_cast<double>(padding_);
    const double margin = static_cast<double>(o.margin), length = static_cast<double>(o.dash_length);
    const double root2 = std::numbers::sqrt2;

    // The least square around a stroke has its sides along the stroke, or at 45 degrees to it.
    const double longer = std::max(length, o.thickness), shorter = std::min(length, o.thickness);
    const double square = std::min(longer, (longer + shorter) / root2) + 2 * (margin - 1);
    fits(square <= room + 1, "a dash with its margin takes a square of about ", square, ", the padding leaves ", room);

    const double apart = static_cast<double>(o.seed_distance);
    fits(2 * (margin - 1) <= apart + 3, "margins of ", o.margin, " do not go between ends ", o.seed_distance, " apart");

    const double disc = std::ceil(o.marker_radius), free = std::max(static_cast<double>(padding_) + margin - 2, disc);
    const double first = std::max(static_cast<double>(seed_border_), disc);  // which may reach into the padding
    fits(2 * first <= window - 1, "there is no place for the first end, and the disc of radius ", o.marker_radius);
    const double farthest = root2 * (window - 1 - first - free);
    fits(apart <= farthest + 2, "ends ", o.seed_distance, " apart, of which both can lie inside, are at most ",
         farthest, " apart");

    // Of all contours of so many dashes, the one that always turns the same way by the most spans the least.
    const double turn = (90 / o.continuity + 1) * std::numbers::pi / 180;
    for (Index links = 1; links < o.contour_length && static_cast<double>(links - 1) * turn <= std::numbers::pi;
         ++links) {
      const double n = static_cast<double>(links);
      const double span = static_cast<double>(period()) * std::sin(n * turn / 2) / std::sin(turn / 2) - 0.75 * n;
      fits(links == 1 ? static_cast<double>(period()) <= root2 * room + 4 : span <= root2 * room + 4, links + 1,
           " dashes that turn by at most ", 90 / o.continuity, " degrees span ", span, ", the free diagonal is ",
           root2 * room);
    }

    // Of one contour's dashes at least every other is clear of the rest, and all but the very first of the padding.
    const double wide = std::max(margin - 1.5, 0.0);
    const double area = std::max(length * std::max(o.thickness - 1, 0.0) + 2 * wide * (length + o.thickness - 1) +
                                     std::numbers::pi * wide * wide,
                                 length / 2);
    const double areas = static_cast<double>(2 * ((o.contour_length + 1) / 2) - 1) * area;
    fits(areas <= room * room, "they cover at least ", areas, " pixels, and ", room * room, " are free");
  }

  /// Refuses strokes too thin to be seen in the label, once they are reduced to its size.
  void check_labels() const {
    const double scale = static_cast<double>(options_.window) / static_cast<double>(options_.size);
    const double area = static_cast<double>(options_.dash_length + 1) * (options_.thickness + 1);
    const bool hopeless = area < 0.1 * scale * scale;  // where all of it in one pixel would not do
    Index seen = 0;
    for (Index heading = 0; heading < 360 && !hopeless; ++heading) {
      const detail::Stamp& stroke = strokes_[static_cast<std::size_t>(heading)];
      const Index cell = static_cast<Index>(std::ceil(scale)), border = 2 * cell;
      const Index size = static_cast<Index>(
          std::ceil(static_cast<double>(std::max(stroke.picture.width, stroke.picture.height) + 2 * border) / scale));
      const Index window = std::llround(static_cast<double>(size) * scale);
      Image8 canvas = blank_image(window, window);
      const Pixel place{border - stroke.corner.x + heading * 7 % cell, border - stroke.corner.y + heading * 11 % cell};
      detail::paint(canvas, stroke, place);
      const Image8 label = resize_image(binarised(std::move(canvas)), size, size);
      seen += std::any_of(label.pixels.begin(), label.pixels.end(), [](auto v) { return v > detail::label_threshold; });
    }
    require(seen > 0, "pathfinder", "dashes of ", options_.dash_length, " x ", options_.thickness,
            " pixels in a window of ", options_.window, " leave nothing in a label of ", options_.size, " x ",
            options_.size);
  }

  static Index turned(Index degrees) { return ((degrees % 360) + 360) % 360; }

  /// The pixel nearest to the point `distance` away along the heading.
  static Pixel moved(Pixel from, Index heading, Index distance) {
    const double angle = static_cast<double>(turned(heading)) * std::numbers::pi / 180;
    return {from.x + std::llround(static_cast<double>(distance) * std::cos(angle)),
            from.y + std::llround(static_cast<double>(distance) * std::sin(angle))};
  }

  void make_stamps() {
    const double length = static_cast<double>(options_.dash_length), half = options_.thickness / 2;
    const double margin = static_cast<double>(options_.margin);
    // The filter's ripples end within a few pixels of the shape.
    const Index reach = options_.dash_length + static_cast<Index>(std::ceil(half)) + options_.margin + 1;
    const double ripples = half + margin + 7;
    const auto low = [&](double x) { return std::max(-reach, static_cast<Index>(std::floor(x - ripples))); };
    const auto high = [&](double x) { return std::min(reach, static_cast<Index>(std::ceil(x + ripples))); };
    strokes_.resize(360), territories_.resize(360);
    ThreadPool::instance().parallel_for(360, 30, [&](Index begin, Index stop) {
      for (Index heading = begin; heading < stop; ++heading) {
        const double angle = static_cast<double>(heading) * std::numbers::pi / 180;
        const double cosine = std::cos(angle), sine = std::sin(angle);
        const auto squared_distance = [=](double x, double y) {  // to the stroke, which runs back from the centre
          const double along = x * cosine + y * sine, across = std::abs(x * sine - y * cosine);
          const double ahead = std::max({along, -length - along, 0.0}), aside = std::max(across - half, 0.0);
          return ahead * ahead + aside * aside;
        };
        const double x_end = -length * cosine, y_end = -length * sine;
        const Pixel corner{low(std::min(x_end, 0.0)), low(std::min(y_end, 0.0))};
        const Pixel end{high(std::max(x_end, 0.0)), high(std::max(y_end, 0.0))};
        const auto stamp_within = [&](double limit) {
          return detail::make_stamp(corner, end,
                                    [&](double x, double y) { return squared_distance(x, y) <= limit * limit; });
        };
        strokes_[static_cast<std::size_t>(heading)] = stamp_within(0);
        territories_[static_cast<std::size_t>(heading)] = stamp_within(margin);
      }
    });
    const double radius = options_.marker_radius;
    const Index side = marker_reach() + 1;
    marker_ = detail::make_stamp({-side, -side}, {side, side},
                                 [=](double x, double y) { return std::hypot(x, y) <= radius; });
  }

  /// One candidate per pixel of the arc around a pivot, and what each turn weighs.
  void make_candidates() {
    const double radius = static_cast<double>(options_.dash_length + options_.margin);
    const Index count = static_cast<Index>(std::ceil(2 * std::numbers::pi * radius));
    for (Index i = 0; i < count; ++i) {
      const double angle = 2 * std::numbers::pi * static_cast<double>(i) / static_cast<double>(count);
      const Pixel offset{std::llround(radius * std::cos(angle)), std::llround(radius * std::sin(angle))};
      if (!candidates_.empty() && (offset == candidates_.back().offset || offset == candidates_.front().offset))
        continue;
      const double heading = std::atan2(static_cast<double>(offset.y), static_cast<double>(offset.x));
      candidates_.push_back({offset, turned(std::llround(heading * 180 / std::numbers::pi))});
    }
    for (Index degrees = 0; degrees <= 180; ++degrees) {
      const double turn = options_.continuity * static_cast<double>(degrees);
      turn_weights_.push_back(turn < 90 ? std::pow(std::cos(turn * std::numbers::pi / 180), 2) : 0.0);
    }
    const Index margin = options_.margin;
    for (Index y = -margin; y <= margin; ++y)
      for (Index x = -margin; x <= margin; ++x)
        if (x * x + y * y <= margin * margin) surroundings_.push_back({x, y});
  }

  /// A canvas with nothing but the border occupied.
  Image8 empty_window() const {
    const Index window = options_.window;
    Image8 out = blank_image(window, window, 1, 255);
    for (Index y = padding_; y < window - padding_; ++y)
      std::fill_n(out.pixels.begin() + y * window + padding_, window - 2 * padding_, std::uint8_t{0});
    return out;
  }

  void occupy(Image8& occupied, const Dash& dash) const {
    detail::paint(occupied, territories_[static_cast<std::size_t>(dash.heading)], dash.head);
  }

  /// How occupied a pixel's surroundings within the margin are, 0 ... 255; off the canvas all is.
  int occupation(const Image8& occupied, Pixel pixel) const {
    if (pixel.x < 0 || pixel.y < 0 || pixel.x >= occupied.width || pixel.y >= occupied.height) return 255;
    int most = 0;
    for (const Pixel& offset : surroundings_) {
      if (most == 255) break;
      const Index x = std::clamp<Index>(pixel.x + offset.x, 0, occupied.width - 1);
      const Index y = std::clamp<Index>(pixel.y + offset.y, 0, occupied.height - 1);
      most = std::max<int>(most, occupied.pixels[static_cast<std::size_t>(y * occupied.width + x)]);
    }
    return most;
  }

  /// Whether a dash's territory keeps clear of what is occupied: nowhere may the two together reach 1.8 of the full
  /// value, so antialiased edges may touch.
  bool is_clear(const Image8& occupied, const Dash& dash) const {
    int most = 0;
    detail::overlay(occupied, territories_[static_cast<std::size_t>(dash.heading)], dash.head,
                    [&](std::uint8_t a, std::uint8_t b) { most = std::max(most, a + b); });
    return most < 255 + touching;
  }

  /// Whether at least 1 % of the window is free.
  bool has_room(const Image8& occupied) const {
    const auto free =
        std::count_if(occupied.pixels.begin(), occupied.pixels.end(), [](auto v) { return v <= free_value; });
    return free * 100 >= options_.window * options_.window;
  }

  /// A contour's first dash, from its end.
  Dash first_dash(Pixel end, Index heading) const {
    return {moved(end, heading + 180, options_.margin), moved(end, heading, options_.dash_length), heading};
  }

  /// The dash after `last`, or nothing at a dead end.
  std::optional<Dash> next_dash(const Dash& last, const Image8& occupied, Random& random) const {
    const Pixel pivot = moved(last.pivot, last.heading, period());
    const auto head = [&](const Candidate& c) { return Pixel{pivot.x + c.offset.x, pivot.y + c.offset.y}; };
    std::vector<double> sums;  // of the candidates' weights, up to each
    sums.reserve(candidates_.size());
    double sum = 0;
    for (const Candidate& candidate : candidates_) {
      const Index turn = turned(candidate.heading - last.heading);
      const double weight = turn_weights_[static_cast<std::size_t>(std::min(turn, 360 - turn))];
      if (weight > 0) sum += weight * (1 - occupation(occupied, head(candidate)) / 255.);
      sums.push_back(sum);
    }
    if (sum < 1e-4) return {};
    for (int attempt = 0; attempt < dash_attempts; ++attempt) {
      const auto drawn = std::upper_bound(sums.begin(), sums.end() - 1, random.uniform() * sum) - sums.begin();
      const Candidate& candidate = candidates_[static_cast<std::size_t>(drawn)];
      const Dash dash{pivot, head(candidate), candidate.heading};
      if (is_clear(occupied, dash)) return dash;
    }
    return {};
  }

  /// The two long contours and all that they occupy.
  std::pair<Contours, Image8> grow_pair(Random& random) const {
    const Image8 empty = empty_window();
    Contours contours;
    std::array<Image8, 2> occupied;  // as each contour sees it: all of the other, all but the newest dash of itself
    Index dashes = 0;
    int misplaced = 0;
    const auto add = [&](std::size_t which, const Dash& dash) {
      if (!contours[which].empty()) occupy(occupied[which], contours[which].back());
      occupy(occupied[1 - which], dash);
      contours[which].push_back(dash);
      ++dashes;
    };
    const auto grow = [&] {
      contours = {};
      occupied = {empty, empty};
      const Index room = options_.window - 2 * seed_border_;
      const Pixel end{seed_border_ + random.below(room), seed_border_ + random.below(room)};
      const Dash first = first_dash(end, random.below(360));
      // One after the other, or compilers would draw them in different orders.
      const Index heading = random.below(360), direction = random.below(360);
      const Dash opposite = first_dash(moved(end, direction, options_.seed_distance), heading);
      if (options_.contour_length == 1 && !(can_be_marked({first}) && can_be_marked({opposite}))) {
        ++misplaced;
        return false;
      }
      add(0, first);
      if (!is_clear(occupied[1], opposite)) return false;
      add(1, opposite);
      for (Index i = 1; i < options_.contour_length; ++i)
        for (const std::size_t which : {std::size_t{0}, std::size_t{1}}) {
          const auto dash = next_dash(contours[which].back(), occupied[which], random);
          if (!dash) return false;
          add(which, *dash);
        }
      return can_be_marked(contours[0]) && can_be_marked(contours[1]);
    };
    int attempt = 0;
    for (; attempt - misplaced < pair_attempts && misplaced < pair_misplaced && dashes < pair_dashes; ++attempt)
      if (grow()) {
        occupy(occupied[0], contours[0].back());
        return {std::move(contours), std::move(occupied[0])};
      }
    fail("pathfinder", "two contours of ", options_.contour_length, " dashes do not fit in a window of ",
         options_.window, " pixels: ", attempt, " starts ended in dead ends");
  }

  /// A short contour, which then is occupied too; or nothing, and `occupied` stays as it was.
  std::optional<std::vector<Dash>> grow_distractor(Image8& occupied, Random& random) const {
    const auto seed = free_dash(occupied, random);
    if (!seed) return {};
    std::vector<Dash> contour{*seed};
    Image8 tried = occupied;
    while (static_cast<Index>(contour.size()) < options_.distractor_length) {
      const auto dash = next_dash(contour.back(), tried, random);
      if (!dash) return {};
      occupy(tried, contour.back());
      contour.push_back(*dash);
    }
    if (!is_on_window(contour)) return {};
    occupy(tried, contour.back());
    occupied = std::move(tried);
    return contour;
  }

  /// A dash of a random heading on a random free place: clear, and none of its territory's full pixels is occupied.
  std::optional<Dash> free_dash(const Image8& occupied, Random& random) const {
    const Index heading = random.below(360);
    for (int attempt = 0; attempt < seed_attempts; ++attempt) {
      const Pixel end{random.below(options_.window), random.below(options_.window)};
      if (occupied.pixels[static_cast<std::size_t>(end.y * options_.window + end.x)] > free_value) continue;
      const Dash dash = first_dash(end, heading);
      int most = 0;
      detail::overlay(occupied, territories_[static_cast<std::size_t>(heading)], dash.head,
                      [&](std::uint8_t a, std::uint8_t b) { most = std::max<int>(most, b == 255 ? a : 0); });
      if (most <= free_value && is_clear(occupied, dash)) return dash;
    }
    return {};
  }

  void draw_contour(Image8& canvas, const std::vector<Dash>& contour) const {
    for (const Dash& dash : contour) detail::paint(canvas, strokes_[static_cast<std::size_t>(dash.heading)], dash.head);
  }

  static constexpr std::uint8_t free_value = 76;  // 0.3 of the full value
  static constexpr int touching = 204;            // 0.8 of it

  PathfinderOptions options_;
  Index padding_ = 0, seed_border_ = 0;
  std::vector<detail::Stamp> strokes_, territories_;  // one for each whole degree of heading, centred on the head
  detail::Stamp marker_;
  std::vector<Candidate> candidates_;
  std::vector<double> turn_weights_;  // by whole degrees
  std::vector<Pixel> surroundings_;   // the offsets within the margin
};

/// One sample of the task. Throws Error as Pathfinder does, which is the quicker choice for many samples.
inline PathfinderSample pathfinder(const PathfinderOptions& options, std::uint64_t seed, std::uint64_t index) {
  return Pathfinder(options).sample(seed, index);
}

/// Samples first_index ... first_index + count - 1 of the task, made in parallel.
inline PathfinderBatch pathfinder_batch(const PathfinderOptions& options, std::uint64_t seed, std::uint64_t first_index,
                                        Index count) {
  return Pathfinder(options).batch(seed, first_index, count);
}

}  // namespace settle
