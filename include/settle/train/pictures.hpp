#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "settle/core/tensor.hpp"
#include "settle/data/image.hpp"
#include "settle/data/resize.hpp"

namespace settle::inline v0_2 {

/// Colours that tell classes apart, also to the colour-blind (Okabe and Ito, 2008); class 0, the background, has none.
inline Colour class_colour(Index which) {
  constexpr std::array<Colour, 7> colours{
      {{230, 159, 0}, {86, 180, 233}, {0, 158, 115}, {204, 121, 167}, {240, 228, 66}, {213, 94, 0}, {0, 114, 178}}};
  return colours[static_cast<std::size_t>(std::max<Index>(which - 1, 0)) % colours.size()];
}

namespace detail {

inline std::uint8_t as_byte(double value) { return static_cast<std::uint8_t>(255 * std::clamp(value, 0.0, 1.0) + 0.5); }

}  // namespace detail

/// An image (C, H, W) of one or three channels as an RGB picture: from its least value, black, to its largest, white.
inline Image8 picture_of(const Tensor<float>& image) {
  const Index channels = image.shape(0), area = image.shape(1) * image.shape(2);
  require(channels == 1 || channels == 3, "picture", "expected an image of 1 or 3 channels, got ", image.shape());
  const auto [least, largest] = std::minmax_element(image.values().begin(), image.values().end());
  const double low = *least, range = std::max<double>(*largest - *least, 1e-12);
  Image8 out = blank_image(image.shape(1), image.shape(2), 3);
  for (Index k = 0; k < area; ++k)
    for (Index c = 0; c < 3; ++c)
      out.pixels[static_cast<std::size_t>(3 * k + c)] =
          detail::as_byte((image.data()[channels == 1 ? k : c * area + k] - low) / range);
  return out;
}

/// A picture under classes' shares, (K, H, W) of 0 to 1: where a class other than 0 has all, its colour stands alone.
inline Image8 overlaid(Image8 picture, const Tensor<float>& shares) {
  const Index area = picture.height * picture.width;
  require(shares.shape() == Shape{shares.shape(0), picture.height, picture.width}, "picture", "expected shares of ",
          picture.height, " x ", picture.width, " pixels, got ", shares.shape());
  for (Index k = 0; k < area; ++k)
    for (std::size_t c = 0; c < 3; ++c) {
      std::uint8_t& value = picture.pixels[static_cast<std::size_t>(3 * k) + c];
      double out = 0, rest = 1;
      for (Index j = 1; j < shares.shape(0); ++j) {
        const double share = shares.data()[j * area + k];
        out += share * class_colour(j)[c] / 255, rest -= share;
      }
      value = detail::as_byte(out + std::max(0.0, rest) * value / 255);
    }
  return picture;
}

/// Sample n of a batch.
inline Tensor<float> sample_of(const Tensor<float>& batch, Index n) {
  Shape shape;
  for (int axis = 1; axis < batch.shape().rank(); ++axis) shape.append(batch.shape(axis));
  Tensor<float> out(shape);
  std::copy_n(batch.data() + n * out.size(), out.size(), out.mutable_data());
  return out;
}

/// The softmax of logits (K, H, W) over the classes.
inline Tensor<float> class_shares(const Tensor<float>& logits) {
  const Index classes = logits.shape(0), area = logits.shape(1) * logits.shape(2);
  Tensor<float> out(logits.shape());
  float* const shares = out.mutable_data();
  const float* const from = logits.data();
  for (Index k = 0; k < area; ++k) {
    float largest = from[k], sum = 0;
    for (Index c = 1; c < classes; ++c) largest = std::max(largest, from[c * area + k]);
    for (Index c = 0; c < classes; ++c) sum += shares[c * area + k] = std::exp(from[c * area + k] - largest);
    for (Index c = 0; c < classes; ++c) shares[c * area + k] /= sum;
  }
  return out;
}

/// 1 for the class of each pixel, else 0: of classes (H, W), (K, H, W).
inline Tensor<float> class_shares_of_target(const Tensor<float>& target, Index classes) {
  Tensor<float> out({classes, target.shape(0), target.shape(1)}, 0.f);
  for (Index k = 0; k < target.size(); ++k) {
    const auto which = static_cast<Index>(target.data()[k]);
    if (which >= 0 && which < classes) out.mutable_data()[which * target.size() + k] = 1;
  }
  return out;
}

/// A grid of square cells, each holding a picture in RGB; what is smaller is enlarged by whole numbers, what is larger
/// is made smaller, its shape kept.
class Sheet {
 public:
  Sheet(Index rows, Index columns, Index side, Index gap = 0, std::uint8_t ground = 0)
      : side_(side),
        gap_(gap),
        picture_(blank_image(rows * (side + gap) + gap, columns * (side + gap) + gap, 3, ground)) {}

  void paint(Index row, Index column, const Image8& image) {
    Image8 fitted = with_channels(image, 3);
    const Index longest = std::max(fitted.height, fitted.width);
    if (longest > side_)
      fitted = resize_image(fitted, std::max<Index>(1, fitted.height * side_ / longest),
                            std::max<Index>(1, fitted.width * side_ / longest));
    const Index zoom = std::max<Index>(1, side_ / std::max(fitted.height, fitted.width));
    const Index top = gap_ + row * (side_ + gap_) + (side_ - zoom * fitted.height) / 2;
    const Index left = gap_ + column * (side_ + gap_) + (side_ - zoom * fitted.width) / 2;
    for (Index y = 0; y < zoom * fitted.height; ++y)
      for (Index x = 0; x < zoom * fitted.width; ++x)
        std::copy_n(fitted.pixels.begin() + 3 * (y / zoom * fitted.width + x / zoom), 3,
                    picture_.pixels.begin() + 3 * ((top + y) * picture_.width + left + x));
  }

  const Image8& picture() const { return picture_; }

 private:
  Index side_, gap_;
  Image8 picture_;
};

}  // namespace settle
