#pragma once
#include <charconv>
#include <cmath>
#include <string>

#include "settle/core/error.hpp"
#include "settle/expr/program.hpp"

namespace settle::inline v0_2::kernels {

/// A number as CUDA C++ that reads back as the same double.
inline std::string print(double literal) {
  if (std::isnan(literal)) return "0.0 / 0.0";
  if (std::isinf(literal)) return literal > 0 ? "1.0 / 0.0" : "-1.0 / 0.0";
  char text[32];
  std::string out(text, std::to_chars(text, text + sizeof(text), literal).ptr);
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  return out;
}

/// One instruction's value as CUDA C++: its operands are the numbers a, b and c (and the literal), of type `real`.
inline std::string print(const expr::Instruction& i, const std::string& a, const std::string& b, const std::string& c) {
  using enum expr::Operation;
  const auto call = [&](const char* function) { return function + ("(" + a + ")"); };
  const auto infix = [&](const char* sign) { return a + sign + b; };
  const auto compare = [&](const char* sign) { return "real(" + a + sign + b + ")"; };
  switch (i.operation) {
    case constant:
      return "real(" + print(i.literal) + ")";
    case add:
      return infix(" + ");
    case subtract:
      return infix(" - ");
    case multiply:
      return infix(" * ");
    case divide:
      return infix(" / ");
    case negate:
      return "-" + a;
    case exp:
      return call("exp");
    case log:
      return call("log");
    case log1p:
    case log1p_of_unit:
      return call("log1p");
    case expm1:
      return call("expm1");
    case sqrt:
      return call("sqrt");
    case rsqrt:
      return call("rsqrt");
    case exp_minus_abs:
      return call("exp_minus_abs");
    case power:
      if (i.literal == 2) return a + " * " + a;
      if (i.literal == 3) return a + " * " + a + " * " + a;
      if (i.literal == -1) return "real(1) / " + a;
      return "pow(" + a + ", real(" + print(i.literal) + "))";
    case abs:
      return call("abs");
    case round:
      return call("rint");
    case tanh:
      return call("tanh");
    case erf:
      return call("erf");
    case normal_cdf:
      return "real(0.5) * real(erfc(" + a + " * real(-0.70710678118654752440)))";
    case sin:
      return call("sin");
    case cos:
      return call("cos");
    case minimum:
      return "minimum(" + a + ", " + b + ")";
    case maximum:
      return "maximum(" + a + ", " + b + ")";
    case less:
      return compare(" < ");
    case less_equal:
      return compare(" <= ");
    case equal:
      return compare(" == ");
    case select:
      return a + " != real(0) ? " + b + " : " + c;
    case input:
    case arctangent:
    case power_of:
    case sigmoid:
    case softplus:
    case sigmoid_slope:
    case tanh_slope:
    case scale:
    case scale_both:
      break;  // inputs are the caller's to print; lowering removes the others
  }
  fail("kernel", "a program must be lowered before it is printed");
}

/// A lowered program as CUDA C++: one line for each instruction, `const real v3 = ...;`, where `input(k)` prints the
/// value of input k.
template <class Input>
std::string print(const expr::Program& lowered, const std::string& indent, Input&& input) {
  const auto name = [](int k) {
    std::string out = "v";
    return out += std::to_string(k);
  };
  std::string out;
  for (std::size_t k = 0; k < lowered.code.size(); ++k) {
    const expr::Instruction& i = lowered.code[k];
    const std::string value = i.operation == expr::Operation::input ? std::string(input(i.input_number()))
                                                                    : print(i, name(i.a), name(i.b), name(i.c));
    out += indent + "const real " + name(static_cast<int>(k)) + " = " + value + ";\n";
  }
  return out;
}

}  // namespace settle::kernels
