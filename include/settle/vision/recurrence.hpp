#pragma once
#include <functional>
#include <memory>
#include <optional>

#include "settle/nn/conv_norm.hpp"
#include "settle/nn/recurrent_net.hpp"
#include "settle/vision/panoptic_options.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// A stem or a readout that does nothing, for a recurrent net that is its cell alone.
struct PassThrough {
  const auto& operator()(const auto& x) const { return x; }
  void parameters(auto&&) {}
};

template <class Cell>
RecurrentNet<PassThrough, Cell, PassThrough> net_of(const Cell& cell) {
  return {{}, cell, {}};
}

}  // namespace detail

/// A state that a cell settled to on a drive, and what that cost.
template <class V>
struct Settled {
  V state;
  V penalty;                                            ///< a scalar, weighted; 0 without one
  std::shared_ptr<const fixed_point::Report> report{};  ///< of the fixed point in training; null where there was none
};

/// The state of a cell on the drive x (N, C, H, W). In training it is differentiated as options.policy() says; in
/// evaluation it takes `steps`, or as many as the options say, and nothing is recorded. x is not empty.
template <class Cell, class T, class D>
Settled<Var<T, D>> settle_cell(const Cell& cell, const Var<T, D>& x, const RecurrenceOptions& options, Mode mode,
                               std::optional<int> steps = {}) {
  Settled<Var<T, D>> out{{}, Tensor<T, D>(Shape{}, T{0}), {}};
  const auto net = detail::net_of(cell);
  if (mode == Mode::train) {
    const auto reached = run(net, x, options.policy());
    out.state = reached.state, out.report = reached.report;
    if (options.training == RecurrentTraining::cbp) out.penalty = options.penalty_weight * reached.penalty;
  } else {
    out.state = predict(net, x, steps.value_or(options.steps_at_test()));
  }
  return out;
}

}  // namespace settle
