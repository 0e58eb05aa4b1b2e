#include "panoptic_nets.hpp"

#include "settle/train/panoptic.hpp"

std::unique_ptr<settle::PanopticModel> panoptic_model(const settle::PanopticOptions& options,
                                                      const std::vector<settle::Category>& categories) {
  return std::make_unique<settle::PanopticFpnModel<Device>>(options, categories);
}
