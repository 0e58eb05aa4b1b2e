#pragma once
#include <cmath>
#include <vector>

#include "settle/distributed/together.hpp"
#include "settle/fixed_point/solve.hpp"

namespace settle::inline v0_2::fixed_point {

/// One equilibrium for each input of a sequence.
template <State Z>
struct Sequence {
  std::vector<Solution<Z>> frames;
  std::vector<double> drift;  ///< |z_t - z_(t-1)| / |z_t| over the batch; for the first frame the distance from z0.
                              ///< Where a sample failed, its z_t is the one before
};

/// Tracks the fixed point of z = f(z, x_t, arguments...) through inputs x_t that change slowly: each frame starts from
/// the last one's state, and in the backward pass, which runs from the last frame to the first, each adjoint solve from
/// the following frame's solution. A sample that fails in a frame goes on from its last good one. Frames are
/// differentiated one by one: nothing flows back from a frame to an earlier one.
template <int order = 1, class F, State Z, class X, class... A>
[[nodiscard]] Sequence<Z> solve_sequence(const F& step, const Options& options, const Z& z0,
                                         const std::vector<X>& inputs, const A&... arguments) {
  using V = detail::variable_of<Z>;
  Sequence<Z> out;
  Warm<Z> warm{z0};
  for (const X& x : inputs) {
    const auto before = detail::values_of(detail::variables<V>(warm.z));
    out.frames.push_back(solve<order>(step, options, warm, x, arguments...));
    const auto after = detail::values_of(detail::variables<V>(warm.z));
    const detail::OverRanks whole_batch(distributed::Together::now().group);
    const detail::Moved moved = detail::moved(after, before, 1);
    out.drift.push_back(detail::relative(moved.distances.front(), moved.sizes.front()));
  }
  return out;
}

}  // namespace settle::fixed_point
