#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "settle/core/tensor.hpp"

/// A trained net of any kind.
class Net {
 public:
  using Named = std::vector<std::pair<std::string, settle::Tensor<float>>>;

  virtual ~Net() = default;
  /// "hgru", "conv_lstm" or "feed_forward".
  virtual std::string kind() const = 0;
  /// The logits (N, K, H, W) of images (N, C, H, W) after so many recurrent steps.
  virtual settle::Tensor<float> logits(const settle::Tensor<float>& images, int steps) const = 0;
  /// Parameters and buffers by their names, which are PyTorch's of the released models.
  virtual Named state() const = 0;
  /// Takes the values of all of them. Throws Error, and changes nothing, where a name or a shape differs.
  virtual void set_state(const Named& state) = 0;
};

/// The net whose weights a safetensors file holds: kind and size are read from the names and shapes.
std::unique_ptr<Net> read_net(const std::string& path);
