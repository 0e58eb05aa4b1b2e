#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ops/opinfo_arguments.hpp"
#include "settle/ops/all.hpp"

namespace opinfo {

using Function = std::function<Outputs(Arguments&)>;
using Table = std::map<std::string, Function>;

inline Shape shape_of(const std::vector<Index>& extents) {
  Shape out;
  for (const Index extent : extents) out.append(extent);
  return out;
}

inline Shape part(const Shape& shape, int from, int to) { return shape_of({shape.begin() + from, shape.begin() + to}); }

inline Shape joined(Shape a, const Shape& b) {
  for (const Index extent : b) a.append(extent);
  return a;
}

inline std::vector<Index> list(const Tensor<Index>& x) { return {x.values().begin(), x.values().end()}; }

// PyTorch takes a scalar for a line of one element wherever it takes an axis.
inline V line(const V& x) { return x.shape().rank() == 0 ? reshape(x, {1}) : x; }
inline Tensor<Index> line(const Tensor<Index>& x) { return x.rank() == 0 ? x.reshape({1}) : x; }

/// The axes that a reduction names; all where it names none.
inline std::vector<int> axes_of(Arguments& a, const Shape& shape) {
  std::vector<int> out;
  if (a.has("dim"))
    for (const Index axis : a.list("dim")) out.push_back(static_cast<int>(axis));
  if (shape.rank() == 0) return {};
  if (out.empty())
    for (int axis = 0; axis < shape.rank(); ++axis) out.push_back(axis);
  return out;
}

inline constexpr double infinity = std::numeric_limits<double>::infinity();

/// What documented differences are about are single numbers: a case that has one is left out.
inline void leave_out_where(const V& x, bool (*special)(double), const char* reason) {
  if (std::any_of(x.value().values().begin(), x.value().values().end(), special)) leave_out(reason);
}

inline void add_elementwise(Table& table) {
  const auto unary = [&](const char* name, auto f) {
    table[name] = [f](Arguments& a) -> Outputs { return {f(a.tensor("input"))}; };
  };
  unary("abs", [](const V& x) { return abs(x); });
  unary("atan", [](const V& x) { return atan(x); });
  unary("ceil", [](const V& x) { return -floor(-x); });
  unary("cos", [](const V& x) { return cos(x); });
  unary("erf", [](const V& x) { return erf(x); });
  unary("erfc", [](const V& x) { return erfc(x); });
  unary("exp", [](const V& x) { return exp(x); });
  unary("expm1", [](const V& x) { return expm1(x); });
  unary("floor", [](const V& x) { return floor(x); });
  unary("log", [](const V& x) { return log(x); });
  unary("log1p", [](const V& x) { return log1p(x); });
  unary("neg", [](const V& x) { return -x; });
  unary("reciprocal", [](const V& x) { return map([](auto v) { return 1. / v; }, x); });
  unary("rsqrt", [](const V& x) { return rsqrt(x); });
  unary("sigmoid", [](const V& x) { return sigmoid(x); });
  unary("sin", [](const V& x) { return sin(x); });
  unary("special.ndtr", [](const V& x) { return normal_cdf(x); });
  unary("sqrt", [](const V& x) { return sqrt(x); });
  unary("square", [](const V& x) { return square(x); });
  unary("tanh", [](const V& x) { return tanh(x); });
  unary("nn.functional.logsigmoid", [](const V& x) { return log_sigmoid(x); });
  unary("nn.functional.relu", [](const V& x) { return relu(x); });
  unary("nn.functional.silu", [](const V& x) {
    leave_out_where(
        x, [](double v) { return v == -infinity; }, "documented: silu has its limit 0 at -infinity");
    return silu(x);
  });
  for (const char* name : {"round", "round:decimals_0", "round:decimals_3", "round:decimals_neg_3"})
    table[name] = [](Arguments& a) -> Outputs {
      if (a.integer("decimals", 0) != 0) leave_out("decimals");
      return {round(a.tensor("input"))};
    };
  table["nn.functional.gelu"] = [](Arguments& a) -> Outputs {
    if (a.text("approximate", "none") != "none") leave_out("the approximation by tanh");
    return {gelu(a.tensor("input"))};
  };
  table["nn.functional.softplus"] = [](Arguments& a) -> Outputs {
    const V x = a.tensor("input");
    const double beta = a.number("beta", 1), threshold = a.number("threshold", 20);
    if (threshold == 20) return {map([](auto v, auto b) { return softplus_cut(b * v) / b; }, x, beta)};
    return {map([](auto v, auto b, auto most) { return select(b * v > most, v, softplus(b * v) / b); }, x, beta,
                threshold)};
  };

  const auto binary = [&](const char* name, auto f, const char* other = "other") {
    table[name] = [=](Arguments& a) -> Outputs { return {f(a.tensor("input"), a.tensor(other))}; };
  };
  binary("mul", [](const V& x, const V& y) { return x * y; });
  for (const char* name : {"true_divide", "div:no_rounding_mode", "div:trunc_rounding", "div:floor_rounding"})
    binary(name, [](const V& x, const V& y) {
      leave_out_where(
          y, [](double v) { return std::isinf(v); }, "documented: a cotangent of 0 stays 0, here g / inf");
      return x / y;
    });
  for (const char* name : {"maximum", "max:binary"})
    binary(name, [](const V& x, const V& y) { return map([](auto v, auto w) { return max(v, w); }, x, y); });
  for (const char* name : {"minimum", "min:binary"})
    binary(name, [](const V& x, const V& y) { return map([](auto v, auto w) { return min(v, w); }, x, y); });
  binary(
      "pow",
      [](const V& x, const V& y) {
        leave_out_where(
            x, [](double v) { return v == 0 && std::signbit(v); }, "documented: pow takes -0 for 0");
        return pow(x, y);
      },
      "exponent");
  for (const auto& [name, sign] : {std::pair{"add", 1.}, {"sub", -1.}})
    table[name] = [sign = sign](Arguments& a) -> Outputs {
      const double alpha = a.number("alpha", 1);
      const V x = a.tensor("input"), y = a.tensor("other");
      return {alpha == 1 ? (sign > 0 ? x + y : x - y) : x + (sign * alpha) * y};
    };
  table["rsub"] = [](Arguments& a) -> Outputs {
    return {a.tensor("other") - a.number("alpha", 1) * a.tensor("input")};
  };
  for (const char* name : {"clamp", "clamp_min", "clamp_max"})
    table[name] = [](Arguments& a) -> Outputs {
      const V x = a.tensor("input");
      const V low = a.tensor_or("min", Tensor<double>(Shape{}, -infinity));
      const V high = a.tensor_or("max", Tensor<double>(Shape{}, infinity));
      const V empty = map([](auto l, auto h) { return 1. - (l <= h); }, low, high);
      leave_out_where(
          empty, [](double v) { return v != 0; }, "documented: clamp has low <= high, both numbers");
      const V tie = map([](auto v, auto l, auto h) { return (v == l) + (v == h); }, x, low, high);
      if (a.is_tensor("min") || a.is_tensor("max"))
        leave_out_where(
            tie, [](double v) { return v != 0; }, "documented: on a border the gradient is x's alone");
      return {map([](auto v, auto l, auto h) { return clamp(v, l, h); }, x, low, high)};
    };
  const auto chosen = [](auto c, auto x, auto y) { return select(c != 0., x, y); };
  table["where"] = [=](Arguments& a) -> Outputs {
    return {map(chosen, a.constant("condition"), a.tensor("input"), a.tensor("other"))};
  };
  table["masked_fill"] = [=](Arguments& a) -> Outputs {
    return {map(chosen, a.constant("mask"), a.tensor("value"), a.tensor("input"))};
  };
}

inline void add_reductions(Table& table) {
  const auto kept_or_not = [](Arguments& a, const V& y, const std::vector<int>& axes) {
    return a.flag("keepdim", false) ? y : squeeze(y, axes);
  };
  const auto reduction = [&](const char* name, auto f) {
    table[name] = [=](Arguments& a) -> Outputs {
      const V x = a.tensor("input");
      const auto axes = axes_of(a, x.shape());
      return {kept_or_not(a, f(x, axes), axes)};
    };
  };
  reduction("sum", [](const V& x, const auto& axes) { return sum(x, axes); });
  reduction("mean", [](const V& x, const auto& axes) { return mean(x, axes); });
  reduction("prod", [](const V& x, const auto& axes) { return prod(x, axes); });
  reduction("logsumexp", [](const V& x, const auto& axes) { return logsumexp(x, axes); });
  for (const char* name : {"amax", "max:reduction_no_dim"})
    reduction(name, [](const V& x, const auto& axes) { return max(x, axes); });
  for (const char* name : {"amin", "min:reduction_no_dim"})
    reduction(name, [](const V& x, const auto& axes) { return min(x, axes); });

  for (const std::string name : {"var", "std", "var_mean", "var:unbiased", "std:unbiased", "var_mean:unbiased"})
    table[name] = [=](Arguments& a) -> Outputs {
      const V x = a.tensor("input");
      const auto axes = axes_of(a, x.shape());
      const V spread = var(x, axes, a.integer("correction", a.flag("unbiased", true)));
      const V y = kept_or_not(a, name.starts_with("std") ? sqrt(spread) : spread, axes);
      if (!name.starts_with("var_mean")) return {y};
      return {y, kept_or_not(a, mean(x, axes), axes)};
    };

  for (const bool largest : {true, false}) {
    const auto place = [=](const V& x, int axis) { return largest ? argmax(x, axis) : argmin(x, axis); };
    const auto without = [](const Tensor<Index>& x, int axis) {
      Shape shape;
      for (int k = 0; k < x.rank(); ++k)
        if (k != x.shape().axis(axis)) shape.append(x.shape(k));
      return x.reshape(shape);
    };
    table[largest ? "argmax" : "argmin"] = [=](Arguments& a) -> Outputs {
      const V x = a.tensor("input");
      const bool keep = a.flag("keepdim", false);
      if (!a.has("dim")) {
        const auto of_all = place(reshape(x, {x.size()}), 0);
        return {of_all.reshape(keep ? reduced(x.shape(), all_axes(x.shape())) : Shape{})};
      }
      const auto found = place(line(x), a.dim());
      if (x.shape().rank() == 0) return {found.reshape({})};
      return {keep ? found : without(found, a.dim())};
    };
    table[largest ? "max:reduction_with_dim" : "min:reduction_with_dim"] = [=](Arguments& a) -> Outputs {
      const V x = a.tensor("input"), lines = line(x);
      const auto found = place(lines, a.dim());
      const V values = gather_elements(lines, a.dim(), found);
      if (a.flag("keepdim", false) && x.shape().rank() > 0) return {values, found};
      return {squeeze(values, {a.dim()}), without(found, a.dim())};
    };
  }

  const auto along = [&](const std::string& name, auto f) {
    table[name] = [=](Arguments& a) -> Outputs {
      const V x = a.tensor("input");
      return {reshape(f(line(x), a.dim()), x.shape())};
    };
  };
  along("cumsum", [](const V& x, int axis) { return cumsum(x, axis); });
  for (const std::string variant : {"", ":with_dtype"}) {
    along("softmax" + variant, [](const V& x, int axis) { return softmax(x, axis); });
    along("log_softmax" + variant, [](const V& x, int axis) { return log_softmax(x, axis); });
    along("nn.functional.softmin" + variant, [](const V& x, int axis) { return softmax(-x, axis); });
  }
}

inline void add_places(Table& table) {
  for (const std::string name : {"sort", "argsort", "msort"})
    table[name] = [=](Arguments& a) -> Outputs {
      a.pass_over("stable");  // settle's is
      const V x = a.tensor("input");
      const auto sorted = sort(line(x), a.dim("dim", name == "msort" ? 0 : -1), a.flag("descending", false));
      if (name == "argsort") return {sorted.positions.reshape(x.shape())};
      if (name == "msort") return {reshape(sorted.values, x.shape())};
      return {reshape(sorted.values, x.shape()), sorted.positions.reshape(x.shape())};
    };
  table["topk"] = [](Arguments& a) -> Outputs {
    if (!a.flag("sorted", true)) leave_out("an order that PyTorch leaves open");
    const V x = a.tensor("input");
    const auto top = top_k(line(x), a.integer("k", 1), a.dim("dim", -1), a.flag("largest", true));
    if (x.shape().rank() == 0) return {reshape(top.values, {}), top.positions.reshape({})};
    return {top.values, top.positions};
  };
  table["gather"] = [](Arguments& a) -> Outputs {
    const auto index = a.positions("index");
    return {reshape(gather_elements(line(a.tensor("input")), a.dim(), line(index)), index.shape())};
  };
  for (const bool adds : {true, false})
    table[adds ? "scatter_add" : "scatter"] = [=](Arguments& a) -> Outputs {
      const V x = a.tensor("input");
      const auto index = line(a.positions("index"));
      V source = a.tensor("src");
      if (!a.is_tensor("src")) source = broadcast_to(source, index.shape());
      source = line(source);
      source = slice(source, Window{part(Shape{0, 0, 0, 0, 0, 0}, 0, index.rank()), index.shape(), {}});
      const auto f = [&](const V& lines) {
        return adds ? scatter_add_elements(lines, a.dim(), index, source)
                    : scatter_elements(lines, a.dim(), index, source);
      };
      return {reshape(f(line(x)), x.shape())};
    };
  table["index_select"] = [](Arguments& a) -> Outputs {
    const V x = a.tensor("input");
    const V y = gather(line(x), a.dim(), list(a.positions("index")));
    return {x.shape().rank() == 0 ? reshape(y, {}) : y};
  };
  table["index_add"] = [](Arguments& a) -> Outputs {
    const V x = a.tensor("input"), lines = line(x);
    const V added = scatter_add(line(a.tensor("source")), a.dim(), list(a.positions("index")), lines.shape(a.dim()));
    return {reshape(lines + a.number("alpha", 1) * added, x.shape())};
  };
  table["take_along_dim"] = [](Arguments& a) -> Outputs {
    const V x = a.tensor("input");
    const auto indices = a.positions("indices");
    if (a.has("dim") && indices.shape(1 - a.dim()) != x.shape(1 - a.dim())) leave_out("indices that broadcast");
    if (a.has("dim")) return {gather_elements(x, a.dim(), indices)};
    return {gather_elements(reshape(x, {x.size()}), 0, indices.reshape({indices.size()}))};
  };
  table["nn.functional.embedding"] = [](Arguments& a) -> Outputs {
    const auto rows = a.positions("input");
    const V weight = a.tensor("weight");
    return {reshape(gather(weight, 0, list(rows)), joined(rows.shape(), {weight.shape(1)}))};
  };
}

inline void add_shapes(Table& table) {
  for (const char* name : {"reshape", "view"})
    table[name] = [](Arguments& a) -> Outputs {
      const V x = a.tensor("input");
      auto extents = a.list("sizes");
      Index known = 1;
      for (const Index extent : extents) known *= extent < 0 ? 1 : extent;
      for (Index& extent : extents) extent = extent < 0 ? x.size() / known : extent;
      return {reshape(x, shape_of(extents))};
    };
  for (const char* name : {"expand", "broadcast_to"})
    table[name] = [](Arguments& a) -> Outputs {
      const V x = a.tensor("input");
      auto extents = a.list("sizes");
      for (std::size_t k = 0; k < extents.size(); ++k)
        if (extents[k] < 0) extents[k] = x.shape(static_cast<int>(k) - static_cast<int>(extents.size()));
      return {broadcast_to(x, shape_of(extents))};
    };
  const auto permuted = [](const V& x, std::vector<int> axes) {
    for (int& axis : axes) axis = x.shape().axis(axis);
    return transpose(x, axes);
  };
  const auto counted = [](int rank) {
    std::vector<int> out;
    for (int k = 0; k < rank; ++k) out.push_back(k);
    return out;
  };
  table["permute"] = [=](Arguments& a) -> Outputs {
    const auto axes = a.list("sizes");
    return {permuted(a.tensor("input"), {axes.begin(), axes.end()})};
  };
  table["transpose"] = [=](Arguments& a) -> Outputs {
    const V x = a.tensor("input"), lines = line(x);
    auto axes = counted(lines.shape().rank());
    const auto place = [&](const char* name) { return static_cast<std::size_t>(lines.shape().axis(a.dim(name))); };
    std::swap(axes[place("dim0")], axes[place("dim1")]);
    return {x.shape().rank() == 0 ? x : transpose(x, axes)};
  };
  table["movedim"] = [=](Arguments& a) -> Outputs {
    const V x = a.tensor("input");
    const auto from = a.list("source"), to = a.list("destination");
    if (x.shape().rank() == 0) return {x};
    std::vector<int> axes(static_cast<std::size_t>(x.shape().rank()), -1), rest = counted(x.shape().rank());
    for (std::size_t k = 0; k < from.size(); ++k) {
      const int source = x.shape().axis(static_cast<int>(from[k]));
      axes[static_cast<std::size_t>(x.shape().axis(static_cast<int>(to[k])))] = source;
      std::erase(rest, source);
    }
    auto next = rest.begin();
    for (int& axis : axes) axis = axis < 0 ? *next++ : axis;
    return {transpose(x, axes)};
  };
  for (const char* name : {"t", "mT"})
    table[name] = [](Arguments& a) -> Outputs {
      const V x = a.tensor("input");
      return {x.shape().rank() < 2 ? x : transpose(x)};
    };
  for (const char* name : {"squeeze", "squeeze:multiple"})
    table[name] = [](Arguments& a) -> Outputs {
      const V x = a.tensor("input");
      std::vector<int> axes;
      for (const int axis : a.has("dim") && a.list("dim").empty() ? std::vector<int>{} : axes_of(a, x.shape()))
        if (x.shape(axis) == 1) axes.push_back(axis);
      return {squeeze(x, axes)};
    };
  table["unsqueeze"] = [](Arguments& a) -> Outputs { return {unsqueeze(a.tensor("input"), a.dim())}; };
  table["flatten"] = [](Arguments& a) -> Outputs {
    const V x = a.tensor("input"), lines = line(x);
    const int from = lines.shape().axis(a.dim("start_dim", 0)), to = lines.shape().axis(a.dim("end_dim", -1));
    const Shape before = part(lines.shape(), 0, from), after = part(lines.shape(), to + 1, lines.shape().rank());
    const Index between = part(lines.shape(), from, to + 1).size();
    return {reshape(lines, joined(joined(before, {between}), after))};
  };
  table["narrow"] = [](Arguments& a) -> Outputs {
    const V x = a.tensor("input");
    const Index start = a.integer("start", 0);
    return {slice(x, a.dim(), start < 0 ? start + x.shape(a.dim()) : start, a.integer("length", 0), 1)};
  };
  table["slice"] = [](Arguments& a) -> Outputs {
    const V x = a.tensor("input");
    const Index extent = x.shape(a.dim()), step = a.integer("step", 1);
    const auto place = [&](Index k) { return std::clamp<Index>(k < 0 ? k + extent : k, 0, extent); };
    const Index from = place(a.integer("start", 0)), to = place(a.integer("end", extent));
    return {slice(x, a.dim(), from, from < to ? (to - from + step - 1) / step : 0, step)};
  };
  table["select"] = [](Arguments& a) -> Outputs {
    const V x = a.tensor("input");
    const Index index = a.integer("index", 0);
    return {squeeze(slice(x, a.dim(), index < 0 ? index + x.shape(a.dim()) : index, 1, 1), {a.dim()})};
  };
  table["stack"] = [](Arguments& a) -> Outputs { return {stack(a.tensors("tensors"), a.dim())}; };
  table["cat"] = [](Arguments& a) -> Outputs {
    std::vector<V> parts = a.tensors("tensors");
    const auto nothing = [](const V& x) { return x.shape() == Shape{0}; };  // PyTorch passes it over, whatever the rank
    if (!std::all_of(parts.begin(), parts.end(), nothing)) std::erase_if(parts, nothing);
    return {concat(parts, a.dim())};
  };
  // Elements in another order or more than once are a gather along each axis.
  table["flip"] = [](Arguments& a) -> Outputs {
    V y = a.tensor("input");
    for (const Index axis : a.has("dims") ? a.list("dims") : std::vector<Index>{}) {
      std::vector<Index> from;
      for (Index k = y.shape(static_cast<int>(axis)); k-- > 0;) from.push_back(k);
      y = gather(y, static_cast<int>(axis), from);
    }
    return {y};
  };
  table["repeat"] = [](Arguments& a) -> Outputs {
    V y = a.tensor("input");
    const auto times = a.list("sizes");
    while (y.shape().rank() < static_cast<int>(times.size())) y = unsqueeze(y, 0);
    for (int axis = 0; axis < y.shape().rank(); ++axis) {
      const Index extent = y.shape(axis);
      std::vector<Index> from;
      for (Index k = 0; k < times[static_cast<std::size_t>(axis)] * extent; ++k) from.push_back(k % extent);
      y = gather(y, axis, from);
    }
    return {y};
  };
}

}  // namespace opinfo
