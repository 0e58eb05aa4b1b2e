#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

#include <Eigen/Eigenvalues>

#include "settle/core/error.hpp"
#include "settle/core/shape.hpp"

// What the experiments' tables and figures are made of.
namespace settle::inline v0_2::experiments {

/// A mean and what it is of: the standard deviation is the sample's (n - 1), 0 for a single value.
struct Spread {
  double mean = 0, deviation = 0, least = 0, most = 0;
  int count = 0;
};

/// The spread of some values; a count of 0 for none.
inline Spread spread(const std::vector<double>& values) {
  Spread out{.count = static_cast<int>(values.size())};
  if (values.empty()) return out;
  const double n = static_cast<double>(values.size());
  out.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double v : values) squares += (v - out.mean) * (v - out.mean);
  out.deviation = values.size() > 1 ? std::sqrt(squares / (n - 1)) : 0;
  out.least = *std::min_element(values.begin(), values.end());
  out.most = *std::max_element(values.begin(), values.end());
  return out;
}

/// The q-th quantile (0 to 1) of some values, interpolated between the nearest two. Throws Error for none.
inline double quantile(std::vector<double> values, double q) {
  require(!values.empty() && q >= 0 && q <= 1, "quantile", "expected values and 0 <= q <= 1, got ", values.size(),
          " and ", q);
  std::sort(values.begin(), values.end());
  const double place = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
}

/// The ranks of some values from 1 on; equal ones share the mean of theirs.
inline std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> out(values.size());
  for (std::size_t first = 0; first < order.size();) {
    std::size_t end = first + 1;
    while (end < order.size() && values[order[end]] == values[order[first]]) ++end;
    for (std::size_t k = first; k < end; ++k) out[order[k]] = 0.5 * static_cast<double>(first + end + 1);
    first = end;
  }
  return out;
}

/// Pearson's correlation; 0 where one side does not vary. Throws Error where the lengths differ.
inline double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  require(a.size() == b.size(), "correlation", "expected as many values on both sides, got ", a.size(), " and ",
          b.size());
  const double ma = spread(a).mean, mb = spread(b).mean;
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t k = 0; k < a.size(); ++k) {
    ab += (a[k] - ma) * (b[k] - mb);
    aa += (a[k] - ma) * (a[k] - ma), bb += (b[k] - mb) * (b[k] - mb);
  }
  return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0;
}

/// Spearman's rank correlation, ties by their mean rank.
inline double rank_correlation(const std::vector<double>& a, const std::vector<double>& b) {
  return correlation(ranks(a), ranks(b));
}

/// What the two-sample Kolmogorov-Smirnov test says.
struct KsTest {
  double statistic = 0;  ///< the largest distance between the two empirical distribution functions
  double p = 1;          ///< of a distance at least as large under one common, continuous distribution
};

/// The two-sample Kolmogorov-Smirnov test. p is exact, by counting lattice paths, for up to 10^7 pairs, and asymptotic
/// beyond (Smirnov's series). Throws Error for an empty sample.
inline KsTest ks_test(std::vector<double> a, std::vector<double> b) {
  require(!a.empty() && !b.empty(), "ks_test", "expected two samples, got ", a.size(), " and ", b.size(), " values");
  std::sort(a.begin(), a.end()), std::sort(b.begin(), b.end());
  const double n = static_cast<double>(a.size()), m = static_cast<double>(b.size());
  KsTest out;
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const double x = std::min(a[i], b[j]);
    while (i < a.size() && a[i] <= x) ++i;
    while (j < b.size() && b[j] <= x) ++j;
    out.statistic = std::max(out.statistic, std::abs(static_cast<double>(i) / n - static_cast<double>(j) / m));
  }
  if (n * m <= 1e7) {
    // The chance that a random path from (0, 0) to (n, m) keeps |i / n - j / m| below the statistic at every point.
    const double limit = out.statistic - 1e-9;
    std::vector<double> inside(b.size() + 1);
    const auto allowed = [&](std::size_t i, std::size_t j) {
      return std::abs(static_cast<double>(i) / n - static_cast<double>(j) / m) < limit;
    };
    for (std::size_t i = 0; i <= a.size(); ++i)
      for (std::size_t j = 0; j <= b.size(); ++j) {
        const double total = static_cast<double>(i + j);
        if (i + j == 0)
          inside[j] = allowed(i, j) ? 1 : 0;
        else  // the last step of a random path came from either side in proportion to what that side has used
          inside[j] = !allowed(i, j) ? 0
                                     : (i > 0 ? inside[j] * static_cast<double>(i) / total : 0) +
                                           (j > 0 ? inside[j - 1] * static_cast<double>(j) / total : 0);
      }
    out.p = std::clamp(1 - inside.back(), 0.0, 1.0);
    return out;
  }
  const double lambda = out.statistic * std::sqrt(n * m / (n + m));
  double sum = 0;
  for (int k = 1; k <= 100; ++k) sum += (k % 2 ? 2 : -2) * std::exp(-2.0 * k * k * lambda * lambda);
  out.p = std::clamp(sum, 0.0, 1.0);
  return out;
}

/// Principal components of some rows of numbers.
struct PrincipalComponents {
  std::vector<double> shares;                  ///< of the variance that each component explains
  std::vector<std::vector<double>> projected;  ///< a row's coordinates, for each row
};

/// The first `count` principal components of rows of equal length, by the rows' Gram matrix: for fewer rows than
/// numbers in a row. Throws Error for no rows, or rows of unequal length.
inline PrincipalComponents principal_components(const std::vector<std::vector<float>>& rows, int count) {
  require(!rows.empty() && count >= 1 && static_cast<std::size_t>(count) <= rows.size(), "principal_components",
          "expected at least ", count, " rows, got ", rows.size());
  const auto n = static_cast<Eigen::Index>(rows.size()), length = static_cast<Eigen::Index>(rows.front().size());
  Eigen::MatrixXf data(n, length);
  for (Eigen::Index i = 0; i < n; ++i) {
    const auto& row = rows[static_cast<std::size_t>(i)];
    require(static_cast<Eigen::Index>(row.size()) == length, "principal_components", "rows of ", length, " and ",
            row.size(), " numbers");
    data.row(i) = Eigen::Map<const Eigen::RowVectorXf>(row.data(), length);
  }
  data.rowwise() -= data.colwise().mean().eval();
  const Eigen::MatrixXd gram = (data * data.transpose()).cast<double>();
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(gram);
  const double total = std::max(gram.trace(), 1e-300);
  PrincipalComponents out;
  out.projected.assign(rows.size(), std::vector<double>(static_cast<std::size_t>(count)));
  for (int k = 0; k < count; ++k) {
    const Eigen::Index at = n - 1 - k;
    const double value = std::max(0.0, solver.eigenvalues()(at));
    out.shares.push_back(value / total);
    for (Eigen::Index i = 0; i < n; ++i)
      out.projected[static_cast<std::size_t>(i)][static_cast<std::size_t>(k)] =
          std::sqrt(value) * solver.eigenvectors()(i, at);
  }
  return out;
}

}  // namespace settle::experiments
