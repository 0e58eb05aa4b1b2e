#pragma once
#include <bit>
#include <cstddef>
#include <exception>
#include <optional>
#include <vector>

#include "settle/fixed_point/linearised.hpp"

// Which of a step's arguments have a row for each sample: what it takes to apply the step to some samples alone.
namespace settle::inline v0_2::fixed_point::detail {

/// The given samples of the arguments that have samples.
template <class T, class D>
Vars<T, D> gather_arguments(const Vars<T, D>& arguments, const std::vector<bool>& per_sample, const Rows& rows) {
  Vars<T, D> out = arguments;
  for (std::size_t k = 0; k < out.size(); ++k)
    if (per_sample[k]) out[k] = gather_rows(out[k].value(), rows);
  return out;
}

/// Finds out which arguments belong to the samples: the fewest of the candidates, whose axis 0 is as long as the batch,
/// that have to change their length with the state for the step to accept it and to keep its shape. An argument that
/// the step takes whole, whatever the number of samples, is shared. This follows from shapes alone, never from values:
/// the step is applied to no samples at all, or, if it does not take that, to one more than there are. Nothing where
/// no choice is accepted, for the step needs this batch as it is, or where there are more than eight candidates.
template <class T, class D>
std::optional<std::vector<bool>> arguments_of_samples(const FlatStep<T, D>& step, const Vars<T, D>& arguments,
                                                      const std::vector<bool>& candidates, const Values<T, D>& z) {
  std::vector<std::size_t> places;
  for (std::size_t k = 0; k < candidates.size(); ++k)
    if (candidates[k]) places.push_back(k);
  constexpr std::size_t most = 8;  // every choice of them may have to be tried
  if (places.size() > most) return std::nullopt;
  const auto chosen = [&](std::size_t choice) {
    std::vector<bool> out(candidates.size(), false);
    for (std::size_t i = 0; i < places.size(); ++i) out[places[i]] = (choice >> i & 1) != 0;
    return out;
  };
  Rows one_more = all_rows(z.front().shape()[0]);
  one_more.push_back(0);
  for (const Rows& rows : {Rows{}, one_more})
    for (std::size_t count = 0; count <= places.size(); ++count)
      for (std::size_t choice = 0; choice < (std::size_t{1} << places.size()); ++choice) {
        if (static_cast<std::size_t>(std::popcount(choice)) != count) continue;
        try {
          (void)on_values<T, D>(step(gather_arguments(arguments, chosen(choice), rows)))(gather_rows(z, rows));
          return chosen(choice);
        } catch (const std::exception&) {  // of whatever kind: the step does not take this
        }
      }
  return std::nullopt;
}

}  // namespace settle::fixed_point::detail
