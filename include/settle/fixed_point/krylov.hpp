#pragma once
#include "settle/fixed_point/adjoint.hpp"

// The adjoint system by Krylov methods and by elimination. Each sample is a system with numbers of its own; products
// are shared. Systems that are done take part with zeros.
namespace settle::inline v0_2::fixed_point::detail {

/// The upper Hessenberg matrix of one system's Arnoldi process, reduced to a triangle by rotations as it grows.
class Hessenberg {
 public:
  void start(double residual) {
    raw_.clear(), triangle_.clear(), cosines_.clear(), sines_.clear();
    right_ = {residual};
  }
  /// Takes in column j: j + 2 numbers.
  void append(std::vector<double> column) {
    raw_.push_back(column);
    const std::size_t j = triangle_.size();
    for (std::size_t i = 0; i < j; ++i) {
      const double a = column[i], b = column[i + 1];
      column[i] = cosines_[i] * a + sines_[i] * b;
      column[i + 1] = -sines_[i] * a + cosines_[i] * b;
    }
    const double length = std::hypot(column[j], column[j + 1]);
    cosines_.push_back(length > 0 ? column[j] / length : 1);
    sines_.push_back(length > 0 ? column[j + 1] / length : 0);
    column[j] = length;
    right_.push_back(-sines_[j] * right_[j]);
    right_[j] *= cosines_[j];
    triangle_.push_back(std::move(column));
  }
  double residual() const { return std::abs(right_.back()); }
  /// The coefficients of the basis vectors that make the residual least. A direction that A maps to nothing is left
  /// out.
  std::vector<double> solution() const {
    std::vector<double> y(right_.begin(), right_.end() - 1);
    double largest_pivot = 0;
    for (std::size_t i = 0; i < y.size(); ++i) largest_pivot = std::max(largest_pivot, std::abs(triangle_[i][i]));
    for (std::size_t i = y.size(); i-- > 0;) {
      for (std::size_t k = i + 1; k < y.size(); ++k) y[i] -= triangle_[k][i] * y[k];
      y[i] = std::abs(triangle_[i][i]) > 1e-14 * largest_pivot ? y[i] / triangle_[i][i] : 0;
    }
    return y;
  }
  /// The spectral radius of I - H: an estimate of that of J.
  double spectral_radius_of_rest() const {
    const std::size_t m = raw_.size();
    return growth_of_powers(m, [&](const std::vector<double>& x, std::vector<double>& y) {
      y = x;
      for (std::size_t j = 0; j < m; ++j)
        for (std::size_t i = 0; i < std::min(m, j + 2); ++i) y[i] -= raw_[j][i] * x[j];
    });
  }

 private:
  std::vector<std::vector<double>> raw_, triangle_;
  std::vector<double> cosines_, sines_, right_;
};

template <class T, class D>
void solve_adjoint(const Gmres& solver, const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state,
                   AdjointProgress& progress) {
  const auto n = static_cast<std::size_t>(problem.systems);
  AdjointReport& report = progress.report();
  const int product_limit = report.products + solver.max_products;
  std::vector<Hessenberg> h(n);
  std::vector<std::size_t> longest(n, 0);  // cycle: its estimate is the best
  report.spectral_radius.assign(n, 0.0);
  Numbers before = norms(state.r, problem.systems);
  while (progress.any_active()) {
    std::vector<Values<T, D>> basis{state.r};
    Numbers inverse(n), residuals = before;
    std::vector<bool> running(n);  // in this cycle
    for (std::size_t s = 0; s < n; ++s) {
      running[s] = progress.active(s) && before[s] > 0;
      inverse[s] = running[s] ? 1 / before[s] : 0;
      h[s].start(before[s]);
    }
    scale(basis[0], inverse);
    const std::vector<bool> took_part = running;
    for (int j = 0; j < solver.restart && report.products < product_limit; ++j) {
      Values<T, D> w = problem.product(basis.back());
      mix(w, filled(n, -1), basis.back(), filled(n, 1));
      std::vector<std::vector<double>> columns(n);
      for (const auto& q : basis) {
        const Numbers projections = dots(q, w, problem.systems);
        for (std::size_t s = 0; s < n; ++s) columns[s].push_back(projections[s]);
        add_scaled(w, q, negated(projections));
      }
      const Numbers lengths = norms(w, problem.systems);
      for (std::size_t s = 0; s < n; ++s) {
        double column = 0;
        for (double v : columns[s]) column = std::hypot(column, v);
        const bool breakdown = !(lengths[s] > 1e-14 * column);
        inverse[s] = running[s] && !breakdown ? 1 / lengths[s] : 0;
        if (!running[s]) continue;
        columns[s].push_back(breakdown ? 0 : lengths[s]);
        h[s].append(columns[s]);
        residuals[s] = h[s].residual();
        if (breakdown || !std::isfinite(residuals[s]) ||
            residuals[s] <= progress.tolerance(s, solver.rtol) * problem.sizes[s])
          running[s] = false;
      }
      progress.observe(residuals, solver.rtol, 1);
      scale(w, inverse);
      basis.push_back(std::move(w));
      if (std::find(running.begin(), running.end(), true) == running.end()) break;
    }
    std::vector<std::vector<double>> y(n);
    for (std::size_t s = 0; s < n; ++s)
      if (took_part[s]) {
        y[s] = h[s].solution();
        if (y[s].size() <= longest[s]) continue;
        longest[s] = y[s].size();
        report.spectral_radius[s] = h[s].spectral_radius_of_rest();
      }
    for (std::size_t j = 0; j + 1 < basis.size(); ++j) {
      Numbers coefficients(n, 0.0);
      for (std::size_t s = 0; s < n; ++s)
        if (j < y[s].size() && std::isfinite(y[s][j])) coefficients[s] = y[s][j];
      add_scaled(state.g, basis[j], coefficients);
    }
    if (!progress.any_active()) break;
    if (report.products >= product_limit) {
      for (std::size_t s = 0; s < n; ++s)
        if (progress.active(s)) progress.set(s, residuals[s] > 0.9 * before[s] ? Verdict::stalled : Verdict::max_steps);
      break;
    }
    true_residual(problem, state);
    Numbers now = norms(state.r, problem.systems);
    progress.observe(now, solver.rtol, 1);
    for (std::size_t s = 0; s < n; ++s)
      if (progress.active(s) && now[s] > 0.999 * before[s]) progress.set(s, Verdict::stalled);
    before = std::move(now);
  }
}

template <class T, class D>
void solve_adjoint(const BiCgStab& solver, const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state,
                   AdjointProgress& progress) {
  const auto n = static_cast<std::size_t>(problem.systems);
  const int product_limit = progress.report().products + solver.max_products;
  const auto apply = [&](const Values<T, D>& v) {
    Values<T, D> out = problem.product(v);
    mix(out, filled(n, -1), v, filled(n, 1));
    return out;
  };
  const auto ratio = [&](const Numbers& a, const Numbers& b) {  // 0 for systems that are done or break down
    Numbers out(n);
    for (std::size_t s = 0; s < n; ++s)
      out[s] = progress.active(s) && b[s] != 0 && std::isfinite(a[s] / b[s]) ? a[s] / b[s] : 0;
    return out;
  };
  const auto times = [](Numbers a, const Numbers& b) {
    for (std::size_t s = 0; s < a.size(); ++s) a[s] *= b[s];
    return a;
  };
  Values<T, D> shadow = state.r, p = state.r, v;
  Numbers rho = dots(shadow, state.r, problem.systems);
  state.amplification.assign(n, 0.0);
  while (progress.any_active()) {
    v = apply(p);
    const Numbers seen = quotients(norms(p, problem.systems), norms(v, problem.systems));
    for (std::size_t s = 0; s < n; ++s)
      if (std::isfinite(seen[s])) state.amplification[s] = std::max(state.amplification[s], seen[s]);
    const Numbers alpha = ratio(rho, dots(shadow, v, problem.systems));
    add_scaled(state.r, v, negated(alpha));
    const Values<T, D> t = apply(state.r);
    const Numbers omega = ratio(dots(t, state.r, problem.systems), dots(t, t, problem.systems));
    add_scaled(state.g, p, alpha);
    add_scaled(state.g, state.r, omega);
    add_scaled(state.r, t, negated(omega));
    const Numbers residuals = norms(state.r, problem.systems);
    progress.observe(residuals, solver.rtol, 2);
    const Numbers next = dots(shadow, state.r, problem.systems);
    for (std::size_t s = 0; s < n; ++s) {
      if (!progress.active(s)) continue;
      if (alpha[s] == 0 || omega[s] == 0 || next[s] == 0)
        progress.set(s, Verdict::stalled);
      else if (residuals[s] > 1e6 * problem.sizes[s])
        progress.set(s, Verdict::diverged);
      else if (progress.report().products + 2 > product_limit)
        progress.set(s, Verdict::max_steps);
    }
    const Numbers beta = times(ratio(next, rho), ratio(alpha, omega));
    add_scaled(p, v, negated(omega));
    mix(p, beta, state.r, progress.mask());
    rho = next;
  }
}

template <class T, class D>
void solve_adjoint(const NormalCg& solver, const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state,
                   AdjointProgress& progress) {
  const auto n = static_cast<std::size_t>(problem.systems);
  const int product_limit = progress.report().products + solver.max_products;
  const ValueMap<T, D> forward = problem.make_forward();
  const auto i_minus = [&](const ValueMap<T, D>& map, const Values<T, D>& v) {
    Values<T, D> out = map(v);
    mix(out, filled(n, -1), v, filled(n, 1));
    return out;
  };
  Values<T, D> z = i_minus(forward, state.r), p = z;
  if (solver.eta > 0) add_scaled(z, state.g, filled(n, -solver.eta)), p = z;
  progress.report().products += 1;
  Numbers zz = dots(z, z, problem.systems);
  while (progress.any_active()) {
    const Values<T, D> w = i_minus(problem.product, p);
    Numbers curvature = dots(w, w, problem.systems), alpha(n), beta(n);
    const Numbers pp = dots(p, p, problem.systems), mask = progress.mask();
    for (std::size_t s = 0; s < n; ++s) {
      curvature[s] += solver.eta * pp[s];
      alpha[s] = mask[s] > 0 && curvature[s] > 0 ? zz[s] / curvature[s] : 0;
    }
    add_scaled(state.g, p, alpha);
    add_scaled(state.r, w, negated(alpha));
    z = i_minus(forward, state.r);
    if (solver.eta > 0) add_scaled(z, state.g, filled(n, -solver.eta));
    const Numbers next = dots(z, z, problem.systems), residuals = norms(state.r, problem.systems);
    progress.observe(residuals, solver.rtol, 2);
    for (std::size_t s = 0; s < n; ++s) {
      if (!progress.active(s)) continue;
      // The normal equations are solved though the system is not: b is not in the range of a singular A.
      if (!(std::sqrt(next[s]) > 1e-12 * problem.sizes[s]) || alpha[s] == 0)
        progress.set(s, Verdict::stalled);
      else if (progress.report().products + 2 > product_limit)
        progress.set(s, Verdict::max_steps);
      beta[s] = zz[s] > 0 ? next[s] / zz[s] : 0;
    }
    mix(p, beta, z, progress.mask());
    zz = next;
  }
}

/// Solves m x = b in place by elimination with partial pivoting; false when a pivot vanishes.
inline bool eliminate(std::vector<double>& m, std::vector<double>& b, Index n) {
  const auto at = [&](Index i, Index j) -> double& { return m[static_cast<std::size_t>(i * n + j)]; };
  const auto x = [&](Index i) -> double& { return b[static_cast<std::size_t>(i)]; };
  double scale_of_matrix = 0;
  for (double v : m) scale_of_matrix = std::max(scale_of_matrix, std::abs(v));
  for (Index c = 0; c < n; ++c) {
    Index best = c;
    for (Index r = c + 1; r < n; ++r)
      if (std::abs(at(r, c)) > std::abs(at(best, c))) best = r;
    if (!(std::abs(at(best, c)) > 1e-13 * scale_of_matrix)) return false;
    for (Index j = c; j < n; ++j) std::swap(at(c, j), at(best, j));
    std::swap(x(c), x(best));
    for (Index r = c + 1; r < n; ++r) {
      const double factor = at(r, c) / at(c, c);
      for (Index j = c; j < n; ++j) at(r, j) -= factor * at(c, j);
      x(r) -= factor * x(c);
    }
  }
  for (Index c = n; c-- > 0;) {
    for (Index j = c + 1; j < n; ++j) x(c) -= at(c, j) * x(j);
    x(c) /= at(c, c);
  }
  return true;
}

template <class T, class D>
void solve_adjoint(const Dense&, const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state,
                   AdjointProgress& progress) {
  require(!OverRanks::current(), "fixed_point", "the dense adjoint is for tests: it does not go over several ranks");
  Index size = 0;  // numbers in one system
  for (const auto& part : problem.b) size += problem.systems > 0 ? part.size() / problem.systems : 0;
  require(size <= 4096, "fixed_point", "the dense adjoint is for tests: a system of ", size, " numbers exceeds 4096");
  // Element k of system s, over the parts.
  const auto element = [&](Values<T>& v, Index s, Index k) -> T& {
    for (auto& part : v) {
      const Index length = part.size() / problem.systems;
      if (k < length) return part.mutable_data()[s * length + k];
      k -= length;
    }
    fail("fixed_point", "element out of range");
  };
  const auto n = static_cast<std::size_t>(problem.systems);
  const auto count = static_cast<std::size_t>(size);
  Values<T> right = moved_to<Cpu>(problem.b), solution = moved_to<Cpu>(state.g);
  std::vector<std::vector<double>> matrices(n, std::vector<double>(count * count));
  for (Index k = 0; k < size; ++k) {
    Values<T> unit = zeros_like(right);
    for (Index s = 0; s < problem.systems; ++s) element(unit, s, k) = T{1};
    Values<T> column = moved_to<Cpu>(problem.product(moved_to<D>(unit)));
    ++progress.report().products;
    for (Index s = 0; s < problem.systems; ++s)
      for (Index i = 0; i < size; ++i)
        matrices[static_cast<std::size_t>(s)][static_cast<std::size_t>(i * size + k)] =
            (i == k ? 1.0 : 0.0) - static_cast<double>(element(column, s, i));
  }
  Numbers& radius = progress.report().spectral_radius;
  radius.assign(n, 0.0);
  for (std::size_t s = 0; s < n; ++s) {
    if (!progress.active(s)) continue;
    radius[s] = growth_of_powers(count, [&, &a = matrices[s]](const std::vector<double>& v, std::vector<double>& y) {
      for (std::size_t i = 0; i < count; ++i) {
        y[i] = v[i];
        for (std::size_t k = 0; k < count; ++k) y[i] -= a[i * count + k] * v[k];
      }
    });
    std::vector<double> x(count);
    for (Index k = 0; k < size; ++k)
      x[static_cast<std::size_t>(k)] = static_cast<double>(element(right, static_cast<Index>(s), k));
    const bool regular = eliminate(matrices[s], x, size);
    progress.set(s, regular ? Verdict::converged : Verdict::stalled);
    if (!regular) continue;
    for (Index k = 0; k < size; ++k)
      element(solution, static_cast<Index>(s), k) = static_cast<T>(x[static_cast<std::size_t>(k)]);
  }
  state.g = moved_to<D>(solution);
}

template <class T, class D>
void solve_adjoint(const Auto& solver, const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state,
                   AdjointProgress& progress) {
  bool gave_up = false;
  Numbers worth_it = problem.of_state;
  for (double& tolerance : worth_it) tolerance = std::min(1.0, solver.worth * tolerance);
  progress.relax(std::move(worth_it));
  run_series(solver.first, problem, state, progress, std::numeric_limits<double>::infinity(),
             [&](const GrowthRate& growth) {
               if (growth.ratios() < 4) return false;
               const Numbers rates = growth.estimate(), terms = growth.at(static_cast<std::size_t>(growth.ratios()));
               for (std::size_t s = 0; s < rates.size(); ++s) {
                 if (!progress.active(s)) continue;
                 const double to_go = std::log(solver.first.rtol * problem.sizes[s] / terms[s]) / std::log(rates[s]);
                 if (rates[s] >= 1 || to_go > solver.then.restart) gave_up = true;
               }
               return gave_up;
             });
  if (!gave_up) return;
  // The next term is the residual. A growing series is worse than none.
  const auto n = static_cast<std::size_t>(problem.systems);
  const Numbers radius = progress.report().spectral_radius;
  state.r = problem.product(state.r);
  ++progress.report().products;
  Numbers keep(n), start(n);
  for (std::size_t s = 0; s < n; ++s) {
    start[s] = progress.active(s) && radius[s] >= 1 ? 1 : 0;
    keep[s] = 1 - start[s];
  }
  scale(state.g, keep);
  mix(state.r, keep, problem.b, start);
  solve_adjoint(solver.then, problem, state, progress);
  // Systems that the series had solved keep its estimate.
  for (std::size_t s = 0; s < n; ++s)
    if (double& estimate = progress.report().spectral_radius[s]; estimate == 0) estimate = radius[s];
}

}  // namespace settle::fixed_point::detail
