#pragma once
#include <algorithm>
#include <vector>

#include "settle/ops/gather.hpp"
#include "settle/ops/slice.hpp"

namespace settle::inline v0_2 {

/// x with zeros added before and after each axis. Throws Error unless there is one number per axis.
template <class T, class D>
Var<T, D> pad(const Var<T, D>& x, const Shape& before, const Shape& after) {
  const int rank = x.shape().rank();
  require(before.rank() == rank && after.rank() == rank, "pad", "expected numbers of zeros for each axis of ",
          x.shape(), ", got ", before, " and ", after);
  Shape shape;
  for (int a = 0; a < rank; ++a) shape.append(sum_of_extents({before[a], x.shape(a), after[a]}));
  return embed(x, shape, {before, x.shape(), {}});
}

/// What stands beyond the borders: the image mirrored at its outermost elements, its outermost elements, or the image
/// again.
enum class Border { reflect, replicate, circular };

/// x continued before and after each axis, as PyTorch's pad of these modes. Throws Error unless there is one number per
/// axis, and where there is too little to mirror (as many elements as the axis has, or more) or to repeat.
template <class T, class D>
Var<T, D> pad(const Var<T, D>& x, const Shape& before, const Shape& after, Border border) {
  const int rank = x.shape().rank();
  require(before.rank() == rank && after.rank() == rank, "pad", "expected numbers of elements for each axis of ",
          x.shape(), ", got ", before, " and ", after);
  Var<T, D> y = x;
  for (int a = 0; a < rank; ++a) {
    if (before[a] == 0 && after[a] == 0) continue;
    const Index extent = x.shape(a), most = std::max(before[a], after[a]);
    require(border == Border::reflect ? most < extent : border == Border::circular ? most <= extent : extent > 0, "pad",
            "axis ", a, " of ", x.shape(), " is too short to be continued by ", before[a], " and ", after[a]);
    Shape continued = y.shape();
    continued[a] = sum_of_extents({before[a], extent, after[a]});
    const auto count = static_cast<std::size_t>(continued[a]);
    (void)continued.size();  // throws where it is no tensor's
    auto from = with_memory("pad", count * sizeof(Index), [&] { return std::vector<Index>(count); });
    for (std::size_t k = 0; k < count; ++k) {
      const Index i = static_cast<Index>(k) - before[a];
      if (border == Border::replicate)
        from[k] = std::clamp<Index>(i, 0, extent - 1);
      else if (border == Border::circular)
        from[k] = (i + extent) % extent;
      else
        from[k] = i < 0 ? -i : i < extent ? i : 2 * (extent - 1) - i;
    }
    y = gather(y, a, Indices(from));
  }
  return y;
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

struct BorderPadOp {
  static constexpr const char* name = "pad with a border";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape from, Shape before, Shape after, Border border) {
      Shape to;
      for (int a = 0; a < from.rank(); ++a) to.append(before[a] + from[a] + after[a]);
      s.add(
          title, [=](const auto& in) { return pad(in[0], before, after, border); }, {s.uniform(from)},
          [=, &s](const auto& in) {
            return s.table(to, [&](Index at) {
              auto i = s.position(to, at);
              for (int a = 0; a < to.rank(); ++a) {
                const Index n = from[a];
                i[a] -= before[a];
                while (i[a] < 0 || i[a] >= n) {
                  const bool low = i[a] < 0;
                  if (border == Border::reflect) i[a] = low ? -i[a] : 2 * n - 2 - i[a];
                  if (border == Border::replicate) i[a] = low ? 0 : n - 1;
                  if (border == Border::circular) i[a] += low ? n : -n;
                }
              }
              return s.at(in[0], i);
            });
          });
    };
    add("reflect", {1, 2, 3, 5}, {0, 0, 2, 1}, {0, 0, 1, 4}, Border::reflect);
    add("replicate", {1, 2, 3, 1}, {0, 0, 4, 1}, {0, 0, 0, 2}, Border::replicate);
    add("circular", {2, 3, 5}, {0, 1, 5}, {0, 3, 2}, Border::circular);
    add("nothing", {2, 3}, {0, 0}, {0, 0}, Border::reflect);
    add("an empty batch", {0, 3}, {0, 2}, {0, 1}, Border::reflect);
  }
};

}  // namespace settle
