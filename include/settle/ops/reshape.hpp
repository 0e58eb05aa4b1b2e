#pragma once
#include "settle/autodiff/tape.hpp"

namespace settle {

/// The same values in the same order under another shape of equal size; nothing is copied. Throws Error when the sizes
/// differ.
template <class T, class D>
Var<T, D> reshape(const Var<T, D>& x, const Shape& shape) {
  return record<T, D>("reshape", x.value().reshape(shape), {x},
                      [from = x.shape()](const Var<T, D>& g, Cotangents<T, D>& gradients) {
                        gradients.add(0, reshape(g, from));
                      });
}

struct ReshapeOp {
  static constexpr const char* name = "reshape";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape from, Shape to) {
      s.add(
          title, [=](const auto& in) { return reshape(in[0], to); }, {s.uniform(from)},
          [=, &s](const auto& in) { return s.table(to, [&](Index at) { return in[0].data()[at]; }); });
    };
    add("axes merged and split", {2, 3, 4}, {6, 1, 2, 2});
    add("a scalar to a matrix", {}, {1, 1});
    add("empty", {0, 3}, {2, 0});
  }
};

}  // namespace settle
