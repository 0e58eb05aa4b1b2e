#include "segmentation_nets.hpp"

std::unique_ptr<settle::Segmentation> feed_forward_segmentation(const settle::SegmentationOptions& options) {
  using Net = settle::FeedForwardNet<float, Device>;
  return std::make_unique<settle::SegmentationOf<Net, Device>>(
      settle::feed_forward_net<float, Device>(options.model_options()), options);
}
