#include "segmentation_nets.hpp"
#include "settle/nn/fgru.hpp"

std::unique_ptr<settle::Segmentation> fgru_segmentation(const settle::SegmentationOptions& options) {
  const auto net = settle::fgru_net<float, Device>(options.model_options());
  return std::make_unique<settle::SegmentationOf<std::decay_t<decltype(net)>, Device>>(net, options);
}
