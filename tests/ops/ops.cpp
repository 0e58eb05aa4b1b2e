#include "errors.hpp"
#include "files.hpp"
#include "settle/ops/all.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "settle/autodiff/gradcheck.hpp"
#include "settle/ops/samples.hpp"

using namespace settle;

namespace {

struct SampledCase {
  std::string name;
  OpSample<> sample;
};

/// The samples of all ops of the list.
const std::vector<SampledCase>& all_samples() {
  static const std::vector<SampledCase> cases = [] {
    std::vector<SampledCase> out;
    AllOps::for_each([&](auto op) {
      OpSamples<> samples;
      op.samples(samples);
      if (samples.all().empty()) throw Error(std::string(op.name) + " has no samples");
      for (const auto& sample : samples.all()) out.push_back({std::string(op.name) + ": " + sample.name, sample});
    });
    return out;
  }();
  return cases;
}

double largest(const Tensor<double>& x) {
  double m = 0;
  for (double v : x.values()) m = std::max(m, std::abs(v));
  return m;
}

template <class T>
std::vector<double> values(const Var<T>& x) {
  return {x.value().values().begin(), x.value().values().end()};
}

void check_close(const std::vector<double>& got, const std::vector<double>& expected, double tolerance) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t k = 0; k < got.size(); ++k) CHECK(std::abs(got[k] - expected[k]) <= tolerance);
}

Var<double> zeros(const Shape& shape) { return Tensor<double>(shape, 0.0); }

struct WithoutSamples {
  static constexpr const char* name = "without_samples";
};
static_assert(!SampledOp<WithoutSamples>, "an op without samples must not fit into the list");
static_assert(SampledOp<MatmulOp>);

}  // namespace

TEST_CASE("every op's file is in the list of ops, and so is every op in it") {
  const auto folder = std::filesystem::path(SETTLE_DATA_DIR) / ".." / "include" / "settle" / "ops";
  const std::string list = bytes_of(folder / "all.hpp");
  const auto listed = [&](const std::string& name) {
    return list.find(" " + name + ",") != std::string::npos || list.find("<" + name + ",") != std::string::npos ||
           list.find(" " + name + ">") != std::string::npos;
  };
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string file = entry.path().filename().string();
    if (file == "all.hpp" || file == "constants.hpp" || file == "samples.hpp") continue;
    CAPTURE(file);
    CHECK(list.find("settle/ops/" + file) != std::string::npos);
    const std::string text = bytes_of(entry.path()), keyword = "\nstruct ";
    int ops = 0;
    for (std::size_t at = text.find(keyword); at != std::string::npos; at = text.find(keyword, at + 1)) {
      const std::size_t begin = at + keyword.size();
      const std::string name = text.substr(begin, text.find(' ', begin) - begin);
      if (name.size() < 2 || name.substr(name.size() - 2) != "Op") continue;
      CAPTURE(name);
      CHECK(listed(name));
      ++ops;
    }
    CHECK(ops >= 1);
    ++files;
  }
  CHECK(files >= 14);
}

TEST_CASE("every op gives the values of plain loops") {
  for (const auto& [title, sample] : all_samples()) {
    const std::string& name = title;
    CAPTURE(name);
    std::vector<Var<double>> constants;
    for (const auto& x : sample.inputs) constants.push_back(x);
    const Var<double> y = sample.function(constants);
    const Tensor<double> expected = sample.reference(sample.inputs);
    CHECK(y.tape() == nullptr);
    REQUIRE(y.shape() == expected.shape());
    const double tolerance = 1e-13 * std::max(1.0, largest(expected));
    for (Index k = 0; k < y.size(); ++k) REQUIRE(std::abs(y.value().data()[k] - expected.data()[k]) <= tolerance);
  }
}

TEST_CASE("every op's gradient agrees with finite differences") {
  for (const auto& [title, sample] : all_samples()) {
    const std::string& name = title;
    CAPTURE(name);
    const auto result = gradcheck(sample.function, sample.inputs, {.tolerance = 1e-8});
    CHECK_MESSAGE(result.passed, result.message);
  }
}

TEST_CASE("every op's second derivatives agree with finite differences") {
  for (const auto& [title, sample] : all_samples()) {
    const std::string& name = title;
    CAPTURE(name);
    const auto result = gradcheck_second_order(sample.function, sample.inputs, {.tolerance = 1e-8});
    CHECK_MESSAGE(result.passed, result.message);
  }
}

TEST_CASE("every op's forward and reverse products agree") {
  for (const auto& [title, sample] : all_samples()) {
    const std::string& name = title;
    CAPTURE(name);
    const auto result = jvp_check(sample.function, sample.inputs, {.tolerance = 1e-10});
    CHECK_MESSAGE(result.passed, result.message);
  }
}

TEST_CASE("every op's product is the same when it is repeated, and linear in its cotangent") {
  Random random(5);
  for (const auto& [title, sample] : all_samples()) {
    const std::string& name = title;
    CAPTURE(name);
    Tape<double> tape;
    std::vector<Var<double>> leaves;
    for (const auto& input : sample.inputs) leaves.push_back(tape.leaf(input));
    const Var<double> y = sample.function(leaves);
    Pullback<double> pullback({y}, leaves);
    const Tensor<double> cotangent = uniform<double>(y.shape(), -1, 1, random);
    const Var<double> scaled = -3.0 * Var<double>(cotangent);
    const auto first = pullback({cotangent});
    for (int k = 0; k < 2; ++k) {
      const auto again = pullback({scaled});
      for (std::size_t i = 0; i < leaves.size(); ++i)
        CHECK(largest((3.0 * first[i] + again[i]).value()) <= 1e-13 * (1 + largest(first[i].value())));
    }
  }
}

TEST_CASE("pooling and resizing give PyTorch's numbers") {
  // torch.nn.functional: interpolate(size, mode, align_corners=False), avg_pool2d and max_pool2d of kernel (3, 2),
  // stride (2, 1), padding (1, 1), of the image arange(20) * 7 % 11 / 2 as 4 x 5.
  Tensor<double> image(Shape{1, 1, 4, 5});
  for (int i = 0; i < 20; ++i) image.mutable_data()[i] = i * 7 % 11 / 2.0;
  const Var<double> x = image;
  const PoolOptions windows{.size = {3, 2}, .stride = {2, 1}, .padding = {1, 1}};
  PoolOptions without = windows;
  without.count_padding = false;
  check_close(values(resize(x, {3, 7}, Interpolation::bilinear)),
              {0.16666666666666663,
               2.1666666666666665,
               3.0952380952380953,
               1.6666666666666665,
               3.5119047619047623,
               3.7857142857142856,
               3.1666666666666665,
               1.5,
               1.9285714285714286,
               2.4642857142857144,
               3.0,
               1.5714285714285712,
               2.500000000000001,
               4.5,
               2.833333333333333,
               1.6904761904761902,
               1.8333333333333333,
               4.333333333333333,
               2.904761904761904,
               1.8690476190476193,
               1.2500000000000013},
              1e-14);
  check_close(values(resize(x, {3, 7}, Interpolation::nearest)),
              {0.0, 0.0, 3.5, 1.5, 1.5, 5.0, 3.0, 1.0, 1.0, 4.5, 2.5, 2.5, 0.5, 4.0, 2.0, 2.0, 0.0, 3.5, 3.5, 1.5, 5.0},
              0);
  check_close(values(average_pool(x, windows)),
              {0.16666666666666666, 1.5, 2.0, 1.5833333333333333, 2.0833333333333335, 1.1666666666666667, 1.0,
               1.9166666666666667, 2.6666666666666665, 2.5, 2.3333333333333335, 1.5833333333333333},
              1e-14);
  check_close(values(average_pool(x, without)),
              {0.5, 2.25, 3.0, 2.375, 3.125, 3.5, 2.0, 1.9166666666666667, 2.6666666666666665, 2.5, 2.3333333333333335,
               3.1666666666666665},
              1e-14);
  check_close(values(max_pool(x, windows)), {1.0, 4.5, 4.5, 5.0, 5.0, 4.0, 3.0, 4.5, 4.5, 4.5, 5.0, 5.0}, 0);
}

TEST_CASE("the largest of equal values: pooling takes the first, the maximum over axes shares") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{1, 1, 2, 2}, 3.0));
  CHECK(values(grad(sum(max_pool(x)), {x}).front()) == std::vector<double>{1, 0, 0, 0});
  CHECK(values(grad(sum(max(x, {2, 3})), {x}).front()) == std::vector<double>{0.25, 0.25, 0.25, 0.25});
}

TEST_CASE("not-a-number is never lost, and infinities stay exact") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (Index place = 0; place < 4; ++place) {
    Tensor<double> x({1, 1, 2, 2}, {1, 2, 3, 4});
    x.mutable_data()[place] = nan;
    CHECK(std::isnan(max_pool(Var<double>(x)).item()));
    CHECK(std::isnan(max(Var<double>(x), {2, 3}).item()));
    CHECK(std::isnan(logsumexp(Var<double>(x), {2, 3}).item()));
  }
  const Var<float> x = Tensor<float>({4, 2}, {infinity, 1, -infinity, -infinity, 1000, 1000, -1000, -1000});
  CHECK(values(logsumexp(x, {1})) ==
        std::vector<double>{infinity, -infinity, 1000 + std::log(2.0f), -1000 + std::log(2.0f)});
}

TEST_CASE("large products agree with plain loops, in the same bits every time, for any number of threads") {
  Random random(4);
  const int before = ThreadPool::instance().size();
  for (const Index batch : {1, 2, 7}) {
    const Index m = 67, k = 130, n = 45;
    const auto a = uniform<float>({batch, m, k}, -1, 1, random), b = uniform<float>({batch, n, k}, -1, 1, random);
    std::vector<double> expected(static_cast<std::size_t>(batch * m * n));
    for (Index row = 0; row < batch * m; ++row)
      for (Index j = 0; j < n; ++j)
        for (Index l = 0; l < k; ++l)
          expected[static_cast<std::size_t>(row * n + j)] +=
              static_cast<double>(a.data()[row * k + l]) * b.data()[(row / m * n + j) * k + l];
    for (const int threads : {1, 2, 3}) {
      ThreadPool::instance().resize(threads);
      const auto got = values(matmul(Var<float>(a), Var<float>(b), {.transpose_b = true}));
      CHECK(got == values(matmul(Var<float>(a), Var<float>(b), {.transpose_b = true})));
      double worst = 0;
      for (std::size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - expected[i]));
      CHECK(worst <= 2e-5);
    }
  }
  ThreadPool::instance().resize(before);
}

TEST_CASE("arguments that do not fit are refused with what was expected and found") {
  const Var<double> image = zeros({1, 2, 4, 5}), matrix = zeros({3, 4}), row = zeros({4});
  const std::vector<std::pair<std::function<void()>, std::string>> cases{
      {[&] { matmul(matrix, matrix); }, "[matmul] the inner extents 4 and 3 differ: (3, 4) times (3, 4)"},
      {[&] { matmul(matrix, row); },
       "[matmul] expected two matrices or two batches of matrices of equal rank, got (3, 4) and (4)"},
      {[&] {
         matmul(zeros({2, 3, 4}), zeros({3, 4, 2}));
       },
       "[matmul] expected equal batch axes, got (2, 3, 4) and (3, 4, 2)"},
      {[&] {
         reshape(matrix, {5, 2});
       },
       "[reshape] expected 12 elements for shape (3, 4), got shape (5, 2)"},
      {[&] { transpose(matrix, {0}); }, "[transpose] expected 2 axes for shape (3, 4), got 1"},
      {[&] {
         transpose(matrix, {1, -1});
       },
       "[transpose] axis 1 is named twice"},
      {[&] { transpose(row); }, "[transpose] expected a matrix or a batch of matrices, got (4)"},
      {[&] { slice(row, 0, 2, 3); }, "[slice] the window of begin (2), extent (3), step (1) leaves shape (4)"},
      {[&] { slice(row, 0, -1, 3); },
       "[slice] expected begin and extent of at least 0 and step of at least 1, got -1, 3, 1"},
      {[&] {
         slice(row, Window{{0, 0}, {1, 1}, {}});
       },
       "[slice] expected begin, extent and step for each axis of (4), got (0, 0), (1, 1), (1)"},
      {[&] {
         embed(row, {9}, {{1}, {3}, {2}});
       },
       "[embed] expected values of shape (3), got (4)"},
      {[&] { pad(row, {1}, {}); }, "[pad] expected numbers of zeros for each axis of (4), got (1) and ()"},
      {[&] {
         concat(std::vector{matrix, row}, 0);
       },
       "[concat] expected shapes that are equal except in axis 0, got (3, 4) and (4)"},
      {[&] { concat(std::vector<Var<double>>{}, 0); }, "[concat] expected at least one tensor"},
      {[&] {
         stack(std::vector{matrix, row}, 0);
       },
       "[stack] expected equal shapes, got (3, 4) and (4)"},
      {[&] { stack(std::vector{row}, 2); }, "[stack] axis 2 is out of range for a result of rank 2"},
      {[&] {
         gather(row, 0, {0, 4});
       },
       "[gather] index 4 is out of range for an axis of extent 4"},
      {[&] {
         scatter_add(row, 0, {0, 1}, 9);
       },
       "[scatter_add] expected 4 indices for axis 0 of (4), got 2"},
      {[&] { max_pool(matrix); }, "[max_pool] expected images (N, C, H, W), got (3, 4)"},
      {[&] {
         max_pool(image, {.size = {5, 2}});
       },
       "[max_pool] the window 5 x 2 is larger than the padded image: input (1, 2, 4, 5), padding 0, 0"},
      {[&] {
         average_pool(image, {.size = {2, 2}, .padding = {2, 0}});
       },
       "[average_pool] expected windows of at least 1, strides of at least 0 and a padding of at most half the window, "
       "got "
       "size 2, stride 0, padding 2"},
      {[&] {
         resize(image, {0, 3}, Interpolation::nearest);
       },
       "[resize] expected a size of at least 1 x 1, got 0 x 3"},
      {[&] {
         resize(zeros({1, 1, 0, 3}), {2, 2}, Interpolation::nearest);
       },
       "[resize] expected images (N, C, H, W) of at least one pixel, got (1, 1, 0, 3)"},
      {[&] {
         mean(zeros({2, 0}), {1});
       },
       "[mean] the mean of no elements is undefined, got shape (2, 0)"},
      {[&] {
         max(zeros({2, 0}), {1});
       },
       "[max] the maximum of no elements is undefined, got shape (2, 0)"},
      {[&] { matrix + zeros({3}); }, "[broadcast] shapes (3, 4) and (3) disagree"},
      {[&] { broadcast_to(row, {3}); }, "[broadcast_to] shape (4) does not broadcast to (3)"},
      {[&] { sum_to(row, {3}); }, "[sum_to] shape (3) does not broadcast to (4)"},
      {[&] {
         conv(image, zeros({3, 1, 3, 3}));
       },
       "[conv] expected an input (N, C, H, W) with C = 1 for the weight (3, 1, 3, 3), got (1, 2, 4, 5)"},
      {[&] {
         conv_input_grad(image, zeros({2, 2, 3, 3}), {1, 2, 4, 5}, {});
       },
       "[conv_input_grad] expected an output cotangent (1, 2, 2, 3), got (1, 2, 4, 5)"},
  };
  for (const auto& [action, message] : cases) CHECK(error_of(action) == message);
}
