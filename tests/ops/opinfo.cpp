// The operations against PyTorch's own sample inputs: what scripts/opinfo_cases.py wrote into the folder SETTLE_OPINFO.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "ops/opinfo_operations.hpp"
#include "settle/autodiff/grad.hpp"
#include "settle/nn/batch_norm.hpp"
#include "settle/nn/group_norm.hpp"
#include "settle/nn/losses.hpp"
#include "settle/ops/all.hpp"

using namespace settle;
using namespace opinfo;

namespace {

/// Images (N, C, H, W) of what PyTorch also takes as one image, or as lines (N, C, L) or (C, L).
struct Images {
  V x;
  bool one = false, lines = false;

  Images(const V& given, int axes) : x(given), lines(axes == 1) {
    if (lines) x = unsqueeze(x, -2);
    if (x.shape().rank() == 3) x = unsqueeze(x, 0), one = true;
    if (x.shape().rank() != 4) leave_out("images of other axes");
  }
  V back(V y) const {
    if (lines) y = squeeze(y, {2});
    return one ? squeeze(y, {0}) : y;
  }
  /// A pair's numbers, of which those of lines have only the second.
  Pair pair(Arguments& a, const char* name, Pair otherwise) const {
    if (!a.has(name)) return otherwise;
    const Pair asked = a.pair(name, otherwise);
    return lines ? Pair{otherwise[0], asked[1]} : asked;
  }
};

PoolOptions pool_options(Arguments& a, const Images& images) {
  PoolOptions o;
  o.size = images.pair(a, "kernel_size", {1, 1});
  o.stride = images.pair(a, "stride", {0, 0});
  o.padding = images.pair(a, "padding", {0, 0});
  o.partial_windows = a.flag("ceil_mode", false);
  return o;
}

void add_images(Table& table) {
  for (const int axes : {1, 2}) {
    const std::string end = axes == 1 ? "1d" : "2d";
    table["nn.functional.max_pool" + end] = [=](Arguments& a) -> Outputs {
      const Images images(a.tensor("input"), axes);
      if (images.pair(a, "dilation", {1, 1}) != Pair{1, 1}) leave_out("dilation");
      const V y = images.back(max_pool(images.x, pool_options(a, images)));
      if (a.flag("return_indices", false)) return {y, NotGiven{}};
      return {y};
    };
    table["nn.functional.avg_pool" + end] = [=](Arguments& a) -> Outputs {
      const Images images(a.tensor("input"), axes);
      PoolOptions o = pool_options(a, images);
      o.count_padding = a.flag("count_include_pad", true);
      return {images.back(average_pool(images.x, o))};
    };
    table["nn.functional.conv" + end] = [=](Arguments& a) -> Outputs {
      const Images images(a.tensor("input"), axes);
      const V given = a.tensor("weight"), weight = axes == 1 ? unsqueeze(given, 2) : given;
      ConvOptions o;
      o.dilation = images.pair(a, "dilation", {1, 1});
      if (!a.is_text("padding"))
        o.padding = images.pair(a, "padding", {0, 0});
      else if (a.text("padding", "") == "same")
        o = ConvOptions::same(weight.value().shape(), o.dilation);
      o.stride = images.pair(a, "stride", {1, 1}), o.groups = a.integer("groups", 1);
      const V y = conv(images.x, weight, o);
      return {images.back(a.has("bias") ? y + per_channel(a.tensor("bias")) : y)};
    };
  }
  table["nn.functional.conv_transpose2d"] = [](Arguments& a) -> Outputs {
    const Images images(a.tensor("input"), 2);
    if (a.integer("groups", 1) != 1) leave_out("groups");
    if (a.pair("dilation", {1, 1}) != Pair{1, 1}) leave_out("dilation");
    const V y = conv_transpose(images.x, a.tensor("weight"),
                               {a.pair("stride", {1, 1}), a.pair("padding", {0, 0}), a.pair("output_padding", {0, 0})});
    return {images.back(a.has("bias") ? y + per_channel(a.tensor("bias")) : y)};
  };
  for (const bool largest : {true, false})
    table[largest ? "nn.functional.adaptive_max_pool2d" : "nn.functional.adaptive_avg_pool2d"] =
        [=](Arguments& a) -> Outputs {
      const Images images(a.tensor("input"), 2);
      const Json& asked = a.json("output_size");
      Pair size{};
      for (std::size_t axis = 0; axis < 2; ++axis) {
        const Json& one = asked.is_array() ? asked.at(axis) : asked;
        size[axis] = one.is_null() ? images.x.shape(static_cast<int>(axis) + 2) : one.get<Index>();
      }
      const V y = largest ? adaptive_max_pool(images.x, size) : adaptive_average_pool(images.x, size);
      if (a.flag("return_indices", false)) return {images.back(y), NotGiven{}};
      return {images.back(y)};
    };

  const auto interpolated = [&](const char* name, Interpolation how, int axes, const char* asked) {
    table[name] = [=](Arguments& a) -> Outputs {
      a.pass_over("mode");
      const V x = a.tensor("input");
      if (x.shape().rank() != axes + 2) leave_out("images of other axes");
      const Images images(x, axes);
      if (a.flag("align_corners", false)) leave_out("align_corners");
      Pair size{1, 1};
      const bool again = a.flag("recompute_scale_factor", false);
      if (a.has("scale_factor")) {
        const Json& scale = a.json("scale_factor");
        for (std::size_t axis = axes == 1; axis < 2; ++axis) {
          const double factor = scale.is_array() ? scale.at(axes == 1 ? 0 : axis).get<double>() : scale.get<double>();
          const double extent = factor * static_cast<double>(images.x.shape(static_cast<int>(axis) + 2));
          if (!again && extent != std::floor(extent)) leave_out("a scale that is not the ratio of the sizes");
          size[axis] = static_cast<Index>(extent);
        }
      } else {
        size = images.pair(a, asked, size);
      }
      return {images.back(resize(images.x, size, how))};
    };
  };
  interpolated("nn.functional.interpolate:nearest", Interpolation::nearest, 2, "size");
  interpolated("nn.functional.upsample_nearest", Interpolation::nearest, 2, "size");
  interpolated("nn.functional.interpolate:linear", Interpolation::bilinear, 1, "size");
  interpolated("nn.functional.interpolate:bilinear", Interpolation::bilinear, 2, "size");
  interpolated("nn.functional.interpolate:bicubic", Interpolation::bicubic, 2, "size");
  interpolated("_upsample_bilinear2d_aa", Interpolation::bilinear_antialiased, 2, "output_size");

  for (const std::string mode : {"constant", "reflect", "replicate", "replicate_negative", "circular"}) {
    const auto f = [=](Arguments& a) -> Outputs {
      a.pass_over("mode");
      const V x = a.tensor("input");
      const auto ends = a.list("pad");
      Shape before, after;
      for (int axis = 0; axis < x.shape().rank(); ++axis) {
        const auto k = 2 * static_cast<std::size_t>(x.shape().rank() - 1 - axis);
        for (const std::size_t end : {k, k + 1})
          if (end < ends.size() && ends[end] < 0) leave_out("a padding below 0");
        before.append(k < ends.size() ? ends[k] : 0), after.append(k < ends.size() ? ends[k + 1] : 0);
      }
      const double value = a.number("value", 0);
      if (mode == "reflect") return {pad(x, before, after, Border::reflect)};
      if (mode == "circular") return {pad(x, before, after, Border::circular)};
      if (mode != "constant") return {pad(x, before, after, Border::replicate)};
      const V inside = pad(V(Tensor<double>(x.shape(), 1.)), before, after);
      return {map([](auto v, auto here, auto c) { return select(here == 0., c, v); }, pad(x, before, after), inside,
                  value)};
    };
    table["nn.functional.pad:" + mode] = f;
    if (mode == "constant") table["constant_pad_nd"] = f;
  }
}

V product(V a, V b) {
  const bool row = a.shape().rank() == 1, column = b.shape().rank() == 1;
  if (row) a = unsqueeze(a, 0);
  if (column) b = unsqueeze(b, 1);
  const auto batch = [](const V& x) { return part(x.shape(), 0, x.shape().rank() - 2); };
  const auto matrix = [](const V& x) { return part(x.shape(), x.shape().rank() - 2, x.shape().rank()); };
  const Shape both = broadcast(batch(a), batch(b));
  V y = matmul(broadcast_to(a, joined(both, matrix(a))), broadcast_to(b, joined(both, matrix(b))));
  if (column) y = squeeze(y, {-1});
  return row ? squeeze(y, {column ? -1 : -2}) : y;
}

void add_networks(Table& table) {
  for (const char* name : {"dot", "mv", "mm", "bmm", "bmm:triton_optimized", "matmul"})
    table[name] = [](Arguments& a) -> Outputs { return {product(a.tensor("input"), a.tensor("other"))}; };
  table["nn.functional.linear"] = [](Arguments& a) -> Outputs {
    const V x = a.tensor("input"), given = a.tensor("weight");
    const bool one = given.shape().rank() == 1;
    const V weight = one ? unsqueeze(given, 0) : given;
    const Shape rows = part(x.shape(), 0, x.shape().rank() - 1);
    const V y = matmul(reshape(x, {rows.size(), x.shape(-1)}), weight, {.transpose_b = true});
    return {reshape(a.has("bias") ? y + a.tensor("bias") : y, one ? rows : joined(rows, {weight.shape(0)}))};
  };
  table["nn.functional.scaled_dot_product_attention"] = [](Arguments& a) -> Outputs {
    if (a.number("dropout_p", 0) != 0) leave_out("dropout");
    if (a.flag("enable_gqa", false)) leave_out("queries of several heads for one head of keys");
    const V q = a.tensor("query"), k = a.tensor("key"), v = a.tensor("value");
    if (a.flag("is_causal", false)) return {attention(q, k, v, V(causal_mask<double>(q.shape(-2), k.shape(-2))))};
    if (!a.has("attn_mask")) return {attention(q, k, v)};
    const bool choice = a.is_boolean("attn_mask");
    const V mask = a.tensor("attn_mask");
    return {attention(q, k, v, choice ? map([](auto m) { return log(m); }, mask) : mask)};
  };

  const auto filled = [](Index extent, double value) { return V(Tensor<double>(Shape{extent}, value)); };
  table["nn.functional.layer_norm"] = [=](Arguments& a) -> Outputs {
    const V x = a.tensor("input");
    const Index extent = shape_of(a.list("normalized_shape")).size();
    const GroupNorm<double> norm{filled(1, 1), filled(1, 0), 1, a.number("eps", 1e-5)};
    const V y = reshape(norm(reshape(x, {extent == 0 ? 0 : x.size() / extent, 1, extent})), x.shape());
    const V scaled = a.has("weight") ? y * a.tensor("weight") : y;
    return {a.has("bias") ? scaled + a.tensor("bias") : scaled};
  };
  table["nn.functional.group_norm"] = [=](Arguments& a) -> Outputs {
    const V x = a.tensor("input");
    return {GroupNorm<double>{a.tensor_or("weight", filled(x.shape(1), 1)), a.tensor_or("bias", filled(x.shape(1), 0)),
                              a.integer("num_groups", 1), a.number("eps", 1e-5)}(x)};
  };
  table["nn.functional.batch_norm"] = [=](Arguments& a) -> Outputs {
    const V given = a.tensor("input");
    if (given.shape().rank() < 2) leave_out("one sample without a batch");
    const Index channels = given.shape(1);
    const Shape& s = given.shape();
    const V x = reshape(given, {s[0], channels, part(s, 2, s.rank()).size(), 1});
    const V weight = a.tensor_or("weight", filled(channels, 1)), bias = a.tensor_or("bias", filled(channels, 0));
    const double epsilon = a.number("eps", 1e-5);
    a.pass_over("momentum");
    if (a.flag("training", false)) {
      a.pass_over("running_mean"), a.pass_over("running_var");
      return {reshape(BatchNorm<double>{weight, bias, epsilon}(x), s)};
    }
    const V mean = a.constant("running_mean"), variance = a.constant("running_var");
    return {reshape(FrozenBatchNorm<double>{weight, bias, mean, variance, epsilon}(x), s)};
  };

  const auto reduction = [](Arguments& a) {
    const std::string how = a.text("reduction", "mean");
    if (how == "none") leave_out("no reduction");
    return how == "sum" ? LossReduction::sum : LossReduction::mean;
  };
  table["nn.functional.cross_entropy"] = [=](Arguments& a) -> Outputs {
    const V given = a.tensor("input"), x = given.shape().rank() == 1 ? unsqueeze(given, 0) : given;
    const Tensor<double> target = a.constant("target");
    if (target.shape() == given.shape()) leave_out("a target of probabilities");
    CrossEntropyOptions options;
    options.reduction = reduction(a);
    options.label_smoothing = a.number("label_smoothing", 0);
    options.ignore = a.number("ignore_index", -100);
    if (a.has("weight")) {
      const Tensor<double> weights = a.constant("weight");
      options.class_weights.assign(weights.values().begin(), weights.values().end());
    }
    return {cross_entropy(x, given.shape().rank() == 1 ? target.reshape({1}) : target, options)};
  };
  table["nn.functional.mse_loss"] = [=](Arguments& a) -> Outputs {
    return {mse_loss(a.tensor("input"), a.constant("target"), reduction(a))};
  };
  for (const std::string name : {"smooth_l1", "l1"})
    table["nn.functional." + name + "_loss"] = [=](Arguments& a) -> Outputs {
      const double beta = name == "l1" ? 0 : a.number("beta", 1);
      return {smooth_l1_loss(a.tensor("input"), a.constant("target"), beta, reduction(a))};
    };
  table["nn.functional.binary_cross_entropy_with_logits"] = [=](Arguments& a) -> Outputs {
    return {binary_cross_entropy_with_logits(a.tensor("input"), a.constant("target"), reduction(a))};
  };
}

/// What became of the cases of one operation.
struct Count {
  int compared = 0;
  std::map<std::string, int> left_out, notes;
  std::vector<std::string> different;
};

/// Where numbers differ from PyTorch's by more than rounding, in words; empty where they do not.
std::string difference(const Tensor<double>& got, const Tensor<double>& expected) {
  std::ostringstream out;
  if (got.shape() != expected.shape()) out << "shape " << got.shape() << ", expected " << expected.shape();
  double largest = 0;
  for (const double v : expected.values())
    if (std::isfinite(v)) largest = std::max(largest, std::abs(v));
  for (Index k = 0; k < got.size() && out.str().empty(); ++k) {
    const double v = got.data()[k], w = expected.data()[k];
    const double allowed = 1e-9 * std::max(std::abs(w), 1e-3 * std::max(largest, 1.0));
    if (v == w || (std::isnan(v) && std::isnan(w)) || (std::isfinite(w) && std::abs(v - w) <= allowed)) continue;
    out << std::setprecision(17) << "element " << k << " of " << got.shape() << " is " << v << ", expected " << w;
  }
  return out.str();
}

std::string difference(const Tensor<Index>& got, const Tensor<Index>& expected) {
  return difference(cast<double>(got), cast<double>(expected));
}

/// Compares one case; throws LeftOut.
std::string difference(const Json& one, const SafetensorsFile& file, const Function& f, Count& count) {
  Arguments arguments(one, file);
  const Outputs outputs = f(arguments);
  if (const std::string name = arguments.not_taken(); !name.empty()) leave_out(name);
  const auto& names = one.at("outputs");
  if (outputs.size() != names.size()) return "another number of outputs";
  V total = Tensor<double>(Shape{}, 0.);
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    const std::string name = names[k];
    std::string found;
    if (const V* const y = std::get_if<V>(&outputs[k])) {
      found = difference(y->value(), file.get_as<double>(name));
      if (found.empty()) total = total + sum(*y * file.get<double>(one.at("cotangents")[k]));
    } else if (const auto* const places = std::get_if<Tensor<Index>>(&outputs[k])) {
      found = difference(*places, file.get<Index>(name));
    } else {
      ++count.notes["output " + std::to_string(k)];
    }
    if (!found.empty()) return "output " + std::to_string(k) + ": " + found;
  }
  for (const auto& [name, gradient] : one.at("gradients").items()) {
    if (!arguments.leaves().contains(name)) {
      ++count.notes["the gradient of an argument that settle takes as a constant"];
      continue;
    }
    const V& x = arguments.leaves().at(name);
    const Tensor<double> got =
        total.tape() ? grad(total, {x}, {.keep_graph = true})[0].value() : Tensor<double>(x.shape(), 0.);
    const std::string found = difference(got, file.get<double>(gradient));
    if (!found.empty()) return "gradient of tensor " + name + ": " + found;
  }
  return {};
}

std::string in_words(const std::map<std::string, int>& reasons) {
  std::string out;
  for (const auto& [reason, times] : reasons) out += "; " + std::to_string(times) + ": " + reason;
  return out;
}

}  // namespace

TEST_CASE("PyTorch's OpInfo: its sample inputs' outputs and gradients") {
  const char* const folder = std::getenv("SETTLE_OPINFO");
  if (!folder) {
    MESSAGE("SKIP: SETTLE_OPINFO names no folder of scripts/opinfo_cases.py");
    return;
  }
  Table table;
  add_elementwise(table), add_reductions(table), add_places(table), add_shapes(table), add_images(table);
  add_networks(table);
  const SafetensorsFile file = read_safetensors(std::filesystem::path(folder) / "tensors.safetensors");
  const Json cases = Json::parse(std::ifstream(std::filesystem::path(folder) / "cases.json")).at("cases");
  REQUIRE(!cases.empty());
  std::map<std::string, Count> counts;
  for (std::size_t k = 0; k < cases.size(); ++k) {
    const Json& one = cases[k];
    const std::string op = one.at("op");
    Count& count = counts[op];
    try {
      if (one.contains("left_out")) leave_out(one.at("left_out"));
      if (!table.contains(op)) leave_out("settle has none such");
      const std::string found = difference(one, file, table.at(op), count);
      ++count.compared;
      if (!found.empty()) count.different.push_back("case " + std::to_string(k) + ": " + found);
    } catch (const LeftOut& reason) {
      ++count.left_out[reason.reason];
    } catch (const Error& error) {
      ++count.left_out[std::string("refused: ") + error.what()];
    }
  }
  int compared = 0, ops = 0;
  for (const auto& [op, count] : counts) {
    compared += count.compared, ops += count.compared > 0;
    MESSAGE(op << ": " << count.compared << " compared" << in_words(count.left_out)
               << std::string(count.notes.empty() ? "" : ", not compared") << in_words(count.notes));
    for (const std::string& each : count.different) CHECK_MESSAGE(each.empty(), op << ", " << each);
  }
  MESSAGE(compared << " cases of " << ops << " operations compared, of " << cases.size() << " of " << counts.size());
}
