// What the operations give at PyTorch's own values: torch.nn.functional in double precision.
#include "settle/ops/all.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "errors.hpp"
#include "settle/autodiff/gradcheck.hpp"
#include "settle/nn/dropout.hpp"
#include "settle/nn/losses.hpp"

using namespace settle;

namespace {

/// arange(20) * 7 % 11 / 2 as an image of 4 x 5.
Tensor<double> image() {
  Tensor<double> out(Shape{1, 1, 4, 5});
  for (int i = 0; i < 20; ++i) out.mutable_data()[i] = i * 7 % 11 / 2.0;
  return out;
}

/// arange(6) * 5 % 7 - 3 as two rows.
Tensor<double> rows() { return Tensor<double>({2, 3}, {-3, 2, 0, -2, 3, 1}); }

void check_close(const Var<double>& got, const std::vector<double>& expected, double tolerance = 1e-14) {
  REQUIRE(got.size() == static_cast<Index>(expected.size()));
  for (std::size_t k = 0; k < expected.size(); ++k) {
    const double value = got.value().data()[k];
    CHECK((std::abs(value - expected[k]) <= tolerance || (std::isnan(value) && std::isnan(expected[k]))));
  }
}

std::vector<Index> list(const Tensor<Index>& x) { return {x.values().begin(), x.values().end()}; }

}  // namespace

TEST_CASE("resizing with cubic and antialiased filters") {
  const Var<double> x = image();
  check_close(resize(x, {5, 3}, Interpolation::bicubic), {1.1522129629629636, 1.4392500000000008, 3.887074074074075,
      2.0482962962962956, 2.11075, 2.9661203703703705, 1.694444444444444, 3, 3.449363425925929, 1.3405925925925917,
      3.8892499999999997, 3.1248703703703726, 2.236675925925926, 4.560750000000002, 0.8503310185185208});
  check_close(resize(x, {2, 7}, Interpolation::bilinear_antialiased), {0.7142857142857142, 2.2653061224489797,
      3.081632653061224, 2.2142857142857144, 2.4693877551020402, 3.0612244897959187, 3.7142857142857144,
      2.2857142857142856, 1.5918367346938775, 1.8469387755102042, 3.7857142857142856, 2.3571428571428568,
      2.275510204081633, 2.928571428571429});
  check_close(resize(x, {3, 2}, Interpolation::bicubic_antialiased), {2.1467908114244088, 3.2147146064964396,
      2.0507056404762083, 2.701193608079978, 2.2282821750379718, 2.4979510222487575});
  for (const auto how :
       {Interpolation::bicubic, Interpolation::bilinear_antialiased, Interpolation::bicubic_antialiased}) {
    const auto f = [how](const std::vector<Var<double>>& in) { return resize(in[0], {2, 7}, how); };
    CHECK(gradcheck(f, {image()}, {.tolerance = 1e-8}).passed);
    CHECK(gradcheck_second_order(f, {image()}, {.tolerance = 1e-8}).passed);
    CHECK(resize(Var<double>(Tensor<double>(Shape{0, 2, 3, 3})), {5, 1}, how).shape() == Shape{0, 2, 5, 1});
    check_close(resize(Var<double>(Tensor<double>(Shape{1, 1, 1, 1}, 2.0)), {2, 3}, how), std::vector<double>(6, 2.0));
  }
}

TEST_CASE("pooling with partial windows, and into parts") {
  const Var<double> x = image();
  const PoolOptions counted{.size = {3, 2}, .stride = {2, 2}, .padding = {1, 1}, .partial_windows = true};
  const PoolOptions not_counted{{3, 2}, {2, 2}, {1, 0}, false, true}, largest{{3, 2}, {2, 3}, {1, 0}, true, true};
  check_close(average_pool(x, counted), {0.16666666666666666, 2, 2.0833333333333335, 1, 2.6666666666666665,
      2.3333333333333335, 0.75, 1.375, 0.75});
  check_close(average_pool(x, not_counted), {2.25, 2.375, 3.5, 1.9166666666666667, 2.5, 3.1666666666666665, 2, 3.5,
      0.5});
  check_close(max_pool(x, largest), {4.5, 5, 4.5, 5, 3, 2.5});
  check_close(adaptive_average_pool(x, {3, 2}), {2.1666666666666665, 2.75, 2.25, 2.8333333333333335,
      2.3333333333333335, 2.9166666666666665});
  check_close(adaptive_max_pool(x, {3, 4}), {4.5, 4.5, 5, 5, 4.5, 4.5, 3.5, 5, 3, 4.5, 4.5, 5});
  CHECK(error_of([&] {
          adaptive_max_pool(x, {0, 2});
        }) == "[adaptive_max_pool] expected a size of at least 1 x 1, got 0 x 2");
}

TEST_CASE("borders that are continued") {
  const Var<double> x = image();
  const Shape left{0, 0, 0, 2}, right{0, 0, 3, 1}, nothing{0, 0, 0, 0};
  check_close(pad(x, left, right, Border::reflect), {1.5, 3.5, 0, 3.5, 1.5, 5, 3, 5, 2.5, 4.5, 1, 4.5, 2.5, 0.5, 4,
      0.5, 3.5, 0, 2, 0, 3.5, 1.5, 5, 1.5, 4.5, 1, 3, 1, 4.5, 2.5, 0.5, 2.5, 3.5, 0, 2, 0, 3.5, 1.5, 5, 1.5, 2.5, 4.5,
      1, 4.5, 2.5, 0.5, 4, 0.5, 1.5, 3.5, 0, 3.5, 1.5, 5, 3, 5});
  check_close(pad(slice(x, Window{nothing, {1, 1, 2, 2}, {}}), left, right, Border::replicate),
              {0, 0, 0, 3.5, 3.5, 1, 1, 1, 4.5, 4.5, 1, 1, 1, 4.5, 4.5, 1, 1, 1, 4.5, 4.5, 1, 1, 1, 4.5, 4.5});
  check_close(pad(slice(x, Window{nothing, {1, 1, 2, 3}, {}}), {0, 0, 1, 2}, {0, 0, 0, 1}, Border::circular),
              {4.5, 2.5, 1, 4.5, 2.5, 1, 3.5, 1.5, 0, 3.5, 1.5, 0, 4.5, 2.5, 1, 4.5, 2.5, 1});
  CHECK(error_of([&] {
          pad(x, {0, 0, 4, 0}, nothing, Border::reflect);
        }) == "[pad] axis 2 of (1, 1, 4, 5) is too short to be continued by 4 and 0");
}

TEST_CASE("functions of single numbers, and powers") {
  const Var<double> x = Tensor<double>({6}, {-2.5, -0.4, 0, 0.5, 1.5, 30});
  check_close(atan(x), {-1.1902899496825317, -0.3805063771123649, 0, 0.4636476090008061, 0.982793723247329,
      1.5374753309166493}, 5e-16);
  check_close(erfc(x), {1.999593047982555, 1.4283923550466686, 1, 0.4795001221869535, 0.033894853524689274, 0}, 3e-15);
  check_close(floor(x), {-3, -1, 0, 0, 1, 30}, 0);
  check_close(round(x), {-2, -0, 0, 0, 2, 30}, 0);
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const Var<double> ends = Tensor<double>({5}, {infinity, -infinity, nan, 1e300, -4.5e15});
  check_close(atan(ends), {std::atan(infinity), -std::atan(infinity), nan, std::atan(infinity), -std::atan(4.5e15)},
              5e-16);
  CHECK(floor(ends).value().data()[0] == infinity);
  CHECK(floor(ends).value().data()[4] == -4.5e15);
  CHECK(std::isnan(floor(ends).value().data()[2]));

  Tape<double> tape;
  const Var<double> base = tape.leaf(Tensor<double>({6}, {-2, 0, 0, 2, 3, -1.5}));
  const Var<double> exponent = tape.leaf(Tensor<double>({6}, {3, 2, 0, -0.5, 2.5, 2}));
  const Var<double> power = pow(base, exponent);
  check_close(power, {-8, 0, 1, 0.7071067811865476, 15.588457268119896, 2.25}, 5e-14);
  const auto gradients = grad(sum(power), {base, exponent});
  check_close(gradients[0], {12, 0, 0, -0.1767766952966369, 12.99038105676658, -3}, 5e-14);
  check_close(gradients[1], {std::nan(""), 0, 0, 0.4901290717342736, 17.12567071613423, std::nan("")}, 5e-14);
}

TEST_CASE("reductions, running sums and axes made at run time") {
  const Var<double> x = rows();
  check_close(var(x, all_axes(x.shape())), {5.366666666666666});
  check_close(var(x, std::vector<int>{1}, 0), {4.222222222222222, 4.222222222222222});
  check_close(cumsum(x, 1), {-3, -1, -1, -2, 1, 2});
  CHECK(squeeze(sum(x, {1}), {1}).shape() == Shape{2});
  Tape<double> tape;
  const Var<double> zeros = tape.leaf(Tensor<double>({2, 2}, {0, 2, 0, 3}));
  const Var<double> product = prod(zeros, {0});
  check_close(product, {0, 6});
  check_close(grad(sum(product), {zeros}).front(), {0, 3, 0, 2});
  CHECK(error_of([&] { var(x, {}); }) == "[var] expected more than 1 elements, got 1 of each sum over (2, 3)");
  CHECK(error_of([&] {
          min(Var<double>(Tensor<double>(Shape{2, 0})), {1});
        }) == "[min] the minimum of no elements is undefined, got shape (2, 0)");
  CHECK(error_of([&] { squeeze(x, {0}); }) == "[squeeze] expected extent 1 in axis 0 of (2, 3)");
}

TEST_CASE("orders of elements, and elements by their positions") {
  const Var<double> x = rows();
  const auto sorted = sort(x, 1, true);
  check_close(sorted.values, {2, 0, -3, 3, 1, -2}, 0);
  CHECK(list(sorted.positions) == std::vector<Index>{1, 2, 0, 1, 2, 0});
  const auto top = top_k(x, 2);
  check_close(top.values, {2, 0, 3, 1}, 0);
  CHECK(list(top.positions) == std::vector<Index>{1, 2, 1, 2});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Var<double> ties = Tensor<double>({2, 3}, {1, 3, 3, nan, 5, nan});
  CHECK(list(argmax(ties, 1)) == std::vector<Index>{1, 0});
  CHECK(argmax(ties, 0).shape() == Shape{1, 3});
  CHECK(list(argmax(ties, 0)) == std::vector<Index>{1, 1, 1});
  CHECK(list(argmin(Var<double>(Tensor<double>({2, 3}, {1, 3, 3, 2, 1, 1})), 1)) == std::vector<Index>{0, 1});
  const Tensor<Index> indices({2, 2}, {0, 2, 1, 1});
  check_close(gather_elements(x, 1, indices), {-3, 0, 3, 3}, 0);
  check_close(scatter_add_elements(x, 1, indices, Var<double>(Tensor<double>({2, 2}, {10, 20, 30, 40}))),
              {7, 2, 20, -2, 73, 1}, 0);
  CHECK(error_of([&] { gather_elements(x, 0, indices); }) ==
        "[gather_elements] index 2 is out of range for an axis of extent 2");
  CHECK(error_of([&] { top_k(x, 4); }) == "[top_k] expected at most the 3 elements of axis 1 of (2, 3), got 4");
}

TEST_CASE("attention") {
  const Var<double> q = Tensor<double>({1, 2, 3}, {-.5, -.25, 0, .25, .5, .75});
  const Var<double> k = Tensor<double>({1, 2, 3}, {0, 1 / 3., 2 / 3., 1, 0, 1 / 3.});
  const Var<double> v = Tensor<double>({1, 2, 2}, {1, -1, 2, .5});
  check_close(attention(q, k, v), {1.4401477084710397, -0.33977843729344037, 1.4759622835428323,
      -0.28605657468575135}, 1e-7);
  check_close(attention(q, k, v, Var<double>(causal_mask<double>(2, 2))), {1, -1, 1.4759622835428323,
      -0.28605657468575135},
              1e-7);
}

TEST_CASE("the mean cross-entropy where a class is the ignored one, and where weights are below 0") {
  const Var<double> x = rows();
  const Tensor<double> labels({2}, {2, 1});
  check_close(cross_entropy(x, labels, {.ignore = 1}), {2.132845233727575});
  check_close(cross_entropy(x, labels, {.ignore = 1, .class_weights = {1, 5, 2}, .label_smoothing = 0.25}),
              {2.01891566987154});
  check_close(cross_entropy(x, labels, {.class_weights = {-1, -0.5, -2}}), {1.7328452337275753});
}

TEST_CASE("dropout keeps the mean, repeats for its stream and scales what it keeps") {
  const Var<double> ones = Tensor<double>({100, 100}, 1.0);
  Random random(3, 1), same(3, 1), third(3, 1);
  const Var<double> y = dropout(ones, 0.25, random);
  check_close(y - dropout(ones, 0.25, same), std::vector<double>(10000, 0.0), 0);
  double total = 0;
  for (const double value : y.value().values()) {
    CHECK(value == (third.uniform() < 0.25 ? 0 : 1 / 0.75));
    total += value;
  }
  CHECK(std::abs(total / 10000 - 1) < 0.03);  // five standard errors
  check_close(dropout(ones, 0, random), std::vector<double>(10000, 1.0), 0);
  const auto f = [](const std::vector<Var<double>>& in) {
    Random again(5);
    return dropout(square(in[0]), 0.5, again);
  };
  CHECK(gradcheck(f, {rows()}, {.tolerance = 1e-8}).passed);
  CHECK(gradcheck_second_order(f, {rows()}, {.tolerance = 1e-8}).passed);
  CHECK(error_of([&] { dropout(ones, 1, random); }) ==
        "[dropout] expected a probability of at least 0 and below 1, got 1");
}
