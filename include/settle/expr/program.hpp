#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace settle::expr {

/// What one instruction of a pointwise program does with its operands a, b, c.
enum class Operation : std::uint8_t {
  input,     // the input numbered by the literal
  constant,  // the literal
  add, subtract, multiply, divide, negate,
  exp, log, log1p, expm1, sqrt, rsqrt,
  exp_minus_abs, log1p_of_unit,  // exp(-|a|); log1p(a) for 0 <= a <= 1: what lowering makes
  power,  // a to the literal
  abs, tanh, erf, sin, cos, sigmoid, softplus,
  minimum, maximum,
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
    if (i.operation == add || i.operation == multiply || i.operation == equal)
      if (i.a > i.b) std::swap(i.a, i.b);
    if (const int simple = simplify(i); simple >= 0) return simple;
    for (std::size_t k = 0; k < code.size(); ++k)
      if (code[k] == i) return static_cast<int>(k);
    code.push_back(i);
    return static_cast<int>(code.size()) - 1;
  }

  constexpr int literal(double value) { return emit({Operation::constant, -1, -1, -1, value}); }
  constexpr int input(int number) { return emit({Operation::input, -1, -1, -1, static_cast<double>(number)}); }

 private:
  constexpr const Instruction& at(int k) const { return code[static_cast<std::size_t>(k)]; }
  constexpr bool is(int k, double value) const {
    return k >= 0 && at(k).operation == Operation::constant && at(k).literal == value;
  }
  constexpr bool is_constant(int k) const { return k >= 0 && at(k).operation == Operation::constant; }
  /// Whether it is a power of two whose inverse is one in single precision too.
  constexpr bool has_exact_inverse(int k) const {
    if (!is_constant(k)) return false;
    const auto bits = std::bit_cast<std::uint64_t>(at(k).literal);
    const auto exponent = static_cast<int>(bits >> 52 & 2047) - 1023;
    return bits << 12 == 0 && exponent >= -126 && exponent <= 126;
  }

  /// The index of an existing or simpler value equal to the instruction, or -1.
  constexpr int simplify(const Instruction& i) {
    using enum Operation;
    if (is_constant(i.a) && is_constant(i.b)) {
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

  friend constexpr Expression operator+(Expression a, Expression b) {
    return outside(a, b) ? Expression(a.literal_ + b.literal_) : apply(Operation::add, a, b);
  }
  friend constexpr Expression operator-(Expression a, Expression b) {
    return outside(a, b) ? Expression(a.literal_ - b.literal_) : apply(Operation::subtract, a, b);
  }
  friend constexpr Expression operator*(Expression a, Expression b) {
    return outside(a, b) ? Expression(a.literal_ * b.literal_) : apply(Operation::multiply, a, b);
  }
  friend constexpr Expression operator/(Expression a, Expression b) {
    return outside(a, b) ? Expression(a.literal_ / b.literal_) : apply(Operation::divide, a, b);
  }
  friend constexpr Expression operator-(Expression a) {
    return a.program_ ? apply(Operation::negate, a) : Expression(-a.literal_);
  }
  friend constexpr Expression operator+(Expression a) { return a; }

  /// Comparisons give 1 or 0, as numbers; they carry no gradient.
  friend constexpr Expression operator<(Expression a, Expression b) { return apply(Operation::less, a, b); }
  friend constexpr Expression operator>(Expression a, Expression b) { return apply(Operation::less, b, a); }
  friend constexpr Expression operator<=(Expression a, Expression b) { return apply(Operation::less_equal, a, b); }
  friend constexpr Expression operator>=(Expression a, Expression b) { return apply(Operation::less_equal, b, a); }
  friend constexpr Expression operator==(Expression a, Expression b) { return apply(Operation::equal, a, b); }

  friend constexpr Expression exp(Expression x) { return apply(Operation::exp, x); }
  friend constexpr Expression log(Expression x) { return apply(Operation::log, x); }
  friend constexpr Expression log1p(Expression x) { return apply(Operation::log1p, x); }
  friend constexpr Expression expm1(Expression x) { return apply(Operation::expm1, x); }
  friend constexpr Expression sqrt(Expression x) { return apply(Operation::sqrt, x); }
  friend constexpr Expression rsqrt(Expression x) { return apply(Operation::rsqrt, x); }
  friend constexpr Expression pow(Expression x, double exponent) { return apply(Operation::power, x, exponent); }
  friend constexpr Expression square(Expression x) { return x * x; }
  friend constexpr Expression abs(Expression x) { return apply(Operation::abs, x); }
  friend constexpr Expression tanh(Expression x) { return apply(Operation::tanh, x); }
  friend constexpr Expression erf(Expression x) { return apply(Operation::erf, x); }
  friend constexpr Expression sin(Expression x) { return apply(Operation::sin, x); }
  friend constexpr Expression cos(Expression x) { return apply(Operation::cos, x); }

  /// 1 / (1 + exp(-x)).
  friend constexpr Expression sigmoid(Expression x) { return apply(Operation::sigmoid, x); }
  /// log(1 + exp(x)), stable for every x.
  friend constexpr Expression softplus(Expression x) { return apply(Operation::softplus, x); }
  /// softplus below the threshold and x itself above it, as PyTorch computes it (threshold 20).
  friend constexpr Expression softplus_cut(Expression x, double threshold = 20) {
    return select(x > threshold, x, softplus(x));
  }
  /// log(sigmoid(x)), stable for every x.
  friend constexpr Expression log_sigmoid(Expression x) { return -softplus(-x); }
  /// max(x, 0) with derivative 0 at 0; NaN stays NaN.
  friend constexpr Expression relu(Expression x) { return select(x <= 0., 0., x); }
  /// x Phi(x), with the exact normal distribution function Phi.
  friend constexpr Expression gelu(Expression x) { return 0.5 * x * (1. + erf(x * 0.70710678118654752440)); }

  friend constexpr Expression min(Expression a, Expression b) { return apply(Operation::minimum, a, b); }
  friend constexpr Expression max(Expression a, Expression b) { return apply(Operation::maximum, a, b); }
  /// x kept within [low, high]; the gradient passes inside and on the borders.
  friend constexpr Expression clamp(Expression x, Expression low, Expression high) {
    return select(x < low, low, select(x > high, high, x));
  }
  /// condition != 0 ? a : b.
  friend constexpr Expression select(Expression condition, Expression a, Expression b) {
    Program& p = condition.program_ ? *condition.program_ : a.home(b);
    return {p, p.emit({Operation::select, condition.in(p), a.in(p), b.in(p)})};
  }

 private:
  static constexpr bool outside(Expression a, Expression b) { return !a.program_ && !b.program_; }
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
  const auto result = [&]<int... I>(std::integer_sequence<int, I...>) {
    return F{}(Expression(p, p.input(I))...);
  }(std::make_integer_sequence<int, N>{});
  if constexpr (std::is_convertible_v<decltype(result), Expression>)
    p.results.push_back(Expression(result).in(p));
  else
    for (Expression r : result) p.results.push_back(r.in(p));
  return compact(p);
}

/// Adds to `adjoint` what the instruction y = f(a, b, ...) with cotangent g gives to its operands: the one table of
/// derivatives in the library.
constexpr void differentiate(Operation f, double literal, Expression g, Expression y, Expression a, Expression b,
                             auto&& adjoint) {
  using Op = Operation;
  switch (f) {
    case Op::input:
    case Op::constant:
    case Op::less:
    case Op::less_equal:
    case Op::equal: break;
    case Op::add: adjoint(0, g), adjoint(1, g); break;
    case Op::subtract: adjoint(0, g), adjoint(1, -g); break;
    case Op::multiply: adjoint(0, g * b), adjoint(1, g * a); break;
    case Op::divide: adjoint(0, g / b), adjoint(1, -(g / b * y)); break;
    case Op::negate: adjoint(0, -g); break;
    case Op::exp: adjoint(0, g * y); break;
    case Op::log: adjoint(0, g / a); break;
    case Op::log1p:
    case Op::log1p_of_unit: adjoint(0, g / (1. + a)); break;
    case Op::exp_minus_abs: adjoint(0, g * y * ((a < 0.) - (a > 0.))); break;
    case Op::expm1: adjoint(0, g * exp(a)); break;
    case Op::sqrt: adjoint(0, 0.5 * g / y); break;
    case Op::rsqrt: adjoint(0, -0.5 * g * (y * y * y)); break;
    case Op::power: adjoint(0, literal * g * pow(a, literal - 1)); break;
    case Op::abs: adjoint(0, g * ((a > 0.) - (a < 0.))); break;
    case Op::tanh: adjoint(0, g * ((1. - y) * (1. + y))); break;
    case Op::erf: adjoint(0, 1.12837916709551257390 * g * exp(-(a * a))); break;
    case Op::sin: adjoint(0, g * cos(a)); break;
    case Op::cos: adjoint(0, -(g * sin(a))); break;
    case Op::sigmoid: adjoint(0, g * (sigmoid(a) * sigmoid(-a))); break;  // exact where 1 - y would cancel
    case Op::softplus: adjoint(0, g * sigmoid(a)); break;
    case Op::minimum:
    case Op::maximum: {  // a tie shares the cotangent, as PyTorch does
      const Expression first = f == Op::minimum ? a < b : b < a;
      const Expression share = select(a == b, 0.5, first);
      adjoint(0, g * share), adjoint(1, g * (1. - share));
      break;
    }
    case Op::select: adjoint(1, select(a, g, 0.)), adjoint(2, select(a, 0., g)); break;
  }
}

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

  std::vector<int> adjoint(p.code.size(), -1);  // index in `out`; -1: zero so far
  const auto accumulate = [&](int k, Expression g) {
    int& slot = adjoint[static_cast<std::size_t>(k)];
    slot = slot < 0 ? g.in(out) : (Expression(out, slot) + g).in(out);
  };
  for (int r = 0; r < m; ++r)
    accumulate(p.results[static_cast<std::size_t>(r)], Expression(out, out.input(r)));

  std::vector<int> inputs(static_cast<std::size_t>(p.inputs), -1);
  for (std::size_t k = p.code.size(); k-- > 0;) {
    if (adjoint[k] < 0) continue;
    const Instruction& i = p.code[k];
    if (i.operation == Operation::input) {
      inputs[static_cast<std::size_t>(i.input_number())] = adjoint[k];
      continue;
    }
    const auto operand = [&](int o) { return o < 0 ? Expression(0.) : Expression(out, moved(o)); };
    differentiate(i.operation, i.literal, Expression(out, adjoint[k]), Expression(out, value[k]), operand(i.a),
                  operand(i.b), [&](int which, Expression g) {
                    const int target = which == 0 ? i.a : which == 1 ? i.b : i.c;
                    accumulate(target, g);
                  });
  }
  for (int k : inputs) out.results.push_back(k < 0 ? out.literal(0) : k);
  return compact(out);
}

/// The same function in the operations that devices evaluate: sigmoid and softplus become exp(-|x|) and arithmetic, so
/// that a value and its derivatives share one exponential and one quotient.
constexpr Program lower(const Program& p) {
  Program out;
  out.inputs = p.inputs;
  std::vector<int> value;
  const auto moved = [&](int k) { return k < 0 ? -1 : value[static_cast<std::size_t>(k)]; };
  for (const Instruction& i : p.code) {
    if (i.operation == Operation::sigmoid || i.operation == Operation::softplus) {
      const Expression x(out, moved(i.a)), e = apply(Operation::exp_minus_abs, x);
      const Expression y = i.operation == Operation::softplus
                               ? select(x > 0., x, 0.) + apply(Operation::log1p_of_unit, e)
                               : select(x < 0., e, 1.) * (1. / (1. + e));
      value.push_back(y.in(out));
    } else {
      value.push_back(out.emit({i.operation, moved(i.a), moved(i.b), moved(i.c), i.literal}));
    }
  }
  for (int r : p.results) out.results.push_back(moved(r));
  return compact(out);
}

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

/// Source::make()'s program as a constant, made by the compiler.
template <class Source>
constexpr auto freeze() {
  // Made once, into arrays with room to spare, because the sizes must be known before the arrays that fit.
  constexpr auto roomy = [] {
    const Program made = Source::make();
    const std::vector<std::uint32_t> use = uses(made);
    struct {
      std::size_t size, results;
      FrozenProgram<512, 32> program;
    } out{made.code.size(), made.results.size(), {made.inputs, {}, {}, {}}};
    std::copy(made.code.begin(), made.code.end(), out.program.code.begin());
    std::copy(made.results.begin(), made.results.end(), out.program.result.begin());
    std::copy(use.begin(), use.end(), out.program.use.begin());
    return out;
  }();
  FrozenProgram<roomy.size, roomy.results> out{roomy.program.inputs, {}, {}, {}};
  std::copy_n(roomy.program.code.begin(), roomy.size, out.code.begin());
  std::copy_n(roomy.program.result.begin(), roomy.results, out.result.begin());
  std::copy_n(roomy.program.use.begin(), roomy.size, out.use.begin());
  return out;
}

}  // namespace settle::expr
