#include "segmentation_nets.hpp"

std::unique_ptr<settle::Segmentation> conv_lstm_segmentation(const settle::SegmentationOptions& options) {
  using Net = settle::ConvLstmNet<float, Device>;
  return std::make_unique<settle::SegmentationOf<Net, Device>>(
      settle::conv_lstm_net<float, Device>(options.model_options()), options);
}
