#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace settle::inline v0_2 {

/// Numbers with names, in the order in which they are told: a step's loss and penalty, a validation's scores.
using Figures = std::vector<std::pair<std::string, double>>;

/// Texts with names: how a step's solves ended.
using Words = std::vector<std::pair<std::string, std::string>>;

/// The figure of a name, if there is one.
inline std::optional<double> find_figure(const Figures& figures, std::string_view name) {
  for (const auto& [known, value] : figures)
    if (known == name) return value;
  return {};
}

}  // namespace settle
