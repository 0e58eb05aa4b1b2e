#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "settle/core/tensor.hpp"

namespace settle::inline v0_2 {

/// Which initial values a model gets.
enum class Initialisation {
  released,   ///< exactly those of the released code, with its slip: the gates' biases lack their logarithm
  corrected,  ///< as intended by its authors: the first gate's bias is log U(1, 7)
};

/// One stream of random numbers per parameter, numbered in the order in which they are drawn: a parameter's values
/// depend on the seed and its number alone.
class ParameterStreams {
 public:
  explicit ParameterStreams(std::uint64_t seed) : seed_(seed) {}
  /// For a net whose weights come from a file: those that fill_weight makes are 0, which is quicker than to draw them.
  static ParameterStreams blank() {
    ParameterStreams streams(0);
    streams.blank_ = true;
    return streams;
  }
  Random next() { return Random(seed_, stream_++); }
  bool is_blank() const { return blank_; }

 private:
  std::uint64_t seed_, stream_ = 0;
  bool blank_ = false;
};

/// The number of inputs to one output of a weight (O, I, ...): the product of all extents but the first.
inline Index fan_in(const Shape& weight) {
  require(weight.rank() >= 2 && weight[0] > 0, "initialise", "expected a weight (O, I, ...), got ", weight);
  return weight.size() / weight[0];
}

/// The number of outputs that one input of a weight (O, I, ...) reaches.
inline Index fan_out(const Shape& weight) {
  require(weight.rank() >= 2 && weight[1] > 0, "initialise", "expected a weight (O, I, ...), got ", weight);
  return weight.size() / weight[1];
}

/// A random weight (O, I, ...) whose rows of I · ... values are orthonormal; its columns where there are more rows than
/// columns. Drawn uniformly from all such (normal values made orthogonal), as PyTorch's orthogonal_.
template <Scalar T>
Tensor<T> orthogonal(const Shape& shape, Random random) {
  const Index columns = fan_in(shape), rows = shape[0];
  const bool wide = rows <= columns;
  const Index count = wide ? rows : columns, length = wide ? columns : rows;
  std::vector<std::vector<double>> vectors(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    auto& v = vectors[i];
    for (Index k = 0; k < length; ++k) v.push_back(random.normal());
    for (int pass = 0; pass < 2; ++pass) {  // the second pass removes what rounding left
      for (std::size_t j = 0; j < i; ++j) {
        double dot = 0;
        for (std::size_t k = 0; k < v.size(); ++k) dot += v[k] * vectors[j][k];
        for (std::size_t k = 0; k < v.size(); ++k) v[k] -= dot * vectors[j][k];
      }
      double norm = 0;
      for (double value : v) norm += value * value;
      for (double& value : v) value /= std::sqrt(norm);
    }
  }
  Tensor<T> out(shape);
  T* w = out.mutable_data();
  for (Index r = 0; r < rows; ++r)
    for (Index c = 0; c < columns; ++c) {
      const auto i = static_cast<std::size_t>(wide ? r : c), k = static_cast<std::size_t>(wide ? c : r);
      w[r * columns + c] = static_cast<T>(vectors[i][k]);
    }
  return out;
}

/// Normal values of variance 2 / (fan in + fan out), as PyTorch's xavier_normal_.
template <Scalar T>
Tensor<T> xavier_normal(const Shape& weight, Random random) {
  return normal<T>(weight, 0, std::sqrt(2.0 / static_cast<double>(fan_in(weight) + fan_out(weight))), random);
}

/// U(-b, b) with b = 1 / sqrt(fan in): what PyTorch's convolutions start from, weight (shape = weight) and bias alike.
template <Scalar T>
Tensor<T> conv_uniform(const Shape& shape, const Shape& weight, Random random) {
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in(weight)));
  return uniform<T>(shape, -bound, bound, random);
}

/// How a weight is drawn.
struct WeightFilling {
  enum Kind {
    kaiming_fan_out,  ///< normal of variance 2 / fan out: detectron2's c2_msra_fill
    kaiming_fan_in,   ///< normal of variance 2 / fan in: PyTorch's kaiming_normal_
    caffe2_xavier,    ///< U(-b, b) with b = sqrt(3 / fan in): detectron2's c2_xavier_fill
    xavier_uniform,   ///< U(-b, b) with b = sqrt(6 / (fan in + fan out)): PyTorch's xavier_uniform_
    normal            ///< normal of the given deviation
  } kind = kaiming_fan_out;
  double deviation = 0;
};

/// A weight (O, I, ...) drawn from the next stream, or zeros where the streams are blank.
template <Scalar T, class Device = Cpu>
Tensor<T, Device> fill_weight(const Shape& shape, const WeightFilling& filling, ParameterStreams& streams) {
  Random random = streams.next();
  if (streams.is_blank()) return Tensor<T, Device>(shape, T{0});
  const auto in = static_cast<double>(fan_in(shape)), out = static_cast<double>(fan_out(shape));
  const auto even = [&](double bound) { return to<Device>(uniform<T>(shape, -bound, bound, random)); };
  const auto bell = [&](double deviation) { return to<Device>(normal<T>(shape, 0, deviation, random)); };
  switch (filling.kind) {
    case WeightFilling::kaiming_fan_out: return bell(std::sqrt(2 / out));
    case WeightFilling::kaiming_fan_in: return bell(std::sqrt(2 / in));
    case WeightFilling::caffe2_xavier: return even(std::sqrt(3 / in));
    case WeightFilling::xavier_uniform: return even(std::sqrt(6 / (in + out)));
    case WeightFilling::normal: break;
  }
  return bell(filling.deviation);
}

}  // namespace settle
