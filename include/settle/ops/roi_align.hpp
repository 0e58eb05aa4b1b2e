#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "settle/ops/linear_map.hpp"
#include "settle/ops/reshape.hpp"
#include "settle/ops/transpose.hpp"

namespace settle::inline v0_2 {

/// How the part of a map of features within a box is resampled (RoIAlign, He et al. 2017).
struct RoiAlignOptions {
  std::array<Index, 2> size{7, 7};  ///< bins that a box is cut into, down and across
  double scale = 1;                 ///< places of the map to a unit of the boxes: 1 / stride
  Index samples = 0;                ///< along each side of a bin, up to 65536; 0: as many as it has places, rounded up
  bool aligned = true;  ///< place (0, 0) has its centre at (1/2, 1/2); false: at (0, 0), as the first version
};

namespace detail {

/// What a bin takes along one axis: weights of the places from `first` on.
struct BinWeights {
  Index first = 0;
  std::vector<double> weights;
};

/// The bins of a box along one axis of a map of `extent` places, from `from` to `to` in units of the box. The mean over
/// samples at even distances, each the linear interpolation between two places; a sample more than one place outside
/// the map counts as 0. Both axes' weights multiply. Arithmetic is that of the boxes' type, which decides how many
/// samples.
template <class B>
std::vector<BinWeights> bin_weights(B from, B to, Index bins, Index extent, const RoiAlignOptions& o) {
  const B offset = o.aligned ? B(0.5) : B(0);
  const B start = from * static_cast<B>(o.scale) - offset;
  B length = to * static_cast<B>(o.scale) - offset - start;
  if (!o.aligned) length = std::max(length, B(1));
  const B bin = length / static_cast<B>(bins);
  const B count = o.samples > 0 ? static_cast<B>(o.samples) : std::ceil(bin), step = bin / count;
  const B last = static_cast<B>(extent);
  const auto number_of_bins = static_cast<std::size_t>(bins);
  auto out = with_memory("roi_align", number_of_bins * sizeof(BinWeights),
                         [&] { return std::vector<BinWeights>(number_of_bins); });
  if (!(count > 0)) return out;
  for (Index p = 0; p < bins; ++p) {
    const B begin = start + static_cast<B>(p) * bin;
    // A box may be larger than the map beyond measure: only samples near the map are looked at.
    const auto number = [&](B at) { return std::clamp((at - begin) / step, B(0), count); };
    const B low = step > 0 ? std::max(std::floor(number(-1)) - 1, B(0)) : B(0);
    const B high = step > 0 ? std::min(std::ceil(number(last)) + 1, count) : count;
    BinWeights& bin_of = out[static_cast<std::size_t>(p)];
    const auto reach = static_cast<Index>(step > 0 ? std::min(high - low, (last + 1) / step + 8) : count);
    for (Index k = 0; k < reach; ++k) {
      const B at = begin + (low + static_cast<B>(k) + B(0.5)) * bin / count;
      if (at < -1 || at > last) continue;
      const B inside = std::max(at, B(0));
      const Index place = std::min(static_cast<Index>(inside), extent - 1);
      const B beyond = place == extent - 1 ? B(0) : inside - static_cast<B>(place);
      if (bin_of.weights.empty()) bin_of.first = place;
      const auto slot = static_cast<std::size_t>(place - bin_of.first);
      bin_of.weights.resize(std::max(bin_of.weights.size(), slot + (beyond > 0 ? 2 : 1)));
      bin_of.weights[slot] += static_cast<double>(1 - beyond) / static_cast<double>(count);
      if (beyond > 0) bin_of.weights[slot + 1] += static_cast<double>(beyond) / static_cast<double>(count);
    }
  }
  return out;
}

template <class B>
void require_regions(const char* where, const Tensor<B>& boxes, const RoiAlignOptions& o) {
  require(boxes.rank() == 2 && boxes.shape(1) == 4, where, "expected boxes (R, 4), got ", boxes.shape());
  require(o.size[0] >= 1 && o.size[1] >= 1 && o.samples >= 0 && o.samples <= 65536 && o.scale > 0, where,
          "expected at least 1 x 1 bins, 0 to 65536 samples and a scale above 0, got ", o.size[0], " x ", o.size[1],
          ", ", o.samples, " and ", o.scale);
  for (Index r = 0; r < boxes.shape(0); ++r) {
    const B* b = boxes.data() + 4 * r;
    require(b[2] >= b[0] && b[3] >= b[1] && std::isfinite(b[2] - b[0]) && std::isfinite(b[3] - b[1]), where,
            "expected boxes of finite sides of at least 0, got ", b[0], ", ", b[1], ", ", b[2], ", ", b[3], " in row ",
            r);
  }
}

/// RoIAlign as a matrix: rows for (box, bin down, bin across), columns for (image, row, column) of the map.
template <class B>
LinearMap roi_matrix(const Shape& x, const Tensor<B>& boxes, const std::vector<Index>& images,
                     const RoiAlignOptions& o) {
  SparseMatrix matrix;
  matrix.columns = x[0] * x[2] * x[3];
  matrix.reserve("roi_align", boxes.shape(0) * o.size[0] * o.size[1], 4);
  for (Index r = 0; r < boxes.shape(0); ++r) {
    const B* b = boxes.data() + 4 * r;
    const auto down = bin_weights(b[1], b[3], o.size[0], x[2], o), across = bin_weights(b[0], b[2], o.size[1], x[3], o);
    const Index image = images[static_cast<std::size_t>(r)] * x[2] * x[3];
    for (const BinWeights& rows : down)
      for (const BinWeights& columns : across) {
        for (std::size_t i = 0; i < rows.weights.size(); ++i)
          for (std::size_t j = 0; j < columns.weights.size(); ++j)
            matrix.add(image + (rows.first + static_cast<Index>(i)) * x[3] + columns.first + static_cast<Index>(j),
                       rows.weights[i] * columns.weights[j]);
        matrix.end_row();
      }
  }
  return LinearMap(std::move(matrix));
}

}  // namespace detail

/// The features within boxes: y (R, C, size) from x (N, C, H, W), where box r (left, top, right, bottom) is in image
/// images[r]. Each bin is the mean of bilinear samples, as in detectron2's RoIAlign; a box without area gives 0 where
/// the number of samples is left open. It is a linear map of x, a sparse matrix times features with channels last, and
/// so is its gradient; boxes have none. Throws Error for boxes with negative sides or an image that is not there.
template <class T, class D, class B>
Var<T, D> roi_align(const Var<T, D>& x, const Tensor<B>& boxes, const std::vector<Index>& images,
                    const RoiAlignOptions& options = {}) {
  const Shape shape = x.shape();
  require(shape.rank() == 4 && shape[2] >= 1 && shape[3] >= 1, "roi_align",
          "expected features (N, C, H, W) of at least one place, got ", shape);
  detail::require_regions("roi_align", boxes, options);
  require(std::ssize(images) == boxes.shape(0), "roi_align", "expected an image for each of ", boxes.shape(0),
          " boxes, got ", images.size());
  for (const Index image : images)
    require(image >= 0 && image < shape[0], "roi_align", "expected images below ", shape[0], ", got ", image);
  (void)Shape{boxes.shape(0), options.size[0], options.size[1], shape[1]}.size();  // throws where it is no tensor's
  const auto channels_last = reshape(transpose(x, {0, 2, 3, 1}), {shape[0] * shape[2] * shape[3], shape[1]});
  const auto bins = apply_along(channels_last, 0, detail::roi_matrix(shape, boxes, images, options));
  return transpose(reshape(bins, {boxes.shape(0), options.size[0], options.size[1], shape[1]}), {0, 3, 1, 2});
}

struct RoiAlignOp {
  static constexpr const char* name = "roi_align";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape from, std::vector<double> corners, std::vector<Index> images,
                         RoiAlignOptions o) {
      const Tensor<double> boxes(Shape{std::ssize(images), 4}, corners);
      s.add(
          title, [=](const auto& in) { return roi_align(in[0], boxes, images, o); }, {s.uniform(from)},
          [=, &s](const auto& in) {
            const Index height = from[2], width = from[3];
            // One bilinear sample at a time, as the definition reads.
            const auto sample = [&](Index image, Index channel, double y, double x) {
              if (y < -1 || y > static_cast<double>(height) || x < -1 || x > static_cast<double>(width)) return 0.;
              y = std::clamp(y, 0., static_cast<double>(height - 1));
              x = std::clamp(x, 0., static_cast<double>(width - 1));
              const auto i = static_cast<Index>(y), j = static_cast<Index>(x);
              double sum = 0;
              for (Index a = i; a <= std::min(i + 1, height - 1); ++a)
                for (Index b = j; b <= std::min(j + 1, width - 1); ++b)
                  sum += (1 - std::abs(y - static_cast<double>(a))) * (1 - std::abs(x - static_cast<double>(b))) *
                         in[0].data()[((image * from[1] + channel) * height + a) * width + b];
              return sum;
            };
            return s.table({std::ssize(images), from[1], o.size[0], o.size[1]}, [&](Index at) {
              const auto p = s.position({std::ssize(images), from[1], o.size[0], o.size[1]}, at);
              const double* box = corners.data() + 4 * p[0];
              double start[2], bin[2], count[2];
              for (int a = 0; a < 2; ++a) {
                const double offset = o.aligned ? .5 : 0;
                start[a] = box[1 - a] * o.scale - offset;
                double side = (box[3 - a] - box[1 - a]) * o.scale;
                if (!o.aligned) side = std::max(side, 1.);
                bin[a] = side / static_cast<double>(o.size[static_cast<std::size_t>(a)]);
                count[a] = o.samples > 0 ? static_cast<double>(o.samples) : std::ceil(bin[a]);
              }
              double sum = 0;
              for (double i = 0; i < count[0]; ++i)
                for (double j = 0; j < count[1]; ++j)
                  sum += sample(images[static_cast<std::size_t>(p[0])], p[1],
                                start[0] + (static_cast<double>(p[2]) + (i + .5) / count[0]) * bin[0],
                                start[1] + (static_cast<double>(p[3]) + (j + .5) / count[1]) * bin[1]);
              return sum / std::max(count[0] * count[1], 1.);
            });
          });
    };
    add("boxes within, beyond and without area", {2, 2, 5, 6},
        {-3.2, -1.5, 7.3, 9.1, .4, 1.7, 5.2, 3.9, 2, 2, 2, 2, 4.6, 4.9, 12, 11}, {0, 1, 1, 0}, {{2, 3}, .5});
    add("two samples", {1, 1, 4, 4}, {.4, .7, 3.2, 2.9, 1, 1, 1, 1}, {0, 0}, {{3, 2}, 1, 2});
    add("not aligned", {1, 2, 4, 3}, {.4, .7, 3.2, 2.9, 1, 1, 1.5, 1}, {0, 0}, {{2, 2}, .75, 0, false});
    add("one place", {1, 1, 1, 1}, {-1, -1, 3, 2}, {0}, {{2, 2}});
    add("far outside", {1, 1, 3, 3}, {50, 50, 60, 60, -900, -900, 901, 902}, {0, 0}, {{2, 2}});
    add("no boxes", {2, 3, 4, 4}, {}, {}, {{7, 7}});
    add("no images, no boxes", {0, 3, 4, 4}, {}, {}, {{2, 2}});
  }
};

}  // namespace settle
