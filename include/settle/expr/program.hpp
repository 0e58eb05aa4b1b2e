#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace settle::inline v0_2::expr {

/// What one instruction of a pointwise program does with its operands a, b, c.
enum class Operation : std::uint8_t {
  input,     // the input numbered by the literal
  constant,  // the literal
  add, subtract, multiply, divide, negate,
  exp, log, log1p, expm1, sqrt, rsqrt,
  exp_minus_abs, log1p_of_unit,  // exp(-|a|); log1p(a) for 0 <= a <= 1: what lowering makes
  power,  // a to the literal
  abs, round, tanh, erf, normal_cdf, sin, cos, sigmoid, softplus,
  arctangent, power_of,   // atan(a); a to the b
  sigmoid_slope, tanh_slope,  // the derivatives of sigmoid and tanh at a
  minimum, maximum,
  scale, scale_both,        // a b, but 0 where a is 0, or where a or b is: what derivatives are made of
  less, less_equal, equal,  // 1 or 0
  select                    // a != 0 ? b : c
};
inline constexpr int operation_count = static_cast<int>(Operation::select) + 1;

/// At most this many inputs, and this many results, in one map: what the third derivative of a map of ten inputs has. A
/// CUDA kernel's arguments, 4 KiB at most, hold as many with their strides.
inline constexpr std::size_t max_operands = 32;

struct Instruction {
  Operation operation = Operation::constant;
  int a = -1, b = -1, c = -1;
  double literal = 0;

  constexpr int input_number() const { return static_cast<int>(literal); }

  constexpr bool operator==(const Instruction& o) const {
    return operation == o.operation && a == o.a && b == o.b && c == o.c &&
           std::bit_cast<std::uint64_t>(literal) == std::bit_cast<std::uint64_t>(o.literal);
  }
};

/// A pointwise function of several inputs as straight-line code: instruction i may use the values of instructions
/// before it, and each distinct value is computed once. Programs are built, differentiated and lowered by ordinary
/// functions that run at compile time and at run time alike.
struct Program {
  int inputs = 0;
  std::vector<Instruction> code;
  std::vector<int> results;

  /// Adds an instruction, or finds or simplifies to an equal value; returns the value's index.
  constexpr int emit(Instruction i) {
    using enum Operation;
    if (i.operation == add || i.operation == multiply || i.operation == equal || i.operation == scale_both)
      if (i.a > i.b) std::swap(i.a, i.b);
    if (const int simple = simplify(i); simple >= 0) return simple;
    for (std::size_t k = 0; k < code.size(); ++k)
      if (code[k] == i) return static_cast<int>(k);
    code.push_back(i);
    return static_cast<int>(code.size()) - 1;
  }

  constexpr int literal(double value) { return emit({Operation::constant, -1, -1, -1, value}); }
  constexpr int input(int number) { return emit({Operation::input, -1, -1, -1, static_cast<double>(number)}); }

  constexpr const Instruction& at(int k) const { return code[static_cast<std::size_t>(k)]; }
  constexpr bool is(int k, double value) const {
    return k >= 0 && at(k).operation == Operation::constant && at(k).literal == value;
  }
  constexpr bool is_constant(int k) const { return k >= 0 && at(k).operation == Operation::constant; }

 private:
  constexpr bool is_finite_constant(int k) const {
    constexpr double largest = std::numeric_limits<double>::max();
    return is_constant(k) && at(k).literal >= -largest && at(k).literal <= largest;
  }
  /// Whether it is a power of two whose inverse is one in single precision too.
  constexpr bool has_exact_inverse(int k) const {
    if (!is_constant(k)) return false;
    const auto bits = std::bit_cast<std::uint64_t>(at(k).literal);
    const auto exponent = static_cast<int>(bits >> 52 & 2047) - 1023;
    return bits << 12 == 0 && exponent >= -126 && exponent <= 126;
  }

  /// x s for s = sigmoid(x), with its limits 0 and x where x is infinite.
  constexpr int silu(int x, int s) {
    using enum Operation;
    const int lowest = literal(-1000), highest = literal(1000);  // beyond, s is 0 or 1
    const int from_below = emit({select, emit({less, x, lowest}), lowest, x});
    return emit({select, emit({less, highest, x}), x, emit({multiply, from_below, s})});
  }

  /// The index of an existing or simpler value equal to the instruction, or -1.
  constexpr int simplify(const Instruction& i) {
    using enum Operation;
    if (is_finite_constant(i.a) && is_finite_constant(i.b)) {
      const double x = at(i.a).literal, y = at(i.b).literal;
      if (i.operation == add) return literal(x + y);
      if (i.operation == subtract) return literal(x - y);
      if (i.operation == multiply) return literal(x * y);
      if (i.operation == divide && y != 0) return literal(x / y);
    }
    switch (i.operation) {
      case add:
        if (is(i.a, 0)) return i.b;
        if (is(i.b, 0)) return i.a;
        if (at(i.a).operation == select && at(i.b).operation == select && at(i.a).a == at(i.b).a) {
          const Instruction x = at(i.a), y = at(i.b);  // each with a branch that is 0
          if (is(x.c, 0) && is(y.b, 0)) return emit({select, x.a, x.b, y.c});
          if (is(x.b, 0) && is(y.c, 0)) return emit({select, x.a, y.b, x.c});
        }
        break;
      case subtract:
        if (is(i.b, 0)) return i.a;
        if (is(i.a, 0)) return emit({negate, i.b});
        break;
      case multiply:
        if (is(i.a, 0)) return i.a;
        if (is(i.b, 0)) return i.b;
        if (is(i.a, 1)) return i.b;
        if (is(i.b, 1)) return i.a;
        if (is(i.a, -1)) return emit({negate, i.b});
        if (is(i.b, -1)) return emit({negate, i.a});
        if (at(i.b).operation == sigmoid && at(i.b).a == i.a) return silu(i.a, i.b);
        break;
      case scale:
      case scale_both:
        if (is_finite_constant(i.a) || is_finite_constant(i.b)) return emit({multiply, i.a, i.b});
        break;
      case divide:
        if (is(i.a, 0)) return i.a;
        if (is(i.b, 1)) return i.a;
        if (has_exact_inverse(i.b)) return emit({multiply, i.a, literal(1 / at(i.b).literal)});
        break;
      case negate:
        if (is_constant(i.a)) return literal(-at(i.a).literal);
        if (at(i.a).operation == negate) return at(i.a).a;
        break;
      case Operation::abs:
        if (at(i.a).operation == negate) return emit({Operation::abs, at(i.a).a});
        if (at(i.a).operation == Operation::abs) return i.a;
        break;
      case exp_minus_abs:
        if (at(i.a).operation == negate) return emit({exp_minus_abs, at(i.a).a});
        break;
      case power:
        if (i.literal == 0) return literal(1);
        if (i.literal == 1) return i.a;
        break;
      case select:
        if (i.b == i.c) return i.b;
        break;
      default:
        break;
    }
    return -1;
  }
};

/// A symbolic number inside a program, or a literal outside any: what the lambdas given to map and reduce compute with.
class Expression {
 public:
  constexpr Expression(double literal) : literal_(literal) {}
  constexpr Expression(Program& program, int index) : program_(&program), index_(index) {}

  /// This value's index in `program`.
  constexpr int in(Program& program) const { return program_ ? index_ : program.literal(literal_); }
  constexpr Program* program() const { return program_; }

  friend constexpr Expression apply(Operation f, Expression a, double literal = 0) {
    return {*a.program_, a.program_->emit({f, a.index_, -1, -1, literal})};
  }
  friend constexpr Expression apply(Operation f, Expression a, Expression b) {
    Program& p = a.home(b);
    return {p, p.emit({f, a.in(p), b.in(p)})};
  }
  /// The same, or the value itself of two literals.
  friend constexpr Expression apply(Operation f, Expression a, Expression b, double (*of_literals)(double, double)) {
    return a.program_ || b.program_ ? apply(f, a, b) : Expression(of_literals(a.literal_, b.literal_));
  }

  friend constexpr Expression operator-(Expression a) {
    return a.program_ ? apply(Operation::negate, a) : Expression(-a.literal_);
  }
  friend constexpr Expression operator+(Expression a) { return a; }

  /// Conversions that cannot be, refused with a sentence: what they are wanted for is not known until the map runs.
  template <std::same_as<bool> Condition>
  explicit constexpr operator Condition() const {
    static_assert(!std::same_as<Condition, bool>,
                  "settle: if, ?:, && and || cannot choose by the numbers of a map: write select(condition, a, b)");
    return false;
  }
  template <std::same_as<double> Number>
  constexpr operator Number() const {
    static_assert(!std::same_as<Number, double>,
                  "settle: a map computes with symbols, not with numbers: write tanh(x), not std::tanh(x); an exponent "
                  "must be a number");
    return 0;
  }

  friend constexpr Expression exp(Expression x) { return apply(Operation::exp, x); }
  friend constexpr Expression log(Expression x) { return apply(Operation::log, x); }
  friend constexpr Expression log1p(Expression x) { return apply(Operation::log1p, x); }
  friend constexpr Expression expm1(Expression x) { return apply(Operation::expm1, x); }
  friend constexpr Expression sqrt(Expression x) { return apply(Operation::sqrt, x); }
  friend constexpr Expression rsqrt(Expression x) { return apply(Operation::rsqrt, x); }
  friend constexpr Expression pow(Expression x, double exponent) { return apply(Operation::power, x, exponent); }
  friend constexpr Expression abs(Expression x) { return apply(Operation::abs, x); }
  /// The nearest whole number, the even one of two as near; its derivative is 0.
  friend constexpr Expression round(Expression x) { return apply(Operation::round, x); }
  friend constexpr Expression tanh(Expression x) { return apply(Operation::tanh, x); }
  friend constexpr Expression erf(Expression x) { return apply(Operation::erf, x); }
  /// The distribution function of a standard normal number, erfc(-x / sqrt(2)) / 2.
  friend constexpr Expression normal_cdf(Expression x) { return apply(Operation::normal_cdf, x); }
  friend constexpr Expression sin(Expression x) { return apply(Operation::sin, x); }
  friend constexpr Expression cos(Expression x) { return apply(Operation::cos, x); }
  friend constexpr Expression atan(Expression x) { return apply(Operation::arctangent, x); }
  /// x to the y, computed as exp(y log|x|): about |y log|x|| units in the last place. NaN for x < 0, unless y is whole.
  friend constexpr Expression pow(Expression x, Expression y) { return apply(Operation::power_of, x, y); }

  /// 1 / (1 + exp(-x)).
  friend constexpr Expression sigmoid(Expression x) { return apply(Operation::sigmoid, x); }
  /// log(1 + exp(x)), stable for every x.
  friend constexpr Expression softplus(Expression x) { return apply(Operation::softplus, x); }

  friend constexpr Expression min(Expression a, Expression b) { return apply(Operation::minimum, a, b); }
  friend constexpr Expression max(Expression a, Expression b) { return apply(Operation::maximum, a, b); }
  /// condition != 0 ? a : b.
  friend constexpr Expression select(Expression condition, Expression a, Expression b) {
    Program& p = condition.program_ ? *condition.program_ : a.home(b);
    return {p, p.emit({Operation::select, condition.in(p), a.in(p), b.in(p)})};
  }

 private:
  constexpr Program& home(Expression other) const {
    Program* const p = program_ ? program_ : other.program_;
    if (!p)
      throw std::logic_error("settle: a map's lambda applies a function to plain numbers only; use std:: for that");
    return *p;
  }

  Program* program_ = nullptr;
  int index_ = -1;
  double literal_ = 0;
};

/// Operands of an operator: symbolic numbers, or one and a plain number. Templates, because a plain number is one step
/// from an Expression, and an Expression, as far as overloads go, one from a plain number.
template <class A, class B>
concept Operands = (std::same_as<A, Expression> && (std::same_as<B, Expression> || std::is_arithmetic_v<B>)) ||
                   (std::is_arithmetic_v<A> && std::same_as<B, Expression>);

template <class A, class B>
  requires Operands<A, B>
constexpr Expression operator+(A a, B b) {
  return apply(Operation::add, a, b, [](double x, double y) { return x + y; });
}
template <class A, class B>
  requires Operands<A, B>
constexpr Expression operator-(A a, B b) {
  return apply(Operation::subtract, a, b, [](double x, double y) { return x - y; });
}
template <class A, class B>
  requires Operands<A, B>
constexpr Expression operator*(A a, B b) {
  return apply(Operation::multiply, a, b, [](double x, double y) { return x * y; });
}
template <class A, class B>
  requires Operands<A, B>
constexpr Expression operator/(A a, B b) {
  return apply(Operation::divide, a, b, [](double x, double y) { return x / y; });
}

/// Comparisons give 1 or 0, as numbers; they carry no gradient.
template <class A, class B>
  requires Operands<A, B>
constexpr Expression operator<(A a, B b) {
  return apply(Operation::less, Expression(a), Expression(b));
}
template <class A, class B>
  requires Operands<A, B>
constexpr Expression operator>(A a, B b) {
  return apply(Operation::less, Expression(b), Expression(a));
}
template <class A, class B>
  requires Operands<A, B>
constexpr Expression operator<=(A a, B b) {
  return apply(Operation::less_equal, Expression(a), Expression(b));
}
template <class A, class B>
  requires Operands<A, B>
constexpr Expression operator>=(A a, B b) {
  return apply(Operation::less_equal, Expression(b), Expression(a));
}
template <class A, class B>
  requires Operands<A, B>
constexpr Expression operator==(A a, B b) {
  return apply(Operation::equal, Expression(a), Expression(b));
}
template <class A, class B>
  requires Operands<A, B>
constexpr Expression operator!=(A a, B b) {
  return 1. - (a == b);
}

constexpr Expression square(Expression x) { return x * x; }
/// The largest whole number that is not larger; its derivative is 0.
constexpr Expression floor(Expression x) { return round(x) - (round(x) > x); }
/// 1 - erf(x), which keeps its digits where that is small.
constexpr Expression erfc(Expression x) { return 2. * normal_cdf(-1.41421356237309504880 * x); }
/// softplus below the threshold and x itself above it, as PyTorch computes it (threshold 20).
constexpr Expression softplus_cut(Expression x, double threshold = 20) {
  return select(x > threshold, x, softplus(x));
}
/// x sigmoid(x), its limits 0 and x at -infinity and infinity.
constexpr Expression silu(Expression x) { return x * sigmoid(x); }
/// log(sigmoid(x)), stable for every x.
constexpr Expression log_sigmoid(Expression x) { return -softplus(-x); }
/// max(x, 0) with derivative 0 at 0; NaN stays NaN.
constexpr Expression relu(Expression x) { return select(x <= 0., 0., x); }
/// x Phi(x), with the exact normal distribution function Phi; its limits 0 and x at -infinity and infinity.
constexpr Expression gelu(Expression x) {
  const Expression from_below = select(x < -40., -40., x);  // beyond 40, Phi is 0 or 1
  return select(x > 40., x, from_below * normal_cdf(x));
}
/// x kept within [low, high], low <= high; the gradient passes inside and on the borders.
constexpr Expression clamp(Expression x, Expression low, Expression high) {
  return select(x < low, low, select(x > high, high, x));
}

/// Several results of one map's lambda: `return outputs(a, b);`.
template <std::convertible_to<Expression>... E>
constexpr std::array<Expression, sizeof...(E)> outputs(E... results) {
  return {Expression(results)...};
}

/// The program without the instructions that no result uses.
constexpr Program compact(const Program& p) {
  std::vector<char> used(p.code.size(), 0);
  for (int r : p.results) used[static_cast<std::size_t>(r)] = 1;
  for (std::size_t k = p.code.size(); k-- > 0;) {
    if (!used[k]) continue;
    for (int operand : {p.code[k].a, p.code[k].b, p.code[k].c})
      if (operand >= 0) used[static_cast<std::size_t>(operand)] = 1;
  }
  Program out;
  out.inputs = p.inputs;
  std::vector<int> moved(p.code.size(), -1);
  const auto renamed = [&](int k) { return k < 0 ? -1 : moved[static_cast<std::size_t>(k)]; };
  for (std::size_t k = 0; k < p.code.size(); ++k) {
    if (!used[k]) continue;
    const Instruction& i = p.code[k];
    moved[k] = static_cast<int>(out.code.size());
    out.code.push_back({i.operation, renamed(i.a), renamed(i.b), renamed(i.c), i.literal});
  }
  for (int r : p.results) out.results.push_back(renamed(r));
  return out;
}

/// The program of those results that are wanted.
inline Program only(Program p, const std::vector<bool>& wanted) {
  std::vector<int> results;
  for (std::size_t r = 0; r < p.results.size(); ++r)
    if (wanted[r]) results.push_back(p.results[r]);
  p.results = std::move(results);
  return compact(p);
}

/// The program of a lambda of N symbolic numbers, which returns one or `outputs(...)` several.
template <class F, int N>
constexpr Program trace() {
  Program p;
  p.inputs = N;
  const auto result = [&]<int... number>(std::integer_sequence<int, number...>) {
    return F{}(Expression(p, p.input(number))...);
  }(std::make_integer_sequence<int, N>{});
  if constexpr (std::is_convertible_v<decltype(result), Expression>)
    p.results.push_back(Expression(result).in(p));
  else
    for (Expression r : result) p.results.push_back(r.in(p));
  return compact(p);
}

/// Tells `adjoint` what the instruction y = f(a, b, ...) with cotangent g gives to its operands: the one table of
/// derivatives in the library. adjoint(k, h, c, taken) is for a value that counts only where c is not 0, or only where
/// it is.
///
/// A cotangent of 0 gives 0, whatever the local derivative: products with cotangents are `scale`, whose own derivatives
/// keep that, and what a branch gives is chosen after it was computed.
constexpr void differentiate(Operation f, double literal, Expression g, Expression y, Expression a, Expression b,
                             auto&& adjoint) {
  using Op = Operation;
  const auto times = [g](Expression derivative) { return apply(Op::scale, g, derivative); };
  switch (f) {
    case Op::input:
    case Op::constant:
    case Op::round:
    case Op::less:
    case Op::less_equal:
    case Op::equal: break;
    case Op::add: adjoint(0, g), adjoint(1, g); break;
    case Op::subtract: adjoint(0, g), adjoint(1, -g); break;
    case Op::multiply: adjoint(0, times(b)), adjoint(1, times(a)); break;
    case Op::divide: {
      const Expression quotient = times(1. / b);
      adjoint(0, quotient), adjoint(1, -apply(Op::scale, quotient, y));
      break;
    }
    case Op::negate: adjoint(0, -g); break;
    case Op::exp: adjoint(0, times(y)); break;
    case Op::log: adjoint(0, times(1. / a)); break;
    case Op::log1p:
    case Op::log1p_of_unit: adjoint(0, times(1. / (1. + a))); break;
    case Op::exp_minus_abs: adjoint(0, times(y) * ((a < 0.) - (a > 0.))); break;
    case Op::expm1: adjoint(0, times(exp(a))); break;
    case Op::sqrt: adjoint(0, 0.5 * times(1. / y)); break;
    case Op::rsqrt: adjoint(0, -0.5 * times(y * y * y)); break;
    case Op::power: adjoint(0, literal * times(pow(a, literal - 1))); break;
    case Op::abs: adjoint(0, g * ((a > 0.) - (a < 0.))); break;
    case Op::tanh: adjoint(0, times(apply(Op::tanh_slope, a))); break;
    case Op::tanh_slope: adjoint(0, -2. * times(tanh(a) * y)); break;
    case Op::erf: adjoint(0, 1.12837916709551257390 * times(exp(-(a * a)))); break;
    case Op::normal_cdf: adjoint(0, 0.39894228040143267794 * times(exp(-0.5 * (a * a)))); break;
    case Op::sin: adjoint(0, times(cos(a))); break;
    case Op::cos: adjoint(0, -times(sin(a))); break;
    case Op::arctangent: adjoint(0, times(1. / (1. + a * a))); break;
    case Op::power_of:
      adjoint(0, times(select(b == 0., 0., b * pow(a, b - 1.))));
      adjoint(1, times(select(a == 0., select(b < 0., y * log(a), 0.), y * log(a))));  // 0 log 0 is 0, as in PyTorch
      break;
    case Op::sigmoid: adjoint(0, times(apply(Op::sigmoid_slope, a))); break;
    case Op::sigmoid_slope: adjoint(0, -times(tanh(0.5 * a) * y)); break;
    case Op::softplus: adjoint(0, times(sigmoid(a))); break;
    case Op::minimum:
    case Op::maximum: {  // a tie shares the cotangent, as PyTorch does
      const Expression half = select(a == b, 0.5 * g, g);
      const Expression first_loses = f == Op::minimum ? b < a : a < b, second_loses = f == Op::minimum ? a < b : b < a;
      adjoint(0, half, first_loses, false), adjoint(1, half, second_loses, false);
      break;
    }
    case Op::scale: adjoint(0, times(b)), adjoint(1, apply(Op::scale_both, g, a)); break;
    case Op::scale_both: adjoint(0, apply(Op::scale_both, g, b)), adjoint(1, apply(Op::scale_both, g, a)); break;
    case Op::select: adjoint(1, g, a, true), adjoint(2, g, a, false); break;
  }
}

namespace detail {

/// A branch of a select: the values for which the number `condition` is not 0, or those for which it is.
struct Branch {
  int condition;
  bool taken;
  constexpr bool operator==(const Branch&) const = default;
};

/// A cotangent that counts inside some branches only, the outermost first. It is computed as if there were none, and
/// chosen where it leaves them: in the branch that is not taken it may be anything.
struct BranchCotangent {
  std::vector<Branch> within;
  int value;
};

/// The sum of cotangents, with the branches that all are in.
constexpr BranchCotangent sum(Program& program, const std::vector<BranchCotangent>& parts) {
  BranchCotangent out = parts.front();
  for (const BranchCotangent& part : parts) {
    std::size_t common = 0;
    while (common < std::min(out.within.size(), part.within.size()) && out.within[common] == part.within[common])
      ++common;
    out.within.resize(common);
  }
  Expression total = 0.;
  for (const BranchCotangent& part : parts) {
    Expression value(program, part.value);
    for (std::size_t k = part.within.size(); k-- > out.within.size();) {
      const Expression condition(program, part.within[k].condition);
      value = part.within[k].taken ? select(condition, value, 0.) : select(condition, 0., value);
    }
    total = &part == &parts.front() ? value : total + value;
  }
  out.value = total.in(program);
  return out;
}

}  // namespace detail

/// The gradient of a program with m results and n inputs: a program of the m cotangents and the n inputs, with the n
/// inputs' cotangents as results.
constexpr Program gradient(const Program& p) {
  Program out;
  const int m = static_cast<int>(p.results.size());
  out.inputs = m + p.inputs;
  std::vector<int> value;  // of each instruction of p, in `out`
  const auto moved = [&](int k) { return k < 0 ? -1 : value[static_cast<std::size_t>(k)]; };
  for (const Instruction& i : p.code)
    value.push_back(i.operation == Operation::input
                        ? out.input(m + i.input_number())
                        : out.emit({i.operation, moved(i.a), moved(i.b), moved(i.c), i.literal}));

  std::vector<std::vector<detail::BranchCotangent>> adjoint(p.code.size());  // none: zero so far
  const auto accumulate = [&](int k, Expression g, const std::vector<detail::Branch>& within) {
    auto& parts = adjoint[static_cast<std::size_t>(k)];
    for (auto& part : parts)
      if (part.within == within) {
        part.value = (Expression(out, part.value) + g).in(out);
        return;
      }
    parts.push_back({within, g.in(out)});
  };
  for (int r = 0; r < m; ++r)
    accumulate(p.results[static_cast<std::size_t>(r)], Expression(out, out.input(r)), {});

  std::vector<int> inputs(static_cast<std::size_t>(p.inputs), -1);
  for (std::size_t k = p.code.size(); k-- > 0;) {
    if (adjoint[k].empty()) continue;
    const Instruction& i = p.code[k];
    if (i.operation == Operation::input) {
      adjoint[k].push_back({{}, out.literal(0)});  // in no branch
      inputs[static_cast<std::size_t>(i.input_number())] = detail::sum(out, adjoint[k]).value;
      continue;
    }
    const detail::BranchCotangent g = detail::sum(out, adjoint[k]);
    const auto operand = [&](int o) { return o < 0 ? Expression(0.) : Expression(out, moved(o)); };
    const auto give = [&](int which, Expression h, const std::vector<detail::Branch>& within) {
      accumulate(which == 0 ? i.a : which == 1 ? i.b : i.c, h, within);
    };
    differentiate(i.operation, i.literal, Expression(out, g.value), Expression(out, value[k]), operand(i.a),
                  operand(i.b), [&](int which, Expression h, auto... branch) {
                    if constexpr (sizeof...(branch) == 0) {
                      give(which, h, g.within);
                    } else {
                      const auto [condition, taken] = std::tuple(branch...);
                      auto within = g.within;
                      within.push_back({condition.in(out), taken});
                      give(which, h, within);
                    }
                  });
  }
  for (int k : inputs) out.results.push_back(k < 0 ? out.literal(0) : k);
  return compact(out);
}

namespace detail {

/// Makes of a program one in the operations that devices evaluate.
class Lowering {
 public:
  constexpr explicit Lowering(const Program& p) : from_(p) {
    out_.inputs = p.inputs;
    for (const Instruction& i : p.code) {
      const bool vanishes = may_vanish(i), unbounded = may_be_unbounded(i);
      values_.push_back(lowered(i));
      values_.back().vanishes |= vanishes, values_.back().unbounded = unbounded;
    }
    for (int r : p.results) out_.results.push_back(exact(r));
  }
  constexpr Program result() const { return compact(out_); }

 private:
  /// A number that is 0 where the number `witness` is. Until it is needed exactly it may be anything there, so that one
  /// choice at the end of a chain of products does for all of them.
  struct Value {
    int raw;
    int witness = -1;        ///< or none
    bool exact = true;       ///< `raw` is the number everywhere
    bool vanishes = false;   ///< a factor of it may be 0 where `witness` is not, as a saturated function's derivative
    bool unbounded = false;  ///< it may be infinite, or not a number, though all inputs are finite and none is large
  };

  constexpr Value& at(int k) { return values_[static_cast<std::size_t>(k)]; }
  constexpr Expression raw(int k) { return {out_, at(k).raw}; }

  constexpr int exact(int k) {
    if (k < 0) return -1;
    Value& v = at(k);
    if (!v.exact) v.raw = select(Expression(out_, v.witness), raw(k), 0.).in(out_), v.exact = true;
    return v.raw;
  }
  constexpr Expression exact_expression(int k) { return {out_, exact(k)}; }

  /// Makes value k its own witness.
  constexpr void witness_itself(int k) {
    at(k).raw = at(k).witness = exact(k);
    at(k).vanishes = false;
  }

  constexpr bool may_be_unbounded(const Instruction& i) {
    using Op = Operation;
    switch (i.operation) {
      case Op::divide:
        return !from_.is_constant(i.b);
      case Op::exp:
      case Op::log:
      case Op::log1p:
      case Op::expm1:
      case Op::rsqrt:
        return true;
      case Op::power:
        return i.literal != 2 && i.literal != 3;
      case Op::power_of:
        return true;
      case Op::add:
      case Op::subtract:
      case Op::multiply:
      case Op::negate:
      case Op::sqrt:
      case Op::abs:
      case Op::round:
      case Op::sin:
      case Op::cos:
      case Op::softplus:
      case Op::minimum:
      case Op::maximum:
      case Op::scale:
      case Op::scale_both:
      case Op::select:
        for (int operand : {i.a, i.b, i.c})
          if (operand >= 0 && at(operand).unbounded) return true;
        return false;
      default:
        return false;
    }
  }

  constexpr bool may_vanish(const Instruction& i) {
    using Op = Operation;
    if (i.operation == Op::multiply) return at(i.a).vanishes || at(i.b).vanishes;
    return i.operation == Op::sigmoid_slope || i.operation == Op::tanh_slope || i.operation == Op::exp;
  }

  constexpr Value lowered(const Instruction& i) {
    using Op = Operation;
    const auto number = [&](Expression y) { return Value{y.in(out_)}; };
    const auto exp_minus = [&](Expression x) { return apply(Op::exp_minus_abs, x); };
    switch (i.operation) {
      case Op::sigmoid: {
        const Expression x = exact_expression(i.a), e = exp_minus(x);
        return number(select(x < 0., e, 1.) * (1. / (1. + e)));
      }
      case Op::softplus: {
        const Expression x = exact_expression(i.a);
        return number(select(x > 0., x, 0.) + apply(Op::log1p_of_unit, exp_minus(x)));
      }
      case Op::arctangent: return number(arctangent(exact_expression(i.a)));
      case Op::power_of: return number(power_of(exact_expression(i.a), exact_expression(i.b)));
      case Op::sigmoid_slope: return number(slope(exact_expression(i.a)));
      case Op::tanh_slope: return number(4. * slope(2. * exact_expression(i.a)));
      case Op::scale: {
        // Before a factor that may not be a number stands one that is 0 where it should be.
        if (at(i.a).witness < 0 || at(i.a).vanishes || at(i.b).unbounded) witness_itself(i.a);
        const Instruction& factor = from_.at(i.b);
        const bool inverse = factor.operation == Op::divide && from_.is(factor.a, 1);
        const Expression y = inverse ? raw(i.a) / exact_expression(factor.b) : raw(i.a) * exact_expression(i.b);
        return {y.in(out_), at(i.a).witness, false, at(i.b).vanishes};
      }
      case Op::scale_both: {
        for (int k : {i.a, i.b})
          if (at(k).witness < 0 || at(k).vanishes) witness_itself(k);
        const int a = at(i.a).witness, b = at(i.b).witness;
        const int both = a == b ? a : select(Expression(out_, a), Expression(out_, b), 0.).in(out_);
        return {(raw(i.a) * raw(i.b)).in(out_), both, false};
      }
      case Op::negate: return with(at(i.a), (-raw(i.a)).in(out_));
      case Op::multiply:
        if (from_.is_constant(i.a)) return with(at(i.b), (raw(i.a) * raw(i.b)).in(out_));
        if (from_.is_constant(i.b)) return with(at(i.a), (raw(i.a) * raw(i.b)).in(out_));
        break;
      case Op::add:
      case Op::subtract:
        if (at(i.a).witness >= 0 && at(i.a).witness == at(i.b).witness)
          return both(at(i.a), at(i.b), out_.emit({i.operation, at(i.a).raw, at(i.b).raw}));
        break;
      case Op::select: {
        const Value &b = at(from_.is(i.b, 0) ? i.c : i.b), &c = at(from_.is(i.c, 0) ? i.b : i.c);
        if (b.witness >= 0 && b.witness == c.witness)
          return both(b, c, out_.emit({Op::select, exact(i.a), at(i.b).raw, at(i.c).raw}));
        break;
      }
      default:
        break;
    }
    return {out_.emit({i.operation, exact(i.a), exact(i.b), exact(i.c), i.literal})};
  }

  /// The number `raw` that is 0 where v is.
  static constexpr Value with(const Value& v, int raw) { return {raw, v.witness, v.exact, v.vanishes}; }

  /// The number `raw` that is 0 where v and w are, which share their witness.
  static constexpr Value both(const Value& v, const Value& w, int raw) {
    return {raw, v.witness, v.exact && w.exact, v.vanishes || w.vanishes};
  }

  /// sigmoid'(x), without loss of digits anywhere.
  static constexpr Expression slope(Expression x) {
    const Expression e = apply(Operation::exp_minus_abs, x), quotient = 1. / (1. + e);
    return e * quotient * quotient;
  }

  /// atan(|x|) is atan(t) and an angle: t = |x| up to tan(pi/8), (|x| - 1) / (|x| + 1) and pi/4 up to tan(3 pi/8), and
  /// -1 / |x| and pi/2 beyond. The polynomial is (atan(t) / t - 1) / t^2 in t^2, a Chebyshev fit to 1e-18.
  static constexpr Expression arctangent(Expression x) {
    const Expression a = abs(x), beyond = a > 2.41421356237309504880, between = a > 0.41421356237309504880;
    const Expression t = select(beyond, -1. / a, select(between, (a - 1.) / (a + 1.), a)), z = t * t;
    Expression sum = 0.016285756855221028291;
    for (const double c : {-0.034570561981427746882, 0.045515932206265491693, -0.052304542706502445183,
                           0.058789289978347751327, -0.066664248857382553335, 0.076922963750321423991,
                           -0.090909087535008768442, 0.11111111105155446565, -0.14285714285659827606,
                           0.19999999999999804526, -0.33333333333333333217})
      sum = sum * z + c;
    const Expression angle = select(beyond, 1.57079632679489661923, select(between, 0.78539816339744830962, 0.));
    const Expression y = angle + (t + t * z * sum);
    return select(x < 0., -y, y);
  }

  static constexpr Expression power_of(Expression x, Expression y) {
    const Expression size = select(y == 0., 1., exp(y * log(abs(x)))), half = 0.5 * y;
    const Expression odd = round(half) != half, whole = round(y) == y;
    return select(x < 0., select(whole, select(odd, -size, size), log(x)), size);  // log(x) is NaN
  }

  const Program& from_;
  Program out_;
  std::vector<Value> values_;  ///< of each instruction
};

}  // namespace detail

/// The same function in the operations that devices evaluate: sigmoid and softplus become exp(-|x|) and arithmetic, so
/// that a value and its derivatives share one exponential and one quotient, and products with cotangents one choice
/// between them and 0 for each of their chains.
constexpr Program lower(const Program& p) { return detail::Lowering(p).result(); }

/// For each instruction, the set of results that need it, as bits.
constexpr std::vector<std::uint32_t> uses(const Program& p) {
  std::vector<std::uint32_t> out(p.code.size(), 0);
  for (std::size_t r = 0; r < p.results.size(); ++r) out[static_cast<std::size_t>(p.results[r])] |= 1u << r;
  for (std::size_t k = p.code.size(); k-- > 0;)
    for (int operand : {p.code[k].a, p.code[k].b, p.code[k].c})
      if (operand >= 0) out[static_cast<std::size_t>(operand)] |= out[k];
  return out;
}

/// A program as a constant: what code is compiled from.
template <std::size_t size, std::size_t results>
struct FrozenProgram {
  int inputs = 0;
  std::array<Instruction, size> code{};
  std::array<int, results> result{};
  std::array<std::uint32_t, size> use{};  ///< for each instruction, the results that need it, as bits

  Program thaw() const { return {inputs, {code.begin(), code.end()}, {result.begin(), result.end()}}; }
};

/// A program in arrays with room to spare, because sizes must be known before arrays that fit.
struct RoomyProgram {
  std::size_t size = 0, results = 0;
  FrozenProgram<512, 32> program;
};
template <class Source>
constexpr RoomyProgram make_roomy() {
  const Program made = Source::make();
  const std::vector<std::uint32_t> use = uses(made);
  RoomyProgram out{made.code.size(), made.results.size(), {made.inputs, {}, {}, {}}};
  std::copy(made.code.begin(), made.code.end(), out.program.code.begin());
  std::copy(made.results.begin(), made.results.end(), out.program.result.begin());
  std::copy(use.begin(), use.end(), out.program.use.begin());
  return out;
}

/// Source::make()'s program as a constant, made by the compiler.
template <class Source>
constexpr auto freeze() {
  constexpr RoomyProgram roomy = make_roomy<Source>();
  FrozenProgram<roomy.size, roomy.results> out{roomy.program.inputs, {}, {}, {}};
  std::copy_n(roomy.program.code.begin(), roomy.size, out.code.begin());
  std::copy_n(roomy.program.result.begin(), roomy.results, out.result.begin());
  std::copy_n(roomy.program.use.begin(), roomy.size, out.use.begin());
  return out;
}

}  // namespace settle::expr
