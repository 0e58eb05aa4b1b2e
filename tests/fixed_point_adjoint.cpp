#include <doctest/doctest.h>

#include "fixed_point_problems.hpp"

using namespace problems;
namespace fp = settle::fixed_point;

namespace {

/// The gradient in x of sum(c z*) for z* = W z* + x, as the node computes it; that is (I - W)^-T c.
template <class T>
std::vector<double> adjoint_of(const Matrix& w, const std::vector<double>& c, const fp::Options& options,
                               std::shared_ptr<const fp::Report>* report = nullptr) {
  Tape<T> tape;
  const Shape shape{1, w.n, 1, 1};
  const Var<T> weight = tape.leaf(w.weight<T>()), x = tape.leaf(Tensor<T>(shape, T{0}));
  const auto solution = fp::solve(Affine{}, options, Var<T>(Tensor<T>(shape, T{0})), weight, x);
  if (report) *report = solution.report;
  const Var<T> cotangent = Tensor<T>(shape, std::vector<T>(c.begin(), c.end()));
  return to_doubles(grad(sum(solution.z * cotangent), {x}).front().value());
}

struct Scaled {
  Var<double> a;
  void parameters(auto&& visit) { visit("a", a); }
  Var<double> operator()(const Var<double>& z, const Var<double>& x) const { return a * z + x; }
};
struct Prepared : Scaled {
  Var<double> prepare(const Var<double>& x) const { return x * x; }
};

std::vector<double> random_vector(int n, std::uint64_t seed) {
  Random random(seed);
  std::vector<double> out(static_cast<std::size_t>(n));
  for (double& v : out) v = random.normal();
  return out;
}

}  // namespace

TEST_CASE("A1: the Neumann series solves contractive adjoint systems to 1e-8 in double and 1e-4 in float") {
  const fp::Options options{.stop = fp::Steps{1}, .adjoint = fp::Neumann{.max_products = 4000, .rtol = 1e-10}};
  const fp::Options single{.stop = fp::Steps{1}, .adjoint = fp::Neumann{.max_products = 4000, .rtol = 1e-6}};
  for (const Matrix& w :
       {scaled_to_radius(random_matrix(20, 1), 0.9), symmetric_matrix(20, 0.9, 2), non_normal_matrix(20, 0.5, 20),
        rotation_matrix(20, 0.9, 1.2), symmetric_matrix(20, 0.99, 3)}) {
    const auto c = random_vector(20, 4);
    const auto expected = w.transposed().resolvent(c);
    CHECK(relative_error(adjoint_of<double>(w, c, options), expected) <= 1e-8);
    CHECK(relative_error(adjoint_of<float>(w, c, single), expected) <= 1e-4);
  }
}

TEST_CASE("A10: a captured taped variable is an error that names the cure") {
  Tape<double> tape;
  const Var<double> z0 = Tensor<double>(Shape{1, 2}, 0.0), x = tape.leaf(Tensor<double>(Shape{1, 2}, 1.0)),
                    hidden = tape.leaf(Tensor<double>(Shape{1, 2}, 0.5));
  const auto step = [&](const Var<double>& z, const Var<double>& u) { return hidden * z + u; };
  for (const int steps : {1, 3})
    CHECK(error_of([&] {
            (void)fp::solve(step, {.stop = fp::Steps{steps}}, z0, x);
          }).find("pass it to solve as an argument or declare it in the step's parameters") != std::string::npos);
}

TEST_CASE(
    "the released series ends at the first rejected term, and in the other release returns g of the last rejection") {
  // J = rho I in n = 1: v_k = rho^k b, all by hand.
  const auto gradient = [](double rho, double b, fp::ReleasedNeumann policy, fp::AdjointReport& report) {
    Matrix w(1);
    w(0, 0) = rho;
    std::shared_ptr<const fp::Report> full;
    const double g = adjoint_of<double>(w, {b}, {.stop = fp::Steps{1}, .adjoint = policy}, &full).front();
    report = full->adjoint;
    return g;
  };
  fp::AdjointReport report;
  // Far below the bound: all terms.
  CHECK(gradient(0.5, 1e-3, {.terms = 15}, report) ==
        doctest::Approx(1e-3 * (1 - std::pow(0.5, 16)) / 0.5).epsilon(1e-12));
  CHECK(report.terms == 15);
  CHECK(report.end == fp::SeriesEnd::all_terms);
  // 0.6 (1 + 1/2) <= 1 < 0.6 (1 + 1/2 + 1/4): no; 0.6 + 0.3 = 0.9 is kept, 1.05 is not.
  CHECK(gradient(0.5, 0.6, {.terms = 15}, report) == doctest::Approx(0.9).epsilon(1e-12));
  CHECK(report.terms == 1);
  CHECK(report.products == 2);
  CHECK(report.end == fp::SeriesEnd::norm_above_one);
  // Growth at the first term: one-step truncation.
  CHECK(gradient(1.5, 1e-3, {.terms = 15}, report) == 1e-3);
  CHECK(report.end == fp::SeriesEnd::growth);
  // 1e-3 0.1^k falls below 1e-9 at k = 7.
  CHECK(gradient(0.1, 1e-3, {.terms = 15}, report) ==
        doctest::Approx(1e-3 * (1 - std::pow(0.1, 7)) / 0.9).epsilon(1e-12));
  CHECK(report.terms == 6);
  CHECK(report.end == fp::SeriesEnd::vanished);
  // The other release: terms keep being computed; the last rejection is the last product, at which g is 0.9 still
  // (0.9 + 0.6 0.5^k > 1 for k = 2 only): then 0.9 + 0.075 = 0.975 is accepted, 0.975 + 0.0375 = 1.0125 rejected, ...
  double g = 0.6, v = 0.6, last = 0.6;
  for (int k = 1; k <= 15; ++k) {
    v *= 0.5;
    if (g + v > 1)
      last = g;
    else
      g += v;
  }
  CHECK(gradient(0.5, 0.6, {.terms = 15, .rejected = fp::Rejected::continue_}, report) ==
        doctest::Approx(last).epsilon(1e-12));
  CHECK(report.products == 15);
}

TEST_CASE("a state of two tensors: the full adjoint couples both, the released convLSTM's only the first") {
  // h' = a h + b c + x, c' = d h + e c (numbers): everything in closed form.
  struct Pair {
    std::tuple<Var<double>, Var<double>> operator()(const std::tuple<Var<double>, Var<double>>& z,
                                                    const Var<double>& x) const {
      const auto& [h, c] = z;
      return {map([](auto u, auto v, auto w) { return 0.5 * u + 0.3 * v + w; }, h, c, x),
              map([](auto u, auto v) { return 0.2 * u + 0.4 * v; }, h, c)};
    }
  };
  const auto gradient = [](fp::AdjointState coupling) {
    Tape<double> tape;
    const Var<double> zero = Tensor<double>(Shape{1, 1}, 0.0), x = tape.leaf(Tensor<double>(Shape{1, 1}, 1.0));
    const auto solution = fp::solve(Pair{},
                                    {.stop = fp::Residual{.rtol = 1e-13, .max_steps = 500},
                                     .adjoint = fp::Neumann{.max_products = 500, .rtol = 1e-13},
                                     .adjoint_state = coupling},
                                    std::tuple(zero, zero), x);
    CHECK(std::get<0>(solution.z).item() == doctest::Approx(0.6 / 0.24).epsilon(1e-11));
    CHECK(std::get<1>(solution.z).item() == doctest::Approx(0.2 / 0.24).epsilon(1e-11));
    return grad(sum(std::get<0>(solution.z)), {x}).front().item();
  };
  CHECK(gradient(fp::AdjointState::full) == doctest::Approx(0.6 / 0.24).epsilon(1e-11));
  CHECK(gradient(fp::AdjointState::first_part) == doctest::Approx(1 / 0.5).epsilon(1e-11));
}

TEST_CASE("declared parameters are arguments, and prepare runs once on the tape") {
  Tape<double> tape;
  const Var<double> zero = Tensor<double>(Shape{1}, 0.0), a = tape.leaf(Tensor<double>(Shape{1}, 0.25)),
                    x = tape.leaf(Tensor<double>(Shape{1}, 3.0));
  const fp::Options options{.stop = fp::Residual{.rtol = 1e-14, .max_steps = 200},
                            .adjoint = fp::Neumann{.max_products = 200, .rtol = 1e-14}};
  const auto plain = grad(sum(fp::solve(Scaled{a}, options, zero, x).z), {a, x});  // z = x / (1 - a)
  CHECK(plain[0].item() == doctest::Approx(3.0 / (0.75 * 0.75)).epsilon(1e-12));
  CHECK(plain[1].item() == doctest::Approx(1 / 0.75).epsilon(1e-12));
  const auto prepared = grad(sum(fp::solve(Prepared{{a}}, options, zero, x).z), {a, x});  // z = x² / (1 - a)
  CHECK(prepared[0].item() == doctest::Approx(9.0 / (0.75 * 0.75)).epsilon(1e-12));
  CHECK(prepared[1].item() == doctest::Approx(6 / 0.75).epsilon(1e-12));
}
