#pragma once
#include <memory>
#include <vector>

#include "device.hpp"
#include "run_options.hpp"
#include "settle/train/panoptic_model.hpp"

// The nets of panoptic segmentation, compiled in a file of their own.

std::unique_ptr<settle::PanopticModel> panoptic_model(const settle::PanopticOptions& options,
                                                      const std::vector<settle::Category>& categories);
