#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

#include "errors.hpp"
#include "settle/data/pathfinder.hpp"
#include "settle/nn/conv_layer.hpp"
#include "settle/nn/gabor.hpp"
#include "settle/ops/all.hpp"

using namespace settle;

namespace {

constexpr Index most = std::numeric_limits<Index>::max(), least = std::numeric_limits<Index>::min();

Var<float> zeros(const Shape& shape) { return Tensor<float>(shape, 0.0f); }

/// 0, 1, 2, ... in order.
Tensor<float> counted(const Shape& shape) {
  Tensor<float> out(shape);
  for (Index k = 0; k < out.size(); ++k) out.mutable_data()[k] = static_cast<float>(k);
  return out;
}

/// Whether the action throws an Error whose text has a part; any other exception fails the test.
template <class Action>
void check_refused(const std::string& part, const Action& action) {
  const std::string said = error_of(action);
  CAPTURE(part);
  CHECK_MESSAGE(contains(said, part), said);
}

}  // namespace

TEST_CASE("a shape of more elements than an array can have is an error, whatever its product wraps to") {
  const Index k32 = Index{1} << 32, k62 = Index{1} << 62;
  const std::vector<Shape> shapes{{k32, k32},      {k62},           {most},          {most, most},       {k62, 2, 2},
                                  {k32, k32, k32}, {0, k32, k32},   {k32, 0, k32},   {k62, 0},           {3, most / 3 + 1},
                                  {1, most, 1},    {2, 2, k62, 1, 1, 1}, {k32 - 1, k32 + 1}};
  for (const Shape& shape : shapes) {
    CAPTURE(shape[0]);
    check_refused("[shape]", [&] { (void)shape.size(); });
    check_refused("[shape]", [&] { Tensor<float> t(shape); });
    check_refused("[shape]", [&] { Tensor<double> t(shape, 1.0); });
    check_refused("[shape]", [&] { Tensor<float> t(shape, std::vector<float>{}); });
    check_refused("[shape]", [&] { (void)Tensor<float>(Shape{0}).reshape(shape); });
    Random random(1);
    check_refused("[shape]", [&] { (void)uniform<float>(shape, 0, 1, random); });
    check_refused("[shape]", [&] { (void)normal<double>(shape, 0, 1, random); });
  }
  CHECK(Shape{Index{1} << 58}.size() == Index{1} << 58);
  CHECK(Shape{Index{1} << 29, Index{1} << 29, 0}.size() == 0);
}

TEST_CASE("an extent that became negative is an error before there is a tensor") {
  Shape shape{2, 3};
  shape[1] = -3;
  check_refused("(2, -3)", [&] { (void)shape.size(); });
  check_refused("(2, -3)", [&] { Tensor<float> t(shape); });
  shape[0] = -2;  // the product would be positive
  check_refused("(-2, -3)", [&] { Tensor<float> t(shape); });
  check_refused("[shape]", [] { Shape{-1}; });
  check_refused("[shape]", [] { Shape{least}; });
}

TEST_CASE("memory that the system has not is an error that names the bytes, and tensors can still be made") {
  for (const Index elements : {Index{1} << 44, Index{1} << 50, Index{1} << 58}) {
    const std::string bytes = std::to_string(4 * elements);
    check_refused("asked for " + bytes + " bytes", [&] { Tensor<float> t(Shape{elements}); });
    check_refused("bytes", [&] { (void)embed(zeros({1}), {elements}, {{0}, {1}, {}}); });
    check_refused("bytes", [&] { (void)broadcast_to(zeros({1}), {elements}); });
  }
  CHECK(Tensor<float>(Shape{2}, 3.0f).data()[1] == 3.0f);
}

TEST_CASE("results of operations that no array can hold are errors") {
  const Index k40 = Index{1} << 40;
  const Var<float> column = Tensor<float>(Shape{k40, 0}), row = Tensor<float>(Shape{0, k40});
  check_refused("[shape]", [&] { (void)matmul(column, row); });
  check_refused("[shape]", [&] { (void)broadcast_to(zeros({1}), {k40, k40}); });
  check_refused("[shape]", [&] { (void)reshape(zeros({0}), {k40, 0, k40}); });
  const Var<float> wide = Tensor<float>(Shape{0, Index{1} << 58});
  check_refused("[shape]", [&] { (void)concat(std::vector<Var<float>>(64, wide), 1); });
  check_refused("[shape]", [&] { (void)stack(std::vector<Var<float>>(4, wide), 0); });
}

TEST_CASE("windows, paddings and positions that leave their tensor are errors, however large their numbers") {
  const Var<float> x = counted({4, 5});
  for (const Index huge : {most, most - 1, most / 2, most / 4 + 2, Index{1} << 40}) {
    CAPTURE(huge);
    check_refused("[slice]", [&] { (void)slice(x, 0, 0, 2, huge); });
    check_refused("[slice]", [&] { (void)slice(x, 0, 1, huge, 1); });
    check_refused("[slice]", [&] { (void)slice(x, 1, huge, 1, 1); });
    check_refused("[slice]", [&] { (void)slice(x, 1, huge, 0, 1); });
    check_refused("[slice]", [&] { (void)slice(x, 1, huge, huge, huge); });
    check_refused("[slice]", [&] {
      (void)slice(x, {{0, 0}, {2, 5}, {huge, 1}});
    });
    check_refused("[embed]", [&] {
      (void)embed(x, {8, 8}, {{0, huge}, {4, 5}, {}});
    });
    check_refused("[embed]", [&] {
      (void)embed(x, {8, 8}, {{0, 0}, {4, 5}, {1, huge}});
    });
    CHECK(error_of([&] { (void)pad(x, {huge, 0}, {0, 0}); }) != "no error");
    CHECK(error_of([&] { (void)pad(x, {0, huge}, {0, huge}); }) != "no error");
    check_refused("[gather]", [&] { (void)gather(x, 0, {0, huge}); });
    check_refused("[scatter_add]", [&] { (void)scatter_add(x, 0, {0, 1, 2, huge}, 4); });
    CHECK(error_of([&] { (void)scatter_add(x, 0, {0, 1, 2, 3}, huge); }) != "no error");
    // A step that nothing is reached by is any.
    const auto one = slice(x, 1, 4, 1, huge);
    CHECK(one.shape() == Shape{4, 1});
    CHECK(one.value().data()[3] == 19);
    CHECK(slice(x, 0, 4, 0, huge).size() == 0);
    CHECK(embed(zeros({1, 1}), {2, 2}, {{1, 1}, {1, 1}, {huge, huge}}).shape() == Shape{2, 2});
  }
  for (const Index below : {Index{-1}, Index{-4}, least}) {
    CAPTURE(below);
    check_refused("[slice]", [&] { (void)slice(x, 0, below, 1, 1); });
    check_refused("[slice]", [&] { (void)slice(x, 0, 0, below, 1); });
    check_refused("[slice]", [&] { (void)slice(x, 0, 0, 1, below); });
    check_refused("[gather]", [&] { (void)gather(x, 1, {below}); });
    check_refused("[scatter_add]", [&] { (void)scatter_add(zeros({0, 5}), 0, {}, below); });
    check_refused("[scatter_add]", [&] { (void)scatter_add(x, 0, {0, 1, 2, 3}, below); });
    Window window{{0, 0}, {1, 1}, {1, 1}};
    window.begin[0] = below;
    check_refused("[slice]", [&] { (void)slice(x, window); });
    window = {{0, 0}, {1, 1}, {1, 1}}, window.extent[0] = below;
    check_refused("[slice]", [&] { (void)slice(x, window); });
  }
  check_refused("[slice]", [&] { (void)slice(x, 0, 0, 1, 0); });
  check_refused("[shape]", [&] { (void)embed(zeros({1, 4}), {Index{1} << 62, 4}, {{0, 0}, {1, 4}, {}}); });
  for (const int axis : {2, -3, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    check_refused("axis", [&] { (void)slice(x, axis, 0, 1); });
    check_refused("axis", [&] { (void)gather(x, axis, {0}); });
    check_refused("axis", [&] { (void)concat(std::vector{x, x}, axis); });
    check_refused("axis", [&] { (void)transpose(x, {0, axis}); });
  }
  for (const int axis : {3, -4, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()})
    check_refused("axis", [&] { (void)stack(std::vector{x, x}, axis); });
}

TEST_CASE("convolutions refuse options out of range, however large") {
  const Var<float> x = counted({1, 1, 6, 6}), w = counted({1, 1, 3, 3});
  for (const Index huge : {most, most / 2 + 1, most / 4, Index{1} << 62, Index{1} << 40}) {
    CAPTURE(huge);
    check_refused("[conv]", [&] { (void)conv(x, w, {.dilation = {huge, 1}}); });
    check_refused("[conv]", [&] { (void)conv(x, w, {.padding = {1, 1}, .dilation = {1, huge}}); });
    CHECK(error_of([&] { (void)conv(x, w, {.padding = {huge, huge}}); }) != "no error");
    CHECK(error_of([&] { (void)conv(x, w, {.padding_behind = {huge, huge}}); }) != "no error");
    check_refused("[conv]", [&] { (void)conv(x, w, {.groups = huge}); });
    CHECK(error_of([&] { (void)ConvOptions::same({1, 1, 1, 3}, {1, huge}), (void)conv(x, w, {.dilation = {huge, huge}}); }) !=
          "no error");
    for (const ConvAlgorithm algorithm :
         {ConvAlgorithm::automatic, ConvAlgorithm::direct, ConvAlgorithm::gemm, ConvAlgorithm::fft}) {
      // A stride beyond the image leaves its first pixel; a dilation of one tap is none.
      const auto corner = conv(x, w, {.stride = {huge, huge}, .algorithm = algorithm});
      CHECK(corner.shape() == Shape{1, 1, 1, 1});
      CHECK(corner.value().item() == conv(x, w, {.stride = {4, 4}}).value().item());
      const auto point = conv(x, Var<float>(counted({1, 1, 1, 1})), {.dilation = {huge, huge}, .algorithm = algorithm});
      CHECK(point.shape() == x.shape());
      const auto back = conv_input_grad(corner, w, x.shape(), {.stride = {huge, huge}, .algorithm = algorithm});
      CHECK(back.shape() == x.shape());
    }
  }
  for (const Index below : {Index{0}, Index{-1}, least}) {
    check_refused("[conv]", [&] { (void)conv(x, w, {.stride = {below, 1}}); });
    check_refused("[conv]", [&] { (void)conv(x, w, {.dilation = {1, below}}); });
    check_refused("[conv]", [&] { (void)conv(x, w, {.groups = below}); });
    if (below == 0) continue;
    check_refused("[conv]", [&] { (void)conv(x, w, {.padding = {0, below}}); });
    check_refused("[conv]", [&] { (void)conv(x, w, {.padding_behind = {0, below}}); });
  }
  check_refused("[conv]", [&] { (void)conv(zeros({1, 1, 0, 6}), w); });
  check_refused("[conv]", [&] { (void)conv(x, zeros({1, 1, 0, 3})); });
  check_refused("[conv]", [&] { (void)ConvOptions::same({1, 1, 3}); });
  check_refused("[conv]", [&] { (void)ConvOptions::same({1, 1, 0, 3}); });
}

TEST_CASE("pooling and resizing refuse sizes out of range, however large") {
  const Var<float> x = counted({1, 1, 6, 6});
  for (const Index huge : {most, most / 2, most / 4 + 3, Index{1} << 40}) {
    CAPTURE(huge);
    const auto both = [&](const PoolOptions& options) {
      check_refused("[max_pool]", [&] { (void)max_pool(x, options); });
      check_refused("[average_pool]", [&] { (void)average_pool(x, options); });
    };
    both({.size = {huge, 2}});
    both({.size = {2, 2}, .padding = {huge, 0}});
    const PoolOptions far{.size = {2, 2}, .stride = {huge, huge}};
    CHECK(max_pool(x, far).value().item() == 7);
    CHECK(average_pool(x, far).value().item() == 3.5f);
    const PoolOptions much{.size = {huge, huge}, .stride = {huge, huge}, .padding = {huge / 2, huge / 2}};
    CHECK(max_pool(x, much).value().data()[0] >= 0);
    for (const auto how : {Interpolation::nearest, Interpolation::bilinear}) {
      CHECK(error_of([&] { (void)resize(x, {huge, 1}, how); }) != "no error");
      CHECK(error_of([&] { (void)resize(x, {1, huge}, how); }) != "no error");
      CHECK(error_of([&] { (void)resize(zeros({1, 1, 1, 1}), {huge, huge}, how); }) != "no error");
    }
    CHECK(error_of([&] { (void)adaptive_max_pool(x, {huge, 1}); }) != "no error");
    CHECK(error_of([&] { (void)adaptive_average_pool(x, {1, huge}); }) != "no error");
    for (const Border border : {Border::replicate, Border::circular, Border::reflect})
      for (const Shape& much_more : {Shape{0, 0, huge, 0}, Shape{0, 0, 0, huge}}) {
        CHECK(error_of([&] { (void)pad(x, much_more, {0, 0, 0, 0}, border); }) != "no error");
        CHECK(error_of([&] { (void)pad(x, {0, 0, 0, 0}, much_more, border); }) != "no error");
        CHECK(error_of([&] { (void)pad(x, much_more, much_more, border); }) != "no error");
      }
    CHECK(error_of([&] { (void)resize_image(blank_image(4, 4), huge, 4); }) != "no error");
    CHECK(error_of([&] { (void)resize_image(blank_image(4, 4), 4, huge); }) != "no error");
    CHECK(error_of([&] { (void)blank_image(huge, huge); }) != "no error");
    CHECK(error_of([&] { (void)blank_image(huge, 1, 1); }) != "no error");
  }
  for (const Index below : {Index{-1}, least}) {
    check_refused("[max_pool]", [&] { (void)max_pool(x, {.size = {below, 1}}); });
    check_refused("[max_pool]", [&] { (void)max_pool(x, {.stride = {below, 1}}); });
    check_refused("[max_pool]", [&] { (void)max_pool(x, {.padding = {below, 0}}); });
    check_refused("[resize]", [&] { (void)resize(x, {below, 3}, Interpolation::nearest); });
    CHECK(error_of([&] { (void)blank_image(below, 4); }) != "no error");
    check_refused("[resize_image]", [&] { (void)resize_image(blank_image(4, 4), below, 4); });
  }
  check_refused("is no tensor's shape", [&] { (void)adaptive_max_pool(x, {Index{1} << 32, Index{1} << 32}); });
  check_refused("[max_pool]", [&] { (void)max_pool(x, {.size = {0, 1}}); });
  check_refused("[resize]", [&] { (void)resize(x, {0, 3}, Interpolation::bilinear); });
}

TEST_CASE("sizes of Pathfinder images out of range are errors before anything is drawn") {
  for (const Index size : {most, most / 2 + 1, Index{1} << 40, Index{0}, Index{-1}, least}) {
    CAPTURE(size);
    check_refused("[pathfinder]", [&] { Pathfinder generator({.size = size}); });
    if (size != 0) check_refused("[pathfinder]", [&] { Pathfinder generator({.size = 32, .window = size}); });
  }
  for (const Index count : {most, Index{0}, Index{-1}, least}) {
    const Pathfinder small({.size = 32, .window = 112, .distractors = 0});
    CHECK(error_of([&] { (void)small.batch(1, 0, count); }) != "no error");
  }
  for (const Index count : {most, most / 2, Index{1} << 50, Index{0}, least})
    CHECK(error_of([&] { (void)gabor_bank(count); }) != "no error");
}

TEST_CASE("batch norm refuses images of other channels than its own") {
  const auto norm = BatchNorm<double>::initial(3, 1, 0, 1e-5);
  for (const Index channels : {1, 2, 4}) {
    const Var<double> image = Tensor<double>(Shape{1, channels, 4, 4}, 1.0);
    check_refused("expected images of 3 channels", [&] { (void)norm(image); });
    check_refused("[batch_norm]", [&] { (void)norm.fold(image); });
  }
  const auto frozen = FrozenBatchNorm<double>::initial(3);
  for (const Shape& shape : {Shape{1, 1, 4, 4}, Shape{1, 4, 4, 4}, Shape{3, 4, 4}})
    check_refused("expected images (N, C, H, W) of 3 channels", [&] { (void)frozen(Var<double>(Tensor<double>(shape, 1.0))); });
  const auto of_one = BatchNorm<double>::initial(1, 1, 0, 1e-5);
  check_refused("[batch_norm]", [&] { (void)of_one(Var<double>(Tensor<double>(Shape{1, 3, 4, 4}, 1.0))); });
  const BatchNorm<double> uneven{Tensor<double>(Shape{3}, 1.0), Tensor<double>(Shape{1}, 1.0)};
  check_refused("[batch_norm]", [&] { (void)uneven(Var<double>(Tensor<double>(Shape{1, 3, 4, 4}, 1.0))); });
}

TEST_CASE("the padding of ConvOptions::same keeps the image's size for every kernel, as PyTorch's 'same'") {
  for (const Index height : {1, 2, 3, 4, 7})
    for (const Index width : {1, 2, 4, 5})
      for (const Index dilation : {1, 2, 3}) {
        CAPTURE(height);
        CAPTURE(width);
        CAPTURE(dilation);
        const Tensor<float> w = counted({2, 1, height, width});
        const auto options = ConvOptions::same(w.shape(), {dilation, dilation});
        const Var<float> x = counted({2, 1, 8, 9});
        const auto y = conv(x, Var<float>(w), options);
        CHECK(y.shape() == Shape{2, 2, 8, 9});
        // torch.nn.functional.conv2d(padding='same') pads (total / 2, total - total / 2) and convolves.
        const Index rows = dilation * (height - 1), columns = dilation * (width - 1);
        const auto padded = pad(x, {0, 0, rows / 2, columns / 2}, {0, 0, rows - rows / 2, columns - columns / 2});
        const auto expected = conv(padded, Var<float>(w), {.dilation = {dilation, dilation}});
        REQUIRE(expected.shape() == y.shape());
        for (Index k = 0; k < y.size(); ++k) CHECK(y.value().data()[k] == expected.value().data()[k]);
      }
  CHECK(conv(zeros({1, 1, 32, 32}), zeros({1, 1, 4, 4}), ConvOptions::same({1, 1, 4, 4})).shape() ==
        Shape{1, 1, 32, 32});
  // torch 2: conv2d(arange(9).view(1,1,3,3), arange(4).view(1,1,2,2), padding='same')
  const auto y = conv(Var<float>(counted({1, 1, 3, 3})), Var<float>(counted({1, 1, 2, 2})), ConvOptions::same({1, 1, 2, 2}));
  const std::vector<float> expected{19, 25, 10, 37, 43, 16, 7, 8, 0};
  for (std::size_t k = 0; k < 9; ++k) CHECK(y.value().data()[k] == expected[k]);
}
