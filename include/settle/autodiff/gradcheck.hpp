#pragma once
#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "settle/autodiff/grad.hpp"
#include "settle/ops/reduce.hpp"

namespace settle::inline v0_2 {

struct GradcheckOptions {
  double tolerance = 1e-7;  ///< the largest relative error that passes
  double step = 1e-3;       ///< of the differences, times max(1, |x|); the function must be smooth within two of them
  std::uint64_t seed = 1;   ///< of the random cotangents and tangents
};

/// What a check of derivatives found. It converts to whether it passed.
struct GradcheckResult {
  /// The largest error of an element, relative to the largest element of the same gradient.
  double error = 0;
  bool passed = true;
  /// Names the worst element.
  std::string message = "nothing to compare";
  explicit operator bool() const { return passed; }
};

namespace detail {

/// f of leaves of a tape of its own.
template <class F>
Tensor<double> value_on_tape(const F& f, const std::vector<Tensor<double>>& inputs) {
  Tape<double> tape;
  std::vector<Var<double>> leaves;
  for (const auto& x : inputs) leaves.push_back(tape.leaf(x));
  return f(leaves).value();
}

inline double dot(const Tensor<double>& a, const Tensor<double>& b) {
  double total = 0;
  for (Index i = 0; i < a.size(); ++i) total += a.data()[i] * b.data()[i];
  return total;
}

/// "(1, 0, 2)": the place of an element.
inline std::string place_of(const Shape& shape, Index element) {
  Shape place = shape;
  for (int a = shape.rank() - 1; a >= 0; --a) place[a] = element % shape[a], element /= shape[a];
  std::ostringstream text;
  text << place;
  return text.str();
}

/// A way to ask for gradients: for those of some inputs, while the others are leaves of the tape too or constants.
struct Asked {
  std::vector<std::size_t> inputs;
  bool others_on_tape = true;

  /// ", where gradients are asked for inputs 0, 2 alone".
  std::string text(std::size_t all) const {
    if (inputs.size() == all) return {};
    std::ostringstream out;
    out << ", where gradients are asked for " << (inputs.size() == 1 ? "input" : "inputs");
    for (std::size_t k = 0; k < inputs.size(); ++k) out << (k > 0 ? ", " : " ") << inputs[k];
    out << " alone" << (others_on_tape ? "" : " and the others are constants");
    return out.str();
  }
};

/// All of `count` inputs, and each subset of them, both ways; of more than six inputs, instead of each subset, each
/// input alone and all but one.
inline std::vector<Asked> ways_to_ask(std::size_t count) {
  constexpr std::size_t few = 6;
  std::vector<Asked> out;
  const auto add = [&](const auto& is_asked) {
    Asked way;
    for (std::size_t k = 0; k < count; ++k)
      if (is_asked(k)) way.inputs.push_back(k);
    out.push_back(way);
    if (way.inputs.size() == count) return;
    way.others_on_tape = false;
    out.push_back(std::move(way));
  };
  add([](std::size_t) { return true; });
  if (count <= few) {
    for (std::size_t subset = 1; subset + 1 < (std::size_t{1} << count); ++subset)
      add([&](std::size_t k) { return (subset >> k & 1) != 0; });
  } else {
    for (std::size_t one = 0; one < count; ++one) {
      add([&](std::size_t k) { return k == one; });
      add([&](std::size_t k) { return k != one; });
    }
  }
  return out;
}

/// The inputs as a way to ask has them: leaves of the tape, and constants.
inline std::vector<Var<double>> on_tape_as_asked(const std::vector<Tensor<double>>& inputs, const Asked& way,
                                                 Tape<double>& tape) {
  std::vector<Var<double>> out(inputs.begin(), inputs.end());
  for (std::size_t k = 0; k < inputs.size(); ++k)
    if (way.others_on_tape || std::find(way.inputs.begin(), way.inputs.end(), k) != way.inputs.end())
      out[k] = tape.leaf(inputs[k]);
  return out;
}

/// Those of a list that are asked for.
template <class X>
std::vector<X> select_asked(const std::vector<X>& list, const Asked& way) {
  std::vector<X> out;
  for (const std::size_t k : way.inputs) out.push_back(list[k]);
  return out;
}

/// Derivatives of numbers f(inputs) along one input, by central differences of fourth order: a list for each number.
template <class F>
std::vector<std::vector<double>> differences(const F& f, const std::vector<Tensor<double>>& inputs, std::size_t input,
                                             double step) {
  std::vector<std::vector<double>> out;
  const Tensor<double>& x = inputs[input];
  for (Index i = 0; i < x.size(); ++i) {
    const double h = step * std::max(1.0, std::abs(x.data()[i]));
    const auto shifted = [&](double by) {
      std::vector<Tensor<double>> at = inputs;
      at[input].mutable_data()[i] += by;
      return f(at);
    };
    const std::vector<double> above = shifted(h), below = shifted(-h), far_above = shifted(2 * h),
                              far_below = shifted(-2 * h);
    out.resize(above.size());
    for (std::size_t n = 0; n < above.size(); ++n)
      out[n].push_back((8 * (above[n] - below[n]) - (far_above[n] - far_below[n])) / (12 * h));
  }
  return out;
}

/// Takes in a gradient for an input; `magnitude` is of what the differences subtract, and so of their rounding. False
/// when it is not a number.
inline bool compare(GradcheckResult& result, const Tensor<double>& gradient, const std::vector<double>& expected,
                    double magnitude, double tolerance, std::size_t input, const std::string& how) {
  double scale = 1e-4 * magnitude;
  for (std::size_t i = 0; i < expected.size(); ++i)
    scale = std::max({scale, std::abs(expected[i]), std::abs(gradient.data()[i])});
  for (Index i = 0; i < gradient.size(); ++i) {
    const double found = gradient.data()[i], wanted = expected[static_cast<std::size_t>(i)];
    const double error = found == wanted ? 0 : std::abs(found - wanted) / scale;
    if (error <= result.error && result.message != GradcheckResult().message) continue;
    result.error = error;
    result.passed = error <= tolerance;
    std::ostringstream text;
    text << "input " << input << ", element " << place_of(gradient.shape(), i) << ": gradient " << found
         << ", finite differences " << wanted << ", relative error " << error << (result.passed ? " <= " : " exceeds ")
         << tolerance << how;
    result.message = text.str();
    if (std::isnan(error)) return false;
  }
  return true;
}

}  // namespace detail

/// Checks the gradient of a function in all its inputs, at the given point and in double precision:
///
///     const auto result = gradcheck([](const auto& in) { return matmul(in[0], in[1]); }, {a, b});
///     require(result.passed, "my test", result.message);
///
/// `f` takes a std::vector<Var<double>> and returns a Var<double> of any shape. The gradient of <u, f(x)>, for a random
/// u, is compared with central differences of fourth order, element by element. It is asked for all inputs at once and
/// for each subset of them (of more than six, for each input alone and all but one), with the others on the tape and
/// with the others constant.
template <class F>
GradcheckResult gradcheck(const F& f, const std::vector<Tensor<double>>& inputs, const GradcheckOptions& options = {}) {
  Random random(options.seed);
  const Tensor<double> value = detail::value_on_tape(f, inputs), u = uniform<double>(value.shape(), -1, 1, random);
  double magnitude = 0;
  for (Index i = 0; i < u.size(); ++i) magnitude += std::abs(u.data()[i] * value.data()[i]);
  std::vector<std::vector<double>> expected(inputs.size());
  for (std::size_t k = 0; k < inputs.size(); ++k)
    if (inputs[k].size() > 0)
      expected[k] =
          detail::differences([&](const auto& at) { return std::vector{detail::dot(u, detail::value_on_tape(f, at))}; },
                              inputs, k, options.step)[0];

  GradcheckResult result;
  for (const detail::Asked& way : detail::ways_to_ask(inputs.size())) {
    Tape<double> tape;
    const std::vector<Var<double>> x = detail::on_tape_as_asked(inputs, way, tape);
    const auto gradients = vjp(f(x), detail::select_asked(x, way), Var<double>(u));
    for (std::size_t n = 0; n < gradients.size(); ++n) {
      const std::size_t k = way.inputs[n];
      require(gradients[n].shape() == inputs[k].shape(), "gradcheck", "input ", k, " of shape ", inputs[k].shape(),
              " got a gradient of shape ", gradients[n].shape());
      if (!detail::compare(result, gradients[n].value(), expected[k], magnitude, options.tolerance, k,
                           way.text(inputs.size())))
        return result;
    }
  }
  return result;
}

/// Checks the second derivatives of a function: those of <v, gradient of <u, f(x)>>, for random v, with respect to the
/// inputs x and the cotangent u (which is numbered as the last input), by the same differences. The first gradient is
/// asked for each subset of inputs as in gradcheck, and the second for all at once and for each alone.
template <class F>
GradcheckResult gradcheck_second_order(const F& f, const std::vector<Tensor<double>>& inputs,
                                       const GradcheckOptions& options = {}) {
  const std::size_t count = inputs.size();
  Random random(options.seed, 1);
  std::vector<Tensor<double>> tangents, point = inputs;
  for (const auto& x : inputs) tangents.push_back(uniform<double>(x.shape(), -1, 1, random));
  point.push_back(uniform<double>(detail::value_on_tape(f, inputs).shape(), -1, 1, random));
  // <v, gradient> of each input that is asked for.
  const auto first_order = [&](const std::vector<Var<double>>& at, const detail::Asked& way) {
    const std::vector<Var<double>> x(at.begin(), at.end() - 1);
    const auto gradients = vjp(f(x), detail::select_asked(x, way), at.back(), true);
    std::vector<Var<double>> out;
    for (std::size_t n = 0; n < gradients.size(); ++n)
      out.push_back(sum(gradients[n] * Var<double>(tangents[way.inputs[n]])));
    return out;
  };
  const std::vector<detail::Asked> ways = detail::ways_to_ask(count);
  const auto numbers = [&](const std::vector<Tensor<double>>& at) {
    Tape<double> tape;
    std::vector<double> out;
    for (const auto& product : first_order(detail::on_tape_as_asked(at, {}, tape), ways.front()))
      out.push_back(product.item());
    return out;
  };
  const std::vector<double> products = numbers(point);
  std::vector<std::vector<std::vector<double>>> expected;  // by input of the second derivative, of the first, element
  for (std::size_t j = 0; j <= count; ++j) expected.push_back(detail::differences(numbers, point, j, options.step));

  GradcheckResult result;
  for (const detail::Asked& way : ways) {
    detail::Asked leaves = way;
    leaves.inputs.push_back(count);
    Tape<double> tape;
    const std::vector<Var<double>> at = detail::on_tape_as_asked(point, leaves, tape);
    Var<double> total(Tensor<double>(Shape{}, 0.0));
    for (const auto& product : first_order(at, way)) total = total + product;
    double magnitude = 0;
    for (const std::size_t k : way.inputs) magnitude += std::abs(products[k]);
    const auto agree = [&](const std::vector<std::size_t>& second) {
      std::vector<Var<double>> wanted;
      for (const std::size_t j : second) wanted.push_back(at[j]);
      const auto gradients = grad(total, wanted, {.keep_graph = true});
      for (std::size_t n = 0; n < second.size(); ++n) {
        const std::size_t j = second[n];
        std::vector<double> sums(static_cast<std::size_t>(point[j].size()), 0.0);
        for (const std::size_t k : way.inputs)
          for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += expected[j][k][i];
        if (!detail::compare(result, gradients[n].value(), sums, magnitude, options.tolerance, j, way.text(count)))
          return false;
      }
      return true;
    };
    std::vector<std::size_t> all;
    for (std::size_t j = 0; j <= count; ++j)
      if (at[j].tape()) all.push_back(j);
    if (!agree(all)) return result;
    for (const std::size_t j : all)
      if (!agree({j})) return result;
  }
  return result;
}

/// Checks that forward and reverse products agree: <u, J v> = <Jᵀ u, v> for random u, and random v in each input.
template <class F>
GradcheckResult jvp_check(const F& f, const std::vector<Tensor<double>>& inputs, const GradcheckOptions& options = {}) {
  Tape<double> tape;
  std::vector<Var<double>> leaves;
  for (const auto& x : inputs) leaves.push_back(tape.leaf(x));
  const Var<double> y = f(leaves);
  Random random(options.seed, 2);
  const Tensor<double> u = uniform<double>(y.shape(), -1, 1, random);
  const auto gradients = vjp(y, leaves, Var<double>(u));
  GradcheckResult result;
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    const Tensor<double> v = uniform<double>(inputs[k].shape(), -1, 1, random);
    const double forward = detail::dot(u, jvp(y, leaves[k], Var<double>(v)).value());
    const double reverse = detail::dot(gradients[k].value(), v);
    const double error =
        forward == reverse ? 0 : std::abs(forward - reverse) / std::max(std::abs(forward), std::abs(reverse));
    if (error <= result.error && k > 0) continue;
    result.error = error;
    result.passed = error <= options.tolerance;
    std::ostringstream text;
    text << "input " << k << ": <u, J v> = " << forward << ", <Jᵀ u, v> = " << reverse << ", relative error " << error
         << (result.passed ? " <= " : " exceeds ") << options.tolerance;
    result.message = text.str();
    if (std::isnan(error)) return result;
  }
  return result;
}

}  // namespace settle
