#pragma once
#include "settle/ops/slice.hpp"

namespace settle {

/// x with zeros added before and after each axis. Throws Error unless there is one number per axis.
template <class T, class D>
Var<T, D> pad(const Var<T, D>& x, const Shape& before, const Shape& after) {
  const int rank = x.shape().rank();
  require(before.rank() == rank && after.rank() == rank, "pad", "expected numbers of zeros for each axis of ",
          x.shape(), ", got ", before, " and ", after);
  Shape shape;
  for (int a = 0; a < rank; ++a) shape.append(before[a] + x.shape(a) + after[a]);
  return embed(x, shape, {before, x.shape(), {}});
}

struct PadOp {
  static constexpr const char* name = "pad";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape from, Shape before, Shape after) {
      Shape to;
      for (int a = 0; a < from.rank(); ++a) to.append(before[a] + from[a] + after[a]);
      s.add(
          title, [=](const auto& in) { return pad(in[0], before, after); }, {s.uniform(from)},
          [=, &s](const auto& in) {
            return s.table(to, [&](Index at) {
              auto i = s.position(to, at);
              for (int a = 0; a < to.rank(); ++a) {
                i[a] -= before[a];
                if (i[a] < 0 || i[a] >= from[a]) return 0.0;
              }
              return s.at(in[0], i);
            });
          });
    };
    add("an image", {1, 2, 3, 5}, {0, 0, 1, 2}, {0, 0, 2, 0});
    add("nothing", {2, 3}, {0, 0}, {0, 0});
    add("an empty tensor", {0, 2}, {1, 0}, {2, 1});
    add("a scalar", {}, {}, {});
  }
};

}  // namespace settle
