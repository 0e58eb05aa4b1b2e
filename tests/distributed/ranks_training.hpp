#pragma once
#include <filesystem>
#include <memory>

#include "settle/distributed/group.hpp"
#include "settle/train/segmentation_options.hpp"
#include "settle/train/trainer.hpp"

// What settle_train does with an hGRU, in double: for what is compared to more digits than float has.

/// Trains to the end, in a run folder that rank 0 has.
settle::TrainingEnd train_in_double(const settle::SegmentationOptions& options,
                                    const std::shared_ptr<settle::RunFolder>& folder,
                                    const settle::distributed::Group& ranks);
