#pragma once
#include <array>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "settle/autodiff/grad.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// A function of Vars with its type forgotten, so that derivatives of any order are of one type.
template <class T, class D>
using RecomputedFunction = std::function<std::vector<Var<T, D>>(const std::vector<Var<T, D>>&)>;

/// The vector-Jacobian product of `f` to the needed ones of its inputs, as a function of all its inputs and then of the
/// cotangents of those outputs that have one. It can be differentiated by each of them, needed or not.
template <class T, class D>
RecomputedFunction<T, D> pullback_of(RecomputedFunction<T, D> f, std::vector<bool> needed, std::vector<bool> given) {
  return [f = std::move(f), needed = std::move(needed), given = std::move(given)](const std::vector<Var<T, D>>& at) {
    // On the arguments' tape when they have one, to be differentiated again; else on one that is gone at the end.
    Tape<T, D> own;
    Tape<T, D>* tape = recording_tape<T, D>("checkpoint", at);
    const bool again = tape != nullptr;
    if (!again) tape = &own;
    std::vector<Var<T, D>> x, wanted;
    for (std::size_t k = 0; k < needed.size(); ++k) {
      x.push_back(needed[k] && !at[k].tape() ? tape->leaf(at[k].value()) : at[k]);
      if (needed[k]) wanted.push_back(x.back());
    }
    std::vector<Var<T, D>> cotangents(given.size());
    auto next = at.begin() + std::ssize(needed);
    for (std::size_t k = 0; k < given.size(); ++k)
      if (given[k]) cotangents[k] = *next++;
    return Pullback<T, D>(f(x), wanted)(cotangents, again, !again);
  };
}

/// The outputs of f, of which only the inputs are kept. Its gradient is the same with the pullback of f in f's place.
template <class T, class D>
std::vector<Var<T, D>> recomputed(const RecomputedFunction<T, D>& f, const std::vector<Var<T, D>>& inputs) {
  std::vector<Var<T, D>> constants;
  for (const auto& x : inputs) constants.push_back(stop_gradient(x));
  std::vector<Tensor<T, D>> values;
  for (const auto& y : f(constants)) {
    require(!y.tape(), "checkpoint", "the function uses a variable that is not among its arguments");
    values.push_back(y.value());
  }
  return record_outputs<T, D>(
      "checkpoint", std::span<const Tensor<T, D>>(values), std::span<const Var<T, D>>(inputs),
      [f, inputs](std::span<const Var<T, D>> cotangents, Cotangents<T, D>& gradients) {
        std::vector<bool> needed, given;
        std::vector<Var<T, D>> at = inputs;
        for (std::size_t k = 0; k < inputs.size(); ++k) needed.push_back(gradients.needs(k));
        for (const auto& g : cotangents) {
          given.push_back(g.defined());
          if (g.defined()) at.push_back(g);
        }
        const auto found = recomputed<T, D>(pullback_of<T, D>(f, needed, given), at);
        for (std::size_t k = 0, next = 0; k < inputs.size(); ++k)
          if (needed[k]) gradients.add(k, found[next++]);
      });
}

}  // namespace detail

/// f(arguments...) with only the arguments kept on the tape: what f records inside is thrown away and computed again
/// for each gradient through it. It takes one more evaluation, and the memory of one f instead of all. Gradients of any
/// order are those of f itself, and checkpoints nest.
///
/// The arguments are Vars; f returns a Var or a std::array of Vars, and must give the same values each time. Throws
/// Error when f uses a variable that is not among the arguments: its gradient would be lost.
template <class F, class T, class D, class... Rest>
auto checkpoint(const F& f, const Var<T, D>& first, const Rest&... rest) {
  using Result = std::invoke_result_t<const F&, const Var<T, D>&, const Rest&...>;
  constexpr bool single = std::is_same_v<Result, Var<T, D>>;
  const detail::RecomputedFunction<T, D> function = [f](const std::vector<Var<T, D>>& at) {
    const auto result = [&]<std::size_t... K>(std::index_sequence<K...>) { return f(at[K]...); }
    (std::make_index_sequence<sizeof...(Rest) + 1>{});
    if constexpr (single)
      return std::vector<Var<T, D>>{result};
    else
      return std::vector<Var<T, D>>(result.begin(), result.end());
  };
  auto outputs = detail::recomputed<T, D>(function, {first, rest...});
  if constexpr (single) {
    return std::move(outputs.front());
  } else {
    Result out;
    std::move(outputs.begin(), outputs.end(), out.begin());
    return out;
  }
}

}  // namespace settle
