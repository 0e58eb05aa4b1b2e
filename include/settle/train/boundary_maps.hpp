#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "settle/core/tensor.hpp"
#include "settle/data/image.hpp"
#include "settle/vision/boundary_ridges.hpp"

namespace settle::inline v0_2 {

/// The soft map of boundaries of an image's logits (2, H, W): class 1's probability where it is largest across the
/// boundary (boundary_ridges), from 0 to 255, as the Berkeley benchmark takes it.
inline Image8 boundary_map(const Tensor<float>& logits) {
  require(logits.rank() == 3 && logits.shape(0) == 2, "boundary_map", "expected logits (2, H, W), got ",
          logits.shape());
  const Index height = logits.shape(1), width = logits.shape(2), area = height * width;
  Tensor<float> probability({height, width});
  for (Index k = 0; k < area; ++k)
    probability.mutable_data()[k] = 1 / (1 + std::exp(logits.data()[k] - logits.data()[area + k]));
  const Tensor<float> ridges = boundary_ridges(probability);
  Image8 out = blank_image(height, width);
  for (Index k = 0; k < area; ++k)
    out.pixels[static_cast<std::size_t>(k)] = static_cast<std::uint8_t>(255 * ridges.data()[k] + 0.5f);
  return out;
}

}  // namespace settle
