#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "settle/expr/program.hpp"

/// The results of a program, instruction by instruction with the standard library's functions.
inline std::vector<double> run(const settle::expr::Program& p, const std::vector<double>& inputs) {
  std::vector<double> v;
  for (const settle::expr::Instruction& i : p.code) {
    const auto operand = [&](int k) { return k < 0 ? 0 : v[static_cast<std::size_t>(k)]; };
    const double a = operand(i.a), b = operand(i.b), c = operand(i.c);
    using settle::expr::Operation;
    switch (i.operation) {
      case Operation::input:
        v.push_back(inputs[static_cast<std::size_t>(i.input_number())]);
        break;
      case Operation::constant:
        v.push_back(i.literal);
        break;
      case Operation::add:
        v.push_back(a + b);
        break;
      case Operation::subtract:
        v.push_back(a - b);
        break;
      case Operation::multiply:
        v.push_back(a * b);
        break;
      case Operation::divide:
        v.push_back(a / b);
        break;
      case Operation::negate:
        v.push_back(-a);
        break;
      case Operation::exp:
        v.push_back(std::exp(a));
        break;
      case Operation::log:
        v.push_back(std::log(a));
        break;
      case Operation::log1p:
        v.push_back(std::log1p(a));
        break;
      case Operation::expm1:
        v.push_back(std::expm1(a));
        break;
      case Operation::exp_minus_abs:
        v.push_back(std::exp(-std::abs(a)));
        break;
      case Operation::log1p_of_unit:
        v.push_back(std::log1p(a));
        break;
      case Operation::sqrt:
        v.push_back(std::sqrt(a));
        break;
      case Operation::rsqrt:
        v.push_back(1 / std::sqrt(a));
        break;
      case Operation::power:
        v.push_back(std::pow(a, i.literal));
        break;
      case Operation::abs:
        v.push_back(std::abs(a));
        break;
      case Operation::round:
        v.push_back(std::nearbyint(a));
        break;
      case Operation::arctangent:
        v.push_back(std::atan(a));
        break;
      case Operation::power_of:
        v.push_back(std::pow(a, b));
        break;
      case Operation::tanh:
        v.push_back(std::tanh(a));
        break;
      case Operation::erf:
        v.push_back(std::erf(a));
        break;
      case Operation::normal_cdf:
        v.push_back(std::erfc(-a * std::sqrt(0.5)) / 2);
        break;
      case Operation::sin:
        v.push_back(std::sin(a));
        break;
      case Operation::cos:
        v.push_back(std::cos(a));
        break;
      case Operation::sigmoid:
        v.push_back(1 / (1 + std::exp(-a)));
        break;
      case Operation::softplus:
        v.push_back(std::log1p(std::exp(a)));
        break;
      case Operation::sigmoid_slope:
        v.push_back(1 / (2 + std::exp(-a) + std::exp(a)));
        break;
      case Operation::tanh_slope:
        v.push_back(1 / (std::cosh(a) * std::cosh(a)));
        break;
      case Operation::scale:
        v.push_back(a == 0 ? 0 : a * b);
        break;
      case Operation::scale_both:
        v.push_back(a == 0 || b == 0 ? 0 : a * b);
        break;
      case Operation::minimum:
        v.push_back(std::min(a, b));
        break;
      case Operation::maximum:
        v.push_back(std::max(a, b));
        break;
      case Operation::less:
        v.push_back(a < b);
        break;
      case Operation::less_equal:
        v.push_back(a <= b);
        break;
      case Operation::equal:
        v.push_back(a == b);
        break;
      case Operation::select:
        v.push_back(a != 0 ? b : c);
        break;
    }
  }
  std::vector<double> out;
  for (int r : p.results) out.push_back(v[static_cast<std::size_t>(r)]);
  return out;
}
