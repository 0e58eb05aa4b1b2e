#pragma once
#include <algorithm>
#include <optional>
#include <vector>

#include "settle/expr/program.hpp"

namespace settle::inline v0_2::expr {

/// One summand of a result that is linear in the cotangents: literal · cotangent · factor · input, the factor and the
/// input only where they are not negative; 0 where the cotangent is.
struct LinearTerm {
  int result, cotangent, factor = -1, input = -1;
  double literal = 1;
};

/// A function that is linear in the cotangents, with everything else in it computed beforehand: sums of terms. Factor f
/// is the coefficient of cotangent `factors[f].cotangent` in result `factors[f].result`.
struct LinearForm {
  struct Factor {
    int cotangent, result;
  };
  std::vector<Factor> factors;
  std::vector<LinearTerm> terms;
};

namespace detail {

/// The coefficients of m cotangents in a gradient's results, as a program of the inputs without the cotangents: that of
/// cotangent r in result k is at k * m + r. Nothing when the program is not linear in its first m inputs.
inline std::optional<Program> coefficients(const Program& gradient, int m) {
  Program out;
  out.inputs = gradient.inputs - m;
  const auto count = static_cast<std::size_t>(m);
  const auto at = [](int k) { return static_cast<std::size_t>(k); };
  std::vector<int> value(gradient.code.size(), -1);            // of an instruction without cotangents
  std::vector<std::vector<int>> linear(gradient.code.size());  // an instruction's coefficients; -1: zero
  const auto is_linear = [&](int k) { return k >= 0 && !linear[at(k)].empty(); };
  const auto is_zero = [&](int k) {
    return gradient.code[at(k)].operation == Operation::constant && gradient.code[at(k)].literal == 0;
  };
  const auto coefficient = [&](int k, std::size_t r) { return is_linear(k) ? linear[at(k)][r] : -1; };

  for (std::size_t k = 0; k < gradient.code.size(); ++k) {
    const Instruction& i = gradient.code[k];
    const auto moved = [&](int operand) { return operand < 0 ? -1 : value[at(operand)]; };
    if (i.operation == Operation::input && i.input_number() < m) {
      linear[k].assign(count, -1);
      linear[k][at(i.input_number())] = out.literal(1);
      continue;
    }
    if (i.operation == Operation::input) {
      value[k] = out.input(i.input_number() - m);
      continue;
    }
    const bool a = is_linear(i.a), b = is_linear(i.b), c = is_linear(i.c);
    if (!a && !b && !c) {
      value[k] = out.emit({i.operation, moved(i.a), moved(i.b), moved(i.c), i.literal});
      continue;
    }
    linear[k].assign(count, -1);
    for (std::size_t r = 0; r < count; ++r) {
      const int x = coefficient(i.a, r), y = coefficient(i.b, r), z = coefficient(i.c, r);
      const auto or_zero = [&](int of) { return of < 0 ? out.literal(0) : of; };
      int& to = linear[k][r];
      switch (i.operation) {
        case Operation::add:
        case Operation::subtract:
          if ((!a && !is_zero(i.a)) || (!b && !is_zero(i.b))) return {};
          if (x >= 0 || y >= 0) to = out.emit({i.operation, or_zero(x), or_zero(y)});
          break;
        case Operation::negate:
          if (x >= 0) to = out.emit({Operation::negate, x});
          break;
        case Operation::multiply:
        case Operation::scale:
        case Operation::scale_both:
          if ((a && b) || (b && i.operation == Operation::scale)) return {};
          if (x >= 0 || y >= 0) to = out.emit({Operation::multiply, a ? x : y, a ? moved(i.b) : moved(i.a)});
          break;
        case Operation::divide:
          if (b) return {};
          if (x >= 0) to = out.emit({Operation::divide, x, moved(i.b)});
          break;
        case Operation::select:
          if (a || (!b && !is_zero(i.b)) || (!c && !is_zero(i.c))) return {};
          if (y >= 0 || z >= 0) to = out.emit({Operation::select, moved(i.a), or_zero(y), or_zero(z)});
          break;
        default:
          return {};
      }
    }
  }
  for (int result : gradient.results)
    for (std::size_t r = 0; r < count; ++r) {
      if (!is_linear(result) && !is_zero(result)) return {};
      const int found = coefficient(result, r);
      out.results.push_back(found < 0 ? out.literal(0) : found);
    }
  return out;
}

/// Whether an operation takes much longer than reading its result from memory.
constexpr bool is_costly(Operation f) {
  using enum Operation;
  switch (f) {
    case input:
    case constant:
    case add:
    case subtract:
    case multiply:
    case negate:
    case Operation::abs:
    case Operation::round:
    case minimum:
    case maximum:
    case scale:
    case scale_both:
    case less:
    case less_equal:
    case equal:
    case select:
      return false;
    default:
      return true;
  }
}

}  // namespace detail

/// The wanted results of a gradient, whose first m inputs are the cotangents, as a linear form with few factors: a
/// coefficient that is another one times an input shares that one's factor. Nothing when no time would be saved.
inline std::optional<LinearForm> linear_form(const Program& gradient, int m, const std::vector<bool>& wanted) {
  if (std::none_of(gradient.code.begin(), gradient.code.end(),
                   [](const Instruction& i) { return detail::is_costly(i.operation); }))
    return {};
  const std::optional<Program> program = detail::coefficients(gradient, m);
  if (!program) return {};
  const auto code = [&](int k) -> const Instruction& { return program->code[static_cast<std::size_t>(k)]; };
  const auto coefficient = [&](int k, int r) { return program->results[static_cast<std::size_t>(k * m + r)]; };
  const auto is_wanted = [&](int k) { return wanted[static_cast<std::size_t>(k)]; };
  const int results = static_cast<int>(wanted.size());
  const auto simple = [&](int index) {
    return code(index).operation == Operation::constant || code(index).operation == Operation::input;
  };
  // The wanted result whose coefficient times an input is this one's, or -1.
  const auto base = [&](int k, int r) -> std::pair<int, int> {
    const Instruction& i = code(coefficient(k, r));
    if (i.operation != Operation::multiply) return {-1, -1};
    for (const auto& [factor, input] : {std::pair(i.a, i.b), std::pair(i.b, i.a)})
      for (int other = 0; other < results && code(input).operation == Operation::input; ++other)
        if (other != k && is_wanted(other) && coefficient(other, r) == factor && !simple(factor))
          return {other, code(input).input_number()};
    return {-1, -1};
  };

  LinearForm out;
  const auto factor = [&](int k, int r) {
    for (std::size_t f = 0; f < out.factors.size(); ++f)
      if (out.factors[f].cotangent == r && coefficient(out.factors[f].result, r) == coefficient(k, r))
        return static_cast<int>(f);
    out.factors.push_back({r, k});
    return static_cast<int>(out.factors.size()) - 1;
  };
  for (int k = 0; k < results; ++k) {
    if (!is_wanted(k)) continue;
    for (int r = 0; r < m; ++r) {
      const Instruction& i = code(coefficient(k, r));
      if (i.operation == Operation::constant) {
        if (i.literal != 0) out.terms.push_back({k, r, -1, -1, i.literal});
      } else if (i.operation == Operation::input) {
        out.terms.push_back({k, r, -1, i.input_number()});
      } else if (const auto [other, input] = base(k, r); other >= 0 && base(other, r).first < 0) {
        out.terms.push_back({k, r, factor(other, r), input});
      } else {
        out.terms.push_back({k, r, factor(k, r)});
      }
    }
    // Where all coefficients cancel the result is 0: it is wanted all the same.
    if (out.terms.empty() || out.terms.back().result != k) out.terms.push_back({k, 0, -1, -1, 0});
  }
  if (out.factors.empty()) return {};
  return out;
}

}  // namespace settle::expr
