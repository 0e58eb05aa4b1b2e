#pragma once
#include <vector>

#include "settle/ops/slice.hpp"

namespace settle::inline v0_2 {

/// Tensors one after the other along an axis; their other extents are equal. Throws Error when they are not, or when
/// there is no tensor.
template <class T, class D>
Var<T, D> concat(const std::vector<Var<T, D>>& parts, int axis) {
  require(!parts.empty(), "concat", "expected at least one tensor");
  const int along = parts.front().shape().axis(axis);
  Shape shape = parts.front().shape();
  shape[along] = 0;
  for (const auto& part : parts) {
    require(part.shape().rank() == shape.rank() && reduced(part.shape(), Axes{along}) == reduced(shape, Axes{along}),
            "concat", "expected shapes that are equal except in axis ", along, ", got ", parts.front().shape(), " and ",
            part.shape());
    shape[along] = sum_of_extents({shape[along], part.shape(along)});
  }
  Tensor<T, D> y(shape);
  const cpu::Strides strides = cpu::contiguous_strides(shape);
  Index begin = 0;
  for (const auto& part : parts) {
    if (part.size() > 0)
      Backend<D>::copy_strided(part.shape(), part.value().data(), cpu::contiguous_strides(part.shape()),
                        y.mutable_data() + begin * strides[static_cast<std::size_t>(along)], strides);
    begin += part.shape(along);
  }
  std::vector<Index> extents;
  for (const auto& part : parts) extents.push_back(part.shape(along));
  return record_outputs<T, D>("concat", std::span<const Tensor<T, D>>(&y, 1), std::span<const Var<T, D>>(parts),
                              [extents, along](std::span<const Var<T, D>> g, Cotangents<T, D>& gradients) {
                                Index at = 0;
                                for (std::size_t k = 0; k < extents.size(); at += extents[k++])
                                  if (gradients.needs(k)) gradients.add(k, slice(g[0], along, at, extents[k]));
                              })
      .front();
}

struct ConcatOp {
  static constexpr const char* name = "concat";
  static void samples(auto& s) {
    const auto add = [&](const char* title, std::vector<Shape> shapes, int axis) {
      Shape to = shapes.front();
      to[axis] = 0;
      auto inputs = s.no_inputs();
      for (const Shape& shape : shapes) to[axis] += shape[axis], inputs.push_back(s.uniform(shape));
      s.add(
          title, [=](const auto& in) { return concat(in, axis); }, inputs,
          [=, &s](const auto& in) {
            return s.table(to, [&](Index at) {
              auto i = s.position(to, at);
              for (std::size_t k = 0;; i[axis] -= shapes[k++][axis])
                if (i[axis] < shapes[k][axis]) return s.at(in[k], i);
            });
          });
    };
    add("along the first axis", {{2, 3}, {1, 3}}, 0);
    add("three along the channels", {{2, 1, 2}, {2, 3, 2}, {2, 2, 2}}, 1);
    add("along the last axis", {{2, 3}, {2, 2}}, -1);
    add("with an empty part", {{2, 3}, {2, 0}, {2, 1}}, 1);
    add("one part", {{3}}, 0);
    add("only empty parts", {{0, 2}, {0, 2}}, 0);
    s.add(
        "a tensor with itself",
        [](const auto& in) {
          return concat(std::vector{in[0], in[0]}, 0);
        },
        {s.uniform({3})},
        [&s](const auto& in) { return s.table({6}, [&](Index at) { return in[0].data()[at % 3]; }); });
  }
};

}  // namespace settle
