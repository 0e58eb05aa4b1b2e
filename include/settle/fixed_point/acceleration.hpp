#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "settle/fixed_point/policies.hpp"
#include "settle/fixed_point/vectors.hpp"

// How the next iterate is made from z and f(z): one class for each forward solver. `advance` changes the samples whose
// mask is 1; `keep` goes on with some of the samples.
namespace settle::inline v0_2::fixed_point::detail {

/// The spectral radius of a small matrix given by y <- M x, by the growth of its powers, so that it is right for
/// complex pairs too.
template <class Product>
double growth_of_powers(std::size_t m, const Product& product) {
  if (m == 0) return 0;
  std::vector<double> x(m), y(m);
  for (std::size_t i = 0; i < m; ++i) x[i] = 1 + 0.1 * static_cast<double>(i % 7);
  double logarithm = 0;
  constexpr int warm = 100, count = 400;
  for (int k = 0; k < warm + count; ++k) {
    product(x, y);
    double length = 0;
    for (double v : y) length = std::hypot(length, v);
    if (!(length > 0)) return 0;
    if (k >= warm) logarithm += std::log(length);
    for (std::size_t i = 0; i < m; ++i) x[i] = y[i] / length;
  }
  return std::exp(logarithm / count);
}

template <class T, class D>
class PlainIteration {
 public:
  PlainIteration(const Plain& options, Index) : damping_(options.damping) {}

  void advance(Values<T, D>& z, const Values<T, D>& fz, const Numbers&, const Numbers& mask) {
    if (damping_ == 0 && std::count(mask.begin(), mask.end(), 1.0) == std::ssize(mask)) {
      z = fz;
      return;
    }
    Numbers keep(mask.size()), take(mask.size());
    for (std::size_t s = 0; s < mask.size(); ++s) {
      take[s] = mask[s] * (1 - damping_);
      keep[s] = 1 - take[s];
    }
    mix(z, keep, fz, take);
  }
  void keep(const Rows&) {}
  std::size_t bytes() const { return 0; }

 private:
  double damping_;
};

/// The best f(z) so far of each sample: where a safeguard goes back to.
template <class T, class D>
class Best {
 public:
  /// Takes in f(z) and says for which samples the residual is `factor` above the best.
  std::vector<bool> worse(const Values<T, D>& fz, const Numbers& residuals, double factor) {
    if (f_.empty()) {
      f_ = zeros_like(fz);
      residuals_.assign(residuals.size(), std::numeric_limits<double>::infinity());
    }
    std::vector<bool> out(residuals.size());
    Numbers keep(residuals.size()), take(residuals.size());
    for (std::size_t s = 0; s < residuals.size(); ++s) {
      const bool improved = residuals[s] < residuals_[s];
      if (improved) residuals_[s] = residuals[s];
      take[s] = improved ? 1 : 0;
      keep[s] = improved ? 0 : 1;
      out[s] = !(residuals[s] <= factor * residuals_[s]);
    }
    mix(f_, keep, fz, take);
    return out;
  }
  const Values<T, D>& f() const { return f_; }
  void keep(const Rows& rows) {
    if (f_.empty()) return;
    f_ = gather_rows(f_, rows);
    residuals_ = select(residuals_, rows);
  }

 private:
  Values<T, D> f_;
  Numbers residuals_;
};

/// Solves the symmetric system (G + ridge I) x = c, G with unit diagonal, by Cholesky; false when a pivot is too small.
inline bool solve_cholesky(std::vector<double>& g, std::vector<double>& c, int n, double ridge,
                           double smallest_pivot = 1e-14) {
  const auto at = [&](int i, int j) -> double& { return g[static_cast<std::size_t>(i * n + j)]; };
  for (int j = 0; j < n; ++j) {
    double pivot = at(j, j) + ridge;
    for (int k = 0; k < j; ++k) pivot -= at(j, k) * at(j, k);
    if (!(pivot > 0.1 * ridge) || !(pivot > smallest_pivot)) return false;
    at(j, j) = std::sqrt(pivot);
    for (int i = j + 1; i < n; ++i) {
      for (int k = 0; k < j; ++k) at(i, j) -= at(i, k) * at(j, k);
      at(i, j) /= at(j, j);
    }
  }
  const auto x = [&](int i) -> double& { return c[static_cast<std::size_t>(i)]; };
  for (int i = 0; i < n; ++i) {
    for (int k = 0; k < i; ++k) x(i) -= at(i, k) * x(k);
    x(i) /= at(i, i);
  }
  for (int i = n; i-- > 0;) {
    for (int k = i + 1; k < n; ++k) x(i) -= at(k, i) * x(k);
    x(i) /= at(i, i);
  }
  return true;
}

template <class T, class D>
class AndersonIteration {
 public:
  AndersonIteration(const Anderson& options, Index systems)
      : options_(options),
        depth_(static_cast<std::size_t>(options.depth)),
        count_(static_cast<std::size_t>(systems), 0) {}

  void advance(Values<T, D>& z, const Values<T, D>& fz, const Numbers& residuals, const Numbers& mask) {
    const std::size_t n = mask.size();
    const auto systems = static_cast<Index>(n);
    const std::vector<bool> undo = best_.worse(fz, residuals, options_.safeguard);
    Values<T, D> r = fz;
    add_scaled(r, z, filled(n, -1));
    if (!z_.empty()) remember(z, r, systems);
    for (std::size_t s = 0; s < n; ++s)
      if (undo[s]) count_[s] = 0;

    const std::vector<Numbers> gamma = weights(r, systems, mask);
    store(z_, z);
    Numbers plain(n), mixing(n);
    for (std::size_t s = 0; s < n; ++s) mixing[s] = mask[s] * options_.mixing;
    add_scaled(z, r, mixing);
    for (std::size_t j = 0; j < dz_.size(); ++j) {
      add_scaled(z, dz_[j], negated(gamma[j]));
      for (std::size_t s = 0; s < n; ++s) plain[s] = -options_.mixing * gamma[j][s];
      add_scaled(z, dr_[j], plain);
    }
    restore(z, undo, mask);
    std::swap(r_, r);
  }

  /// Of the matrix J of a linear map f, for each sample: J dz = dr + dz is known on the differences that are held, and
  /// J is taken for the matrix on their span that fits that best. Empty where a sample holds none: it
  /// was done early, had nothing to solve, or the safeguard has just started it again.
  Numbers spectral_radius() const {
    const std::size_t n = count_.size(), m = dz_.size();
    std::vector<std::vector<Numbers>> gram(m), image(m);
    for (std::size_t i = 0; i < m; ++i)
      for (std::size_t j = 0; j < m; ++j) {
        gram[i].push_back(j < i ? gram[j][i] : dots(dz_[i], dz_[j], static_cast<Index>(n)));
        image[i].push_back(dots(dz_[i], dr_[j], static_cast<Index>(n)));
      }
    Numbers out(n);
    for (std::size_t s = 0; s < n; ++s) {
      out[s] = radius_of_fit(gram, image, s);
      if (!std::isfinite(out[s])) return {};
    }
    return out;
  }

  void keep(const Rows& rows) {
    for (auto* list : {&z_, &r_}) *list = gather_rows(*list, rows);
    for (auto* history : {&dz_, &dr_}) *history = gather_rows(*history, rows);
    for (auto& row : gram_)
      for (auto& numbers : row) numbers = select(numbers, rows);
    count_ = select(count_, rows);
    best_.keep(rows);
  }

  std::size_t bytes() const {
    std::size_t out = 0;
    for (const auto& column : dz_) out += 2 * bytes_of(column);
    return out;
  }

 private:
  /// Overwrites a state that is held, in its own memory.
  static void store(Values<T, D>& held, const Values<T, D>& values) {
    if (held.empty()) held = zeros_like(values);
    mix(held, filled(1, 0), values, filled(1, 1));
  }

  /// The newest differences take the place of the oldest.
  void remember(const Values<T, D>& z, const Values<T, D>& r, Index systems) {
    const std::size_t n = count_.size();
    newest_ = dz_.size() < depth_ ? dz_.size() : (newest_ + 1) % depth_;
    if (dz_.size() < depth_) {
      dz_.push_back(zeros_like(z));
      dr_.push_back(zeros_like(z));
      gram_.emplace_back();
      for (auto& row : gram_) row.resize(depth_, filled(n, 0));
    }
    store(dz_[newest_], z);
    add_scaled(dz_[newest_], z_, filled(n, -1));
    store(dr_[newest_], r);
    add_scaled(dr_[newest_], r_, filled(n, -1));
    const std::vector<Numbers> products = dots_of_each(dr_, dr_[newest_], systems);
    for (std::size_t j = 0; j < dr_.size(); ++j) gram_[j][newest_] = gram_[newest_][j] = products[j];
    for (int& c : count_) c = std::min(c + 1, static_cast<int>(dr_.size()));
  }

  /// For each column and sample its weight in the least-squares fit of r, 0 where a column is not used.
  std::vector<Numbers> weights(const Values<T, D>& r, Index systems, const Numbers& mask) {
    std::vector<Numbers> out(dr_.size(), filled(mask.size(), 0));
    const std::vector<Numbers> right = dots_of_each(dr_, r, systems);
    std::vector<double> g, c;
    for (std::size_t s = 0; s < mask.size(); ++s) {
      if (mask[s] == 0) continue;
      for (int used = count_[s]; used > 0; --used) {  // an ill-conditioned fit drops its oldest column
        const auto column = [&](int k) { return (newest_ + depth_ - static_cast<std::size_t>(k)) % depth_; };
        const auto length = [&](int k) { return std::sqrt(gram_[column(k)][column(k)][s]); };
        g.assign(static_cast<std::size_t>(used * used), 0.0);
        c.assign(static_cast<std::size_t>(used), 0.0);
        bool usable = true;
        for (int i = 0; i < used; ++i) {
          usable = usable && length(i) > 0 && std::isfinite(length(i));
          for (int j = 0; j < used; ++j)
            g[static_cast<std::size_t>(i * used + j)] = gram_[column(i)][column(j)][s] / (length(i) * length(j));
          c[static_cast<std::size_t>(i)] = right[column(i)][s] / length(i);
        }
        if (!usable || !solve_cholesky(g, c, used, options_.ridge)) continue;
        for (int i = 0; i < used; ++i) out[column(i)][s] = c[static_cast<std::size_t>(i)] / length(i);
        break;
      }
    }
    return out;
  }

  /// For sample s the spectral radius of 1 + gram⁻¹ image on the columns that are not nearly combinations of newer
  /// ones; NaN without any.
  double radius_of_fit(const std::vector<std::vector<Numbers>>& gram, const std::vector<std::vector<Numbers>>& image,
                       std::size_t s) const {
    std::vector<std::size_t> columns;
    const auto scaled = [&](const std::vector<std::vector<Numbers>>& m) {  // as of columns of unit length
      std::vector<double> out;
      for (const std::size_t a : columns)
        for (const std::size_t b : columns) out.push_back(m[a][b][s] / std::sqrt(gram[a][a][s] * gram[b][b][s]));
      return out;
    };
    const auto solve = [&](std::vector<double> g, std::vector<double>& x) {
      return solve_cholesky(g, x, static_cast<int>(columns.size()), 0, 1e-6);
    };
    for (std::size_t k = 0; k < static_cast<std::size_t>(count_[s]); ++k) {
      columns.push_back((newest_ + depth_ - k) % depth_);
      std::vector<double> probe(columns.size(), 1.0);
      if (!solve(scaled(gram), probe)) columns.pop_back();
    }
    if (columns.empty()) return std::numeric_limits<double>::quiet_NaN();
    const std::vector<double> g = scaled(gram), h = scaled(image);
    const std::size_t m = columns.size();
    std::vector<double> fit;  // gram⁻¹ image, column by column
    for (std::size_t j = 0; j < m; ++j) {
      std::vector<double> column(m);
      for (std::size_t i = 0; i < m; ++i) column[i] = h[i * m + j];
      solve(g, column);
      fit.insert(fit.end(), column.begin(), column.end());
    }
    return growth_of_powers(m, [&](const std::vector<double>& x, std::vector<double>& y) {
      y = x;
      for (std::size_t j = 0; j < m; ++j)
        for (std::size_t i = 0; i < m; ++i) y[i] += fit[j * m + i] * x[j];
    });
  }

  void restore(Values<T, D>& z, const std::vector<bool>& undo, const Numbers& mask) {
    if (std::find(undo.begin(), undo.end(), true) == undo.end()) return;
    Numbers keep(mask.size()), take(mask.size());
    for (std::size_t s = 0; s < mask.size(); ++s) {
      take[s] = undo[s] && mask[s] > 0 ? 1 : 0;
      keep[s] = 1 - take[s];
    }
    mix(z, keep, best_.f(), take);
  }

  Anderson options_;
  std::size_t depth_, newest_ = 0;
  std::vector<int> count_;  ///< for each sample, how many of the newest columns it may use
  Values<T, D> z_, r_;
  std::vector<Values<T, D>> dz_, dr_;
  std::vector<std::vector<Numbers>> gram_;
  Best<T, D> best_;
};

template <class T, class D>
class BroydenIteration {
 public:
  BroydenIteration(const Broyden& options, Index) : options_(options), rank_(static_cast<std::size_t>(options.rank)) {}

  void advance(Values<T, D>& z, const Values<T, D>& fz, const Numbers& residuals, const Numbers& mask) {
    const std::size_t n = mask.size();
    const auto systems = static_cast<Index>(n);
    const std::vector<bool> undo = best_.worse(fz, residuals, options_.safeguard);
    Values<T, D> r = fz;
    add_scaled(r, z, filled(n, -1));
    if (!z_.empty()) update(z, r, systems);
    Numbers cleared(n), kept(n);
    for (std::size_t s = 0; s < n; ++s) kept[s] = undo[s] ? 0 : 1;
    if (std::find(undo.begin(), undo.end(), true) != undo.end())
      for (auto& u : u_) scale(u, kept);

    Values<T, D> step = times(r, systems);
    z_ = z;
    r_ = std::move(r);
    add_scaled(z, step, negated(mask));
    if (std::find(undo.begin(), undo.end(), true) == undo.end()) return;
    for (std::size_t s = 0; s < n; ++s) {
      cleared[s] = undo[s] && mask[s] > 0 ? 1 : 0;
      kept[s] = 1 - cleared[s];
    }
    mix(z, kept, best_.f(), cleared);
  }

  void keep(const Rows& rows) {
    for (auto* list : {&z_, &r_}) *list = gather_rows(*list, rows);
    for (auto* factors : {&u_, &v_}) *factors = gather_rows(*factors, rows);
    best_.keep(rows);
  }

  std::size_t bytes() const {
    std::size_t out = 0;
    for (const auto& column : u_) out += 2 * bytes_of(column);
    return out;
  }

  /// Hᵀ x.
  Values<T, D> transposed_times(const Values<T, D>& x, Index systems) const {
    Values<T, D> out = x;
    scale(out, filled(static_cast<std::size_t>(systems), -1));
    for (std::size_t j = 0; j < u_.size(); ++j) add_scaled(out, v_[j], dots(u_[j], x, systems));
    return out;
  }

 private:
  /// H x with H = -I + sum of u vᵀ.
  Values<T, D> times(const Values<T, D>& x, Index systems) const {
    Values<T, D> out = x;
    scale(out, filled(static_cast<std::size_t>(systems), -1));
    const std::vector<Numbers> along = dots_of_each(v_, x, systems);
    for (std::size_t j = 0; j < u_.size(); ++j) add_scaled(out, u_[j], along[j]);
    return out;
  }

  /// The Sherman-Morrison update: afterwards H (r - r_) = z - z_.
  void update(const Values<T, D>& z, const Values<T, D>& r, Index systems) {
    const auto n = static_cast<std::size_t>(systems);
    Values<T, D> dz = z, dr = r;
    add_scaled(dz, z_, filled(n, -1));
    add_scaled(dr, r_, filled(n, -1));
    if (u_.size() == rank_) {
      std::rotate(u_.begin(), u_.begin() + 1, u_.end());
      std::rotate(v_.begin(), v_.begin() + 1, v_.end());
      u_.pop_back();
      v_.pop_back();
    }
    const Values<T, D> h_dr = times(dr, systems);
    Values<T, D> v = dz;
    scale(v, filled(n, -1));
    const std::vector<Numbers> along = dots_of_each(u_, dz, systems);
    for (std::size_t j = 0; j < u_.size(); ++j) add_scaled(v, v_[j], along[j]);
    const Numbers denominators = dots(dz, h_dr, systems), sizes = norms(dz, systems), others = norms(h_dr, systems);
    Numbers inverse(n);
    for (std::size_t s = 0; s < n; ++s)  // no update along a direction that the old matrix does not see
      inverse[s] = std::abs(denominators[s]) > 1e-12 * sizes[s] * others[s] ? 1 / denominators[s] : 0;
    Values<T, D> u = std::move(dz);
    add_scaled(u, h_dr, filled(n, -1));
    scale(u, inverse);
    u_.push_back(std::move(u));
    v_.push_back(std::move(v));
  }

  Broyden options_;
  std::size_t rank_;
  Values<T, D> z_, r_;
  std::vector<Values<T, D>> u_, v_;
  Best<T, D> best_;
};

template <class T, class D>
PlainIteration<T, D> iteration_of(const Plain& options, Index systems) {
  return {options, systems};
}
template <class T, class D>
AndersonIteration<T, D> iteration_of(const Anderson& options, Index systems) {
  return {options, systems};
}
template <class T, class D>
BroydenIteration<T, D> iteration_of(const Broyden& options, Index systems) {
  return {options, systems};
}

}  // namespace settle::fixed_point::detail
