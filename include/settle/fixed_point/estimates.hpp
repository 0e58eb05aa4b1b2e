#pragma once
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <numbers>
#include <utility>
#include <vector>

#include "settle/fixed_point/krylov.hpp"
#include "settle/fixed_point/penalty.hpp"

// What (I - J)⁻¹ amplifies a residual by: what the solvers saw of it, and probes for what they did not.
namespace settle::inline v0_2::fixed_point::detail {

/// What Arnoldi's process with A = I - J has seen of one system: A's matrix on the space of the vectors it made, an
/// upper Hessenberg matrix of k + 1 rows and k columns.
class SeenOfSystem {
 public:
  /// Takes in column j: j + 2 numbers, the last of which is not 0.
  void append(std::vector<double> column) {
    columns_.push_back(column);
    const std::size_t j = triangle_.size();
    for (std::size_t i = 0; i < j; ++i) {
      const double a = column[i], b = column[i + 1];
      column[i] = cosines_[i] * a + sines_[i] * b;
      column[i + 1] = -sines_[i] * a + cosines_[i] * b;
    }
    last_pivot_ = column[j];
    const double length = std::hypot(column[j], column[j + 1]);
    cosines_.push_back(column[j] / length);
    sines_.push_back(column[j + 1] / length);
    column[j] = length;
    column.pop_back();
    triangle_.push_back(std::move(column));
  }

  /// The largest |w| / |A w| of the space's vectors w, by inverse iteration; `w` gets the coefficients of one.
  double amplification(std::vector<double>& w) const {
    const std::size_t k = triangle_.size();
    w.assign(k, 0);
    if (k == 0) return 1;
    for (std::size_t i = 0; i < k; ++i) w[i] = 1 + 0.1 * static_cast<double>(i % 7);
    constexpr int rounds = 40;
    for (int round = 0; round < rounds; ++round) {  // w <- R⁻¹ R⁻ᵀ w
      for (std::size_t i = 0; i < k; ++i) {
        for (std::size_t j = 0; j < i; ++j) w[i] -= triangle_[i][j] * w[j];
        w[i] /= triangle_[i][i];
      }
      make_unit(w);
      solve_triangle(w, triangle_.back().back());
      if (round + 1 < rounds) make_unit(w);
    }
    const double out = length_of(w);  // of a w with |A w| = 1
    make_unit(w);
    return out;
  }

  /// The least |mu| at which A can have an eigenvalue that the process has not seen, if the start's share in its left
  /// eigenvector's direction is at least `share`. The next vector is p(A) times the start, and its share there p(mu)
  /// times that of the start, at most 1: so |p(mu)| <= 1 / share. p's only zeros are the eigenvalues that were seen, so
  /// within the nearest of them p is least on a circle's edge.
  double nearest_unseen(double share) const {
    const auto is_clear = [&](double radius) {
      constexpr int angles = 16;
      for (int i = 0; i <= angles; ++i)
        if (!(log_of_next(std::polar(radius, std::numbers::pi * i / angles)) > -std::log(share))) return false;
      return true;
    };
    double high = nearest_seen(), low = 1e-12 * high;
    if (!(high > 0) || !is_clear(low)) return 0;
    while (high > 1.01 * low) {
      const double middle = std::sqrt(low * high);
      (is_clear(middle) ? low : high) = middle;
    }
    return low;
  }

 private:
  static double length_of(const std::vector<double>& x) {
    double out = 0;
    for (double v : x) out = std::hypot(out, v);
    return out;
  }
  static void make_unit(std::vector<double>& x) {
    const double length = length_of(x);
    for (double& v : x) v /= length;
  }
  /// x <- R⁻¹ x with another last pivot.
  void solve_triangle(std::vector<double>& x, double last) const {
    for (std::size_t i = x.size(); i-- > 0;) {
      for (std::size_t j = i + 1; j < x.size(); ++j) x[i] -= triangle_[j][i] * x[j];
      x[i] /= i + 1 == x.size() ? last : triangle_[i][i];
    }
  }
  /// The least |mu| of the eigenvalues of A's matrix without its last row.
  double nearest_seen() const {
    const std::size_t k = columns_.size();
    return 1 / growth_of_powers(k, [&](const std::vector<double>& x, std::vector<double>& y) {
             y = x;
             for (std::size_t i = 0; i + 1 < k; ++i) {
               const double a = y[i], b = y[i + 1];
               y[i] = cosines_[i] * a + sines_[i] * b;
               y[i + 1] = -sines_[i] * a + cosines_[i] * b;
             }
             solve_triangle(y, last_pivot_);
           });
  }
  /// log |p(mu)|, p(A) times the start being the vector after the last, of length 1 as the start is.
  double log_of_next(std::complex<double> mu) const {
    std::vector<std::complex<double>> p{1};
    double logarithm = 0;
    for (std::size_t j = 0; j < columns_.size(); ++j) {
      std::complex<double> next = mu * p[j];
      for (std::size_t i = 0; i <= j; ++i) next -= columns_[j][i] * p[i];
      p.push_back(next / columns_[j][j + 1]);
      if (const double size = std::abs(p.back()); size > 1e100) {
        for (auto& value : p) value /= size;
        logarithm += std::log(size);
      }
    }
    return logarithm + std::log(std::abs(p.back()));
  }

  std::vector<std::vector<double>> columns_, triangle_;  ///< as given, and of the triangle that rotations make of them
  std::vector<double> cosines_, sines_;
  double last_pivot_ = 0;  ///< before the last rotation, which takes in the last row
};

/// The larger of two amplifications; infinity, if one is not a number.
inline double larger_or_infinite(double a, double b) {
  return std::isnan(a) || std::isnan(b) ? std::numeric_limits<double>::infinity() : std::max(a, b);
}

/// The spaces that Arnoldi's process with A = I - J makes from a start, for each system, and the vectors that they
/// share.
template <class T, class D>
struct Probe {
  std::vector<SeenOfSystem> seen;
  std::vector<Values<T, D>> basis;
  int products = 0;
};

/// At most `limit` products v -> J v from a start, each new vector made orthogonal to the others twice. A system whose
/// space is exhausted, to rounding, takes part with zeros from then on.
template <class T, class D>
Probe<T, D> probe(const ValueMap<T, D>& product, Values<T, D> start, Index systems, int limit) {
  constexpr auto epsilon = static_cast<double>(std::numeric_limits<T>::epsilon());
  const auto n = static_cast<std::size_t>(systems);
  Probe<T, D> out{std::vector<SeenOfSystem>(n), {}};
  normalise(start, systems);
  std::vector<bool> running(n);
  const Numbers lengths_of_start = norms(start, systems);
  for (std::size_t s = 0; s < n; ++s) running[s] = lengths_of_start[s] > 0;
  out.basis.push_back(std::move(start));
  while (out.products < limit && std::find(running.begin(), running.end(), true) != running.end()) {
    Values<T, D> w = product(out.basis.back());
    ++out.products;
    mix(w, filled(n, -1), out.basis.back(), filled(n, 1));
    const Numbers sizes = norms(w, systems);
    std::vector<std::vector<double>> columns(n, std::vector<double>(out.basis.size(), 0.0));
    for (int pass = 0; pass < 2; ++pass)
      for (std::size_t j = 0; j < out.basis.size(); ++j) {
        const Numbers projections = dots(out.basis[j], w, systems);
        for (std::size_t s = 0; s < n; ++s) columns[s][j] += projections[s];
        add_scaled(w, out.basis[j], negated(projections));
      }
    const Numbers lengths = norms(w, systems);
    Numbers inverse(n, 0.0);
    for (std::size_t s = 0; s < n; ++s) {
      if (!running[s]) continue;
      running[s] = lengths[s] > 8 * epsilon * sizes[s];  // false for not-a-number
      if (running[s]) inverse[s] = 1 / lengths[s];
      columns[s].push_back(running[s] ? lengths[s] : std::max(epsilon * sizes[s], std::numeric_limits<double>::min()));
      out.seen[s].append(columns[s]);
    }
    scale(w, inverse);
    out.basis.push_back(std::move(w));
  }
  return out;
}

/// A random state, the same for every system.
template <class T, class D>
Values<T, D> same_for_all(const Values<T, D>& like, Index systems, std::uint64_t seed) {
  Random random(seed);
  if (OverRanks::current()) return normal_by_place(like, random);
  Values<T, D> out;
  for (const auto& part : like) {
    Shape shape = part.shape();
    if (systems != 1) shape[0] = 1;
    out.push_back(normal<T, D>(shape, 0, 1, random));
  }
  return systems == 1 ? out : gather_rows(out, Rows(static_cast<std::size_t>(systems), 0));
}

/// What (I - J)⁻¹ may amplify by, for each system: see Certify. Adds its products to a number.
template <class T, class D>
Numbers amplification_by_probes(const AdjointProblem<T, D>& problem, const Certify& options, int& products) {
  const Index systems = problem.systems;
  if (systems == 0) return {};
  Index size = 0;  // numbers in one system
  for (const auto& part : problem.b) size += part.size() / systems;
  Numbers numbers{static_cast<double>(size)};
  sum_over_ranks({&numbers});
  const double share = 1.25e-3 / std::sqrt(std::max(1.0, numbers.front()));

  const Probe<T, D> first =
      probe(problem.product, same_for_all(problem.b, systems, options.seed), systems, options.products);
  std::vector<std::vector<double>> coefficients(first.seen.size());
  Numbers out;
  for (std::size_t s = 0; s < first.seen.size(); ++s) {
    const double seen = first.seen[s].amplification(coefficients[s]);
    out.push_back(larger_or_infinite(seen, 1 / first.seen[s].nearest_unseen(share)));
  }
  // In the direction that was amplified most J itself has the most to add, if it is not normal.
  Values<T, D> start = zeros_like(problem.b);
  for (std::size_t j = 0; j < first.basis.size(); ++j) {
    Numbers of_vector(out.size(), 0.0);
    for (std::size_t s = 0; s < out.size(); ++s)
      if (j < coefficients[s].size() && std::isfinite(coefficients[s][j])) of_vector[s] = coefficients[s][j];
    add_scaled(start, first.basis[j], of_vector);
  }
  const Probe<T, D> second = probe(problem.make_forward(), std::move(start), systems, options.products);
  for (std::size_t s = 0; s < out.size(); ++s)
    out[s] = larger_or_infinite(out[s], second.seen[s].amplification(coefficients[s]));
  products += first.products + second.products;
  return out;
}

}  // namespace settle::fixed_point::detail
