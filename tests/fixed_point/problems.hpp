#pragma once
#include <cmath>
#include <string>
#include <vector>

#include "../errors.hpp"
#include "settle/fixed_point/fixed_point.hpp"
#include "settle/ops/convolution.hpp"
#include "settle/ops/map.hpp"
#include "settle/ops/reduce.hpp"

// Steps and matrices that the fixed-point tests share. A state is (N, n, 1, 1), so that a 1x1 convolution is z -> W z.
namespace problems {

using namespace settle;

/// z -> W z + x.
struct Affine {
  template <class V>
  V operator()(const V& z, const V& w, const V& x) const {
    return conv(z, w) + x;
  }
};

/// z -> tanh(W z + x).
struct Tanh {
  template <class V>
  V operator()(const V& z, const V& w, const V& x) const {
    return map([](auto u, auto v) { return tanh(u + v); }, conv(z, w), x);
  }
};

/// A square matrix in row-major order with plain loops, to compare against.
struct Matrix {
  int n;
  std::vector<double> a;

  explicit Matrix(int size) : n(size), a(static_cast<std::size_t>(size * size), 0.0) {}
  double& operator()(int i, int j) { return a[static_cast<std::size_t>(i * n + j)]; }
  double operator()(int i, int j) const { return a[static_cast<std::size_t>(i * n + j)]; }

  template <class T = double>
  Tensor<T> weight() const {
    Tensor<T> w(Shape{n, n, 1, 1});
    for (std::size_t k = 0; k < a.size(); ++k) w.mutable_data()[k] = static_cast<T>(a[k]);
    return w;
  }

  std::vector<double> times(const std::vector<double>& x) const {
    std::vector<double> y(x.size(), 0.0);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) y[static_cast<std::size_t>(i)] += (*this)(i, j) * x[static_cast<std::size_t>(j)];
    return y;
  }

  Matrix transposed() const {
    Matrix t(n);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) t(j, i) = (*this)(i, j);
    return t;
  }

  Matrix times(double factor) const {
    Matrix out = *this;
    for (double& v : out.a) v *= factor;
    return out;
  }

  /// (I - A)^-1 b by Gaussian elimination with partial pivoting.
  std::vector<double> resolvent(std::vector<double> b) const {
    Matrix m(n);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) m(i, j) = (i == j ? 1.0 : 0.0) - (*this)(i, j);
    for (int c = 0; c < n; ++c) {
      int best = c;
      for (int r = c + 1; r < n; ++r)
        if (std::abs(m(r, c)) > std::abs(m(best, c))) best = r;
      for (int j = 0; j < n; ++j) std::swap(m(c, j), m(best, j));
      std::swap(b[static_cast<std::size_t>(c)], b[static_cast<std::size_t>(best)]);
      for (int r = c + 1; r < n; ++r) {
        const double f = m(r, c) / m(c, c);
        for (int j = c; j < n; ++j) m(r, j) -= f * m(c, j);
        b[static_cast<std::size_t>(r)] -= f * b[static_cast<std::size_t>(c)];
      }
    }
    for (int c = n; c-- > 0;) {
      for (int j = c + 1; j < n; ++j) b[static_cast<std::size_t>(c)] -= m(c, j) * b[static_cast<std::size_t>(j)];
      b[static_cast<std::size_t>(c)] /= m(c, c);
    }
    return b;
  }

  /// |A^k x|^(1/k) for a random x and a large k: the spectral radius, for complex pairs too.
  double spectral_radius() const {
    Random random(99);
    std::vector<double> x(static_cast<std::size_t>(n));
    for (double& v : x) v = random.normal();
    double logarithm = 0;
    const int warm = 500, count = 4000;
    for (int k = 0; k < warm + count; ++k) {
      x = times(x);
      double norm = 0;
      for (double v : x) norm += v * v;
      norm = std::sqrt(norm);
      if (k >= warm) logarithm += std::log(norm);
      for (double& v : x) v /= norm;
    }
    return std::exp(logarithm / count);
  }
};

inline Matrix random_matrix(int n, std::uint64_t seed) {
  Random random(seed);
  Matrix m(n);
  for (double& v : m.a) v = random.normal() / std::sqrt(n);
  return m;
}

inline Matrix scaled_to_radius(const Matrix& m, double rho) { return m.times(rho / m.spectral_radius()); }

/// Symmetric, with eigenvalues spread evenly over [-rho, rho].
inline Matrix symmetric_matrix(int n, double rho, std::uint64_t seed) {
  // A diagonal turned by Householder reflections.
  Matrix m(n);
  for (int i = 0; i < n; ++i) m(i, i) = n == 1 ? rho : rho * (2.0 * i / (n - 1) - 1.0);
  Random random(seed);
  for (int turn = 0; turn < 3; ++turn) {
    std::vector<double> v(static_cast<std::size_t>(n));
    double norm = 0;
    for (double& x : v) x = random.normal(), norm += x * x;
    const auto reflect_rows = [&](Matrix& a) {
      for (int j = 0; j < n; ++j) {
        double dot = 0;
        for (int i = 0; i < n; ++i) dot += v[static_cast<std::size_t>(i)] * a(i, j);
        for (int i = 0; i < n; ++i) a(i, j) -= 2 * dot / norm * v[static_cast<std::size_t>(i)];
      }
    };
    reflect_rows(m);
    m = m.transposed();
    reflect_rows(m);
  }
  return m;
}

/// Spectral radius `rho` and norm about `norm`: a block-triangular coupling of two halves.
inline Matrix non_normal_matrix(int n, double rho, double norm) {
  Matrix m(n);
  for (int i = 0; i < n; ++i) m(i, i) = i % 2 ? rho : -rho;
  for (int i = 0; i < n / 2; ++i) m(i, n / 2 + i) = norm;
  return m;
}

/// Rotations in the planes (2k, 2k+1), scaled by rho: complex pairs rho exp(+-i angle).
inline Matrix rotation_matrix(int n, double rho, double angle) {
  Matrix m(n);
  for (int k = 0; k + 1 < n; k += 2) {
    m(k, k) = m(k + 1, k + 1) = rho * std::cos(angle);
    m(k, k + 1) = -rho * std::sin(angle);
    m(k + 1, k) = rho * std::sin(angle);
  }
  return m;
}

template <class T>
std::vector<double> to_doubles(const Tensor<T>& x) {
  return {x.values().begin(), x.values().end()};
}

inline double norm_of(const std::vector<double>& x) {
  double total = 0;
  for (double v : x) total += v * v;
  return std::sqrt(total);
}

/// |a - b| / |b|.
inline double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> d(a);
  for (std::size_t k = 0; k < d.size(); ++k) d[k] -= b[k];
  return norm_of(d) / norm_of(b);
}

/// The central difference of f: double -> double along every element of x, by plain loops.
template <class F>
std::vector<double> central_differences(const F& f, const Tensor<double>& x, double h) {
  std::vector<double> out;
  for (Index k = 0; k < x.size(); ++k) {
    Tensor<double> above = x.clone(), below = x.clone();
    above.mutable_data()[k] += h;
    below.mutable_data()[k] -= h;
    out.push_back((f(above) - f(below)) / (2 * h));
  }
  return out;
}

/// Standard normal numbers.
inline std::vector<double> random_vector(int n, std::uint64_t seed) {
  Random random(seed);
  std::vector<double> out(static_cast<std::size_t>(n));
  for (double& v : out) v = random.normal();
  return out;
}

/// A state or a cotangent of one sample, (1, n, 1, 1).
template <class T>
Var<T> sample(const std::vector<double>& values) {
  Tensor<T> out(Shape{1, std::ssize(values), 1, 1});
  for (std::size_t k = 0; k < values.size(); ++k) out.mutable_data()[k] = static_cast<T>(values[k]);
  return out;
}

/// Numbers as T holds them.
template <class T>
std::vector<double> rounded(std::vector<double> values) {
  for (double& v : values) v = static_cast<double>(static_cast<T>(v));
  return values;
}

/// What a backward pass says of its error, and the error, both relative to |b|.
struct Judged {
  double error, estimate;
  fixed_point::Report report;
};

/// The adjoint of z -> W z at 0 for the cotangent b, by products in T, against elimination in double.
template <class T>
Judged judge(const Matrix& w, const std::vector<double>& b, fixed_point::Options options) {
  options.stop = fixed_point::Steps{1};
  options.on_fail = fixed_point::OnFail::report;
  Matrix exact_w = w;
  exact_w.a = rounded<T>(w.a);
  Tape<T> tape;
  const Var<T> zero = sample<T>(std::vector<double>(b.size(), 0.0)), x = tape.leaf(zero.value());
  const auto solution = fixed_point::solve(Affine{}, options, zero, Var<T>(w.weight<T>()), x);
  auto g = to_doubles(grad(sum(solution.z * sample<T>(b)), {x}).front().value());
  const auto right = rounded<T>(b), exact = exact_w.transposed().resolvent(right);
  for (std::size_t k = 0; k < g.size(); ++k) g[k] -= exact[k];
  return {norm_of(g) / norm_of(right), solution.report->adjoint.error_estimates.at(0), *solution.report};
}

inline Matrix diagonal_matrix(const std::vector<double>& a) {
  Matrix out(static_cast<int>(a.size()));
  for (int i = 0; i < out.n; ++i) out(i, i) = a[static_cast<std::size_t>(i)];
  return out;
}

/// Jordan blocks of `size` along the diagonal.
inline Matrix jordan_blocks(int blocks, int size, double a, double coupling) {
  Matrix out(blocks * size);
  for (int i = 0; i < out.n; ++i) {
    out(i, i) = a;
    if (i % size > 0) out(i - 1, i) = coupling;
  }
  return out;
}

}  // namespace problems
