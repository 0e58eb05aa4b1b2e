#include "segmentation_nets.hpp"
#include "settle/nn/conv_gru.hpp"

std::unique_ptr<settle::Segmentation> conv_gru_segmentation(const settle::SegmentationOptions& options) {
  const auto net = settle::conv_gru_net<float, Device>(options.model_options());
  return std::make_unique<settle::SegmentationOf<std::decay_t<decltype(net)>, Device>>(net, options);
}
