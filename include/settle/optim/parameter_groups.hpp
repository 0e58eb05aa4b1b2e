#pragma once
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "settle/autodiff/module.hpp"

namespace settle::inline v0_2 {

/// Parameters of some names that an optimiser treats in another way: `{.pattern = "*bn*", .weight_decay = 0}`,
/// `{.pattern = "backbone.*", .rate_factor = 0.1}`.
struct ParameterGroup {
  std::string pattern;                      ///< of names: * stands for any characters, ? for one
  double rate_factor = 1;                   ///< of the optimiser's rate
  std::optional<double> weight_decay = {};  ///< in place of the optimiser's
};

/// Whether a name is of a pattern, in which * stands for any number of characters and ? for one.
inline bool matches_pattern(std::string_view pattern, std::string_view name) {
  std::size_t p = 0, n = 0, star = std::string_view::npos, from = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++, from = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p, ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1, n = ++from;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

namespace detail {

/// Throws Error unless an optimiser's option can be what something is multiplied by: a rate, a weight decay.
inline void require_amount(const char* where, const char* option, double value) {
  require(value >= 0 && std::isfinite(value), where, "expected ", option, " >= 0 and finite, got ", value);
}

/// Throws Error unless it can be the share of what an optimiser keeps from step to step: a beta, a momentum.
inline void require_memory(const char* where, const char* option, double value) {
  require(value >= 0 && value < 1, where, "expected 0 <= ", option, " < 1, got ", value);
}

}  // namespace detail

/// Throws Error where a group's pattern is of none of the module's parameters, or a number of it makes no sense.
template <class M>
void check_groups(const char* where, const std::vector<ParameterGroup>& groups, const M& module) {
  if (groups.empty()) return;
  const auto names = parameter_names(module);
  for (const ParameterGroup& group : groups) {
    detail::require_amount(where, "rate_factor", group.rate_factor);
    detail::require_amount(where, "weight_decay", group.weight_decay.value_or(0));
    bool found = false;
    for (const std::string& name : names) found = found || matches_pattern(group.pattern, name);
    require(found, where, "no parameter's name is of the pattern '", group.pattern, "'; there are ", names.front(),
            " and ", names.size() - 1, " more");
  }
}

/// What is right for one parameter: the first group whose pattern its name is of, or the optimiser's own settings.
struct GroupSettings {
  double rate, weight_decay;

  GroupSettings(const std::vector<ParameterGroup>& groups, std::string_view name, double own_rate, double own_decay)
      : rate(own_rate), weight_decay(own_decay) {
    for (const ParameterGroup& group : groups)
      if (matches_pattern(group.pattern, name)) {
        rate *= group.rate_factor, weight_decay = group.weight_decay.value_or(own_decay);
        return;
      }
  }
};

}  // namespace settle
