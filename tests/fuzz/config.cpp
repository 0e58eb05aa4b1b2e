#include "settle/train/segmentation_options.hpp"

#include "settle/io/config.hpp"
#include "targets.hpp"

void fuzz::config(std::span<const std::uint8_t> bytes) {
  read([&] {
    settle::SegmentationOptions options;
    settle::Config(options).read(settle::read_json(file_of(bytes)), "input");
    options.check();
    options.policy();
  });
}
SETTLE_FUZZ_TARGET(config)
