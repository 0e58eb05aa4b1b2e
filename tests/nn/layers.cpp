// Layers and losses of detection networks: against PyTorch 2's numbers, and their derivatives.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "errors.hpp"
#include "settle/autodiff/grad.hpp"
#include "settle/autodiff/gradcheck.hpp"
#include "settle/autodiff/module.hpp"
#include "settle/nn/conv_norm.hpp"
#include "settle/nn/conv_transpose_layer.hpp"
#include "settle/nn/group_norm.hpp"
#include "settle/nn/linear.hpp"
#include "settle/nn/losses.hpp"
#include "settle/nn/stem.hpp"
#include "settle/ops/pool.hpp"
#include "settle/ops/resize.hpp"

using namespace settle;

namespace {

using V = Var<double>;

/// a sin(k), a sin(2 k), ... in row-major order.
Tensor<double> sines(const Shape& shape, double a, double k) {
  Tensor<double> out(shape);
  for (Index i = 0; i < out.size(); ++i) out.mutable_data()[i] = a * std::sin(k * static_cast<double>(i + 1));
  return out;
}

Tensor<double> range(const Shape& shape, double first = 1) {
  Tensor<double> out(shape);
  for (Index i = 0; i < out.size(); ++i) out.mutable_data()[i] = first + static_cast<double>(i);
  return out;
}

double dot(const V& x, const Tensor<double>& y) { return sum(x * y).item(); }

void check(const V& found, const std::vector<double>& expected, double tolerance = 1e-11) {
  REQUIRE(found.size() == std::ssize(expected));
  for (std::size_t k = 0; k < expected.size(); ++k) {
    CAPTURE(k);
    CHECK(std::abs(found.value().values()[k] - expected[k]) <= tolerance * std::max(1., std::abs(expected[k])));
  }
}

/// First and second derivatives, all inputs.
template <class F>
void check_derivatives(const F& f, const std::vector<Tensor<double>>& inputs) {
  const auto first = gradcheck(f, inputs), second = gradcheck_second_order(f, inputs);
  CHECK_MESSAGE(first.passed, first.message);
  CHECK_MESSAGE(second.passed, second.message);
}

const doctest::Approx near(double value) { return doctest::Approx(value).epsilon(1e-12); }

}  // namespace

TEST_CASE("the cross-entropy of classes is PyTorch's: ignored label, class weights, smoothing") {
  Tape<double> tape;
  const V z = tape.leaf(sines({2, 4, 3}, 2, .7));
  const Tensor<double> t(Shape{2, 3}, std::vector<double>{0, 3, 255, 2, 2, 1});
  const std::vector<double> w{.5, 1, 2, .25};
  struct Case {
    CrossEntropyOptions options;
    double loss, gradient, one;
  };
  for (const Case& c :
       {Case{{.ignore = 255}, 0.882529897982434, 0.257974244818364, 0.00653577316240351},
        Case{{255, w}, 0.736402064101474, 0.192901426634604, 0.00142082025269641},
        Case{{255, {}, .1}, 1.00863790687388, 0.228919976315672, 0.00153577316240351},
        Case{{255, w, .1}, 0.836857848663006, 0.169606777586466, -0.00253628026476859},
        Case{{255, w, 0, LossReduction::sum}, 4.23431186858347, 1.10918320314897, 0.00816971645300438}}) {
    const V loss = cross_entropy(z, t, c.options), g = grad(loss, {z})[0];
    CHECK(loss.item() == near(c.loss));
    CHECK(dot(g, sines(z.shape(), 1, .3)) == near(c.gradient));
    CHECK(g.value().values()[4] == near(c.one));
    CHECK(g.value().values()[2] == 0);  // the ignored place
    check_derivatives([&](const auto& in) { return cross_entropy(in[0], t, c.options); }, {z.value()});
  }
  const V rows(Tensor<double>(Shape{3, 3}, std::vector<double>{2, 1, 0, 0, 1, 3, 1, 1, 1}));
  CHECK(cross_entropy(rows, Tensor<double>(Shape{3}, std::vector<double>{0, 255, 2}), {.ignore = 255}).item() ==
        doctest::Approx(.7531091).epsilon(1e-7));
}

TEST_CASE("losses of nothing are 0, and so are their gradients") {
  Tape<double> tape;
  const V none = tape.leaf(Tensor<double>(Shape{0, 3})), map = tape.leaf(sines({1, 3, 2, 2}, 1, 1));
  const Tensor<double> ignored(Shape{1, 2, 2}, 255.), nothing(Shape{0, 3});
  CHECK(cross_entropy(none, Tensor<double>(Shape{0}), CrossEntropyOptions{}).item() == 0);
  const V loss = cross_entropy(map, ignored, {.ignore = 255});
  CHECK(loss.item() == 0);
  check(grad(loss, {map})[0], std::vector<double>(12), 0);
  for (const auto reduction : {LossReduction::mean, LossReduction::sum}) {
    CHECK(binary_cross_entropy_with_logits(none, nothing, reduction).item() == 0);
    CHECK(smooth_l1_loss(none, nothing, 0, reduction).item() == 0);
    CHECK(smooth_l1_loss(none, nothing, 1, reduction).item() == 0);
    const V of_none = mse_loss(none, nothing, reduction);
    CHECK(of_none.item() == 0);
    CHECK(grad(of_none, {none})[0].shape() == Shape{0, 3});
  }
}

TEST_CASE("losses of numbers are PyTorch's") {
  const Tensor<double> x = sines({2, 5}, 3, .9);
  const V absolute = abs(V(sines({2, 5}, 1, .4)));
  const Tensor<double> y = absolute.value();
  const auto loss_and_gradient = [&](auto f) {
    Tape<double> tape;
    const V leaf = tape.leaf(x);
    const V loss = f(leaf);
    return std::pair(loss.item(), V(stop_gradient(grad(loss, {leaf})[0])));
  };
  const auto bce =
      loss_and_gradient([&](const V& v) { return binary_cross_entropy_with_logits(v, y, LossReduction::sum); });
  CHECK(bce.first == near(13.9396533921786));
  check(bce.second, {0.523514353468, 0.231545071406, -0.149225315475, -0.790010567088, -0.858731606817, -0.585843986416,
                     0.177619602093, 0.856993071573, 0.505801923502, 0.0181264962251});
  CHECK(binary_cross_entropy_with_logits(V(x), y).item() == near(1.39396533921786));
  CHECK(binary_cross_entropy_with_logits(V(Tensor<double>(Shape{2}, {900., -900.})), Tensor<double>(Shape{2}, {0., 0.}))
            .item() == 450);
  struct Case {
    double beta, sum;
    std::vector<double> gradient;
  };
  for (const Case& c :
       {Case{0, 19.2315069454898, {1, 1, 1, -1, -1, -1, -1, 1, 1, 1}},
        Case{.5, 16.800815103375, {1, 1, 0.700201109469, -1, -1, -1, -0.569092897406, 1, 1, 0.959105920835}},
        Case{3,
             8.17444110875058,
             {0.653520795525, 0.734728933912, 0.116700184911, -0.775711644309, -1, -0.997918881073, -0.0948488162343,
              0.77420981604, 0.822382996413, 0.159850986806}}}) {
    const auto found = loss_and_gradient([&](const V& v) { return smooth_l1_loss(v, y, c.beta, LossReduction::sum); });
    CHECK(found.first == near(c.sum));
    check(found.second, c.gradient);
    CHECK(smooth_l1_loss(V(x), y, c.beta).item() == near(c.sum / 10));
    check_derivatives([&](const auto& in) { return smooth_l1_loss(in[0], y, c.beta); }, {x});
  }
  check(loss_and_gradient([&](const V& v) { return smooth_l1_loss(v, x, 0); }).second, std::vector<double>(10), 0);
  CHECK(mse_loss(V(x), y).item() == near(4.97554216863154));
  CHECK(mse_loss(V(x), y, LossReduction::sum).item() == near(49.7554216863154));
  check_derivatives([&](const auto& in) { return binary_cross_entropy_with_logits(in[0], y); }, {x});
  check_derivatives([&](const auto& in) { return mse_loss(in[0], y); }, {x});
}

TEST_CASE("losses refuse what does not fit") {
  const V z(Tensor<double>(Shape{2, 3, 4}, 0.));
  const auto labels = [&](double label) { return Tensor<double>(Shape{2, 4}, label); };
  CHECK(contains(error_of([&] {
                   cross_entropy(z, Tensor<double>(Shape{2, 3}, 0.), CrossEntropyOptions{});
                 }),
                 "[cross_entropy] expected a target (N, ...) = (2, 4), got (2, 3)"));
  CHECK(contains(error_of([&] { cross_entropy(z, labels(3), CrossEntropyOptions{}); }), "labels 0 ... 2, got 3"));
  CHECK(contains(error_of([&] { cross_entropy(z, labels(.5), {.ignore = 255}); }), "and the ignored one, got 0.5"));
  CHECK(contains(error_of([&] { cross_entropy(z, labels(0), {.class_weights = {1, 2}}); }), "3 class weights, got 2"));
  CHECK(contains(error_of([&] { cross_entropy(z, labels(0), {.label_smoothing = 2}); }), "smoothing from 0 to 1"));
  CHECK(contains(error_of([&] { mse_loss(z, labels(0)); }), "[mse_loss] expected a target (2, 3, 4), got (2, 4)"));
  CHECK(contains(error_of([&] { smooth_l1_loss(z, z.value(), -1); }), "a beta of at least 0, got -1"));
}

TEST_CASE("group norm is PyTorch's, with first and second derivatives") {
  Tape<double> tape;
  const V x = tape.leaf(sines({2, 6, 3, 2}, 1.5, .37)), w = tape.leaf(sines({6}, 1, .5)),
          b = tape.leaf(sines({6}, 1, .8));
  const GroupNorm<double> norm{w, b, 3, 1e-5};
  const auto folded = [&](const V& v) {
    const auto [scale, shift] = norm.fold(v);
    return map([](auto a, auto s, auto c) { return a * s + c; }, v, scale, shift);
  };
  for (const V& y : {norm(x), folded(x)}) {
    const V loss = sum(y * sines(y.shape(), 1, .21));
    CHECK(loss.item() == near(-7.59539042426654));
    CHECK(y.value().values()[36 + 24 + 5] == near(-1.14805457069411));
    const auto g = grad(loss, {x, w, b}, {.create_graph = true});
    check(g[1], {8.48996298751, -2.14234082349, 0.677692223898, -7.19019717478, -3.82364746938, 6.86232574622});
    check(g[2], {8.85289424719, 4.39305809556, -6.16595135697, -8.16436245796, 1.17235118543, 8.88141208808});
    const V along = sum(g[0] * sines(x.shape(), 1, .11));
    CHECK(along.item() == near(0.994605896016907));
    const auto h = grad(along, {x, w});
    CHECK(dot(h[0], sines(x.shape(), 1, .6)) == doctest::Approx(-1.28547136526471).epsilon(1e-11));
    check(h[1], {0.112796075901, 0.325853452639, 1.71144722619, -0.0376204928096, -1.42512430825, -1.08930166255},
          1e-10);
  }
  const auto normed = [](const auto& in) { return GroupNorm<double>{in[1], in[2], 2, 1e-5}(in[0]); };
  check_derivatives(normed, {sines({2, 4, 3}, 1, 1.7), sines({4}, 1, .9), sines({4}, 1, .4)});
  check_derivatives(normed, {Tensor<double>(Shape{0, 4, 3, 2}), sines({4}, 1, .9), sines({4}, 1, .4)});
  const auto [scale, shift] = GroupNorm<double>::initial(4, 2).fold(V(Tensor<double>(Shape{0, 4, 3, 2})));
  CHECK((scale.shape() == Shape{0, 4, 1, 1} && shift.shape() == scale.shape()));
  // No digits are lost where the mean is large.
  const V far = map([](auto v) { return v + 1e6; }, V(sines({1, 4, 5, 5}, 1, .7)));
  check(GroupNorm<double>::initial(4, 2)(far) - GroupNorm<double>::initial(4, 2)(V(sines({1, 4, 5, 5}, 1, .7))),
        std::vector<double>(100), 1e-9);
  CHECK(contains(error_of([] { GroupNorm<double>::initial(6, 4); }), "got 4 groups and 6 channels"));
  CHECK(contains(error_of([&] {
                   norm(V(Tensor<double>(Shape{2, 4, 3, 2}, 0.)));
                 }),
                 "expected x (N, 6, ...) in 3 groups"));
}

TEST_CASE("group norm has the gradients of the specification") {
  Tape<double> tape;
  const V x = tape.leaf(Tensor<double>(Shape{1, 4, 2}, std::vector<double>{1, 2, 3, 4, 5, 6, 7, 9}));
  const V w = tape.leaf(range({4})), b = tape.leaf(Tensor<double>(Shape{4}, std::vector<double>{.1, .2, .3, .4}));
  const V y = GroupNorm<double>{w, b, 2}(x);
  check(y, {-1.2416354, -.3472118, 1.0944236, 2.8832708, -3.2496398, -1.2212742, 1.0761219, 6.4850967}, 1e-7);
  const auto g = grad(sum(y * range({1, 4, 2})), {x, w, b});
  check(g[0], {.4471850, -.8944326, .4472208, .0000268, -.2704730, -1.2749830, 2.4533599, -.9079039}, 1e-6);
  check(g[1], {-2.2360590, 6.7081771, -8.9586146, 13.3534067}, 1e-7);
  check(g[2], {3, 7, 11, 15});
}

TEST_CASE("layer norm is PyTorch's") {
  Tape<double> tape;
  const V x = tape.leaf(sines({2, 6, 3, 2}, 1.5, .37)), w = tape.leaf(sines({3, 2}, 1, .5)),
          b = tape.leaf(sines({3, 2}, 1, .8));
  const V y = LayerNorm<double>{w, b}(x);
  CHECK(y.value().values()[36 + 24 + 5] == near(-0.860436639235788));
  const V loss = sum(y * sines(y.shape(), 1, .21));
  CHECK(loss.item() == near(-1.30200846423527));
  const auto g = grad(loss, {x, w, b});
  check(g[1], {-0.19053894298, -0.699044815135, -0.843308862055, -0.542034303265, 0.119317336955, 0.916224757245});
  check(g[2], {1.22777408048, 1.42256823772, 1.55485734912, 1.61882887312, 1.611672018, 1.53370124289});
  CHECK(dot(g[0], sines(x.shape(), 1, .11)) == doctest::Approx(-0.417112472111231).epsilon(1e-11));
  check_derivatives(
      [](const auto& in) {
        return LayerNorm<double>{in[1], in[2]}(in[0]);
      },
      {sines({3, 4}, 1, 1.7), sines({4}, 1, .9), sines({4}, 1, .4)});
  CHECK(LayerNorm<double>::initial({3})(V(Tensor<double>(Shape{0, 3}))).shape() == Shape{0, 3});
  CHECK(contains(error_of([] {
                   LayerNorm<double>::initial({3})(V(Tensor<double>(Shape{2, 4}, 0.)));
                 }),
                 "[layer_norm] expected the last axes (3), got (2, 4)"));
}

TEST_CASE("a frozen batch norm is a factor and a number, and is not trained") {
  auto norm = FrozenBatchNorm<double>::initial(2);
  const V x(sines({2, 2, 3, 1}, 1, .3));
  const V same = norm(x);
  check(same - x, std::vector<double>(12), 1e-15);
  norm.weight = range({2}), norm.bias = range({2}, 3), norm.running_mean = range({2}, -1),
  norm.running_var = range({2});
  const auto [scale, shift] = norm.fold();
  check(scale, {1 / std::sqrt(1 + 1e-5), 2 / std::sqrt(2 + 1e-5)});
  check(shift, {3 + 1 / std::sqrt(1 + 1e-5), 4});
  CHECK(parameter_count(norm) == 0);
  settle::check(norm);
}

TEST_CASE("a frozen batch norm keeps the digits of a channel whose mean is far from 0") {
  auto norm = FrozenBatchNorm<float>::initial(1);
  norm.running_mean = Tensor<float>({1}, 1e4f), norm.running_var = Tensor<float>({1}, 1e-4f), norm.epsilon = 0;
  const auto y = norm(Var<float>(Tensor<float>({1, 1, 1, 2}, {1e4f, 1e4f + 0.0078125f}))).value();
  CHECK(y.data()[0] == 0);
  CHECK(y.data()[1] == doctest::Approx(0.78125).epsilon(1e-6));
}

TEST_CASE("a stem with a stride gives the means of its pixels, and its nets' logits come back to the image's size") {
  ParameterStreams streams(1);
  auto stem = SquaringStem<double>::initial(2, streams);
  const V image(sines({2, 1, 5, 7}, 1, .7));
  const V full = stem(image);
  stem.stride = 2;
  const V small = stem(image);
  CHECK(small.shape() == Shape{2, 5, 3, 4});
  const auto pixel = [&](Index row, Index column) { return full.value().data()[row * 7 + column]; };
  const double* const means = small.value().data();
  CHECK(means[0] == doctest::Approx((pixel(0, 0) + pixel(0, 1) + pixel(1, 0) + pixel(1, 1)) / 4));
  CHECK(means[3] == doctest::Approx((pixel(0, 6) + pixel(1, 6)) / 2));
  CHECK(means[8] == doctest::Approx((pixel(4, 0) + pixel(4, 1)) / 2));
  CHECK(means[11] == doctest::Approx(pixel(4, 6)));
  CHECK(at_size_of(image, small).shape() == full.shape());
  check(at_size_of(image, V(Tensor<double>({2, 5, 3, 4}, 2.))) - 2., std::vector<double>(350));
  check(at_size_of(image, full) - full, std::vector<double>(350), 0);
  check_derivatives([&](const auto& in) { return at_size_of(in[0], stem(in[0])); }, {image.value()});
  CHECK(contains(error_of([&] { stem(V(Tensor<double>({1, 1, 1, 4}))); }), "larger than the padded image"));
}

TEST_CASE("a convolution with its norm in one pass is the convolution, then the norm") {
  const Tensor<double> image = sines({2, 4, 5, 6}, 1, .7), kernel = sines({6, 4, 3, 3}, .3, 1.1),
                       beside = sines({2, 6, 3, 3}, 1, .9);
  const Tensor<double> w = sines({6}, 1, .5), b = sines({6}, 1, .8);
  const auto absolute = [](const Tensor<double>& x) { return abs(V(x)).value(); };
  for (const NormKind kind : {NormKind::none, NormKind::group, NormKind::batch, NormKind::frozen_batch})
    for (const Mode mode : {Mode::train, Mode::evaluate})
      for (const bool bias : {false, true}) {
        ParameterStreams streams(1);
        auto layer =
            ConvNorm<double>::initial({.in = 4, .out = 6, .stride = 2, .bias = bias, .norm = {kind, 3}}, streams);
        layer.weight = kernel;
        if (bias) layer.bias = b;
        std::vector<V> of_norm{w, b, b, absolute(w)};  // weight, bias, running mean and variance, in this order
        auto next = of_norm.begin();
        visit_state(layer.norm, [&](const std::string&, V& v) { v = *next++; });
        Tape<double> tape;
        auto fused = on_tape(layer, tape), apart = fused;
        const V x = tape.leaf(image), added = tape.leaf(beside);
        V y = conv(x, apart.weight, {.stride = {2, 2}, .padding = {1, 1}});
        if (bias) y = y + per_channel(apart.bias);
        if (auto* group = std::get_if<GroupNorm<double>>(&apart.norm.norm)) y = (*group)(y);
        if (auto* frozen = std::get_if<FrozenBatchNorm<double>>(&apart.norm.norm)) y = (*frozen)(y);
        if (auto* batch = std::get_if<RunningBatchNorm<double>>(&apart.norm.norm)) {
          const auto [scale, shift] = mode == Mode::train ? batch->train(y) : batch->evaluate();
          y = y * scale + shift;
        }
        std::vector<V> wanted = parameters<V>(fused);
        wanted.push_back(x), wanted.push_back(added);
        struct Case {
          V found, expected;
        };
        for (const Case& c : {Case{fused.forward(x, mode), y}, Case{fused.forward(x, mode, true), relu(y)},
                              Case{fused.forward(x, mode, false, added), y + added},
                              Case{fused.forward(x, mode, true, added), relu(y + added)}}) {
          REQUIRE(c.found.shape() == beside.shape());
          check(c.found - c.expected, std::vector<double>(108));
          const auto g = grad(sum(c.found * beside), wanted);
          const auto h = grad(sum(c.expected * beside), wanted, {.keep_graph = true});  // y is in all four
          for (std::size_t k = 0; k < g.size(); ++k)
            check(g[k] - h[k], std::vector<double>(static_cast<std::size_t>(g[k].size())));
        }
      }
  ParameterStreams streams(1);
  CHECK(contains(error_of([&] { ConvNorm<double>::initial({.kernel = 2}, streams); }), "an odd kernel, got 1 to 1"));
}

TEST_CASE("linear layers and transposed convolutions") {
  ParameterStreams streams(3);
  const auto linear = Linear<double>::initial(3, 16, streams);
  for (const double value : linear.weight.value().values()) CHECK(std::abs(value) <= .25);
  CHECK(linear.bias.shape() == Shape{3});
  check(Linear<double>{range({2, 3}), range({2})}(V(range({1, 3}))), {15, 34});
  check_derivatives(
      [](const auto& in) {
        return Linear<double>{in[1], in[2]}(in[0]);
      },
      {sines({2, 3}, 1, 1), sines({2, 3}, 1, 2), sines({2}, 1, 3)});
  CHECK(linear(V(Tensor<double>(Shape{0, 16}))).shape() == Shape{0, 3});

  Tape<double> tape;
  const V x = tape.leaf(range({1, 1, 2, 2})),
          w = tape.leaf(Tensor<double>(Shape{1, 1, 2, 2}, std::vector<double>{1, 10, 100, 1000}));
  const V y = ConvTransposeLayer<double>{w, Tensor<double>(Shape{1}, 0.)}(x);
  check(y, {1, 10, 2, 20, 100, 1000, 200, 2000, 3, 30, 4, 40, 300, 3000, 400, 4000});
  const auto g = grad(sum(y * range({1, 1, 4, 4})), {x, w});
  check(g[0], {6521, 8743, 15409, 17631});
  check(g[1], {78, 88, 118, 128});
  const auto layer = ConvTransposeLayer<double>::initial(4, 3, 2, streams);
  CHECK(layer.weight.shape() == Shape{4, 3, 2, 2});
  CHECK(layer(V(Tensor<double>(Shape{0, 4, 7, 7}))).shape() == Shape{0, 3, 14, 14});
  CHECK(contains(error_of([&] {
                   layer(V(Tensor<double>(Shape{1, 3, 7, 7}, 0.)));
                 }),
                 "[conv_transpose] expected an input"));
}

TEST_CASE("pooling and interpolation have the specification's values and gradients") {
  Tape<double> tape;
  const V x = tape.leaf(range({1, 1, 2, 3}, 0));
  const V doubled = resize(x, {4, 6}, Interpolation::bilinear);
  const std::vector<double> rows{0, .25, .75, 1.25, 1.75, 2, .75, 1, 1.5, 2, 2.5, 2.75};
  for (std::size_t k = 0; k < rows.size(); ++k) CHECK(doubled.value().values()[k] == near(rows[k]));
  check(grad(sum(doubled * range({1, 1, 4, 6})), {x})[0], {21.5, 29, 36.5, 63.5, 71, 78.5});
  const V nearest = resize(x, {4, 6}, Interpolation::nearest);
  check(grad(sum(nearest * range({1, 1, 4, 6})), {x})[0], {18, 26, 34, 66, 74, 82});
  const V image =
      tape.leaf(Tensor<double>(Shape{1, 1, 4, 4}, std::vector<double>{1, 5, 2, 0, 3, 4, 8, 1, 7, 0, 6, 2, 9, 3, 1, 4}));
  const V largest = max_pool(image, {.size = {3, 3}, .stride = {2, 2}, .padding = {1, 1}});
  check(largest, {5, 8, 9, 8});
  check(grad(sum(largest * range({1, 1, 2, 2})), {image})[0], {0, 1, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 3, 0, 0, 0});
}

TEST_CASE("initial values have the spreads that are said of them") {
  const Shape weight{40, 30, 3, 3};
  const auto variance = [](const Tensor<double>& x) {
    double squares = 0, largest = 0;
    for (const double v : x.values()) squares += v * v, largest = std::max(largest, std::abs(v));
    return std::pair(squares / static_cast<double>(x.size()), largest);
  };
  ParameterStreams streams(1);
  const auto spread = [&](WeightFilling filling) { return variance(fill_weight<double>(weight, filling, streams)); };
  CHECK(spread({WeightFilling::kaiming_fan_out}).first == doctest::Approx(2. / 360).epsilon(.05));
  CHECK(spread({WeightFilling::kaiming_fan_in}).first == doctest::Approx(2. / 270).epsilon(.05));
  CHECK(spread({WeightFilling::caffe2_xavier}).first == doctest::Approx(1. / 270).epsilon(.05));
  CHECK(spread({WeightFilling::caffe2_xavier}).second <= std::sqrt(3. / 270));
  CHECK(spread({WeightFilling::xavier_uniform}).first == doctest::Approx(2. / 630).epsilon(.05));
  CHECK(spread({WeightFilling::normal, .01}).first == doctest::Approx(1e-4).epsilon(.05));
  ParameterStreams blank = ParameterStreams::blank();
  CHECK(variance(fill_weight<double>(weight, {}, blank)).second == 0);
}
