#include "segmentation_nets.hpp"

std::unique_ptr<settle::Segmentation> hgru_segmentation(const settle::SegmentationOptions& options) {
  using Net = settle::HgruNet<float, Device>;
  return std::make_unique<settle::SegmentationOf<Net, Device>>(settle::hgru_net<float, Device>(options.model_options()),
                                                               options);
}
