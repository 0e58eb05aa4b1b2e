#pragma once
#include <utility>

#include "settle/autodiff/tape.hpp"
#include "settle/cpu/backend.hpp"

namespace settle::inline v0_2 {

/// Evenly spaced positions along every axis: begin, begin + step, ... (`extent` of them). An empty `step` means all 1.
struct Window {
  Shape begin, extent, step;
};

namespace detail {

/// Checks a window of positions in `shape` and fills in its steps; one that nothing is reached by becomes 1.
inline Window checked_window(const char* where, const Shape& shape, Window window) {
  const int rank = shape.rank();
  if (window.step.rank() == 0)
    for (int a = 0; a < rank; ++a) window.step.append(1);
  require(window.begin.rank() == rank && window.extent.rank() == rank && window.step.rank() == rank, where,
          "expected begin, extent and step for each axis of ", shape, ", got ", window.begin, ", ", window.extent, ", ",
          window.step);
  for (int a = 0; a < rank; ++a) {
    const Index begin = window.begin[a], extent = window.extent[a], step = window.step[a];
    require(step >= 1, where, "a step must be at least 1, got ", window.step);
    const bool inside = begin >= 0 && extent >= 0 &&
                        (extent == 0 ? begin <= shape[a]
                                     : begin < shape[a] && extent - 1 <= (shape[a] - 1 - begin) / step);
    require(inside, where, "the window of begin ", window.begin, ", extent ",
            window.extent, ", step ", window.step, " leaves shape ", shape);
    if (extent <= 1) window.step[a] = 1;
  }
  return window;
}

/// Where a window starts in an array, and its strides.
inline std::pair<Index, cpu::Strides> window_place(const Shape& shape, const Window& window) {
  cpu::Strides strides = cpu::contiguous_strides(shape);
  Index start = 0;
  for (int a = 0; a < shape.rank(); ++a) {
    start += window.begin[a] * strides[static_cast<std::size_t>(a)];
    strides[static_cast<std::size_t>(a)] *= window.step[a];
  }
  return {start, strides};
}

}  // namespace detail

template <class T, class D>
Var<T, D> embed(const Var<T, D>& x, const Shape& shape, const Window& window);

/// The part of x at a window's positions. Throws Error when the window leaves x.
template <class T, class D>
Var<T, D> slice(const Var<T, D>& x, const Window& asked) {
  const Window window = detail::checked_window("slice", x.shape(), asked);
  const auto [start, strides] = detail::window_place(x.shape(), window);
  Tensor<T, D> y(window.extent);
  if (y.size() > 0)
    Backend<D>::copy_strided(y.shape(), x.value().data() + start, strides, y.mutable_data(),
                      cpu::contiguous_strides(y.shape()));
  return record<T, D>("slice", y, {x}, [window, shape = x.shape()](const Var<T, D>& g, Cotangents<T, D>& gradients) {
    gradients.add(0, embed(g, shape, window));
  });
}

/// The adjoint of slice: zeros of the given shape with x at a window's positions. Throws Error when the window leaves
/// the shape or is not of x's shape.
template <class T, class D>
Var<T, D> embed(const Var<T, D>& x, const Shape& shape, const Window& asked) {
  const Window window = detail::checked_window("embed", shape, asked);
  require(window.extent == x.shape(), "embed", "expected values of shape ", window.extent, ", got ", x.shape());
  Tensor<T, D> y(shape, T{0});
  const auto [start, strides] = detail::window_place(shape, window);
  if (x.size() > 0)
    Backend<D>::copy_strided(x.shape(), x.value().data(), cpu::contiguous_strides(x.shape()), y.mutable_data() + start,
                      strides);
  return record<T, D>("embed", y, {x}, [window](const Var<T, D>& g, Cotangents<T, D>& gradients) {
    gradients.add(0, slice(g, window));
  });
}

/// The part of x at begin, begin + step, ... (`extent` positions) of one axis.
template <class T, class D>
Var<T, D> slice(const Var<T, D>& x, int axis, Index begin, Index extent, Index step = 1) {
  Window window{{}, x.shape(), {}};
  for (int a = 0; a < x.shape().rank(); ++a) window.begin.append(0), window.step.append(1);
  require(begin >= 0 && extent >= 0 && step >= 1, "slice",
          "expected begin and extent of at least 0 and step of at least 1, got ", begin, ", ", extent, ", ", step);
  window.begin[axis] = begin, window.extent[axis] = extent, window.step[axis] = step;
  return slice(x, window);
}

struct SliceOp {
  static constexpr const char* name = "slice";
  static void samples(auto& s) {
    const auto value = [&s](const auto& x, const Shape& begin, const Shape& extent, const Shape& step) {
      return s.table(extent, [&](Index at) {
        auto i = s.position(extent, at);
        for (int a = 0; a < extent.rank(); ++a) i[a] = begin[a] + i[a] * step[a];
        return s.at(x, i);
      });
    };
    const auto add = [&](const char* title, Shape from, Shape begin, Shape extent, Shape step) {
      s.add(
          title,
          [=](const auto& in) {
            return slice(in[0], {begin, extent, step});
          },
          {s.uniform(from)}, [=](const auto& in) { return value(in[0], begin, extent, step); });
    };
    add("a window", {3, 4, 5}, {1, 0, 2}, {2, 4, 3}, {1, 1, 1});
    add("steps", {5, 7}, {1, 0}, {2, 3}, {3, 3});
    add("everything", {2, 3}, {0, 0}, {2, 3}, {1, 1});
    add("one element", {2, 3}, {1, 2}, {1, 1}, {1, 1});
    add("nothing", {2, 3}, {2, 1}, {0, 2}, {1, 1});
    add("of an empty tensor", {0, 3}, {0, 1}, {0, 2}, {1, 1});
    add("a scalar", {}, {}, {}, {});
    s.add(
        "one axis, with steps", [](const auto& in) { return slice(in[0], -1, 1, 2, 3); }, {s.uniform({2, 5})},
        [=](const auto& in) {
          return value(in[0], {0, 1}, {2, 2}, {1, 3});
        });
  }
};

struct EmbedOp {
  static constexpr const char* name = "embed";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape to, Shape begin, Shape extent, Shape step) {
      s.add(
          title,
          [=](const auto& in) {
            return embed(in[0], to, {begin, extent, step});
          },
          {s.uniform(extent)},
          [=, &s](const auto& in) {
            return s.table(to, [&](Index at) {
              auto i = s.position(to, at);
              for (int a = 0; a < to.rank(); ++a) {
                const Index offset = i[a] - begin[a];
                if (offset < 0 || offset % step[a] != 0 || offset / step[a] >= extent[a]) return 0.0;
                i[a] = offset / step[a];
              }
              return s.at(in[0], i);
            });
          });
    };
    add("a window", {3, 4, 5}, {1, 0, 2}, {2, 4, 3}, {1, 1, 1});
    add("steps", {5, 7}, {1, 0}, {2, 3}, {3, 3});
    add("nothing", {2, 3}, {0, 0}, {0, 3}, {1, 1});
    add("into nothing", {0, 3}, {0, 0}, {0, 3}, {1, 1});
  }
};

}  // namespace settle
