#pragma once
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "settle/autodiff/grad.hpp"
#include "settle/ops/reduce.hpp"

namespace settle {

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

}  // namespace detail

/// Checks the gradient of a function in all its inputs, at the given point and in double precision:
///
///     const auto result = gradcheck([](const auto& in) { return matmul(in[0], in[1]); }, {a, b});
///     require(result.passed, "my test", result.message);
///
/// `f` takes a std::vector<Var<double>> and returns a Var<double> of any shape. The gradient of <u, f(x)>, for a random
/// u, is compared with central differences of fourth order, element by element.
template <class F>
GradcheckResult gradcheck(const F& f, const std::vector<Tensor<double>>& inputs, const GradcheckOptions& options = {}) {
  Tape<double> tape;
  std::vector<Var<double>> leaves;
  for (const auto& x : inputs) leaves.push_back(tape.leaf(x));
  const Var<double> y = f(leaves);
  Random random(options.seed);
  const Tensor<double> u = uniform<double>(y.shape(), -1, 1, random);
  const auto gradients = vjp(y, leaves, Var<double>(u));
  double magnitude = 0;  // of what the differences subtract, and so of their rounding
  for (Index i = 0; i < u.size(); ++i) magnitude += std::abs(u.data()[i] * y.value().data()[i]);

  GradcheckResult result;
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    const Tensor<double>& x = inputs[k];
    const Tensor<double>& gradient = gradients[k].value();
    require(gradient.shape() == x.shape(), "gradcheck", "input ", k, " of shape ", x.shape(),
            " got a gradient of shape ", gradient.shape());
    std::vector<double> expected;
    double scale = 1e-4 * magnitude;
    for (Index i = 0; i < x.size(); ++i) {
      const double h = options.step * std::max(1.0, std::abs(x.data()[i]));
      const auto shifted = [&](double by) {
        std::vector<Tensor<double>> at = inputs;
        at[k].mutable_data()[i] += by;
        return detail::dot(u, detail::value_on_tape(f, at));
      };
      expected.push_back((8 * (shifted(h) - shifted(-h)) - (shifted(2 * h) - shifted(-2 * h))) / (12 * h));
      scale = std::max({scale, std::abs(expected.back()), std::abs(gradient.data()[i])});
    }
    for (Index i = 0; i < x.size(); ++i) {
      const double found = gradient.data()[i], wanted = expected[static_cast<std::size_t>(i)];
      const double error = found == wanted ? 0 : std::abs(found - wanted) / scale;
      if (error <= result.error && result.message != GradcheckResult().message) continue;
      result.error = error;
      result.passed = error <= options.tolerance;
      std::ostringstream text;
      text << "input " << k << ", element " << detail::place_of(x.shape(), i) << ": gradient " << found
           << ", finite differences " << wanted << ", relative error " << error
           << (result.passed ? " <= " : " exceeds ") << options.tolerance;
      result.message = text.str();
      if (std::isnan(error)) return result;
    }
  }
  return result;
}

/// Checks the second derivatives of a function: those of <v, gradient of <u, f(x)>>, for random v, with respect to the
/// inputs x and the cotangent u (which is numbered as the last input), by gradcheck.
template <class F>
GradcheckResult gradcheck_second_order(const F& f, const std::vector<Tensor<double>>& inputs,
                                       const GradcheckOptions& options = {}) {
  Random random(options.seed, 1);
  std::vector<Tensor<double>> tangents, point = inputs;
  for (const auto& x : inputs) tangents.push_back(uniform<double>(x.shape(), -1, 1, random));
  point.push_back(uniform<double>(detail::value_on_tape(f, inputs).shape(), -1, 1, random));
  const auto first_order = [&](const std::vector<Var<double>>& at) {
    const std::vector<Var<double>> x(at.begin(), at.end() - 1);
    const auto gradients = vjp(f(x), x, at.back(), true);
    Var<double> total(Tensor<double>(Shape{}, 0.0));
    for (std::size_t k = 0; k < x.size(); ++k) total = total + sum(gradients[k] * Var<double>(tangents[k]));
    return total;
  };
  return gradcheck(first_order, point, options);
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
