// The networks of panoptic segmentation: sizes, the released code's numbers, and PyTorch's.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "panoptic_references.hpp"
#include "settle/autodiff/grad.hpp"
#include "settle/vision/panoptic_fpn.hpp"

using namespace settle;
namespace fp = settle::fixed_point;

namespace {

using V = Var<double>;
using Net = PanopticFpn<double>;
using Head = MaskHead<double>;

/// a sin(k), a sin(2 k), ... in row-major order.
Tensor<double> sines(const Shape& shape, double a, double k) {
  Tensor<double> out(shape);
  for (Index i = 0; i < out.size(); ++i) out.mutable_data()[i] = a * std::sin(k * static_cast<double>(i + 1));
  return out;
}

double total(const Tensor<double>& x) {
  double out = 0;
  for (const double value : x.values()) out += value;
  return out;
}

double norm(const Tensor<double>& x) {
  double out = 0;
  for (const double value : x.values()) out += value * value;
  return std::sqrt(out);
}

/// One number of a tensor that depends on all of its elements.
double projection(const V& x) { return total((x * sines(x.shape(), 1, .13)).value()); }

/// The parameters' values as scripts/panoptic_references.py has them.
template <class M>
void fill(M& module) {
  int number = 0;
  module.parameters([&](const std::string& name, V& parameter) {
    const Shape& s = parameter.shape();
    const double scale = s.rank() == 2 || s.rank() == 4 ? 1.2 / std::sqrt(static_cast<double>(s.size() / s[0])) : 0.3;
    const bool is_norm =
        name.ends_with("norm.weight") || name.ends_with("bn.0.weight") || name.ends_with("bn.1.weight");
    Tensor<double> values = sines(s, scale, .37 + .11 * number++);
    for (Index k = 0; is_norm && k < values.size(); ++k) values.mutable_data()[k] += 1;
    parameter = values;
  });
}

void check_close(double found, double expected, double tolerance) {
  CHECK(std::abs(found - expected) <= tolerance * std::max(1., std::abs(expected)));
}

/// An ellipse in its box.
Mask ellipse(Index height, Index width, const double* box) {
  Mask out = empty_mask(height, width);
  for (Index y = 0; y < height; ++y)
    for (Index x = 0; x < width; ++x) {
      const double v = (static_cast<double>(y) + .5 - (box[1] + box[3]) / 2) / (box[3] - box[1]);
      const double u = (static_cast<double>(x) + .5 - (box[0] + box[2]) / 2) / (box[2] - box[0]);
      out(y, x) = u * u + v * v <= .25;
    }
  return out;
}

PanopticTruth truth_of(Index height, Index width, const std::vector<double>& boxes, const std::vector<Index>& classes,
                       Index kinds) {
  PanopticTruth out;
  out.boxes = Tensor<double>(Shape{std::ssize(classes), 4}, boxes);
  out.classes = classes;
  for (std::size_t k = 0; k < classes.size(); ++k) out.masks.push_back(ellipse(height, width, boxes.data() + 4 * k));
  out.semantic = Tensor<float>(Shape{height, width});
  for (Index y = 0; y < height; ++y)
    for (Index x = 0; x < width; ++x) {
      const bool unknown = y >= 3 && y < 5 && x >= 7 && x < 20;
      out.semantic.mutable_data()[y * width + x] =
          unknown ? 255.f : static_cast<float>((y / 13 + x / 17) % (kinds + 1));
    }
  return out;
}

Tensor<double> picture(Index height, Index width, double frequency) {
  Tensor<double> out = sines({3, height, width}, 127.5, frequency);
  for (Index k = 0; k < out.size(); ++k) out.mutable_data()[k] += 127.5;
  return out;
}

Index trained(const PanopticFpnOptions& options) {
  ParameterStreams streams = ParameterStreams::blank();
  return parameter_count(Net::initial(options, streams));
}

}  // namespace

TEST_CASE("numbers of trainable parameters are those of the released models") {
  const Index recurrent = trained(PanopticFpnOptions::full());
  CHECK(recurrent == 44968038);
  // Other parts' numbers do not depend on one another.
  const auto head = [](bool with) {
    MaskHeadOptions o;
    o.recurrent = with;
    ParameterStreams streams = ParameterStreams::blank();
    return parameter_count(Head::initial(o, {}, 256, 80, streams));
  };
  CHECK(head(false) - head(true) == 783552);
  const Index feed_forward = recurrent + head(false) - head(true);
  CHECK(feed_forward == 45751590);
  const auto trunk = [](Index depth) {
    ParameterStreams streams = ParameterStreams::blank();
    ResnetOptions o = ResnetOptions::of_depth(depth);
    o.freeze_at = 2;
    return parameter_count(Resnet<double>::initial(o, streams));
  };
  const Index deeper = trunk(101) - trunk(50);
  CHECK(recurrent + deeper == 63907942);
  CHECK(feed_forward + deeper == 64691494);
  // torchvision's ResNets without their classifiers and norms.
  ResnetOptions small = ResnetOptions::of_depth(18);
  small.freeze_at = 0;
  ParameterStreams streams = ParameterStreams::blank();
  CHECK(parameter_count(Resnet<double>::initial(small, streams)) == 11689512 - 513000 - 9600);
  small.blocks = ResnetOptions::of_depth(34).blocks;
  CHECK(parameter_count(Resnet<double>::initial(small, streams)) == 21797672 - 513000 - 17024);
  CHECK(contains(error_of([] { ResnetOptions::of_depth(20); }),
                 "[resnet] expected a depth of 18, 34, 50 or 101, got 20"));
  CHECK(contains(error_of([] { PanopticFpnOptions::preset("huge"); }), "expected the preset full or tiny, got huge"));
}

TEST_CASE("a tiny Panoptic FPN has the prototype's numbers of parameters, and forgets none") {
  PanopticFpnOptions options = PanopticFpnOptions::tiny();
  CHECK(trained(options) == 685918);
  options.mask.recurrent = false;
  CHECK(trained(options) == 697846);
  ParameterStreams streams = ParameterStreams::blank();
  options.mask.recurrent = true, options.resnet.freeze_at = 3, options.resnet.norm = {NormKind::frozen_batch};
  const Net net = Net::initial(options, streams);
  settle::check(net);
  const std::vector<std::string> names = parameter_names(net);
  for (const char* name :
       {"backbone.bottom_up.res4.0.shortcut.weight", "backbone.fpn_lateral2.bias", "backbone.fpn_output5.weight",
        "proposal_generator.rpn_head.anchor_deltas.weight", "roi_heads.box_head.fc2.bias",
        "roi_heads.box_predictor.cls_score.weight", "roi_heads.mask_head.recurrent.u0_spatial_gate_1",
        "roi_heads.mask_head.horizontal_norm.weight", "roi_heads.mask_head.deconv.weight",
        "roi_heads.mask_head.predictor.bias", "sem_seg_head.p5.4.norm.bias", "sem_seg_head.predictor.weight"})
    CHECK_MESSAGE(std::find(names.begin(), names.end(), name) != names.end(), name);
  std::vector<std::string> buffers;
  Net copy = net;
  copy.buffers([&](const std::string& name, const V&) { buffers.push_back(name); });
  for (const char* name :
       {"backbone.bottom_up.stem.conv1.weight", "backbone.bottom_up.res3.0.conv2.weight",
        "backbone.bottom_up.res5.0.conv3.norm.running_var", "roi_heads.mask_head.horizontal_norm.running_mean"})
    CHECK_MESSAGE(std::find(buffers.begin(), buffers.end(), name) != buffers.end(), name);
}

TEST_CASE("images are padded to multiples of 32, and normalised in the trunk's order of colours") {
  CHECK(padded_size({{15, 20}}, 4) == ImageSize{16, 20});
  CHECK(padded_size({{25, 20}, {10, 10}}, 4) == ImageSize{28, 20});
  CHECK(padded_size({{800, 1199}}) == ImageSize{800, 1216});
  CHECK(contains(error_of([] { padded_size({}, 0); }), "a divisor of at least 1, got 0"));
  Net net;
  net.options.pixel_mean = {1, 2, 3}, net.options.pixel_deviation = {1, 2, 4};
  const Tensor<double> image(Shape{3, 1, 1}, std::vector<double>{10, 20, 30});
  for (const bool blue_first : {true, false}) {
    net.options.blue_first = blue_first;
    const V batch = net.batch({image, image});
    REQUIRE(batch.shape() == Shape{2, 3, 32, 32});
    const double red = 9, green = 9, blue = 27. / 4;
    const auto values = batch.value().values();
    CHECK(values[3 * 1024] == (blue_first ? blue : red));
    CHECK(values[4 * 1024] == green);
    CHECK(values[5 * 1024] == (blue_first ? red : blue));
    CHECK(total(batch.value()) == doctest::Approx(2 * (red + green + blue)));
  }
}

TEST_CASE("ResNets halve the image's size in each stage, rounded up, wherever they stride") {
  for (const bool bottleneck : {true, false})
    for (const bool stride_in_1x1 : {true, false}) {
      ResnetOptions o{.blocks = {1, 2, 1, 1}, .bottleneck = bottleneck, .stem_channels = 4, .channels = 8};
      o.stride_in_1x1 = stride_in_1x1, o.freeze_at = 3;
      ParameterStreams streams(5);
      auto net = Resnet<double>::initial(o, streams);
      settle::check(net);
      Tape<double> tape;
      auto taped = on_tape(net, tape);
      const auto features = taped.forward(V(sines({2, 3, 33, 40}, 1, .1)), Mode::train);
      const Index sides[4][2] = {{9, 10}, {5, 5}, {3, 3}, {2, 2}};
      for (std::size_t s = 0; s < 4; ++s) {
        CHECK(features[s].shape() == Shape{2, Index{8} << s, sides[s][0], sides[s][1]});
        CHECK((features[s].tape() == nullptr) == (s < 2));  // what is frozen is not recorded
      }
      const auto name = parameter_names(net).front();
      CHECK(name == "res4.0.conv1.weight");
      CHECK(net.stages[0][0].convolutions[0].stride == 1);
      CHECK(net.stages[1][0].convolutions[bottleneck && !stride_in_1x1 ? 1 : 0].stride == 2);
    }
  CHECK(contains(error_of([] {
                   ParameterStreams streams(1);
                   Resnet<double>::initial({.blocks = {1, 0, 1, 1}}, streams);
                 }),
                 "at least one block in each stage, got 0"));
}

TEST_CASE("the hGRU cell has the released code's states, penalty and gradients") {
  GalaHgruCell<double> cell;
  const Index c = 32;
  cell.w_gate_inh = sines({c, c, 3, 3}, .2, .7), cell.w_gate_exc = sines({c, c, 3, 3}, .2, 1.3);
  cell.u1_gate = {sines({c, c, 1, 1}, .2, .9), sines({c}, 1, .57)};
  cell.alpha = sines({c, 1, 1}, .5, .31), cell.mu = Tensor<double>(Shape{c, 1, 1}, 1.);
  cell.gate.channel_gate_0 = {sines({8, c, 1, 1}, .5, .23), sines({8}, .5, .41)},
  cell.gate.channel_gate_1 = sines({c, 8, 1, 1}, .8, .37);
  cell.gate.spatial_gate_0 = sines({16, c, 3, 3}, .3, .53), cell.gate.spatial_bias = sines({16, 1, 1}, .3, .61);
  cell.gate.spatial_gate_1 = sines({1, 16, 3, 3}, .5, .29), cell.gate.combine_bias = sines({c, 1, 1}, .5, .11);
  cell.bn = {GroupNorm<double>{sines({c}, 1, .47), sines({c}, .5, .83), 32},
             GroupNorm<double>{sines({c}, 1, .57), sines({c}, .5, .93), 32}};
  const Tensor<double> drive = sines({2, c, 4, 5}, 1.5, .13);

  V h = cell.initial_state(drive), before;
  for (int t = 1; t <= 20; ++t) {
    before = h;
    h = cell(h, V(drive));
    const auto row = [&](double sum, double first, double last, double middle) {
      CAPTURE(t);
      const auto z = h.value().values();
      CHECK(std::abs(total(h.value()) - sum) < 1e-9);
      CHECK(std::abs(z[0] - first) < 1e-11);
      CHECK(std::abs(z[2 * 32 * 20 - 1] - last) < 1e-11);
      CHECK(std::abs(z[17 * 20 + 2 * 5 + 3] - middle) < 1e-11);
    };
    if (t == 1) row(493.588538199368, 1.120980168683, .260455666262, .197229640711);
    if (t == 2) row(708.045351581802, 1.534808964182, .384727348467, .270142417279);
    if (t == 5) row(903.896677017147, 1.819297231251, .550834560422, .406659260614);
    if (t == 19) row(985.704516162101, 1.902124928544, .629660962967, .533528153744);
    if (t == 20) row(986.263900318462, 1.903660263606, .630003267620, .534713813037);
  }

  Tape<double> tape;
  const V leaf = tape.leaf(before.value());
  const Tensor<double> v = grad(sum(cell(leaf, V(drive))), {leaf})[0].value();
  CHECK(total(v) / static_cast<double>(v.size()) == doctest::Approx(.498947053879).epsilon(1e-10));
  CHECK(*std::min_element(v.values().begin(), v.values().end()) == doctest::Approx(.075300158915).epsilon(1e-9));
  CHECK(*std::max_element(v.values().begin(), v.values().end()) == doctest::Approx(.884199911775).epsilon(1e-10));

  MaskHeadOptions options;
  const auto solved = [&](double tau, auto use) {
    options.penalty_threshold = tau;
    Tape<double> own;
    const auto taped = on_tape(cell, own);
    const V x = own.leaf(drive);
    const auto solution = fp::solve(taped, std::get<Rbp>(options.policy()).options, taped.initial_state(x), x);
    use(taped, x, solution);
  };
  solved(.95, [](const auto&, const V&, const auto& s) { CHECK(s.penalty.item() == 0); });
  solved(.6, [](const auto& taped, const V& x, const auto& s) {
    CHECK(s.penalty.item() == doctest::Approx(7.959222881368).epsilon(1e-11));
    const auto g = grad(s.penalty, {taped.w_gate_inh, taped.w_gate_exc, taped.u1_gate.weight, taped.u1_gate.bias,
                                    taped.alpha, taped.mu, taped.gate.combine_bias, taped.bn[0].weight, x});
    CHECK(norm(g[0].value()) == doctest::Approx(2.398325017).epsilon(1e-8));
    const double sums[] = {-.7753435448, 10.55905153,  -528.9326333, -18.41501535, 3.962931705,
                           5.563210451,  -.2364019857, -4.070342711, 2.391915061};
    for (std::size_t k = 0; k < g.size(); ++k) CHECK(total(g[k].value()) == doctest::Approx(sums[k]).epsilon(1e-8));
  });
  solved(.3, [](const auto& taped, const V&, const auto& s) {
    CHECK(s.penalty.item() == doctest::Approx(96.245349417373).epsilon(1e-12));
    CHECK(norm(grad(s.penalty, {taped.w_gate_inh})[0].value()) == doctest::Approx(8.029931985).epsilon(1e-8));
  });
  const auto upstream = [](double a, const auto& taped, const V& x, const auto& s) {
    return grad(sum(s.z * sines(s.z.shape(), a, .77)),
                {x, taped.w_gate_inh, taped.w_gate_exc, taped.alpha, taped.u1_gate.bias});
  };
  for (const bool cap : {true, false}) {
    options.norm_cap = cap;
    solved(.95, [&](const auto& taped, const V& x, const auto& s) {
      const auto g = upstream(1e-4, taped, x, s);
      const double sums[] = {-9.437024693e-5, -.001196437578, -.004920625754, .0003363113103, 1.03866261e-5};
      for (std::size_t k = 0; k < 5; ++k) CHECK(total(g[k].value()) == doctest::Approx(sums[k]).epsilon(1e-8));
      CHECK(norm(g[0].value()) == doctest::Approx(.002025089044).epsilon(1e-8));
      CHECK(norm(g[1].value()) == doctest::Approx(.001604392516).epsilon(1e-8));
    });
    solved(.95, [&](const auto& taped, const V& x, const auto& s) {
      const auto g = upstream(1, taped, x, s);
      CHECK(total(g[0].value()) == doctest::Approx(cap ? -.3926526334 : -.9437024693).epsilon(1e-8));
      CHECK(total(g[1].value()) == doctest::Approx(cap ? -4.428768601 : -11.96437578).epsilon(1e-8));
    });
  }
}

TEST_CASE("the hGRU with other channels in its state has PyTorch's states and gradients") {
  for (const bool gala : {true, false}) {
    const std::vector<double>& expected = hgru_v2_references[gala ? 0 : 1];
    ParameterStreams streams(1);
    auto cell = HgruV2Cell<double>::initial({.in = 8, .channels = 12, .gala = gala, .groups = 4}, streams);
    fill(cell);
    Tape<double> tape;
    const auto taped = on_tape(cell, tape);
    const V x = tape.leaf(sines({2, 8, 5, 4}, 1.5, .17));
    V h = taped.initial_state(x);
    for (int t = 0; t < 3; ++t) h = taped(h, x);
    const V along = sum(h * sines(h.shape(), 1, .13));
    std::vector<V> wanted = parameters<V>(taped);
    wanted.push_back(x);
    std::vector<double> found{along.item()};
    for (const V& g : grad(along, wanted)) found.push_back(projection(g));
    REQUIRE(found.size() == expected.size());
    for (std::size_t k = 0; k < found.size(); ++k) {
      CAPTURE(k);
      check_close(found[k], expected[k], 1e-9);
    }
  }
}

TEST_CASE("the gates' biases start as released, or as intended") {
  GalaHgruOptions options{.channels = 64, .steps = 20};
  const auto bias = [&](Initialisation how) {
    options.initialisation = how;
    ParameterStreams streams(4);
    const auto cell = GalaHgruCell<double>::initial(options, streams);
    const V first = options.gala ? reshape(cell.gate.combine_bias, {64}) : cell.gate.u0_gate.bias;
    for (std::size_t k = 0; k < 64; ++k) CHECK(first.value().values()[k] == -cell.u1_gate.bias.value().values()[k]);
    return first.value();
  };
  for (const bool gala : {true, false}) {
    options.gala = gala;
    const Tensor<double> released = bias(Initialisation::released), intended = bias(Initialisation::corrected);
    for (std::size_t k = 0; k < 64; ++k) {
      CHECK((released.values()[k] >= 1 && released.values()[k] < 19));
      CHECK(intended.values()[k] == doctest::Approx(std::log(released.values()[k])));
    }
  }
  options.steps = 1;
  CHECK(total(bias(Initialisation::released)) == 64);
}

TEST_CASE("the recurrent mask head has PyTorch's loss, penalty and gradients") {
  for (const HeadReference& reference : head_references) {
    const std::string method = reference.method;
    CAPTURE(method);
    CAPTURE(reference.steps);
    CAPTURE(reference.cap);
    CAPTURE(reference.gala);
    CAPTURE(reference.less_softplus);
    CAPTURE(reference.scale);
    MaskHeadOptions options;
    options.pool = 6, options.channels = 12, options.groups = 4;
    options.training = method == "bptt" ? MaskTraining::bptt : method == "rbp" ? MaskTraining::rbp : MaskTraining::cbp;
    options.steps = reference.steps, options.norm_cap = reference.cap;
    options.gala = reference.gala, options.less_softplus = reference.less_softplus;
    options.penalty_weight = .05, options.penalty_threshold = .3;
    ParameterStreams streams(1);
    Head head = Head::initial(options, {}, 16, 5, streams);
    fill(head);
    Tape<double> tape;
    Head taped = on_tape(head, tape);
    const V x = tape.leaf(sines({3, 16, 6, 6}, 1.5, .17));
    const auto output = taped.forward(x, Mode::train);
    Tensor<double> targets = sines({3, 12, 12}, 1, .41);
    for (Index k = 0; k < targets.size(); ++k) targets.mutable_data()[k] = targets.data()[k] > 0;
    const V loss = binary_cross_entropy_with_logits(taped.of_classes(output.logits, {4, 0, 2}), targets);
    std::vector<double> found{projection(output.logits), loss.item(), output.penalty.item()};
    taped.buffers([&](const std::string&, const V& statistics) { found.push_back(projection(statistics)); });
    std::vector<V> wanted = parameters<V>(taped);
    wanted.push_back(x);
    for (const V& g : grad(reference.scale * loss + output.penalty, wanted)) found.push_back(projection(g));
    REQUIRE(found.size() == reference.values.size());
    for (std::size_t k = 0; k < found.size(); ++k) {
      CAPTURE(k);
      check_close(found[k], reference.values[k], 1e-9);
    }
  }
}

TEST_CASE("a mask head without regions gives no masks, and costs nothing") {
  for (const bool recurrent : {true, false}) {
    MaskHeadOptions options = PanopticFpnOptions::tiny().mask;
    options.recurrent = recurrent;
    ParameterStreams streams(1);
    Tape<double> tape;
    Head head = on_tape(Head::initial(options, {}, 32, 3, streams), tape);
    const V none = tape.leaf(Tensor<double>(Shape{0, 32, 14, 14}));
    for (const Mode mode : {Mode::train, Mode::evaluate}) {
      const auto output = head.forward(none, mode);
      CHECK(output.logits.shape() == Shape{0, 3, 28, 28});
      CHECK(output.penalty.item() == 0);
      CHECK(head.loss(output, {}, {}).item() == 0);
    }
    const auto g = grad(head.loss(head.forward(none, Mode::train), {}, {}), parameters<V>(head));
    CHECK(std::all_of(g.begin(), g.end(), [](const V& v) { return norm(v.value()) == 0; }));
  }
}

TEST_CASE("memory of the recurrent head does not grow with its steps through the fixed point, and does in time") {
  const auto peak = [](MaskTraining training, int steps) {
    MaskHeadOptions options = PanopticFpnOptions::tiny().mask;
    options.training = training, options.steps = steps, options.terms = 2;
    ParameterStreams streams(1);
    Tape<double> tape;
    Head head = on_tape(Head::initial(options, {}, 32, 3, streams), tape);
    const V x = tape.leaf(sines({2, 32, 14, 14}, 1, .3));
    Memory::instance().reset_peak();
    const auto output = head.forward(x, Mode::train);
    (void)grad(sum(output.logits) + output.penalty, parameters<V>(head));
    return Memory::instance().use().peak;
  };
  (void)peak(MaskTraining::cbp, 2);  // what is kept from one use to the next
  const std::size_t at_3 = peak(MaskTraining::cbp, 3);
  CHECK(peak(MaskTraining::cbp, 9) == at_3);
  const std::size_t in_time = peak(MaskTraining::bptt, 3);
  CHECK(peak(MaskTraining::bptt, 9) > in_time + 6 * 2 * 32 * 14 * 14 * sizeof(double));
}

TEST_CASE("the box head has detectron2's losses") {
  BoxHead<double> head;
  head.things = 5;
  Regions<double> regions{
      Tensor<double>(Shape{2, 4}, std::vector<double>{.8, 1.1, 3.2, 2.8, 2.3, 2.5, 7, 8}), {0, 0}, {1, 2}, {0, 1}};
  PanopticTruth truth;
  truth.boxes = Tensor<double>(Shape{2, 4}, std::vector<double>{1, 1, 3, 3, 2, 2, 6, 6});
  truth.classes = {1, 2};
  const Tensor<double> scores(
      Shape{2, 6}, std::vector<double>{.0014459059, -.0014269609, -.0004513913, -.0037668038, .0213326607, .0218337756,
                                       -.0095499009, -.0036834572, .0066892505, .0026827499, .0100882715, .0259609837});
  Tensor<double> deltas(Shape{2, 20}, 0.);
  const double of_class[2][4] = {{.0014436411, .0005594051, -.0025519053, -.0019639591},
                                 {-.0002951966, -.0015175284, -.0007665620, .0010747042}};
  for (Index k = 0; k < 4; ++k)
    deltas.mutable_data()[4 + k] = of_class[0][k], deltas.mutable_data()[20 + 8 + k] = of_class[1][k];
  const auto [cls, box_reg] = head.losses({V(scores), V(deltas)}, regions, {truth});
  CHECK(cls.item() == doctest::Approx(1.7951188087).epsilon(1e-7));
  CHECK(box_reg.item() == doctest::Approx(4.0357131958).epsilon(1e-6));
}

TEST_CASE("a small Panoptic FPN has PyTorch's losses and gradients") {
  PanopticFpnOptions o = PanopticFpnOptions::tiny();
  o.things = o.stuff = 2, o.canonical_size = 32;
  o.resnet.stem_channels = o.resnet.channels = 8, o.resnet.squeeze = 4, o.resnet.norm.groups = 2;
  o.fpn.channels = 8;
  o.proposals.anchor_sizes = {8, 16, 32, 48, 64};
  o.proposals.batch = 100000, o.proposals.positive_share = 1;  // all are sampled: nothing is random
  o.proposals.before_nms_train = 40, o.proposals.after_nms_train = 25;
  o.box.pool = 3, o.box.hidden = 12, o.box.batch = 100000, o.box.positive_share = 1;
  o.mask.recurrent = false, o.mask.pool = 4, o.mask.channels = 8, o.mask.convolutions = 2;
  o.semantic.channels = 8, o.semantic.norm.groups = 4;
  ParameterStreams streams = ParameterStreams::blank();
  Net net = Net::initial(o, streams);
  fill(net);
  Tape<double> tape;
  Net taped = on_tape(net, tape);
  Random random(1);
  const auto losses = taped.losses(
      {picture(50, 64, .0117), picture(40, 58, .0147)},
      {truth_of(50, 64, {6, 4, 34, 30, 30, 20, 60, 47}, {1, 0}, 2), truth_of(40, 58, {3.5, 8, 27, 37}, {1}, 2)},
      random);
  std::vector<double> found;
  for (const auto& loss : losses.named()) found.push_back(loss.second.item());
  CHECK(found.back() == 0);
  found.pop_back();
  const V objective =
      1000. * (losses.rpn_cls + losses.rpn_loc) + losses.cls + losses.box_reg + losses.mask + losses.sem_seg;
  for (const V& g : grad(objective, parameters<V>(taped))) found.push_back(projection(g));
  REQUIRE(found.size() + 2 == net_reference.size());
  for (std::size_t k = 0; k < found.size(); ++k) {
    CAPTURE(k);
    check_close(found[k], net_reference[k + 2], 1e-8);
  }
}

TEST_CASE("laterals and the semantic head may be recurrent too") {
  PanopticFpnOptions o = PanopticFpnOptions::tiny();
  o.mask.recurrent = false;
  o.fpn.recurrent = o.semantic.recurrent = true;
  o.fpn.steps = o.semantic.steps = 3, o.fpn.terms = o.semantic.terms = 2;
  o.fpn.penalty_threshold = o.semantic.penalty_threshold = .1;
  ParameterStreams streams(2);
  const Net net = Net::initial(o, streams);
  settle::check(net);
  Tape<double> tape;
  Net taped = on_tape(net, tape);
  Random random(3);
  const Tensor<double> image = picture(32, 40, .05);
  const auto losses = taped.losses({image}, {truth_of(32, 40, {5, 6, 30, 30}, {1}, 3)}, random);
  CHECK(losses.penalty.item() > 0);
  const std::vector<std::string> names = parameter_names(net);
  const auto g = grad(losses.total(), parameters<V>(taped));
  for (std::size_t k = 0; k < g.size(); ++k) {
    CHECK_MESSAGE(std::isfinite(norm(g[k].value())), names[k]);
    if (names[k].find("recurrent") != std::string::npos) CHECK_MESSAGE(norm(g[k].value()) > 0, names[k]);
  }
  CHECK(net.predict(image).stuff.width == 40);
}

TEST_CASE("a tiny Panoptic FPN trains with and without things, and predicts") {
  PanopticFpnOptions o = PanopticFpnOptions::tiny();
  o.mask.steps = 3, o.mask.terms = 3;
  ParameterStreams streams(1);
  const Net net = Net::initial(o, streams);
  const Tensor<double> image = picture(40, 70, .05);
  PanopticTruth some = truth_of(40, 70, {5, 6, 30, 33, 40, 5, 66, 28, 1, 1, 1, 9}, {1, 2, 0}, 3);
  some.crowd = {false, true, false};  // the third has no width
  const PanopticTruth none = truth_of(40, 70, {}, {}, 3);
  for (const std::vector<PanopticTruth>& truths : {std::vector{some, none}, std::vector{none, none}}) {
    Tape<double> tape;
    Net taped = on_tape(net, tape);
    Random random(3), again(3);
    const auto losses = taped.losses({image, image}, truths, random);
    for (const auto& loss : losses.named()) CHECK_MESSAGE(std::isfinite(loss.second.item()), loss.first);
    CHECK((losses.mask.item() > 0) == (truths[0].boxes.size() > 0));
    for (const V& g : grad(losses.total(), parameters<V>(taped))) CHECK(std::isfinite(norm(g.value())));
    Net other = net;
    CHECK(other.losses({image, image}, truths, again).total().item() == losses.total().item());
  }

  const auto found = net.predict(image, {.size = {{30, 50}}, .steps = 2});
  CHECK(found.semantic_logits.shape() == Shape{4, 30, 50});
  CHECK((found.stuff.height == 30 && found.stuff.width == 50));
  CHECK(found.things.boxes.shape(0) == std::ssize(found.masks));
  CHECK(found.probabilities.shape() == Shape{std::ssize(found.masks), 28, 28});
  CHECK(std::is_sorted(found.things.scores.rbegin(), found.things.scores.rend()));
  const PanopticSegments merged = found.merged({10, 20, 30}, {40, 50, 60}, {.least_stuff_area = 5});
  CHECK(merged.map.height == 30);

  const Tensor<double> boxes(Shape{2, 4}, std::vector<double>{5, 6, 30, 33, 40, 5, 66, 28});
  int steps = 0;
  net.masks_over_steps(image, boxes, {1, 2}, 3, [&](int k, const Tensor<double>& masks) {
    CHECK(k == ++steps);
    CHECK(masks.shape() == Shape{2, 28, 28});
    if (k == 2) CHECK(norm((V(masks) - V(net.masks_of(image, boxes, {1, 2}, 2))).value()) < 1e-12);
  });
  CHECK(steps == 3);
  CHECK(net.masks_of(image, Tensor<double>(Shape{0, 4}), {}).shape() == Shape{0, 28, 28});

  CHECK(contains(error_of([&] { net.predict(Tensor<double>(Shape{1, 4, 4}, 0.)); }), "expected images (3, H, W)"));
  Random random(1);
  Net other = net;
  CHECK(contains(error_of([&] { other.losses({image}, {}, random); }), "the truth of 1 images, got 0"));
  PanopticTruth wrong = some;
  wrong.semantic = Tensor<float>(Shape{40, 71}, 0.f);
  CHECK(contains(error_of([&] { other.losses({image}, {wrong}, random); }), "a semantic map (40, 70) as the image"));
}
