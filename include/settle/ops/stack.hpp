#pragma once
#include <vector>

#include "settle/ops/concat.hpp"
#include "settle/ops/reshape.hpp"

namespace settle::inline v0_2 {

/// Tensors of equal shape side by side along a new axis, which becomes axis `axis` of the result (from -rank-1 to
/// rank). Throws Error when the shapes differ, or when there is no tensor.
template <class T, class D>
Var<T, D> stack(const std::vector<Var<T, D>>& parts, int axis) {
  require(!parts.empty(), "stack", "expected at least one tensor");
  const Shape& shape = parts.front().shape();
  const int rank = shape.rank(), at = axis < 0 ? axis + rank + 1 : axis;
  require(at >= 0 && at <= rank, "stack", "axis ", axis, " is out of range for a result of rank ", rank + 1);
  Shape one;
  for (int a = 0; a <= rank; ++a) one.append(a == at ? 1 : shape[a < at ? a : a - 1]);
  std::vector<Var<T, D>> slabs;
  for (const auto& part : parts) {
    require(part.shape() == shape, "stack", "expected equal shapes, got ", shape, " and ", part.shape());
    slabs.push_back(reshape(part, one));
  }
  return concat(slabs, at);
}

struct StackOp {
  static constexpr const char* name = "stack";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape from, int count, int axis, Shape to) {
      auto inputs = s.no_inputs();
      for (int k = 0; k < count; ++k) inputs.push_back(s.uniform(from));
      s.add(
          title, [=](const auto& in) { return stack(in, axis); }, inputs,
          [=, &s](const auto& in) {
            return s.table(to, [&](Index at) {
              const auto i = s.position(to, at);
              auto j = s.position(from, 0);
              const int along = to.axis(axis);
              for (int a = 0; a < to.rank(); ++a)
                if (a != along) j[a < along ? a : a - 1] = i[a];
              return s.at(in[static_cast<std::size_t>(i[along])], j);
            });
          });
    };
    add("first", {2, 3}, 3, 0, {3, 2, 3});
    add("between", {2, 3}, 2, 1, {2, 2, 3});
    add("last", {2, 3}, 2, -1, {2, 3, 2});
    add("scalars", {}, 3, 0, {3});
    add("empty", {0, 2}, 2, 1, {0, 2, 2});
  }
};

}  // namespace settle
