// The tables of docs/fixed_point.md, as Markdown: what every solver does on problems with a known answer, what an
// adjoint product costs, and the memory of a training step. Everything but the times is the same on every machine.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "../tests/fixed_point/problems.hpp"
#include "settle/nn/losses.hpp"
#include "settle/nn/released_models.hpp"

using namespace problems;
namespace fp = settle::fixed_point;

namespace {

constexpr int size = 40;

struct Problem {
  const char* name;
  Matrix w;
  double rho;
};

/// One eigenvalue moved to `value`; the others stay within the unit circle.
Matrix with_outlier(double value) {
  Matrix m = symmetric_matrix(size, 0.8, 6);
  // Along u = (1, ..., 1) / sqrt(n): P m P + value u uᵀ with P = 1 - u uᵀ.
  const double share = 1.0 / size;
  Matrix out(size);
  std::vector<double> rows(size, 0.0), columns(size, 0.0);
  double all = 0;
  for (int i = 0; i < size; ++i)
    for (int j = 0; j < size; ++j) {
      rows[static_cast<std::size_t>(i)] += m(i, j), columns[static_cast<std::size_t>(j)] += m(i, j);
      all += m(i, j);
    }
  for (int i = 0; i < size; ++i)
    for (int j = 0; j < size; ++j)
      out(i, j) = m(i, j) - share * (rows[static_cast<std::size_t>(i)] + columns[static_cast<std::size_t>(j)]) +
                  share * share * all + share * value;
  return out;
}

std::vector<Problem> problems_of_the_table() {
  return {{"contractive", scaled_to_radius(random_matrix(size, 1), 0.5), 0.5},
          {"rho 0.9", symmetric_matrix(size, 0.9, 2), 0.9},
          {"rho 0.99", symmetric_matrix(size, 0.99, 3), 0.99},
          {"non-normal", non_normal_matrix(size, 0.5, 20), 0.5},
          {"rotation", rotation_matrix(size, 0.95, 1.2), 0.95},
          {"rho 3, regular", with_outlier(3), 3},
          {"singular", with_outlier(1), 1}};
}

std::vector<double> right_hand_side() {
  Random random(7);
  std::vector<double> out(size);
  for (double& v : out) v = random.normal();
  return out;
}

std::string error_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, std::isfinite(value) ? "%.0e" : "none", value);
  return text;
}

/// One cell: count / true error / estimate, verdict.
void print_cell(int count, double true_error, double estimate, fp::Verdict verdict) {
  std::printf(" %d / %s / %s %s |", count, error_text(true_error).c_str(), error_text(estimate).c_str(),
              fp::name(verdict));
}

void print_header(const char* first) {
  std::printf("| %s |", first);
  for (const Problem& p : problems_of_the_table()) std::printf(" %s |", p.name);
  std::printf("\n|---|");
  for (std::size_t k = 0; k < problems_of_the_table().size(); ++k) std::printf("---|");
  std::printf("\n");
}

void print_adjoint_table() {
  const std::pair<const char*, fp::Adjoint> solvers[] = {{"Terms{0} (JFB)", fp::Terms{0}},
                                                         {"Terms{15}", fp::Terms{15}},
                                                         {"Phantom{5, 0.5}", fp::Phantom{}},
                                                         {"ReleasedNeumann{15}", fp::ReleasedNeumann{}},
                                                         {"Neumann", fp::Neumann{.max_products = 200, .rtol = 1e-6}},
                                                         {"AdjointAnderson", fp::AdjointAnderson{}},
                                                         {"BiCgStab", fp::BiCgStab{}},
                                                         {"NormalCg", fp::NormalCg{}},
                                                         {"Gmres", fp::Gmres{}},
                                                         {"Auto", fp::Auto{}},
                                                         {"Dense", fp::Dense{}}};
  print_header("adjoint solver");
  const auto c = right_hand_side();
  for (const auto& [name, solver] : solvers) {
    std::printf("| %s |", name);
    for (const Problem& p : problems_of_the_table()) {
      Tape<double> tape;
      const Shape shape{1, size, 1, 1};
      const Var<double> x = tape.leaf(Tensor<double>(shape, 0.0)), w = p.w.weight(), zero = Tensor<double>(shape, 0.0);
      const auto solution =
          fp::solve(Affine{}, {.stop = fp::Steps{1}, .adjoint = solver, .on_fail = fp::OnFail::report}, zero, w, x);
      const auto g = to_doubles(grad(sum(solution.z * Var<double>(Tensor<double>(shape, c))), {x}).front().value());
      const fp::AdjointReport& report = solution.report->adjoint;
      const double true_error = p.rho == 1 ? INFINITY : relative_error(g, p.w.transposed().resolvent(c));
      // The report's estimate is relative to |b|; the table's are relative to the solution.
      const double estimate = report.error_estimates.front() * norm_of(c) / norm_of(g);
      print_cell(report.products, true_error, estimate, report.verdict);
    }
    std::printf("\n");
  }
}

void print_forward_table() {
  const std::pair<const char*, fp::Forward> solvers[] = {{"Plain", fp::Plain{}},
                                                         {"Plain, damping 0.5", fp::Plain{.damping = 0.5}},
                                                         {"Anderson{5}", fp::Anderson{}},
                                                         {"Broyden{20}", fp::Broyden{}}};
  print_header("forward solver");
  const auto x0 = right_hand_side();
  for (const auto& [name, solver] : solvers) {
    std::printf("| %s |", name);
    for (const Problem& p : problems_of_the_table()) {
      Tape<double> tape;
      const Shape shape{1, size, 1, 1};
      const Var<double> x = tape.leaf(Tensor<double>(shape, x0)), w = p.w.weight(), zero = Tensor<double>(shape, 0.0);
      const auto solution = fp::solve(Affine{},
                                      {.forward = solver,
                                       .stop = fp::Residual{.rtol = 1e-6, .max_steps = 2000},
                                       .adjoint = fp::Gmres{},
                                       .on_fail = fp::OnFail::report},
                                      zero, w, x);
      const auto z = to_doubles(solution.z.value());
      (void)grad(sum(solution.z), {x});
      const fp::Report& report = *solution.report;
      const double true_error = p.rho == 1 ? INFINITY : relative_error(z, p.w.resolvent(x0));
      const double amplification = std::max(1 / std::abs(1 - report.adjoint.spectral_radius.front()),
                                            norm_of(to_doubles(solution.z.value())) / norm_of(x0));
      print_cell(report.forward.steps, true_error, report.forward.relative.front() * amplification,
                 report.forward.verdict);
    }
    std::printf("\n");
  }
}

/// What the estimates say of errors along what the right-hand side hardly excites, and of a J far from normal.
void print_hidden_table() {
  std::vector<double> rates{0.9999}, share{1e-4};
  Random random(3);
  for (int k = 1; k < size; ++k) rates.push_back(random.uniform(-0.9, 0.9)), share.push_back(random.normal());
  struct Case {
    const char* name;
    Matrix w;
    std::vector<double> b;
  };
  const Case cases[] = {
      {"diag(-0.6, 0, 0.999), b = (-0.7, 1, 1e-6)", diagonal_matrix({-0.6, 0, 0.999}), {-0.7, 1, 1e-6}},
      {"diag(-0.6, 0, 0.9999), b = (-0.7, 1, 1e-8)", diagonal_matrix({-0.6, 0, 0.9999}), {-0.7, 1, 1e-8}},
      {"40 numbers in [-0.9, 0.9], and 0.9999 with a share of 1e-4", diagonal_matrix(rates), share},
      {"Jordan block: 0.5, coupling 1, 20 numbers", jordan_blocks(1, 20, 0.5, 1), random_vector(20, 1)},
      {"two of these", jordan_blocks(2, 20, 0.5, 1), random_vector(40, 1)},
      {"rho 0.99, b random", symmetric_matrix(size, 0.99, 3), right_hand_side()}};
  std::printf("| J, and b; solved by | double | float |\n|---|---|---|\n");
  const auto cell = [](const Judged& plain, const Judged& certified) {
    std::printf(" %s / %s / %s, %d and %d products |", error_text(plain.error).c_str(),
                error_text(plain.estimate).c_str(), error_text(certified.estimate).c_str(),
                plain.report.adjoint.products, certified.report.adjoint.probes);
  };
  const std::pair<const char*, fp::Adjoint> solvers[] = {
      {"Auto", fp::Auto{}}, {"Neumann", fp::Neumann{}}, {"Gmres", fp::Gmres{}}};
  for (const Case& c : cases)
    for (const auto& [name, solver] : solvers) {
      const fp::Options plain{.adjoint = solver}, certified{.adjoint = solver, .certify = fp::Certify{}};
      std::printf("| %s; %s |", c.name, name);
      cell(judge<double>(c.w, c.b, plain), judge<double>(c.w, c.b, certified));
      cell(judge<float>(c.w, c.b, plain), judge<float>(c.w, c.b, certified));
      std::printf("\n");
    }
}

/// The median time of each action. They are run in turn, so that a change of the machine's speed meets all of them.
std::vector<double> milliseconds(const std::vector<std::function<void()>>& actions) {
  constexpr std::size_t rounds = 21;
  std::vector<std::vector<double>> times(actions.size());
  for (std::size_t round = 0; round <= rounds; ++round)
    for (std::size_t k = 0; k < actions.size(); ++k) {
      const auto start = std::chrono::steady_clock::now();
      actions[k]();
      const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
      if (round > 0) times[k].push_back(took.count());  // the first round warms up
    }
  std::vector<double> medians;
  for (auto& t : times) {
    std::nth_element(t.begin(), t.begin() + rounds / 2, t.end());
    medians.push_back(t[rounds / 2]);
  }
  return medians;
}

void print_costs() {
  ModelOptions options{.kernel = 15, .orientations = 7, .seed = 1};
  const auto net = hgru_net<float>(options);
  const Index channels = options.channels();
  Random random(1);
  const Tensor<float> drive = uniform<float>(Shape{2, channels, 64, 64}, 0, 1, random);
  const Var<float> zero = Tensor<float>(drive.shape(), 0.f);

  Tape<float> tape;
  const auto cell = on_tape(net.cell, tape);
  const Var<float> x = tape.leaf(drive), h = tape.leaf(uniform<float>(drive.shape(), 0.7, 1, random)),
                   next = cell(h, x);
  std::vector<Var<float>> everything = parameters<Var<float>>(cell);
  everything.insert(everything.end(), {x, h});
  const Var<float> ones = Tensor<float>(next.shape(), 1.f);
  Pullback<float> to_state({next}, {h});
  const auto training_step = [&](const fp::Penalty& penalty, int terms) {
    return [&, penalty, terms] {
      Tape<float> local;
      const auto leaves = on_tape(net.cell, local);
      const auto solution = fp::solve(
          leaves, {.stop = fp::Steps{2}, .adjoint = fp::Terms{terms}, .penalty = penalty, .check_adjoint = false}, zero,
          local.leaf(drive));
      (void)grad(sum(solution.z) + solution.penalty, parameters<Var<float>>(leaves));
    };
  };
  const auto cell_times = milliseconds({
      [&] { (void)as_constants(cell)(stop_gradient(h), stop_gradient(x)); },
      // As plain back-propagation computes it: nothing kept from an earlier pass.
      [&] { (void)Pullback<float>({next}, everything)({ones}); },
      [&] { (void)to_state({ones}); },
      training_step(fp::NoPenalty{}, 0),
      training_step(fp::NoPenalty{}, 15),
      training_step(fp::Lcp{}, 0),
      training_step(fp::Lcp{.route = fp::Route::forward_over_reverse}, 0),
  });
  const double backward = cell_times[1], product = cell_times[2], none = cell_times[3], products = cell_times[4] - none;
  std::printf("| hGRU cell, 15 x 15, %d channels, 2 x 64 x 64 | ms |\n|---|---|\n", static_cast<int>(channels));
  std::printf("| one step | %.1f |\n| a step's backward pass, all gradients | %.1f |\n", cell_times[0], backward);
  std::printf("| one adjoint product | %.1f (%.2f of a backward pass) |\n", product, product / backward);
  std::printf("| 15 adjoint products in a training step | %.1f (%.2f of a backward pass each) |\n", products,
              products / 15 / backward);
  std::printf("| LCP, second-order tape | %.1f |\n| LCP, forward over reverse | %.1f |\n", cell_times[5] - none,
              cell_times[6] - none);

  const Var<float> weight = net.cell.w_gate_inh;
  const auto lcp_only = [&](fp::Route route) {
    return [&, route] {
      Tape<float> local;
      const Var<float> w = local.leaf(weight.value());
      const auto convolved = [](const Var<float>& z, const Var<float>& kernel, const Var<float>& input) {
        return map([](auto u, auto v) { return tanh(u + v); }, conv(z, kernel, ConvOptions::same(kernel.shape())),
                   input);
      };
      const auto solution =
          fp::solve(convolved, {.stop = fp::Steps{2}, .penalty = fp::Lcp{.lambda = 0, .route = route}}, zero, w,
                    Var<float>(drive));
      (void)grad(solution.penalty, {w});
    };
  };
  const auto penalty_times =
      milliseconds({lcp_only(fp::Route::second_order_tape), lcp_only(fp::Route::forward_over_reverse)});
  std::printf("| tanh of a 15 x 15 convolution: the LCP with its gradient, second-order tape | %.1f |\n",
              penalty_times[0]);
  std::printf("| the same, forward over reverse | %.1f |\n", penalty_times[1]);
}

void print_memory() {
  const auto net = hgru_net<float>({.kernel = 5, .orientations = 4, .seed = 1});
  Random random(1);
  const Tensor<float> images = uniform<float>(Shape{4, 1, 48, 48}, 0, 1, random), target(Shape{4, 48, 48}, 0.f);
  const auto megabytes = [&](const Training& training) {
    const auto pass = [&] {
      Tape<float> tape;
      const auto leaves = on_tape(net, tape);
      const auto result = run(leaves, Var<float>(images), training);
      (void)grad(focal_loss(result.logits, target) + result.penalty, parameters<Var<float>>(leaves));
    };
    pass();
    Memory::instance().reset_peak();
    const std::size_t before = Memory::instance().use().current;
    pass();
    return static_cast<double>(Memory::instance().use().peak - before) / (1 << 20);
  };
  std::printf("| one training step of an hGRU (5 x 5, 9 channels, 4 x 48 x 48) | peak MiB |\n|---|---|\n");
  for (const int steps : {1, 2, 3, 5, 10, 20})
    std::printf("| BPTT, %d steps | %.1f |\n", steps, megabytes(Bptt{steps}));
  for (const int steps : {5, 10, 20, 100})
    std::printf("| C-RBP, %d steps | %.1f |\n", steps, megabytes(Rbp::released(steps, 15, fp::Lcp{})));
  for (const int steps : {5, 20}) std::printf("| RBP, %d steps | %.1f |\n", steps, megabytes(Rbp::released(steps)));
}

}  // namespace

int main(int count, char** arguments) {
  const std::string only = count > 1 ? arguments[1] : "";
  const auto section = [&](const char* name, void (*print)()) {
    if (!only.empty() && only != name) return;
    std::printf("\n<!-- %s -->\n", name);
    print();
  };
  section("forward", print_forward_table);
  section("adjoint", print_adjoint_table);
  section("hidden", print_hidden_table);
  section("memory", print_memory);
  section("costs", print_costs);
}
