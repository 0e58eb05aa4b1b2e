#pragma once
#include <memory>

#include "device.hpp"
#include "run_options.hpp"
#include "settle/train/segmentation.hpp"

// The nets that the programs train and use, each compiled in a file of its own.

std::unique_ptr<settle::Segmentation> hgru_segmentation(const settle::SegmentationOptions& options);
std::unique_ptr<settle::Segmentation> conv_lstm_segmentation(const settle::SegmentationOptions& options);
std::unique_ptr<settle::Segmentation> conv_gru_segmentation(const settle::SegmentationOptions& options);
std::unique_ptr<settle::Segmentation> fgru_segmentation(const settle::SegmentationOptions& options);
std::unique_ptr<settle::Segmentation> spectral_segmentation(const settle::SegmentationOptions& options);
std::unique_ptr<settle::Segmentation> global_conv_segmentation(const settle::SegmentationOptions& options);
std::unique_ptr<settle::Segmentation> feed_forward_segmentation(const settle::SegmentationOptions& options);

/// The net of the kind that the options name, at its initial values.
inline std::unique_ptr<settle::Segmentation> segmentation(const settle::SegmentationOptions& options) {
  if (options.model.kind == "conv_lstm") return conv_lstm_segmentation(options);
  if (options.model.kind == "conv_gru") return conv_gru_segmentation(options);
  if (options.model.kind == "fgru") return fgru_segmentation(options);
  if (options.model.kind == "spectral") return spectral_segmentation(options);
  if (options.model.kind == "global_conv") return global_conv_segmentation(options);
  if (options.model.kind == "feed_forward") return feed_forward_segmentation(options);
  return hgru_segmentation(options);
}

/// A run's net, with the weights of a checkpoint: "best", or "last" where there is no best one and none is asked for.
inline std::unique_ptr<settle::Segmentation> read_net(const std::filesystem::path& folder,
                                                      const settle::SegmentationOptions& options,
                                                      const std::string& checkpoint = "") {
  auto net = segmentation(options);
  net->load(run_checkpoint(folder, checkpoint));
  return net;
}
