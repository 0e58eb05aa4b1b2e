// One batch over several ranks gives what it gives on one.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "settle/distributed/all_reduce.hpp"
#include "settle/distributed/threads.hpp"
#include "settle/distributed/together.hpp"
#include "settle/fixed_point/modulation.hpp"
#include "settle/nn/feed_forward.hpp"
#include "settle/nn/losses.hpp"
#include "settle/nn/pixel_loss.hpp"
#include "settle/nn/released_models.hpp"
#include "settle/ops/slice.hpp"

using namespace settle;
using namespace settle::distributed;
namespace fp = settle::fixed_point;

namespace {

using V = Var<double>;
using Shares = std::vector<Index>;

Share share_at(const Shares& counts, int rank) {
  const auto r = static_cast<std::size_t>(rank);
  const auto at = counts.begin() + rank;
  return {std::accumulate(counts.begin(), at, Index{0}), counts[r],
          std::accumulate(counts.begin(), counts.end(), Index{0})};
}

/// The samples of a share, copied.
Tensor<double> samples(const Tensor<double>& all, const Share& share) {
  Shape shape = all.shape();
  shape[0] = share.count;
  const Index length = all.size() / all.shape(0);
  Tensor<double> out(shape);
  std::copy_n(all.data() + share.first * length, out.size(), out.mutable_data());
  return out;
}

double largest_difference(const Tensor<double>& a, const Tensor<double>& b) {
  require(a.shape() == b.shape(), "test", "shapes ", a.shape(), " and ", b.shape());
  double out = 0;
  for (Index k = 0; k < a.size(); ++k) out = std::max(out, std::abs(a.data()[k] - b.data()[k]));
  return out;
}
double largest(const Tensor<double>& a) {
  double out = 0;
  for (Index k = 0; k < a.size(); ++k) out = std::max(out, std::abs(a.data()[k]));
  return out;
}

/// Throws Error where values are further apart than `tolerance` times the larger one of their size and 1.
void expect_near(const Tensor<double>& got, const Tensor<double>& wanted, double tolerance, const std::string& what) {
  const double apart = largest_difference(got, wanted), size = std::max(1.0, largest(wanted));
  require(apart <= tolerance * size, "test", what, ": apart by ", apart, " of ", size);
}

Tensor<double> random_tensor(const Shape& shape, std::uint64_t seed, double mean = 0, double deviation = 1) {
  Random random(seed);
  return normal<double>(shape, mean, deviation, random);
}

}  // namespace

TEST_CASE("a batch is cut as the loader cuts it") {
  on_threads(3, [](const Group& g) {
    const Share s = share_of(8, g);
    const std::array<Index, 3> first{0, 3, 6}, count{3, 3, 2};
    const auto r = static_cast<std::size_t>(g.rank());
    require(s.first == first[r] && s.count == count[r] && s.all == 8, "test", "share");
  });
  CHECK(share_of(5, Group()).count == 5);
  CHECK_THROWS_AS(share_of(-1, Group()), Error);
}

TEST_CASE("the scope is the thread's own, ends with its block, and is none for a group of one") {
  CHECK(Together::current() == nullptr);
  {
    const Together alone(Group{});
    CHECK(Together::current() == nullptr);
  }
  on_threads(2, [](const Group& g) {
    require(!Together::current(), "test", "before");
    {
      const Together together(g);
      require(Together::current()->group.size() == 2 && Together::current()->share.weight() == 0.5, "test", "within");
      const Together replica{JoinedBatch{}};
      require(!Together::current(), "test", "per replica within");
    }
    require(!Together::current() && g.traffic().operations == 0, "test", "after");
  });
}

TEST_CASE("batch norm over ranks: value, first and second derivative are those of the whole batch") {
  const Index channels = 3;
  for (const double mean : {0.0, 5000.0})
    for (const Shares& counts : {Shares{3, 1, 1}, Shares{5, 0}, Shares{1, 1, 1, 1}, Shares{0, 2, 3}}) {
      const Index all = std::accumulate(counts.begin(), counts.end(), Index{0});
      const Shape shape{all, channels, 3, 5};
      const Tensor<double> x = random_tensor(shape, 1, mean), cotangent = random_tensor(shape, 2),
                           along = random_tensor(shape, 3);
      struct Results {
        V y, slope, curvature, of_weight;
      };
      // f = Σ c y², so that its gradient depends on y too
      const auto results_of = [&](const Tensor<double>& own, const Tensor<double>& c, const Tensor<double>& direction) {
        Tape<double> tape;
        const V v = tape.leaf(own);
        BatchNorm<double> norm = BatchNorm<double>::initial(channels, 0.7, 0.1, 1e-3);
        norm.weight = tape.leaf(norm.weight.value());
        const V y = norm(v);
        const auto slope =
            grad(sum(map([](auto w, auto t) { return w * t * t * t; }, V(c), y)), {v, norm.weight}, {.create_graph = true});
        const auto curvature = grad(sum(slope[0] * V(direction)), {v});
        return Results{stop_gradient(y), stop_gradient(slope[0]), curvature[0], stop_gradient(slope[1])};
      };
      const Results whole = results_of(x, cotangent, along);
      const double tolerance = mean == 0 ? 1 : 1e4;
      on_threads(static_cast<int>(counts.size()), [&](const Group& g) {
        const Share mine = share_at(counts, g.rank());
        const Together together(g, mine);
        const Results part = results_of(samples(x, mine), samples(cotangent, mine), samples(along, mine));
        expect_near(part.y.value(), samples(whole.y.value(), mine), 1e-13 * tolerance, "value");
        expect_near(part.slope.value(), samples(whole.slope.value(), mine), 1e-12 * tolerance, "slope");
        expect_near(part.curvature.value(), samples(whole.curvature.value(), mine), 1e-11 * tolerance, "curvature");
        expect_near(all_reduce(part.of_weight, g).value(), whole.of_weight.value(), 1e-12 * tolerance, "weight");
        // The statistics are the same bits on all ranks.
        const auto statistics = batch_statistics(V(samples(x, mine)));
        require(statistics.count == static_cast<double>(all * 15), "test", "count");
        const auto mean_bits = gather_numbers(std::span(statistics.mean.value().data(), 3), g);
        for (std::size_t k = 0; k < mean_bits.size(); ++k) require(mean_bits[k] == mean_bits[k % 3], "test", "bits");
      });
    }
}

TEST_CASE("batch norm over ranks in float: means of 5000 deviations, and far from each other") {
  on_threads(2, [](const Group& g) {
    Random random(4);
    Tensor<float> x = normal<float>({4, 2, 6, 6}, 5000, 1, random);
    const Share mine = share_of(4, g);
    Tensor<float> own({mine.count, 2, 6, 6});
    std::copy_n(x.data() + mine.first * 72, own.size(), own.mutable_data());
    const Together together(g, mine);
    const auto s = batch_statistics(Var<float>(own));
    for (Index c = 0; c < 2; ++c) {
      double mean = 0, squares = 0;
      for (Index n = 0; n < 4; ++n)
        for (Index k = 0; k < 36; ++k) mean += static_cast<double>(x.data()[(n * 2 + c) * 36 + k]) / 144;
      for (Index n = 0; n < 4; ++n)
        for (Index k = 0; k < 36; ++k)
          squares += std::pow(static_cast<double>(x.data()[(n * 2 + c) * 36 + k]) - mean, 2) / 144;
      require(std::abs(static_cast<double>(s.variance.value().data()[c]) - squares) < 2e-6 * squares, "test",
              "variance ", s.variance.value().data()[c], " of ", squares);
    }
    // One rank's values are all 0, the other's all 1000.
    const auto apart = batch_statistics(Var<float>(Tensor<float>({1, 1, 2, 2}, g.rank() == 0 ? 0.f : 1000.f)));
    require(apart.mean.item() == 500.f && apart.variance.item() == 250000.f, "test", "apart");
  });
}

TEST_CASE("an empty batch on all ranks has no statistics") {
  CHECK_THROWS_AS(on_threads(2,
                             [](const Group& g) {
                               const Together together(g);
                               batch_statistics(V(Tensor<double>({0, 2, 3, 3})));
                             }),
                  Error);
}

// --- nets ----------------------------------------------------------------------------------------

namespace {

/// h' = (h + tanh(bn(w * h) + x)) / 2, a user's cell: it knows nothing of ranks.
struct UsersCell {
  static constexpr bool couples_samples = true;
  V w;
  BatchNorm<double> bn;
  void parameters(auto&& visit) { visit("w", w), visit_part("bn", bn, visit); }
  V initial_state(const V& x) const { return Tensor<double>(x.shape(), 0.0); }
  V operator()(const V& h, const V& x) const {
    return map([](auto state, auto y, auto drive) { return 0.5 * (state + tanh(y + drive)); }, h, bn(conv_same(h, w)), x);
  }
};
using UsersNet = RecurrentNet<SquaringStem<double>, UsersCell, BatchNormReadout<double>>;

UsersNet users_net() {
  ParameterStreams streams(5);
  UsersNet net{.stem = SquaringStem<double>::initial(2, streams), .cell = {}, .readout = {}};
  net.cell.w = 0.5 * V(orthogonal<double>({5, 5, 3, 3}, streams.next()));
  net.cell.bn = BatchNorm<double>::initial(5, 0.4, 0.1, 1e-3);
  net.readout = BatchNormReadout<double>::initial(5, streams);
  return net;
}

/// Images and targets.
struct Images {
  Tensor<double> image, target;
};
Images images_of(Index count) {
  Images out{random_tensor({count, 1, 9, 9}, 7, 0, 0.5), Tensor<double>({count, 9, 9})};
  for (Index k = 0; k < out.target.size(); ++k) out.target.mutable_data()[k] = out.image.data()[k] > 0.2 ? 1 : 0;
  return out;
}

/// What a step of training gives, of the whole batch.
struct Step {
  double loss = 0, penalty = 0;
  std::vector<V> gradients;
  std::vector<Tensor<double>> state;
  std::shared_ptr<const fp::Report> report;
};

/// On a rank of a group; of one without it.
template <class Net>
Step training_step(const Net& net, const Images& all, const Training& policy, const Group& group, const Share& mine) {
  Step out;
  std::vector<V> own;
  {
    Tape<double> tape;
    const Net model = on_tape(net, tape);
    V objective;
    {
      const Together together(group, mine);
      const auto result = run(model, V(samples(all.image, mine)), policy);
      const V loss = focal_loss(result.logits, samples(all.target, mine));
      out.loss = mean_over_batch(loss.item());
      out.penalty = mean_over_batch(result.penalty.item());
      out.report = result.report;
      for (const V& part : fp::detail::variables<V>(result.state)) out.state.push_back(part.value());
      objective = mine.of(penalised(loss, result.penalty, 2));
    }
    own = grad(objective, parameters<V>(model));  // outside of the scope
  }
  out.gradients = all_reduce(own, group);
  return out;
}

template <class Net>
void expect_alike(const Net& net, const Training& policy, const std::string& what, double tolerance = 1e-10) {
  const Images all = images_of(5);
  const Step whole = training_step(net, all, policy, Group(), {0, 5, 5});
  const auto names = parameter_names(net);
  for (const Shares& counts : {Shares{3, 2}, Shares{1, 3, 1}})
    CHECK_NOTHROW_MESSAGE(
        on_threads(
            static_cast<int>(counts.size()),
            [&](const Group& g) {
              const Share mine = share_at(counts, g.rank());
              const Step part = training_step(net, all, policy, g, mine);
              const auto near = [&](double a, double b, const char* name) {
                require(std::abs(a - b) <= tolerance * std::max(1.0, std::abs(b)), "test", name, ": ", a, ", not ", b);
              };
              if (whole.report && part.report) {
                const auto &f = part.report->forward, &w = whole.report->forward;
                const auto &a = part.report->adjoint, &b = whole.report->adjoint;
                if (part.report->couples_samples) {
                  require(f.steps == w.steps, "test", "steps ", f.steps, ", not ", w.steps);
                  require(f.verdict == w.verdict, "test", "verdict ", f.verdict, ", not ", w.verdict);
                  require(a.products == b.products, "test", "products ", a.products, ", not ", b.products);
                  require(a.verdict == b.verdict, "test", "the adjoint's verdict ", a.verdict, ", not ", b.verdict);
                  // the same bits on all ranks
                  const std::vector<double> told{f.relative.front(), f.residuals.back(),
                                                 a.residuals.empty() ? 0.0 : a.residuals.front(), a.loss_error_estimate};
                  const auto bits = gather_numbers(std::span<const double>(told), g);
                  for (std::size_t k = 0; k < bits.size(); ++k) require(bits[k] == bits[k % 4], "test", "report ", k);
                }
              }
              require(!part.state.empty(), "test", "no state");
              for (std::size_t p = 0; p < part.state.size(); ++p)
                expect_near(part.state[p], samples(whole.state[p], mine), tolerance, "state");
              near(part.loss, whole.loss, "loss");
              near(part.penalty, whole.penalty, "penalty");
              for (std::size_t k = 0; k < part.gradients.size(); ++k)
                expect_near(part.gradients[k].value(), whole.gradients[k].value(), tolerance, names[k]);
            }),
        what);
}

const fp::Residual residual{.rtol = 1e-8, .max_steps = 200};
const fp::Steps steps{.count = 5};

Rbp rbp(const fp::Stop& stop, const fp::Adjoint& adjoint, const fp::Penalty& penalty = fp::NoPenalty{},
        const fp::Forward& forward = fp::Plain{}) {
  return {{.forward = forward, .stop = stop, .adjoint = adjoint, .penalty = penalty, .on_fail = fp::OnFail::report}};
}

const fp::Lcp lcp{.lambda = 0.05, .two_sided = true};

}  // namespace

TEST_CASE("a training step over ranks is that of one: hGRU") {
  const auto net = hgru_net<double>({.kernel = 3, .orientations = 2, .seed = 2});
  expect_alike(net, Bptt{.steps = 3, .penalty = lcp}, "C-BPTT");
  expect_alike(net, Rbp::released(4, 5, lcp), "released C-RBP");
  expect_alike(net, rbp(residual, fp::Auto{}, lcp), "C-RBP to a residual");
}

TEST_CASE("a training step over ranks is that of one: convLSTM, whose samples are systems of their own") {
  const auto net = conv_lstm_net<double>({.kernel = 3, .orientations = 2, .seed = 2});
  expect_alike(net, Bptt{.steps = 3}, "BPTT");
  const fp::Lcp diagonal{.lambda = 0.05, .reduction = fp::Reduction::sum, .blocks = fp::Blocks::diagonal};
  expect_alike(net, Rbp::released(4, 5, diagonal), "released C-RBP");
  expect_alike(net, rbp(residual, fp::Gmres{.rtol = 1e-12}, fp::SpectralHinge{.target = 0.1}), "each sample its steps");
}

TEST_CASE("a user's cell goes over ranks without a change, by every solver, rule and penalty") {
  const auto net = users_net();
  expect_alike(net, rbp(residual, fp::Neumann{.rtol = 1e-9}, lcp), "Neumann");
  expect_alike(net, rbp(residual, fp::Gmres{.rtol = 1e-9}, lcp, fp::Anderson{}), "GMRES, Anderson", 1e-9);
  // The paths of Broyden, BiCGSTAB and conjugate gradients make much of a rounding when they are long.
  expect_alike(net, rbp(residual, fp::BiCgStab{.max_products = 8}, fp::Movement{}), "BiCGSTAB", 1e-9);
  expect_alike(net, rbp(fp::Steps{.count = 8}, fp::Terms{2}, fp::Movement{}, fp::Broyden{}), "Broyden", 1e-9);
  expect_alike(net, rbp(steps, fp::NormalCg{.max_products = 9}, fp::Hutchinson{.probes = 2, .seed = 3}), "normal CG", 1e-9);
  expect_alike(net, rbp(steps, fp::AdjointAnderson{.solver = {}, .rtol = 1e-9},
                        fp::Hutchinson{.rademacher = false, .reduction = fp::Reduction::sum}),
               "Anderson's adjoint", 1e-9);
  expect_alike(net, rbp(steps, fp::Phantom{}, fp::SpectralHinge{.target = 0.05, .products = 3}), "phantom");
  const fp::Lcp other_route{.lambda = 0.05, .reduction = fp::Reduction::sum, .route = fp::Route::forward_over_reverse};
  expect_alike(net, rbp(steps, fp::Terms{3}, other_route), "terms, forward over reverse");
  expect_alike(net, rbp(steps, fp::Checkpointed{}, lcp), "checkpointed");
  Rbp certified = rbp(residual, fp::Neumann{.rtol = 1e-9});
  certified.options.certify = fp::Certify{.products = 4};
  expect_alike(net, certified, "certified");
}

TEST_CASE("the gradient of a gradient through a fixed point over ranks is that of one") {
  const UsersNet net = users_net();
  const Tensor<double> x = random_tensor({5, 5, 4, 4}, 8), direction = random_tensor({5, 5, 3, 3}, 9);
  const fp::Options options{.stop = fp::Residual{.rtol = 1e-12, .max_steps = 300}, .adjoint = fp::Gmres{.rtol = 1e-11},
                            .penalty = lcp};
  const auto twice = [&](const Group& g, const Share& mine) {
    Tape<double> tape;
    UsersCell cell = net.cell;
    cell.w = tape.leaf(cell.w.value());
    const Together together(g, mine);
    const V drive(samples(x, mine));
    const auto solution = fp::solve<2>(cell, options, cell.initial_state(drive), drive);
    const V objective =
        mine.of(mean(map([](auto v) { return v * v * v; }, solution.z)) + 3.0 * solution.penalty);
    const V slope = all_reduce(grad(objective, {cell.w}, {.create_graph = true}).front(), g);
    // slope is the same on all ranks: each differentiates its part of what is made of it.
    const V part = (1.0 / g.size()) * sum(slope * V(direction));
    return std::pair{stop_gradient(slope), all_reduce(grad(part, {cell.w}).front(), g)};
  };
  const auto [slope, curvature] = twice(Group(), {0, 5, 5});
  const Tensor<double> wanted_slope = slope.value(), wanted = curvature.value();
  CHECK(largest(wanted) > 1e-4);
  for (const Shares& counts : {Shares{3, 2}, Shares{1, 3, 1}})
    CHECK_NOTHROW(on_threads(static_cast<int>(counts.size()), [&](const Group& g) {
      const auto [first, second] = twice(g, share_at(counts, g.rank()));
      expect_near(first.value(), wanted_slope, 1e-9, "first");
      expect_near(second.value(), wanted, 1e-8, "second");
    }));
}

TEST_CASE("a coupled solve that fails does so on all ranks at the same step, a sample's own on its rank") {
  const auto net = hgru_net<double>({.kernel = 3, .orientations = 2, .seed = 2});
  Images all = images_of(4);
  all.image.mutable_data()[0] = std::nan("");
  std::mutex mutex;
  std::vector<std::string> texts;
  on_threads(2, [&](const Group& g) {
    const Share mine = share_of(4, g);
    Rbp policy = rbp(residual, fp::Neumann{});
    policy.options.on_fail = fp::OnFail::throw_error;
    try {
      training_step(net, all, policy, g, mine);
    } catch (const Error& error) {
      const std::lock_guard lock(mutex);
      texts.push_back(error.what());
    }
  });
  REQUIRE(texts.size() == 2);
  CHECK(texts[0] == texts[1]);
  CHECK(texts[0].find("non-finite") != std::string::npos);
}

TEST_CASE("a replica alone has its own statistics; only gradients are summed") {
  const auto net = hgru_net<double>({.kernel = 3, .orientations = 2, .seed = 2});
  const Images all = images_of(4);
  const Rbp policy = Rbp::released(4, 5, lcp);
  // The released code's way: the mean of two replicas' gradients, each of two images.
  std::vector<Step> replicas;
  for (const Index first : {Index{0}, Index{2}})
    replicas.push_back(training_step(net, {samples(all.image, {first, 2, 4}), samples(all.target, {first, 2, 4})}, policy,
                                     Group(), {0, 2, 2}));
  on_threads(2, [&](const Group& g) {
    const Share mine = share_of(4, g);
    Tape<double> tape;
    const auto model = on_tape(net, tape);
    const auto result = run(model, V(samples(all.image, mine)), policy);
    const V objective = mine.of(penalised(focal_loss(result.logits, samples(all.target, mine)), result.penalty, 2));
    const auto own = grad(objective, parameters<V>(model));
    require(g.traffic().operations == 0, "test", "a message within a replica");
    const auto gradients = all_reduce(own, g);
    require(g.traffic().operations == 1, "test", "one message for the gradient");
    for (std::size_t k = 0; k < gradients.size(); ++k)
      expect_near(gradients[k].value(), (0.5 * (replicas[0].gradients[k] + replicas[1].gradients[k])).value(), 1e-12,
                  "gradient");
  });
}

TEST_CASE("running statistics, weighted losses, gates and dual weights are the whole batch's") {
  const Tensor<double> x = random_tensor({5, 3, 4, 4}, 11), logits = random_tensor({5, 3, 2, 2}, 12);
  Tensor<double> target({5, 2, 2}), ignore({5, 2, 2});
  for (Index k = 0; k < 20; ++k)
    target.mutable_data()[k] = static_cast<double>(k * 7 % 3), ignore.mutable_data()[k] = k % 6 == 0 ? 1 : 0;
  const auto all_of = [&](const Group& g, const Share& mine) {
    const Together together(g, mine);
    auto norm = RunningBatchNorm<double>::initial(3, 1e-3);
    (void)norm.train(V(samples(x, mine)));
    Tape<double> tape;
    const V l = tape.leaf(samples(logits, mine));
    const V loss = pixel_loss(l, samples(target, mine), samples(ignore, mine), 2, {1, 2, 5});
    fp::Report report;
    double penalty = 0;
    for (Index s = mine.first; s < mine.first + mine.count; ++s) {
      report.adjoint.spectral_radius.push_back(0.5 + 0.2 * static_cast<double>(s));
      penalty += 5e-7 * static_cast<double>(s + 1) / static_cast<double>(mine.count);
    }
    const V gate = gated(loss, V(Tensor<double>(Shape{}, penalty)));
    fp::DualWeight dual({.horizon = 0, .smoothing = 0});
    dual.update(report);
    return std::tuple{norm.running_var.value(), mean_over_batch(loss.item()), grad(mine.of(loss), {l}).front().value(),
                      dual.weight(), mean_over_batch(gate.item())};
  };
  const auto whole = all_of(Group(), {0, 5, 5});
  on_threads(3, [&](const Group& g) {
    const Share mine = share_of(5, g);
    const auto part = all_of(g, mine);
    expect_near(std::get<0>(part), std::get<0>(whole), 1e-13, "running variance");
    require(std::abs(std::get<1>(part) - std::get<1>(whole)) < 1e-13, "test", "loss");
    expect_near(std::get<2>(part), samples(std::get<2>(whole), mine), 1e-13, "slope");
    require(std::get<3>(part) == std::get<3>(whole), "test", "dual weight");
    require(std::abs(std::get<4>(part) - std::get<4>(whole)) < 1e-13, "test", "gated objective");
  });
}

TEST_CASE("messages of a C-RBP step, counted") {
  const auto net = hgru_net<double>({.kernel = 3, .orientations = 2, .seed = 2});
  const Images all = images_of(4);
  on_threads(2, [&](const Group& g) {
    const Share mine = share_of(4, g);
    Tape<double> tape;
    const auto model = on_tape(net, tape);
    const Together together(g, mine);
    const auto result = run(model, V(samples(all.image, mine)), Rbp::released(20, 15, lcp));
    const auto forward = g.traffic();
    const V objective = mine.of(penalised(focal_loss(result.logits, samples(all.target, mine)), result.penalty, 2));
    const auto own = grad(objective, parameters<V>(model));
    const auto backward = g.traffic();
    const int products = result.report->adjoint.products;
    // Forward: two norms a step, the readout's and those of 1ᵀJ; a number for each step.
    require(forward.operations == 40 + 1 + 2 + 20, "test", "forward: ", forward.operations);
    // Back: the readout, two norms a product, the check's product, the last pull with the penalty's; for each product
    // its numbers, those of |b|, the check and the loss's error.
    require(backward.operations - forward.operations ==
                static_cast<std::uint64_t>(1 + 2 * products + 2 + 4 + products + 3),
            "test", "back: ", backward.operations - forward.operations, " of ", products, " products");
    // Of 5 channels a count, means and squares; going back two sums; numbers one by one or two by two.
    const auto n = static_cast<std::uint64_t>(products);
    require(backward.bytes <= 41 * 88 + (2 + 7 + 2 * n) * 80 + 20 * 16 + n * 16 + 8 + 16 + 16, "test", "bytes: ",
            backward.bytes, " of ", products, " products");
    all_reduce(own, g);
    require(g.traffic().operations == backward.operations + 1, "test", "one message for the gradient");
  });
}
