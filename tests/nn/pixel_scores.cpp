// The loss and the scores of any number of classes.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "errors.hpp"
#include "settle/autodiff/gradcheck.hpp"
#include "settle/nn/confusion_matrix.hpp"
#include "settle/nn/pixel_loss.hpp"
#include "settle/nn/released_models.hpp"

using namespace settle;

namespace {

Tensor<double> logits_of(const Shape& shape, std::uint64_t seed = 1) {
  Random random(seed);
  return normal<double>(shape, 0, 2, random);
}

Tensor<double> classes_of(const Shape& shape, Index classes) {
  Random random(2);
  Tensor<double> out(shape);
  for (Index k = 0; k < out.size(); ++k) out.mutable_data()[k] = static_cast<double>(random.below(classes));
  return out;
}

}  // namespace

TEST_CASE("the pixel loss is PyTorch's weighted cross-entropy at gamma 0") {
  // torch.nn.functional.cross_entropy in double; logits sin(k), targets k mod 3, the third pixel ignored.
  Tensor<double> logits({1, 3, 2, 2}), target({1, 2, 2}), ignore(Shape{1, 2, 2}, 0.0);
  for (Index k = 0; k < 12; ++k) logits.mutable_data()[k] = std::sin(static_cast<double>(k));
  for (Index k = 0; k < 4; ++k) target.mutable_data()[k] = static_cast<double>(k % 3);
  ignore.mutable_data()[2] = 1;
  const auto loss = [&](const Tensor<double>& mask, double gamma, const std::vector<double>& weights) {
    return pixel_loss(Var(logits), target, mask, gamma, weights).item();
  };
  CHECK(loss({}, 0, {}) == doctest::Approx(1.7007945859306615).epsilon(1e-12));
  CHECK(loss(ignore, 0, {}) == doctest::Approx(1.639704282590939).epsilon(1e-12));
  CHECK(loss({}, 0, {0.2, 1, 3}) == doctest::Approx(1.9440264847944517).epsilon(1e-12));
  CHECK(loss(ignore, 0, {0.2, 1, 3}) == doctest::Approx(2.0725143180329293).epsilon(1e-12));
  CHECK(loss(Tensor<double>(Shape{1, 2, 2}, 1.0), 2, {}) == 0);
}

TEST_CASE("of two classes the pixel loss is the focal loss") {
  const Tensor<double> logits = logits_of({2, 2, 3, 5}), target = classes_of({2, 3, 5}, 2);
  for (const double gamma : {0.0, 2.0, 3.5}) {
    Tape<double> tape;
    const auto x = tape.leaf(logits);
    const auto own = pixel_loss(x, target, Tensor<double>(), gamma), released = focal_loss(x, target, gamma);
    CHECK(own.item() == doctest::Approx(released.item()).epsilon(1e-12));
    const auto a = grad(own, {x}).front(), b = grad(released, {x}).front();
    for (Index k = 0; k < logits.size(); ++k)
      CHECK(a.value().data()[k] == doctest::Approx(b.value().data()[k]).epsilon(1e-11));
  }
}

TEST_CASE("the pixel loss's gradients") {
  const Tensor<double> target = classes_of({1, 3, 1}, 4);
  Tensor<double> ignore(Shape{1, 3, 1}, 0.0);
  ignore.mutable_data()[1] = 1;
  const auto loss = [&](const std::vector<Var<double>>& in) {
    return pixel_loss(in[0], target, ignore, 0, {1, 2, 0.5, 1});
  };
  const Tensor<double> logits = logits_of({1, 4, 3, 1});
  gradcheck(loss, {logits});
  gradcheck_second_order(loss, {logits});
}

TEST_CASE("a certain wrong pixel and a certain right one have finite losses and gradients") {
  Tape<float> tape;
  const auto x = tape.leaf(Tensor<float>({1, 3, 1, 2}, {1e4f, -1e4f, 0, 0, -1e4f, 1e4f}));
  const auto loss = pixel_loss(x, Tensor<float>(Shape{1, 1, 2}, 0.f));
  CHECK(loss.item() == doctest::Approx(1e4f));
  const Tensor<float> gradient = grad(loss, {x}).front().value();
  for (const float g : gradient.values()) CHECK(std::isfinite(g));
}

TEST_CASE("the pixel loss refuses what does not fit") {
  const Var<double> x(logits_of({1, 3, 2, 2}));
  const Tensor<double> target(Shape{1, 2, 2}, 1.0);
  CHECK(contains(error_of([&] { pixel_loss(x, Tensor<double>(Shape{1, 2, 3}, 0.0)); }), "expected a target (N, H, W)"));
  CHECK(contains(error_of([&] {
                   pixel_loss(x, Tensor<double>(Shape{1, 2, 2}, 3.0));
                 }),
                 "expected targets 0 ... 2, got 3"));
  CHECK(contains(error_of([&] { pixel_loss(x, target, Tensor<double>(Shape{4}, 0.0)); }), "expected an ignore mask"));
  CHECK(contains(error_of([&] { pixel_loss(x, target, {}, 2, {1, 1}); }), "expected 3 class weights, got 2"));
  CHECK(contains(error_of([&] { pixel_loss(x, target, {}, -1); }), "gamma"));
  CHECK(contains(error_of([&] { pixel_loss(Var(logits_of({1, 1, 2, 2})), target); }), "K >= 2 classes"));
}

TEST_CASE("a confusion matrix counts each class, and of two classes agrees with the counts of one") {
  ConfusionMatrix three(3);
  // predictions 0 1 2 / 2 1 0; truths 0 1 1 / 2 0 0, the last one ignored
  const Tensor<float> logits({1, 3, 2, 3}, {5, 0, 0, 0, 0, 5,  //
                                            0, 5, 0, 0, 5, 0,  //
                                            0, 0, 5, 5, 0, 0});
  const Tensor<float> truth({1, 2, 3}, {0, 1, 1, 2, 0, 0}), ignore({1, 2, 3}, {0, 0, 0, 0, 0, 1});
  three.add(logits, truth, ignore);
  CHECK(three.count(0, 0) == 1);
  CHECK(three.count(1, 2) == 1);
  CHECK(three.count(0, 1) == 1);
  CHECK(three.accuracy() == doctest::Approx(0.6));
  // F1 of the classes: 2/3, 1/2, 2/3
  CHECK(three.f1() == doctest::Approx((2. / 3 + 1. / 2 + 2. / 3) / 3));
  CHECK(three.iou() == doctest::Approx((1. / 2 + 1. / 3 + 1. / 2) / 3));
  three.add(logits, truth);
  CHECK(three.count(0, 0) == 3);

  ConfusionMatrix two(2);
  const Tensor<float> pair = cast<float>(logits_of({2, 2, 4, 5})), mask = cast<float>(classes_of({2, 4, 5}, 2));
  two.add(pair, mask);
  const Confusion expected = confusion(pair, mask);
  CHECK(two.f1() == expected.f1());
  CHECK(two.iou() == expected.iou());
  CHECK(two.precision() == expected.precision());
  CHECK(two.recall() == expected.recall());
  CHECK_THROWS_AS(two.add(logits, truth), Error);
  CHECK_THROWS_AS(ConfusionMatrix(1), Error);
  CHECK_THROWS_AS(two.add(pair, Tensor<float>(Shape{2, 4, 5}, 2.f)), Error);
}

TEST_CASE("stems of any number of channels and read-outs of any number of classes") {
  const ModelOptions grey{.kernel = 3, .orientations = 2};
  ModelOptions colour = grey;
  colour.image_channels = 3, colour.classes = 4;
  const auto one = hgru_net<double>(grey);
  auto three = hgru_net<double>(colour);
  three.stem.conv0.bias = one.stem.conv0.bias;  // whose range follows from the number of inputs
  const Tensor<double> image = logits_of({2, 1, 6, 5});
  Tensor<double> repeated({2, 3, 6, 5});
  for (Index k = 0; k < repeated.size(); ++k)
    repeated.mutable_data()[k] = image.data()[k / 90 * 30 + k % 30];  // the grey image in each channel
  const auto a = one.stem(Var(image)).value(), b = three.stem(Var(repeated)).value();
  for (Index k = 0; k < a.size(); ++k) CHECK(b.data()[k] == doctest::Approx(a.data()[k]).epsilon(1e-12));
  CHECK(predict(three, Var(repeated), 2).shape() == Shape{2, 4, 6, 5});
  CHECK(feed_forward_net<double>(colour)(Var(repeated)).shape() == Shape{2, 4, 6, 5});
  CHECK(predict(conv_lstm_net<double>(colour), Var(repeated), 2).shape() == Shape{2, 4, 6, 5});
  colour.classes = 1;
  CHECK_THROWS_AS(hgru_net<double>(colour), Error);
  colour.classes = 2, colour.image_channels = 0;
  CHECK_THROWS_AS(hgru_net<double>(colour), Error);
}
