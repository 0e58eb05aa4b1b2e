#pragma once
#include <cstdint>

#include "settle/nn/conv_lstm.hpp"
#include "settle/nn/feed_forward.hpp"
#include "settle/nn/hgru.hpp"
#include "settle/nn/readout.hpp"
#include "settle/nn/recurrent_net.hpp"
#include "settle/nn/stem.hpp"

namespace settle::inline v0_2 {

/// The released hGRU: Gabor stem, hGRU cell, batch norm readout.
template <Scalar T, class Device = Cpu>
using HgruNet = RecurrentNet<SquaringStem<T, Device>, HgruCell<T, Device>, BatchNormReadout<T, Device>>;

/// The released convLSTM: the same stem and readout.
template <Scalar T, class Device = Cpu>
using ConvLstmNet = RecurrentNet<SquaringStem<T, Device>, ConvLstmCell<T, Device>, BatchNormReadout<T, Device>>;

/// What the models of the released code may vary in.
struct ModelOptions {
  Index kernel = 15;        ///< of the cell's convolutions; odd
  Index orientations = 12;  ///< of the Gabor bank, which sets the number of channels: 2 · orientations + 1
  std::uint64_t seed = 0;
  Initialisation initialisation = Initialisation::released;
  Index image_channels = 1;
  Index classes = 2;

  Index channels() const { return 2 * orientations + 1; }
};

/// The released hGRU at its initial values.
template <Scalar T, class Device = Cpu>
HgruNet<T, Device> hgru_net(const ModelOptions& o = {}) {
  ParameterStreams streams(o.seed);
  return {.stem = SquaringStem<T, Device>::initial(o.orientations, streams, o.image_channels),
          .cell = HgruCell<T, Device>::initial(o.channels(), o.kernel, streams, o.initialisation),
          .readout = BatchNormReadout<T, Device>::initial(o.channels(), streams, o.classes)};
}

/// The released convLSTM at its initial values.
template <Scalar T, class Device = Cpu>
ConvLstmNet<T, Device> conv_lstm_net(const ModelOptions& o = {}) {
  ParameterStreams streams(o.seed);
  return {.stem = SquaringStem<T, Device>::initial(o.orientations, streams, o.image_channels),
          .cell = ConvLstmCell<T, Device>::initial(o.channels(), o.kernel, streams),
          .readout = BatchNormReadout<T, Device>::initial(o.channels(), streams, o.classes)};
}

/// The released feed-forward control at its initial values.
template <Scalar T, class Device = Cpu>
FeedForwardNet<T, Device> feed_forward_net(const ModelOptions& o = {}) {
  ParameterStreams streams(o.seed);
  return FeedForwardNet<T, Device>::initial(o.channels(), o.kernel, streams, o.image_channels, o.classes);
}

}  // namespace settle
