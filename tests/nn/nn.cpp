#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "settle/nn/losses.hpp"
#include "settle/nn/metrics.hpp"
#include "settle/nn/released_models.hpp"
#include "settle/optim/adam.hpp"

using namespace settle;

namespace {

std::vector<double> list(const Var<double>& x) { return {x.value().values().begin(), x.value().values().end()}; }

double smallest(const Tensor<double>& x) { return *std::min_element(x.data(), x.data() + x.size()); }
double largest(const Tensor<double>& x) { return *std::max_element(x.data(), x.data() + x.size()); }

double zeta(double x) { return std::log1p(std::exp(x)); }

Tensor<double> random_normal(const Shape& shape, std::uint64_t stream) {
  Random random(7, stream);
  return normal<double>(shape, 0, 1, random);
}

/// The largest difference between f's gradient and central differences, relative to the gradient's largest entry.
template <class F>
double gradient_error(const F& f, const Tensor<double>& at) {
  Tape<double> tape;
  const Var<double> x = tape.leaf(at);
  const Tensor<double> gradient = grad(f(x), {x}).front().value();
  double error = 0, scale = 0;
  for (Index k = 0; k < at.size(); ++k) {
    const auto value = [&](double step) {
      Tensor<double> moved = at.clone();
      moved.mutable_data()[k] += step;
      return f(Var<double>(moved)).item();
    };
    const double h = 1e-5, difference = (value(h) - value(-h)) / (2 * h);
    error = std::max(error, std::abs(difference - gradient.data()[k]));
    scale = std::max(scale, std::abs(gradient.data()[k]));
  }
  return error / scale;
}

template <class Net>
Var<double> loss_of(const Net& net, const Tensor<double>& images, const Tensor<double>& target, const Training& how) {
  return focal_loss(run(net, Var(images), how).logits, target);
}

}  // namespace

TEST_CASE("the released models have the published numbers of parameters") {
  const Index hgru[][2] = {{3, 14'227}, {5, 34'227}, {9, 104'227}, {15, 284'227}};
  for (const auto& [kernel, count] : hgru) CHECK(parameter_count(hgru_net<float>({.kernel = kernel})) == count);
  CHECK(parameter_count(conv_lstm_net<float>({.kernel = 15})) == 1'126'452);
  CHECK(parameter_count(feed_forward_net<float>({.kernel = 15})) == 845'527);
}

TEST_CASE("the Gabor bank has the released bank's figures") {
  const Tensor<double> bank = gabor_bank();
  REQUIRE(bank.shape() == Shape{25, 1, 7, 7});
  std::set<std::vector<double>> distinct;
  double shortest = 100, longest = 0;
  for (int f = 0; f < 24; ++f) {
    const std::vector<double> w(bank.data() + 49 * f, bank.data() + 49 * (f + 1));
    const double norm1 = std::accumulate(w.begin(), w.end(), 0.0, [](double s, double v) { return s + std::abs(v); });
    CHECK(std::abs(std::accumulate(w.begin(), w.end(), 0.0)) < 1e-12);
    CHECK(std::inner_product(w.begin(), w.end(), w.begin(), 0.0) == doctest::Approx(1));
    shortest = std::min(shortest, norm1), longest = std::max(longest, norm1);
    distinct.insert(w);
    if (f < 12) CHECK(w[24] == *std::max_element(w.begin(), w.end()));  // a bright bar in the centre
  }
  CHECK(distinct.size() == 24);
  const Tensor<double> waves(Shape{24, 49}, std::vector<double>(bank.data(), bank.data() + 24 * 49));
  CHECK(smallest(waves) == doctest::Approx(-0.29660).epsilon(2e-5).scale(0));
  CHECK(largest(waves) == doctest::Approx(0.32690).epsilon(2e-5).scale(0));
  CHECK(shortest == doctest::Approx(4.79).epsilon(1e-3));
  CHECK(longest == doctest::Approx(5.11).epsilon(1e-3));

  const double* disc = bank.data() + 24 * 49;
  CHECK(std::count_if(disc, disc + 49, [](double v) { return v != 0; }) == 29);
  CHECK(std::accumulate(disc, disc + 49, 0.0) == doctest::Approx(49));
  CHECK(largest(bank) == doctest::Approx(1.68966).epsilon(1e-5));
  const double mean = std::accumulate(bank.data(), bank.data() + bank.size(), 0.0) / 1225;
  const double squares = std::inner_product(bank.data(), bank.data() + bank.size(), bank.data(), 0.0) / 1225;
  CHECK(mean == doctest::Approx(0.0400).epsilon(1.3e-3).scale(0));
  CHECK(std::sqrt(squares - mean * mean) == doctest::Approx(0.29254).epsilon(2e-5).scale(0));
}

TEST_CASE("the Gabor bank has the released bank's singular values") {
  const std::vector<double> published = {9.101, 1.974, 1.952, 1.931, 1.725, 1.508, 1.236, 1.218, 1.199,
                                         1.047, 0.765, 0.728, 0.567, 0.449, 0.205, 0.196, 0.140};
  // Jacobi's method: plane rotations make the bank's rows orthogonal; their lengths are then the singular values.
  const Tensor<double> bank = gabor_bank();
  std::vector<std::vector<double>> rows;
  for (int f = 0; f < 25; ++f) rows.emplace_back(bank.data() + 49 * f, bank.data() + 49 * (f + 1));
  const auto dot = [](const auto& a, const auto& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); };
  for (int sweep = 0; sweep < 30; ++sweep)
    for (std::size_t i = 0; i < rows.size(); ++i)
      for (std::size_t j = i + 1; j < rows.size(); ++j) {
        const double angle = 0.5 * std::atan2(2 * dot(rows[i], rows[j]), dot(rows[i], rows[i]) - dot(rows[j], rows[j]));
        const double c = std::cos(angle), s = std::sin(angle);
        for (std::size_t k = 0; k < 49; ++k) {
          const double a = rows[i][k], b = rows[j][k];
          rows[i][k] = c * a + s * b, rows[j][k] = c * b - s * a;
        }
      }
  std::vector<double> values;
  for (const auto& row : rows) values.push_back(std::sqrt(dot(row, row)));
  std::sort(values.rbegin(), values.rend());
  for (std::size_t k = 0; k < published.size(); ++k) CHECK(std::abs(values[k] - published[k]) < 0.001);
  for (std::size_t k = published.size(); k < 25; ++k) CHECK(values[k] < 0.01);
}

TEST_CASE("a Gabor bank of other numbers of orientations has two filters for each and the disc") {
  for (Index orientations : {1, 4, 7}) {
    const Tensor<double> bank = gabor_bank(orientations);
    CHECK(bank.shape() == Shape{2 * orientations + 1, 1, 7, 7});
    CHECK(std::accumulate(bank.data(), bank.data() + bank.size(), 0.0) == doctest::Approx(49));
  }
  CHECK_THROWS_WITH(gabor_bank(0), "[gabor_bank] expected at least 1 orientation, got 0");
}

TEST_CASE("an orthogonal weight has orthonormal rows, or columns where there are fewer of them") {
  const Shape shapes[] = {{25, 25, 5, 5}, {6, 2, 1, 1}, {4, 4, 1, 1}};
  for (const Shape& shape : shapes) {
    const Tensor<double> w = orthogonal<double>(shape, Random(3));
    const Index rows = shape[0], columns = w.size() / rows, count = std::min(rows, columns);
    const auto dot = [&](Index a, Index b) {
      double sum = 0;
      for (Index k = 0; k < std::max(rows, columns); ++k)
        sum += rows <= columns ? w.data()[a * columns + k] * w.data()[b * columns + k]
                               : w.data()[k * columns + a] * w.data()[k * columns + b];
      return sum;
    };
    for (Index a = 0; a < count; ++a)
      for (Index b = 0; b < count; ++b) CHECK(dot(a, b) == doctest::Approx(a == b ? 1 : 0).epsilon(1e-12));
  }
}

TEST_CASE("random initial values have the spread that PyTorch's have") {
  const Shape shape{50, 20, 3, 3};
  const Tensor<double> x = xavier_normal<double>(shape, Random(1));
  const double variance =
      std::inner_product(x.data(), x.data() + x.size(), x.data(), 0.0) / static_cast<double>(x.size());
  CHECK(variance == doctest::Approx(2.0 / (20 * 9 + 50 * 9)).epsilon(0.05).scale(0));
  const Tensor<double> u = conv_uniform<double>(shape, shape, Random(2));
  const double bound = 1 / std::sqrt(180.0);
  CHECK(largest(u) < bound);
  CHECK(largest(u) > 0.99 * bound);
  CHECK(smallest(u) > -bound);
  CHECK(smallest(u) < -0.99 * bound);
  CHECK_THROWS_WITH(xavier_normal<double>(Shape{3}, Random(1)), "[initialise] expected a weight (O, I, ...), got (3)");
}

TEST_CASE("the hGRU starts from the released code's values") {
  const auto net = hgru_net<double>({.kernel = 5, .seed = 11});
  const auto& cell = net.cell;
  const std::pair<const Var<double>*, double> constants[] = {
      {&cell.alpha, 0.1}, {&cell.gamma, 1},          {&cell.kappa, 0.5},    {&cell.w, 0.5},
      {&cell.mu, 1},      {&cell.bn[1].weight, 0.1}, {&cell.bn[3].bias, 0}, {&net.readout.bn.weight, 1}};
  for (const auto& [parameter, value] : constants)
    for (double v : list(*parameter)) CHECK(v == value);
  CHECK(list(net.readout.conv6.bias)[1] == doctest::Approx(4.59512));
  const auto b1 = list(cell.u1_gate.bias), b2 = list(cell.u2_gate.bias);
  for (std::size_t k = 0; k < b1.size(); ++k) {
    CHECK((b1[k] >= 1 && b1[k] < 7));
    CHECK(b2[k] == -b1[k]);
  }
  CHECK(list(net.stem.conv0.weight) == list(gabor_bank()));
  for (double v : list(net.stem.conv0.bias)) CHECK(std::abs(v) <= 1.0 / 7);
}

TEST_CASE("the corrected gate bias is the logarithm that the released code forgets to store") {
  const auto released = hgru_net<double>({.kernel = 3, .seed = 5});
  const auto corrected = hgru_net<double>({.kernel = 3, .seed = 5, .initialisation = Initialisation::corrected});
  const auto b = list(released.cell.u1_gate.bias), log_b = list(corrected.cell.u1_gate.bias);
  for (std::size_t k = 0; k < b.size(); ++k) CHECK(log_b[k] == doctest::Approx(std::log(b[k])));
  CHECK(list(released.cell.w_gate_exc) == list(corrected.cell.w_gate_exc));
}

TEST_CASE("initial values depend on the seed and on nothing else") {
  const auto a = hgru_net<double>({.kernel = 3, .seed = 1}), b = hgru_net<double>({.kernel = 3, .seed = 1}),
             c = hgru_net<double>({.kernel = 3, .seed = 2});
  CHECK(list(a.cell.w_gate_inh) == list(b.cell.w_gate_inh));
  CHECK(list(a.cell.w_gate_inh) != list(c.cell.w_gate_inh));
  CHECK(list(a.cell.w_gate_inh) != list(a.cell.w_gate_exc));
}

TEST_CASE("from the zero state the first stage is softplus(x - ln 2)") {
  ParameterStreams streams(1);
  auto cell = HgruCell<double>::initial(2, 3, streams);
  // Without the second stage's weights, h' = softplus(softplus(kappa s) / 2).
  cell.w_gate_exc = Tensor<double>(cell.w_gate_exc.shape(), 0.0);
  cell.u2_gate.weight = Tensor<double>(cell.u2_gate.weight.shape(), 0.0);
  cell.u2_gate.bias = Tensor<double>(Shape{2}, 0.0);
  const Var<double> x(random_normal({2, 2, 4, 3}, 0));
  const auto h = list(cell(cell.initial_state(x), x)), drive = list(x);
  for (std::size_t k = 0; k < h.size(); ++k)
    CHECK(h[k] == doctest::Approx(zeta(zeta(0.5 * zeta(drive[k] - std::log(2.0))) / 2)).epsilon(1e-12));
}

TEST_CASE("batch norm normalises each channel over the batch") {
  const Tensor<double> x = random_normal({3, 2, 4, 5}, 1);
  const BatchNorm<double> norm{Tensor<double>(Shape{2}, {1.5, -0.5}), Tensor<double>(Shape{2}, {0.25, 1.0}), 1e-3};
  const auto y = list(norm(Var<double>(x)));
  for (Index c = 0; c < 2; ++c) {
    double mean = 0, variance = 0;
    const auto each = [&](auto&& use) {
      for (Index n = 0; n < 3; ++n)
        for (Index k = 0; k < 20; ++k) use((n * 2 + c) * 20 + k);
    };
    each([&](Index at) { mean += x.data()[at] / 60; });
    each([&](Index at) { variance += (x.data()[at] - mean) * (x.data()[at] - mean) / 60; });
    const double weight = c == 0 ? 1.5 : -0.5, bias = c == 0 ? 0.25 : 1.0;
    each([&](Index at) {
      CHECK(y[static_cast<std::size_t>(at)] ==
            doctest::Approx((x.data()[at] - mean) / std::sqrt(variance + 1e-3) * weight + bias).epsilon(1e-12));
    });
  }
}

TEST_CASE("batch norm's gradients of first and second order agree with differences") {
  const Var<double> direction(random_normal({2, 3, 3, 2}, 2));
  const BatchNorm<double> norm{Tensor<double>(Shape{3}, {1.5, -0.5, 0.7}), Tensor<double>(Shape{3}, {0.2, 1.0, 0.0}),
                               1e-3};
  const auto value = [&](const Var<double>& x) {
    return sum(map([](auto y, auto d) { return tanh(y) * d; }, norm(x), direction));
  };
  CHECK(gradient_error(value, random_normal({2, 3, 3, 2}, 3)) < 1e-8);
  const auto slope = [&](const Var<double>& x) {
    Tape<double> own;
    Tape<double>& tape = x.tape() ? *x.tape() : own;
    const Var<double> at = x.tape() ? x : tape.leaf(x.value());
    const Var<double> g = grad(value(at), {at}, {.create_graph = true}).front();
    return x.tape() ? sum(g * g) : stop_gradient(sum(g * g));
  };
  CHECK(gradient_error(slope, random_normal({2, 3, 3, 2}, 3)) < 1e-7);
}

TEST_CASE("batch norm's statistics survive float where a map is almost constant") {
  Random random(4);
  const Tensor<float> x = normal<float>({4, 1, 32, 32}, 100, 0.05, random);
  const double count = static_cast<double>(x.size());
  double mean = 0, variance = 0;
  for (float v : x.values()) mean += static_cast<double>(v) / count;
  for (float v : x.values()) variance += (static_cast<double>(v) - mean) * (static_cast<double>(v) - mean) / count;
  const auto statistics = batch_statistics(Var<float>(x));
  CHECK(static_cast<double>(statistics.mean.item()) == doctest::Approx(mean).epsilon(1e-7));
  CHECK(static_cast<double>(statistics.variance.item()) == doctest::Approx(variance).epsilon(1e-5).scale(0));
}

TEST_CASE("batch norm refuses what it has no statistics for") {
  const auto norm = BatchNorm<double>::initial(2, 1, 0, 1e-3);
  CHECK_THROWS_WITH(norm(Tensor<double>(Shape{0, 2, 3, 3}, 0.0)),
                    "[batch_norm] the statistics of an empty batch are undefined, got (0, 2, 3, 3)");
  CHECK_THROWS_WITH(norm(Tensor<double>(Shape{2, 3, 3}, 0.0)), "[batch_norm] expected (N, C, H, W), got (2, 3, 3)");
  CHECK_THROWS_AS(norm(Tensor<double>(Shape{1, 3, 2, 2}, 0.0)), Error);
}

TEST_CASE("the focal loss is the mean of (1 - p)^2 times the cross-entropy, and p is held constant in the gradient") {
  const Tensor<double> logits = random_normal({2, 2, 3, 4}, 5);
  Tensor<double> target(Shape{2, 3, 4}, 0.0);
  for (Index k = 0; k < 24; k += 3) target.mutable_data()[k] = 1;
  Tape<double> tape;
  const Var<double> l = tape.leaf(logits);
  const Var<double> loss = focal_loss(l, target);
  CHECK(loss.shape() == Shape{});
  const auto gradient = list(grad(loss, {l}).front());
  double expected = 0;
  for (Index n = 0; n < 2; ++n)
    for (Index k = 0; k < 12; ++k) {
      const Index at0 = (2 * n) * 12 + k, at1 = at0 + 12;
      const double e0 = std::exp(logits.data()[at0]), e1 = std::exp(logits.data()[at1]);
      const bool one = target.data()[n * 12 + k] == 1;
      const double p = (one ? e1 : e0) / (e0 + e1), factor = (1 - p) * (1 - p);
      expected -= factor * std::log(p) / 24;
      const double p1 = e1 / (e0 + e1), slope1 = factor * (p1 - (one ? 1 : 0)) / 24;
      CHECK(gradient[static_cast<std::size_t>(at1)] == doctest::Approx(slope1).epsilon(1e-12));
      CHECK(gradient[static_cast<std::size_t>(at0)] == doctest::Approx(-slope1).epsilon(1e-12));
    }
  CHECK(loss.item() == doctest::Approx(expected).epsilon(1e-12));
}

TEST_CASE("the focal loss stays finite for extreme logits") {
  const Tensor<float> logits(Shape{1, 2, 1, 2}, std::vector<float>{500, -500, -500, 500});
  Tape<float> tape;
  const auto l = tape.leaf(logits);
  const auto right = focal_loss(l, Tensor<float>(Shape{1, 1, 2}, std::vector<float>{0, 1}));
  const auto wrong = focal_loss(l, Tensor<float>(Shape{1, 1, 2}, std::vector<float>{1, 0}));
  CHECK(right.item() == 0);
  CHECK(wrong.item() == doctest::Approx(1000));
  const auto g = grad(wrong, {l}).front();
  CHECK(g.value().data()[0] == doctest::Approx(0.5));
}

TEST_CASE("the cross-entropy is the focal loss without its factor") {
  const Var<double> logits(random_normal({1, 2, 5, 5}, 6));
  const Tensor<double> target(Shape{1, 5, 5}, 1.0);
  CHECK(cross_entropy(logits, target).item() == doctest::Approx(focal_loss(logits, target, 0).item()).epsilon(1e-12));
}

TEST_CASE("losses refuse what does not fit") {
  const Var<double> logits(Tensor<double>(Shape{2, 2, 3, 3}, 0.0));
  CHECK_THROWS_WITH(focal_loss(logits, Tensor<double>(Shape{2, 3, 4}, 0.0)),
                    "[focal_loss] expected a target (N, H, W) = (2, 3, 3), got (2, 3, 4)");
  CHECK_THROWS_WITH(
      focal_loss(Var<double>(Tensor<double>(Shape{2, 3, 3, 3}, 0.0)), Tensor<double>(Shape{2, 3, 3}, 0.0)),
      "[focal_loss] expected logits (N, 2, H, W), got (2, 3, 3, 3)");
  CHECK_THROWS_WITH(focal_loss(logits, Tensor<double>(Shape{2, 3, 3}, 255.0)),
                    "[focal_loss] expected targets 0 or 1, got 255");
}

TEST_CASE("both released objectives") {
  CHECK(gated_share(0) == doctest::Approx(0.99253).epsilon(1e-5));
  CHECK(gated_share(1.65e-6) == doctest::Approx(0.5));
  CHECK(gated_share(3e-6) == doctest::Approx(0.018).epsilon(0.01).scale(0));
  Tape<double> tape;
  const Var<double> loss = tape.leaf(Tensor<double>(Shape{}, 0.3)), penalty = tape.leaf(Tensor<double>(Shape{}, 1e-6));
  CHECK(penalised(loss, penalty).item() == doctest::Approx(0.3 + 1e-5).epsilon(1e-12));
  const double s = gated_share(1e-6);
  const Var<double> total = gated(loss, penalty);
  CHECK(total.item() == doctest::Approx(s * 0.3 + (1 - s) * 1e-5 + 1e-5).epsilon(1e-12));
  const auto g = grad(total, {loss, penalty});
  CHECK(g[0].item() == doctest::Approx(s));
  CHECK(g[1].item() == doctest::Approx((2 - s) * 10));
}

TEST_CASE("metrics of hand-made predictions") {
  // Pixels: 2 right, 1 too many, 1 missed, 2 background.
  const Tensor<double> logits(Shape{1, 2, 2, 3}, {0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0, 3.0, 0.0, 1.0, -1.0});
  const Tensor<double> target(Shape{1, 2, 3}, {1.0, 1.0, 0.0, 1.0, 0.0, 0.0});
  const Confusion c = confusion(logits, target);
  CHECK(c.true_positives == 2);
  CHECK(c.false_positives == 1);
  CHECK(c.false_negatives == 1);
  CHECK(c.true_negatives == 2);  // equal logits are background
  CHECK(c.precision() == doctest::Approx(2.0 / 3));
  CHECK(c.recall() == doctest::Approx(2.0 / 3));
  CHECK(c.f1() == doctest::Approx(2.0 / 3));
  CHECK(c.iou() == doctest::Approx(0.5));
  CHECK(c.iou() == doctest::Approx(c.f1() / (2 - c.f1())));
  CHECK(c.balanced_accuracy() == doctest::Approx(2.0 / 3));

  Confusion nothing{.true_negatives = 5};
  CHECK(nothing.precision() == 0);
  CHECK(nothing.f1() == 0);
  nothing += c;
  CHECK(nothing.true_negatives == 7);
  CHECK_THROWS_AS(confusion(logits, Tensor<double>(Shape{1, 3, 2}, 0.0)), Error);
}

TEST_CASE("the paper's scores are plain means over batches") {
  BatchMeanScores scores;
  CHECK(scores.f1() == 0);
  scores.add({.true_positives = 1, .false_positives = 1, .false_negatives = 0, .true_negatives = 2});
  scores.add({.true_positives = 4, .false_positives = 0, .false_negatives = 4, .true_negatives = 8});
  CHECK(scores.precision() == doctest::Approx(0.75));
  CHECK(scores.recall() == doctest::Approx(0.75));
  CHECK(scores.f1() == doctest::Approx(2.0 / 3));
  CHECK(scores.iou() == doctest::Approx(0.5));  // F / (2 - F)
  CHECK(scores.balanced_accuracy() == doctest::Approx((5.0 / 6 + 0.75) / 2));
}

TEST_CASE("the feed-forward net's running statistics move towards the batch's and serve in evaluation") {
  auto norm = RunningBatchNorm<double>::initial(1, 1e-5);
  const Tensor<double> x(Shape{1, 1, 2, 2}, {1.0, 2.0, 3.0, 6.0});  // mean 3, unbiased variance 14 / 3
  norm.train(Var<double>(x));
  CHECK(norm.running_mean.item() == doctest::Approx(0.3));
  CHECK(norm.running_var.item() == doctest::Approx(0.9 + 0.1 * 14 / 3));
  const auto fixed = norm.evaluate();
  CHECK(fixed.scale.item() == doctest::Approx(1 / std::sqrt(norm.running_var.item() + 1e-5)));
  CHECK(fixed.shift.item() == doctest::Approx(-0.3 * fixed.scale.item()));
  CHECK_THROWS_WITH(norm.train(Var<double>(Tensor<double>(Shape{1, 1, 1, 1}, 0.0))),
                    "[batch_norm] expected more than one value per channel when training, got (1, 1, 1, 1)");

  auto net = feed_forward_net<double>({.kernel = 3, .orientations = 1});
  const Var<double> images(random_normal({4, 1, 8, 8}, 8));
  CHECK(list(net(images)) == list(net(images)));
  for (int k = 0; k < 200; ++k) net.train(images);
  const auto trained = list(net.train(images)), evaluated = list(net(images));
  for (std::size_t k = 0; k < trained.size(); ++k) CHECK(evaluated[k] == doctest::Approx(trained[k]).epsilon(0.02));
}

TEST_CASE("parameters and running statistics are copied by name, all or none") {
  const auto values = [](auto net) {
    std::vector<double> out;
    visit_state(net, [&](const std::string&, const Var<double>& p) {
      const auto more = list(p);
      out.insert(out.end(), more.begin(), more.end());
    });
    return out;
  };
  auto source = feed_forward_net<double>({.kernel = 3, .orientations = 1, .seed = 1});
  source.train(random_normal({2, 1, 8, 8}, 5));
  auto target = feed_forward_net<double>({.kernel = 3, .orientations = 1, .seed = 2});
  const auto before = values(target);
  CHECK(before != values(source));
  copy_parameters(source, target);
  CHECK(values(target) == values(source));

  const auto refuses = [&](const auto& from, const std::string& words) {
    auto net = feed_forward_net<double>({.kernel = 3, .orientations = 1, .seed = 2});
    CHECK_THROWS_WITH(copy_parameters(from, net), words.c_str());
    CHECK(values(net) == before);
  };
  refuses(feed_forward_net<double>({.kernel = 5, .orientations = 1, .seed = 1}),
          "[copy_parameters] 'conv1.weight': expected (3, 3, 3, 3), got (3, 3, 5, 5)");
  refuses(hgru_net<double>({.kernel = 3, .orientations = 1}), "[copy_parameters] there is no 'bn0.weight' to copy");
  auto norm = RunningBatchNorm<double>::initial(3, 1e-5);
  CHECK_THROWS_WITH(copy_parameters(norm, norm.norm), "[copy_parameters] there is no 'running_mean' to copy to");
}

TEST_CASE("a convolution that keeps the size needs an odd kernel") {
  CHECK_THROWS_WITH(conv_same(Var<double>(Tensor<double>(Shape{1, 1, 4, 4}, 0.0)),
                              Var<double>(Tensor<double>(Shape{1, 1, 2, 2}, 0.0))),
                    "[conv_same] expected a weight (O, I, kh, kw) with odd kernel extents, got (1, 1, 2, 2)");
}

TEST_CASE("prediction, BPTT and the fixed point compute the same logits") {
  const auto check = [](const auto& net) {
    const Var<double> images(random_normal({2, 1, 7, 6}, 9));
    std::vector<std::vector<double>> seen;
    const auto logits = predict(net, images, 4, [&](int k, const Var<double>& l) {
      CHECK(k == static_cast<int>(seen.size()) + 1);
      seen.push_back(list(l));
    });
    CHECK(seen.size() == 4);
    CHECK(list(logits) == seen.back());
    CHECK(list(predict(net, images, 3)) == seen[2]);
    CHECK(logits.tape() == nullptr);
    CHECK(list(run(net, images, Training(Bptt{.steps = 4})).logits) == seen.back());
    CHECK(list(run(net, images, Training(Rbp::released(4))).logits) == seen.back());
    Tape<double> tape;
    const auto taped = on_tape(net, tape);
    CHECK(list(run(taped, images, Rbp::released(4)).logits) == seen.back());
    CHECK(list(predict(taped, images, 4)) == seen.back());
    CHECK_THROWS_WITH(predict(net, images, 0), "[predict] expected at least 1 step, got 0");
    CHECK_THROWS_WITH(run(net, images, Bptt{.steps = 0}), "[run] expected at least 1 step, got 0");
  };
  check(hgru_net<double>({.kernel = 3, .orientations = 1}));
  check(conv_lstm_net<double>({.kernel = 3, .orientations = 1}));
}

TEST_CASE("a convLSTM step with the drive prepared is the step with the drive") {
  ParameterStreams streams(2);
  const auto cell = ConvLstmCell<double>::initial(3, 3, streams);
  const Var<double> x(random_normal({1, 3, 5, 5}, 10)), h(random_normal({1, 3, 5, 5}, 11)),
      c(random_normal({1, 3, 5, 5}, 12));
  const auto [i, f, g, o] = cell.prepare(x);
  const auto prepared = cell({h, c}, i, f, g, o), direct = cell({h, c}, x);
  for (std::size_t p = 0; p < 2; ++p) CHECK(list(prepared[p]) == list(direct[p]));
}

TEST_CASE("at a fixed point the gradient through it is that of BPTT") {
  auto net = hgru_net<double>({.kernel = 3, .orientations = 1, .initialisation = Initialisation::corrected});
  // A second gate that the state cannot close, so that every pixel settles.
  net.cell.u2_gate.weight = Tensor<double>(net.cell.u2_gate.weight.shape(), 0.0);
  const Tensor<double> images = random_normal({2, 1, 5, 5}, 13);
  Tensor<double> target(Shape{2, 5, 5}, 0.0);
  for (Index k = 0; k < 50; k += 4) target.mutable_data()[k] = 1;
  const auto gradients = [&](const Training& how) {
    Tape<double> tape;
    const auto taped = on_tape(net, tape);
    std::vector<double> out;
    for (const auto& g : grad(loss_of(taped, images, target, how), parameters<Var<double>>(taped)))
      for (double v : list(g)) out.push_back(v);
    return out;
  };
  Rbp through{{.stop = fixed_point::Residual{.rtol = 1e-13, .max_steps = 1000},
               .adjoint = fixed_point::Neumann{.max_products = 1000, .rtol = 1e-12}}};
  const auto bptt = gradients(Bptt{.steps = 250}), rbp = gradients(through);
  double scale = 0, error = 0;
  for (std::size_t k = 0; k < bptt.size(); ++k) {
    scale = std::max(scale, std::abs(bptt[k]));
    error = std::max(error, std::abs(bptt[k] - rbp[k]));
  }
  CHECK(scale > 1e-3);
  CHECK(error < 1e-6 * scale);
}

TEST_CASE("C-RBP training lowers the loss") {
  auto net = hgru_net<float>({.kernel = 3, .orientations = 2, .initialisation = Initialisation::corrected});
  Random random(3);
  const Tensor<float> images = uniform<float>({2, 1, 10, 10}, 0, 1, random);
  Tensor<float> target(Shape{2, 10, 10}, 0.0f);
  for (Index k = 0; k < target.size(); ++k) target.mutable_data()[k] = images.data()[k] > 0.8f ? 1.0f : 0.0f;
  Adam<float> adam({.rate = 1e-2});
  const Rbp how = Rbp::released(8, 5, fixed_point::Lcp{});
  float first = 0, last = 0;
  for (int step = 0; step < 30; ++step) {
    Tape<float> tape;
    const auto taped = on_tape(net, tape);
    const auto result = run(taped, Var(images), how);
    const auto loss = focal_loss(result.logits, target);
    (step == 0 ? first : last) = loss.item();
    adam.step(net, grad(penalised(loss, result.penalty), parameters<Var<float>>(taped)));
  }
  CHECK(last < 0.5f * first);
}
