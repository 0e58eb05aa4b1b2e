#pragma once
#include <functional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "settle/autodiff/tape.hpp"

namespace settle::inline v0_2 {

/// One case of an op for the tests: a function of some Vars, inputs at which it is smooth, and what it should give
/// there, computed without the library's ops.
template <class T = double, class Device = Cpu>
struct OpSample {
  std::string name;
  std::vector<Tensor<double>> inputs;
  std::function<Var<T, Device>(const std::vector<Var<T, Device>>&)> function;
  std::function<Tensor<double>(const std::vector<Tensor<double>>&)> reference;
};

/// Collects the samples of an op: each op's struct has `static void samples(auto& s)`, which adds them. Only what the
/// tests compile ever instantiates that. The functions are on Vars of T on a device; the inputs are the same for all.
template <class T, class Device>
class OpSamples {
 public:
  const std::vector<OpSample<T, Device>>& all() const { return samples_; }

  template <class Function, class Reference>
  void add(std::string name, Function function, std::vector<Tensor<double>> inputs, Reference reference) {
    samples_.push_back({std::move(name), std::move(inputs), std::move(function), std::move(reference)});
  }

  /// Random values in [low, high).
  Tensor<double> uniform(const Shape& shape, double low = -1, double high = 1) {
    return settle::uniform<double>(shape, low, high, random_);
  }

  /// Random values of which no two are closer than 0.05: their order survives small changes.
  Tensor<double> distinct(const Shape& shape) {
    Tensor<double> out(shape);
    double* x = out.mutable_data();
    for (Index i = 0; i < out.size(); ++i) x[i] = 0.05 * static_cast<double>(i - out.size() / 2);
    for (Index i = out.size(); i-- > 1;) std::swap(x[i], x[random_.below(i + 1)]);
    return out;
  }

  static std::vector<Tensor<double>> no_inputs() { return {}; }

  /// The tensor whose element number k is value(k).
  template <class Value>
  static Tensor<double> table(const Shape& shape, Value value) {
    Tensor<double> out(shape);
    for (Index k = 0; k < out.size(); ++k) out.mutable_data()[k] = value(k);
    return out;
  }

  /// A place in a tensor, by axis; a negative axis counts from the end.
  struct Position {
    int rank;
    std::vector<Index> index;
    Index& operator[](int axis) { return index[static_cast<std::size_t>(axis < 0 ? axis + rank : axis)]; }
    Index operator[](int axis) const { return index[static_cast<std::size_t>(axis < 0 ? axis + rank : axis)]; }
  };

  /// The place of element number k.
  static Position position(const Shape& shape, Index k) {
    Position p{shape.rank(), std::vector<Index>(static_cast<std::size_t>(shape.rank()))};
    for (int a = shape.rank() - 1; a >= 0; --a) {
      p[a] = shape[a] == 0 ? 0 : k % shape[a];
      k = shape[a] == 0 ? 0 : k / shape[a];
    }
    return p;
  }

  static double at(const Tensor<double>& x, const Position& p) {
    Index k = 0;
    for (int a = 0; a < p.rank; ++a) k = k * x.shape(a) + p[a];
    return x.data()[k];
  }

  template <class... Parts>
  static std::string text(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
  }

 private:
  Random random_{2024};
  std::vector<OpSample<T, Device>> samples_;
};

}  // namespace settle
