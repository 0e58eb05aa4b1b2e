#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "settle/autodiff/tape.hpp"
#include "settle/expr/program.hpp"  // first, so that its messages come without a chain of other files

#include "settle/cpu/backend.hpp"

namespace settle::inline v0_2 {

using expr::Expression;
using expr::outputs;

namespace detail {

template <class A>
struct var_of {};
template <class T, class D>
struct var_of<Var<T, D>> {
  using type = Var<T, D>;
};
template <class T, class D>
struct var_of<Tensor<T, D>> {
  using type = Var<T, D>;
};

/// A Var, or a tensor, which is a constant Var where one is wanted.
template <class A>
concept VarOrTensor = requires { typename var_of<A>::type; };
template <class A>
concept OnlyTensor = VarOrTensor<A> && !std::same_as<A, typename var_of<A>::type>;

/// The first Var type among a map's arguments.
template <class... A>
struct first_var;
template <VarOrTensor A, class... Rest>
struct first_var<A, Rest...> : var_of<A> {};
template <class A, class... Rest>
struct first_var<A, Rest...> : first_var<Rest...> {};
template <>
struct first_var<> {
  using type = Var<double>;
};

template <class V, class A>
V as_var(const A& argument) {
  if constexpr (std::is_arithmetic_v<A>)
    return Backend<typename V::device_type>::number(static_cast<typename V::value_type>(argument));
  else
    return argument;
}

/// A gradient as products of cotangents with local derivatives that were computed once.
template <class T, class D>
struct KeptDerivatives {
  const PointwiseFunction<T, D>* of;  ///< the gradient that they are made from
  std::vector<bool> needed;
  std::optional<cpu::LinearKernel<T>> kernel;  ///< none: the gradient is as fast
  std::vector<Tensor<T, D>> factors;

  /// `arguments` are m cotangents and the inputs.
  KeptDerivatives(const PointwiseFunction<T, D>& gradient, const Shape& space, std::vector<Tensor<T, D>> arguments,
                  int m, std::vector<bool> wanted)
      : of(&gradient), needed(std::move(wanted)) {
    const auto form = expr::linear_form(gradient.program(), m, needed);
    if (!form || arguments.size() + form->factors.size() > expr::max_operands) return;
    kernel.emplace(*form, m);
    MemoryTag tag("local derivatives");
    for (std::size_t f = 0; f < form->factors.size(); ++f) factors.emplace_back(space);
    for (int r = 0; r < m; ++r) {
      // Cotangent 1 for one result of the function and 0 for the others.
      for (int k = 0; k < m; ++k) arguments[static_cast<std::size_t>(k)] = Tensor<T, D>(Shape{}, k == r ? T{1} : T{0});
      std::vector<PointwiseResult<T, D>> into(needed.size());
      bool any = false;
      for (std::size_t f = 0; f < form->factors.size(); ++f)
        if (form->factors[f].cotangent == r)
          any = true, into[static_cast<std::size_t>(form->factors[f].result)] = {&factors[f], false};
      if (any) evaluate<T>(gradient.kernel(), space, arguments, into);
    }
  }
};

/// Adds to the cotangents that are needed what a map's gradient gives for `arguments`, which are m cotangents and the
/// inputs, when it is not recorded: written or added in place.
template <class T, class D>
void pull_values(const PointwiseFunction<T, D>& gradient, const Shape& space, const std::vector<Var<T, D>>& arguments,
                 int m, const std::vector<bool>& needed, Cotangents<T, D>& gradients) {
  std::vector<Tensor<T, D>> operands, fresh(needed.size());
  for (const auto& a : arguments) operands.push_back(a.value());
  PointwiseKernel<T, D> kernel = gradient.kernel();
  if constexpr (PointwiseFunction<T, D>::keeps_derivatives) {
    if (std::shared_ptr<void>* kept = gradients.kept()) {
      using Kept = KeptDerivatives<T, D>;
      if (!*kept) *kept = std::make_shared<Kept>(gradient, space, operands, m, needed);
      const Kept& derivatives = *static_cast<const Kept*>(kept->get());
      if (derivatives.kernel && derivatives.of == &gradient && derivatives.needed == needed) {
        kernel = {&cpu::LinearKernel<T>::run, &*derivatives.kernel};
        operands.insert(operands.begin() + m, derivatives.factors.begin(), derivatives.factors.end());
      }
    }
  } else {
    static_cast<void>(m);
  }
  std::vector<PointwiseResult<T, D>> into(needed.size());
  for (std::size_t k = 0; k < needed.size(); ++k) {
    if (!needed[k]) continue;
    if (Tensor<T, D>* existing = gradients.in_place(k)) {
      into[k] = {existing, true};
    } else {
      fresh[k] = Tensor<T, D>(operands[operands.size() - needed.size() + k].shape());
      into[k] = {&fresh[k], false};
    }
  }
  evaluate<T>(kernel, space, operands, into);
  for (std::size_t k = 0; k < needed.size(); ++k)
    if (into[k].tensor && !into[k].accumulate) gradients.add(k, fresh[k]);
}

/// sum += x, of the same shape.
template <class T, class D>
void add_in_place(Tensor<T, D>& sum, const Tensor<T, D>& x) {
  constexpr auto same = [](auto v) { return v; };
  const PointwiseResult<T, D> into{&sum, true};
  evaluate<T>(PointwiseFunction<T, D>::template of<std::decay_t<decltype(same)>, 1>().kernel(), x.shape(),
              std::span<const Tensor<T, D>>(&x, 1), std::span<const PointwiseResult<T, D>>(&into, 1));
}

/// The pointwise primitive: evaluates the wanted results of `function` over `space`, each summed to its shape, unless
/// `known` gives them. Its gradient is the same primitive applied to the function's gradient, so every order follows.
template <class T, class D>
std::vector<Var<T, D>> pointwise(const PointwiseFunction<T, D>& function, const Shape& space,
                                 const std::vector<Var<T, D>>& inputs, const std::vector<Shape>& shapes,
                                 const std::vector<bool>& wanted, const std::vector<Tensor<T, D>>& known = {}) {
  std::vector<Tensor<T, D>> tensors = known;
  if (known.empty()) {
    std::vector<Tensor<T, D>> values;
    for (const auto& v : inputs) values.push_back(v.value());
    tensors.resize(shapes.size());
    std::vector<PointwiseResult<T, D>> results(shapes.size());
    for (std::size_t r = 0; r < shapes.size(); ++r) {
      if (!wanted[r]) continue;
      tensors[r] = Tensor<T, D>(shapes[r]);
      results[r].tensor = &tensors[r];
    }
    evaluate<T>(function.kernel(), space, values, results);
  }

  return record_outputs<T, D>(
      "map", tensors, inputs,
      [&function, space, inputs](std::span<const Var<T, D>> cotangents, Cotangents<T, D>& gradients) {
        // Results without a cotangent take no part: 0 times what is not finite in them would not be 0.
        std::vector<Var<T, D>> arguments;
        std::vector<bool> used;
        for (const auto& g : cotangents) {
          used.push_back(g.defined());
          if (g.defined()) arguments.push_back(g);
        }
        const auto m = static_cast<int>(arguments.size());
        const bool all = m == static_cast<int>(cotangents.size());
        const PointwiseFunction<T, D>& gradient = (all ? function : function.only(used)).gradient();
        arguments.insert(arguments.end(), inputs.begin(), inputs.end());

        // A cotangent that passes through unchanged is handed on, not copied.
        std::vector<bool> needed(inputs.size());
        std::vector<Shape> input_shapes;
        for (std::size_t k = 0; k < inputs.size(); ++k) {
          input_shapes.push_back(inputs[k].shape());
          needed[k] = gradients.needs(k);
          if (!needed[k]) continue;
          const auto& source = gradient.program().code[static_cast<std::size_t>(gradient.program().results[k])];
          if (source.operation == expr::Operation::input) {
            const auto number = static_cast<std::size_t>(source.input_number());
            if (arguments[number].shape() == inputs[k].shape() && inputs[k].size() == space.size()) {
              gradients.add(k, arguments[number]);
              needed[k] = false;
            }
          } else if (source.operation == expr::Operation::constant && source.literal == 0) {
            needed[k] = false;
          }
        }
        if (std::find(needed.begin(), needed.end(), true) == needed.end()) return;
        if (recording_tape<T, D>("map", arguments)) {
          const auto out = pointwise<T, D>(gradient, space, arguments, input_shapes, needed);
          for (std::size_t k = 0; k < inputs.size(); ++k)
            if (needed[k]) gradients.add(k, out[k]);
          return;
        }
        pull_values(gradient, space, arguments, m, needed, gradients);
      });
}

template <class F, class... A>
auto pointwise_of(const Axes& summed_axes, const A&... arguments) {
  constexpr bool plain = std::is_empty_v<F> && std::is_default_constructible_v<F>;
  static_assert(plain,
                "settle: the function given to map or reduce must be a lambda without captures; "
                "pass run-time numbers as further arguments");
  constexpr bool any_var = (VarOrTensor<A> || ...);
  static_assert(any_var, "settle: map and reduce need at least one Var or Tensor among their arguments");
  constexpr bool fitting = ((VarOrTensor<A> || std::is_arithmetic_v<A>)&&...);
  static_assert(fitting, "settle: map and reduce take Vars, Tensors and numbers");
  using V = typename first_var<A...>::type;
  if constexpr (plain && any_var && fitting) {
    const std::vector<V> inputs{as_var<V>(arguments)...};
    Shape space;
    for (const auto& v : inputs) space = broadcast(space, v.shape());
    const auto& function =
        PointwiseFunction<typename V::value_type, typename V::device_type>::template of<F, sizeof...(A)>();
    const std::size_t results = function.program().results.size();
    return pointwise(function, space, inputs, std::vector<Shape>(results, reduced(space, summed_axes)),
                     std::vector<bool>(results, true));
  } else {
    return std::vector<V>{};
  }
}

template <class F, class... A>
inline constexpr std::size_t result_count = [] {
  using R = decltype(std::declval<F>()(((void)sizeof(A), Expression(0.))...));
  if constexpr (std::is_convertible_v<R, Expression>)
    return std::size_t{0};
  else
    return std::tuple_size_v<R>;
}();

template <std::size_t N, class V>
auto unpack(std::vector<V>&& results) {
  if constexpr (N == 0) {
    return std::move(results.front());
  } else {
    std::array<V, N> out;
    std::move(results.begin(), results.end(), out.begin());
    return out;
  }
}

}  // namespace detail

/// Applies a pointwise function in one pass over memory: `map([](auto x, auto y) { return tanh(x) * y; }, a, b)`.
/// The arguments are Vars, which broadcast to a common shape (NumPy's rule), Tensors, which are constants, and plain
/// numbers, which get no gradient.
/// The function is a lambda without captures; with `return outputs(a, b)` the result is a std::array of Vars.
/// All gradients of a map are computed in one further pass, and summed over broadcast axes in it.
template <class F, class... A>
auto map(F, const A&... arguments) {
  return detail::unpack<detail::result_count<F, A...>>(detail::pointwise_of<F>({}, arguments...));
}

/// The sum of a pointwise function over some axes, which keep extent 1; the function's values are never stored:
/// `reduce([](auto x) { return square(x); }, {0, 2, 3}, x)`.
template <class F, class... A>
auto reduce(F, Axes axes, const A&... arguments) {
  return detail::unpack<detail::result_count<F, A...>>(detail::pointwise_of<F>(axes, arguments...));
}

template <class T, class D>
Var<T, D> operator+(const Var<T, D>& a, const Var<T, D>& b) {
  return map([](auto x, auto y) { return x + y; }, a, b);
}
template <class T, class D>
Var<T, D> operator-(const Var<T, D>& a, const Var<T, D>& b) {
  return map([](auto x, auto y) { return x - y; }, a, b);
}
template <class T, class D>
Var<T, D> operator*(const Var<T, D>& a, const Var<T, D>& b) {
  return map([](auto x, auto y) { return x * y; }, a, b);
}
template <class T, class D>
Var<T, D> operator/(const Var<T, D>& a, const Var<T, D>& b) {
  return map([](auto x, auto y) { return x / y; }, a, b);
}
template <class T, class D>
Var<T, D> operator-(const Var<T, D>& a) {
  return map([](auto x) { return -x; }, a);
}
template <class T, class D>
Var<T, D> operator+(const Var<T, D>& a, double b) {
  return map([](auto x, auto y) { return x + y; }, a, b);
}
template <class T, class D>
Var<T, D> operator-(const Var<T, D>& a, double b) {
  return a + -b;
}
template <class T, class D>
Var<T, D> operator*(const Var<T, D>& a, double b) {
  return map([](auto x, auto y) { return x * y; }, a, b);
}
template <class T, class D>
Var<T, D> operator/(const Var<T, D>& a, double b) {
  return map([](auto x, auto y) { return x / y; }, a, b);
}
template <class T, class D>
Var<T, D> operator+(double a, const Var<T, D>& b) {
  return b + a;
}
template <class T, class D>
Var<T, D> operator-(double a, const Var<T, D>& b) {
  return map([](auto x, auto y) { return x - y; }, a, b);
}
template <class T, class D>
Var<T, D> operator*(double a, const Var<T, D>& b) {
  return b * a;
}

namespace detail {

template <class A>
auto lifted(const A& a) {
  if constexpr (OnlyTensor<A>) return typename var_of<A>::type(a);
  else if constexpr (VarOrTensor<A>) return a;
  else return static_cast<double>(a);
}

/// The operands of an operator of which one at least is a Tensor.
template <class A, class B>
concept WithTensor = (OnlyTensor<A> && (VarOrTensor<B> || std::is_arithmetic_v<B>)) ||
                     (OnlyTensor<B> && (VarOrTensor<A> || std::is_arithmetic_v<A>));

}  // namespace detail

/// A Tensor among Vars is a constant.
template <class A, class B>
  requires detail::WithTensor<A, B>
auto operator+(const A& a, const B& b) {
  return detail::lifted(a) + detail::lifted(b);
}
template <class A, class B>
  requires detail::WithTensor<A, B>
auto operator-(const A& a, const B& b) {
  return detail::lifted(a) - detail::lifted(b);
}
template <class A, class B>
  requires detail::WithTensor<A, B>
auto operator*(const A& a, const B& b) {
  return detail::lifted(a) * detail::lifted(b);
}
template <class A, class B>
  requires detail::WithTensor<A, B>
auto operator/(const A& a, const B& b) {
  return detail::lifted(a) / detail::lifted(b);
}
template <detail::OnlyTensor A>
auto operator-(const A& a) {
  return -detail::lifted(a);
}

/// The functions of a map's symbolic numbers, of a Var or Tensor: one pass over memory for each, where a map does with
/// one for many.
#define SETTLE_FUNCTION(f)                      \
  template <detail::VarOrTensor A>              \
  auto f(const A& x) {                          \
    return map([](auto v) { return f(v); }, x); \
  }
SETTLE_FUNCTION(exp)
SETTLE_FUNCTION(expm1)
SETTLE_FUNCTION(log)
SETTLE_FUNCTION(log1p)
SETTLE_FUNCTION(sqrt)
SETTLE_FUNCTION(rsqrt)
SETTLE_FUNCTION(square)
SETTLE_FUNCTION(abs)
SETTLE_FUNCTION(round)
SETTLE_FUNCTION(floor)
SETTLE_FUNCTION(sin)
SETTLE_FUNCTION(cos)
SETTLE_FUNCTION(atan)
SETTLE_FUNCTION(tanh)
SETTLE_FUNCTION(erf)
SETTLE_FUNCTION(erfc)
SETTLE_FUNCTION(normal_cdf)
SETTLE_FUNCTION(sigmoid)
SETTLE_FUNCTION(log_sigmoid)
SETTLE_FUNCTION(softplus)
SETTLE_FUNCTION(relu)
SETTLE_FUNCTION(gelu)
SETTLE_FUNCTION(silu)
#undef SETTLE_FUNCTION

/// x to the y, element by element, both of which may be differentiated; broadcasts. A base of -0 counts as 0.
template <detail::VarOrTensor A, detail::VarOrTensor B>
auto pow(const A& x, const B& y) {
  return map([](auto a, auto b) { return pow(a, b); }, x, y);
}

struct MapOp {
  static constexpr const char* name = "map";
  static void samples(auto& s) {
    // Every scalar function, on its domain and away from its kinks: the results of one map, stacked.
    using Function = double (*)(double);
    const auto unary = [&](const char* title, auto f, double low, double high, std::vector<Function> values) {
      const Shape to{static_cast<Index>(values.size()), 7};
      s.add(
          title,
          [f](const auto& in) {
            const auto results = map(f, in[0]);
            return stack(std::vector(results.begin(), results.end()), 0);
          },
          {s.uniform({7}, low, high)},
          [=, &s](const auto& in) {
            return s.table(to, [&](Index k) { return values[static_cast<std::size_t>(k / 7)](in[0].data()[k % 7]); });
          });
    };
    unary("exp, expm1, tanh, erf, sin, cos, square, -x",
          [](auto x) { return outputs(exp(x), expm1(x), tanh(x), erf(x), sin(x), cos(x), square(x), -x); }, -3, 3,
          {std::exp, std::expm1, std::tanh, std::erf, std::sin, std::cos, [](double x) { return x * x; },
           [](double x) { return -x; }});
    unary("sigmoid, softplus, log_sigmoid, gelu, softplus_cut",
          [](auto x) { return outputs(sigmoid(x), softplus(x), log_sigmoid(x), gelu(x), softplus_cut(x)); }, -6, 6,
          {[](double x) { return 1 / (1 + std::exp(-x)); }, [](double x) { return std::log(1 + std::exp(x)); },
           [](double x) { return -std::log(1 + std::exp(-x)); },
           [](double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.0)); },
           [](double x) { return std::log(1 + std::exp(x)); }});
    unary("log, sqrt, rsqrt, pow, log1p, quotients",
          [](auto x) { return outputs(log(x), sqrt(x), rsqrt(x), pow(x, 2.5), log1p(x), 3. / x + 2. * x - 1.); }, 0.3,
          4,
          {std::log, std::sqrt, [](double x) { return 1 / std::sqrt(x); }, [](double x) { return std::pow(x, 2.5); },
           std::log1p, [](double x) { return 3 / x + 2 * x - 1; }});
    unary("atan, erfc, floor, round",
          [](auto x) { return outputs(atan(x), erfc(x), floor(x) * x, round(x) * x); }, -2.9, 2.9,
          {std::atan, std::erfc, [](double x) { return std::floor(x) * x; },
           [](double x) { return std::nearbyint(x) * x; }});
    const auto kinked = [](auto x) {
      return outputs(abs(x), relu(x), clamp(x, -1.5, 0.), pow(x, 3), pow(x, -1), softplus_cut(x, 0.));
    };
    const Function cube = [](double x) { return x * x * x; }, inverse = [](double x) { return 1 / x; };
    const Function same = [](double x) { return x; }, zero = [](double) { return 0.0; };
    unary("abs, relu, clamp, whole powers, softplus_cut above 0", kinked, 0.3, 2,
          {std::abs, same, zero, cube, inverse, same});
    unary("abs, relu, clamp, whole powers, softplus_cut below 0", kinked, -1.4, -0.3,
          {std::abs, zero, same, cube, inverse, [](double x) { return std::log(1 + std::exp(x)); }});

    const auto binary = [&](const char* title, auto f, Shape a, Shape b, double (*value)(double, double)) {
      const Shape to = broadcast(a, b);
      s.add(
          title, [f](const auto& in) { return map(f, in[0], in[1]); }, {s.uniform(a, 0.4, 1), s.uniform(b, 1.1, 2)},
          [=, &s](const auto& in) {
            const auto value_at = [&](const auto& x, const auto& i) {
              Index k = 0;
              for (int axis = -x.rank(); axis < 0; ++axis) k = k * x.shape(axis) + (x.shape(axis) == 1 ? 0 : i[axis]);
              return x.data()[k];
            };
            return s.table(to, [&](Index k) {
              const auto i = s.position(to, k);
              return value(value_at(in[0], i), value_at(in[1], i));
            });
          });
    };
    const auto quotient = [](auto x, auto y) { return x / y - x * y; };
    const auto quotient_value = [](double x, double y) { return x / y - x * y; };
    binary("quotient and product", quotient, {2, 3}, {2, 3}, quotient_value);
    binary("one value per channel", quotient, {2, 3, 2, 5}, {3, 1, 1}, quotient_value);
    binary("one value per image", quotient, {2, 1, 1, 1}, {2, 3, 2, 3}, quotient_value);
    binary("a scalar", quotient, {}, {7}, quotient_value);
    binary("rows with columns", quotient, {4, 1}, {1, 3}, quotient_value);
    binary("one element", quotient, {1, 1}, {1}, quotient_value);
    binary("empty", quotient, {0, 3}, {1, 3}, quotient_value);
    binary("one to the power of another", [](auto x, auto y) { return pow(x, y); }, {2, 3}, {3},
           [](double x, double y) { return std::pow(x, y); });
    binary(
        "min, max, select", [](auto x, auto y) { return min(x, y) - 2. * max(x, y) + select(x < y, x * x, y); }, {5},
        {5}, [](double x, double y) { return x - 2 * y + x * x; });
    s.add(
        "several results",
        [](const auto& in) {
          const auto r = map([](auto x, auto y) { return outputs(x * exp(y), y, x + 1., sin(x * y)); }, in[0], in[1]);
          return r[0] + r[1] * r[2] * r[3];
        },
        {s.uniform({2, 3}), s.uniform({3})},
        [&s](const auto& in) {
          return s.table({2, 3}, [&](Index k) {
            const double x = in[0].data()[k], y = in[1].data()[k % 3];
            return x * std::exp(y) + y * (x + 1) * std::sin(x * y);
          });
        });
    s.add(
        "one input twice", [](const auto& in) { return map([](auto x, auto y) { return x * sin(y); }, in[0], in[0]); },
        {s.uniform({5})},
        [&s](const auto& in) {
          return s.table({5}, [&](Index k) { return in[0].data()[k] * std::sin(in[0].data()[k]); });
        });
    s.add(
        "operators",
        [](const auto& in) {
          return (-in[0] + 1.0) * 2.0 / in[1] - (3.0 - in[1] * in[0]) / 4.0 + (1.0 + 2.0 * in[0]) - 1.0;
        },
        {s.uniform({2, 3}), s.uniform({2, 3}, 1, 2)},
        [&s](const auto& in) {
          return s.table({2, 3}, [&](Index k) {
            const double x = in[0].data()[k], y = in[1].data()[k];
            return (1 - x) * 2 / y - (3 - y * x) / 4 + 1 + 2 * x - 1;
          });
        });
  }
};

}  // namespace settle
