#pragma once
#include <algorithm>
#include <vector>

#include "settle/autodiff/grad.hpp"
#include "settle/ops/reduce.hpp"

/// The values, first and second derivatives of an elementwise function of a Var at points, computed in T.
template <class T, class F>
std::vector<std::vector<T>> derivatives(F f, const std::vector<T>& at) {
  using namespace settle;
  Tape<T> tape;
  const Var<T> x = tape.leaf(Tensor<T>({static_cast<Index>(at.size())}, at));
  const Var<T> y = f(x);
  const Var<T> first = grad(sum(y), {x}, {.create_graph = true}).front();
  const Var<T> second = first.tape() ? grad(sum(first), {x}).front() : Var<T>(Tensor<T>(x.shape(), T{0}));
  std::vector<std::vector<T>> out;
  for (const Var<T>& v : {y, first, second}) out.emplace_back(v.value().values().begin(), v.value().values().end());
  return out;
}
