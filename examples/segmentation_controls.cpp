#include "segmentation_nets.hpp"
#include "settle/nn/spectral.hpp"

namespace {

template <class Net>
std::unique_ptr<settle::Segmentation> control(const settle::SegmentationOptions& options) {
  const settle::ModelOptions o = options.model_options();
  settle::ParameterStreams streams(o.seed);
  return std::make_unique<settle::SegmentationOf<Net, Device>>(
      Net::initial(o.orientations, o.kernel, streams, o.image_channels, o.classes), options);
}

}  // namespace

std::unique_ptr<settle::Segmentation> spectral_segmentation(const settle::SegmentationOptions& options) {
  return control<settle::SpectralNet<float, Device>>(options);
}

std::unique_ptr<settle::Segmentation> global_conv_segmentation(const settle::SegmentationOptions& options) {
  return control<settle::GlobalConvNet<float, Device>>(options);
}
