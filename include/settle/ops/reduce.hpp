#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "settle/ops/map.hpp"

namespace settle::inline v0_2 {

namespace detail {
/// The number of elements that each sum over the axes has.
template <class AxisList>
Index reduced_count(const Shape& shape, const AxisList& axes) {
  const Shape kept = reduced(shape, axes);
  Index count = 1;
  for (int a = 0; a < shape.rank(); ++a)
    if (kept[a] != shape[a]) count *= shape[a];
  return count;
}

struct Identity {
  constexpr auto operator()(auto v) const { return v; }
};

/// The identity over `space`: repeats x to fill it, and sums the result to `shape`.
template <class T, class D>
Var<T, D> move_over(const Shape& space, const Var<T, D>& x, const Shape& shape) {
  return pointwise<T, D>(PointwiseFunction<T, D>::template of<Identity, 1>(), space, {x}, {shape}, {true}).front();
}
}  // namespace detail

/// The sum over some axes, which keep extent 1. Short runs of elements are added in T, and
/// all runs in double.
template <class T, class D>
Var<T, D> sum(const Var<T, D>& x, Axes axes) {
  return detail::move_over(x.shape(), x, reduced(x.shape(), axes));
}

/// The sum of all elements, a scalar.
template <class T, class D>
Var<T, D> sum(const Var<T, D>& x) {
  return detail::move_over(x.shape(), x, Shape{});
}

/// The mean over some axes, which keep extent 1. Throws Error when there is nothing to average.
template <class T, class D>
Var<T, D> mean(const Var<T, D>& x, Axes axes) {
  const Index count = detail::reduced_count(x.shape(), axes);
  require(count > 0, "mean", "the mean of no elements is undefined, got shape ", x.shape());
  return (1.0 / static_cast<double>(count)) * sum(x, axes);
}

/// The mean of all elements, a scalar.
template <class T, class D>
Var<T, D> mean(const Var<T, D>& x) {
  require(x.size() > 0, "mean", "the mean of no elements is undefined, got shape ", x.shape());
  return (1.0 / static_cast<double>(x.size())) * sum(x);
}

/// The sum of x over its broadcast axes, down to `shape`; the adjoint of broadcast_to.
template <class T, class D>
Var<T, D> sum_to(const Var<T, D>& x, const Shape& shape) {
  require(broadcasts_to(shape, x.shape()), "sum_to", "shape ", shape, " does not broadcast to ", x.shape());
  return detail::move_over(x.shape(), x, shape);
}

/// x repeated along its axes of extent 1 (and new leading axes) to fill `shape`.
template <class T, class D>
Var<T, D> broadcast_to(const Var<T, D>& x, const Shape& shape) {
  require(broadcasts_to(x.shape(), shape), "broadcast_to", "shape ", x.shape(), " does not broadcast to ", shape);
  return detail::move_over(shape, x, shape);
}

/// The largest value over some axes, which keep extent 1. Equal largest values share the cotangent, as PyTorch's amax
/// does; none of a row with NaN does. Throws Error when there is nothing to compare.
template <class T, class D>
Var<T, D> max(const Var<T, D>& x, Axes axes) {
  require(detail::reduced_count(x.shape(), axes) > 0, "max", "the maximum of no elements is undefined, got shape ",
          x.shape());
  Tensor<T, D> y(reduced(x.shape(), axes));
  Backend<D>::max_over(x.shape(), x.value().data(), y.shape(), y.mutable_data());
  return record<T, D>("max", y, {x}, [x, y](const Var<T, D>& g, Cotangents<T, D>& gradients) {
    const Var<T, D> largest(y);
    const Var<T, D> chosen = map([](auto v, auto m) { return v == m; }, stop_gradient(x), largest);
    gradients.add(0, map([](auto cotangent, auto one, auto count) { return select(one > 0., cotangent / count, 0.); }, g,
                         chosen, sum_to(chosen, y.shape())));
  });
}

/// The smallest value over some axes, which keep extent 1; otherwise as max.
template <class T, class D>
Var<T, D> min(const Var<T, D>& x, Axes axes) {
  require(detail::reduced_count(x.shape(), axes) > 0, "min", "the minimum of no elements is undefined, got shape ",
          x.shape());
  return -max(-x, axes);
}

/// The variance over some axes, which keep extent 1: the sum of (x - mean)² over n - correction, n elements in each. A
/// correction of 1 gives the unbiased estimate, PyTorch's default; 0 the mean square. Throws Error unless there are
/// more elements than that.
template <class T, class D>
Var<T, D> var(const Var<T, D>& x, Axes axes, Index correction = 1) {
  const Index count = detail::reduced_count(x.shape(), axes);
  require(correction >= 0 && count > correction, "var", "expected more than ", correction, " elements, got ", count,
          " of each sum over ", x.shape());
  const Var<T, D> squares =
      reduce([](auto v, auto middle) { return square(v - middle); }, axes, x, mean(x, axes));
  return (1.0 / static_cast<double>(count - correction)) * squares;
}

namespace detail {

/// The largest value over some axes as a constant, or 0 where it is not finite (infinity - infinity would be NaN), and
/// the sum of exp(x - largest).
template <class T, class D>
std::array<Var<T, D>, 2> sum_of_exponentials(const Var<T, D>& x, Axes axes) {
  Var<T, D> largest = Tensor<T, D>(reduced(x.shape(), axes), T{0});
  if (reduced_count(x.shape(), axes) > 0)
    largest = map([](auto m) { return select(m - m == 0., m, 0.); }, max(stop_gradient(x), axes));
  return {largest, reduce([](auto v, auto m) { return exp(v - m); }, axes, x, largest)};
}

}  // namespace detail

/// log(sum(exp(x))) over some axes, which keep extent 1; stable for large values. Of nothing it is -infinity, as in
/// PyTorch.
template <class T, class D>
Var<T, D> logsumexp(const Var<T, D>& x, Axes axes) {
  const auto [largest, total] = detail::sum_of_exponentials(x, axes);
  return map([](auto s, auto m) { return log(s) + m; }, total, largest);
}

/// x - logsumexp(x) over an axis: the logarithm of the softmax, its digits kept however large x is. Empty where the axis
/// is.
template <class T, class D>
Var<T, D> log_softmax(const Var<T, D>& x, int axis) {
  const auto [largest, total] = detail::sum_of_exponentials(x, {axis});
  return map([](auto v, auto m, auto s) { return v - m - log(s); }, x, largest, total);
}

/// exp(x) / sum(exp(x)) over an axis; finite however large x is. Empty where the axis is.
template <class T, class D>
Var<T, D> softmax(const Var<T, D>& x, int axis) {
  const auto [largest, total] = detail::sum_of_exponentials(x, {axis});
  return map([](auto v, auto m, auto s) { return exp(v - m) / s; }, x, largest, total);
}

/// Of Tensors, which are constants.
auto sum(const detail::OnlyTensor auto& x, Axes axes) { return sum(detail::lifted(x), axes); }
auto sum(const detail::OnlyTensor auto& x) { return sum(detail::lifted(x)); }
auto mean(const detail::OnlyTensor auto& x, Axes axes) { return mean(detail::lifted(x), axes); }
auto mean(const detail::OnlyTensor auto& x) { return mean(detail::lifted(x)); }
auto max(const detail::OnlyTensor auto& x, Axes axes) { return max(detail::lifted(x), axes); }
auto min(const detail::OnlyTensor auto& x, Axes axes) { return min(detail::lifted(x), axes); }
auto var(const detail::OnlyTensor auto& x, Axes axes, Index correction = 1) {
  return var(detail::lifted(x), axes, correction);
}
auto logsumexp(const detail::OnlyTensor auto& x, Axes axes) { return logsumexp(detail::lifted(x), axes); }
auto log_softmax(const detail::OnlyTensor auto& x, int axis) { return log_softmax(detail::lifted(x), axis); }
auto softmax(const detail::OnlyTensor auto& x, int axis) { return softmax(detail::lifted(x), axis); }

namespace detail {

/// Samples of a reduction over axes: `f(x, axes)`, and `combine(values)` of each result's values by plain loops.
void reduction_samples(auto& s, auto f, auto combine) {
  const auto add = [&](const char* title, Shape from, Axes axes, auto apply) {
    const Shape to = reduced(from, axes);
    s.add(title, apply, {s.distinct(from)}, [=, &s](const auto& in) {
      return s.table(to, [&](Index at) {
        const auto i = s.position(to, at);
        std::vector<double> values;
        for (Index k = 0; k < from.size(); ++k) {
          auto j = s.position(from, k);
          bool here = true;
          for (int a = 0; a < from.rank(); ++a) here = here && (to[a] != from[a] || j[a] == i[a]);
          if (here) values.push_back(in[0].data()[k]);
        }
        return combine(values);
      });
    });
  };
  add("rows", {3, 5}, {1}, [f](const auto& in) { return f(in[0], {1}); });
  add("images of each channel", {2, 3, 2, 3}, {0, 2, 3}, [f](const auto& in) { return f(in[0], {0, 2, 3}); });
  add("an axis between", {2, 3, 2}, {-2}, [f](const auto& in) { return f(in[0], {-2}); });
  add("everything", {3, 2}, {0, 1}, [f](const auto& in) { return f(in[0], {0, 1}); });
  add("one element", {1, 1}, {0}, [f](const auto& in) { return f(in[0], {0}); });
  add("no axis", {2, 3}, {}, [f](const auto& in) { return f(in[0], {}); });
  add("an empty batch", {0, 3}, {1}, [f](const auto& in) { return f(in[0], {1}); });
}

inline double plain_sum(const std::vector<double>& values) {
  double total = 0;
  for (double v : values) total += v;
  return total;
}

inline double plain_logsumexp(const std::vector<double>& values) {
  double total = 0;
  for (double v : values) total += std::exp(v);
  return std::log(total);
}

}  // namespace detail

struct SumOp {
  static constexpr const char* name = "sum";
  static void samples(auto& s) {
    detail::reduction_samples(
        s, [](const auto& x, Axes axes) { return sum(x, axes); }, detail::plain_sum);
    const auto total = [&s](const auto& in) {
      return s.table({}, [&](Index) { return detail::plain_sum({in[0].data(), in[0].data() + in[0].size()}); });
    };
    s.add(
        "to a scalar", [](const auto& in) { return sum(in[0]); }, {s.uniform({2, 3, 5})}, total);
    s.add(
        "nothing, to a scalar", [](const auto& in) { return sum(in[0]); }, {s.uniform({2, 0})}, total);
    s.add(
        "nothing, over an axis", [](const auto& in) { return sum(in[0], {0}); }, {s.uniform({0, 3})},
        [&s](const auto&) {
          return s.table({1, 3}, [](Index) { return 0.0; });
        });
    s.add(
        "a pointwise function of two inputs",
        [](const auto& in) { return reduce([](auto x, auto y) { return x * sin(y); }, {0}, in[0], in[1]); },
        {s.uniform({3, 2}), s.uniform({2})},
        [&s](const auto& in) {
          return s.table({1, 2}, [&](Index k) {
            const double *x = in[0].data(), y = in[1].data()[k];
            return (x[k] + x[k + 2] + x[k + 4]) * std::sin(y);
          });
        });
    s.add(
        "down to a shape",
        [](const auto& in) {
          return sum_to(in[0], {3, 1});
        },
        {s.uniform({2, 3, 2})},
        [&s](const auto& in) {
          return s.table({3, 1}, [&](Index k) {
            const double* x = in[0].data() + 2 * k;
            return x[0] + x[1] + x[6] + x[7];
          });
        });
  }
};

struct BroadcastOp {
  static constexpr const char* name = "broadcast_to";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape from, Shape to) {
      s.add(
          title, [=](const auto& in) { return broadcast_to(in[0], to); }, {s.uniform(from)},
          [=, &s](const auto& in) {
            return s.table(to, [&](Index at) {
              const auto i = s.position(to, at);
              Index k = 0;
              for (int a = -from.rank(); a < 0; ++a) k = k * from[a] + (from[a] == 1 ? 0 : i[a]);
              return in[0].data()[k];
            });
          });
    };
    add("channels over images", {3, 1, 1}, {2, 3, 2, 3});
    add("a scalar", {}, {2, 2});
    add("the last axis", {2, 1}, {2, 5});
    add("unchanged", {2, 3}, {2, 3});
    add("to nothing", {1, 3}, {0, 3});
  }
};

struct MeanOp {
  static constexpr const char* name = "mean";
  static void samples(auto& s) {
    const auto value = [](const std::vector<double>& v) {
      return detail::plain_sum(v) / static_cast<double>(v.size());
    };
    detail::reduction_samples(
        s, [](const auto& x, Axes axes) { return mean(x, axes); }, value);
    s.add(
        "to a scalar", [](const auto& in) { return mean(in[0]); }, {s.uniform({2, 3})},
        [=, &s](const auto& in) {
          return s.table({}, [&](Index) { return value({in[0].data(), in[0].data() + 6}); });
        });
  }
};

struct MaxOp {
  static constexpr const char* name = "max";
  static void samples(auto& s) {
    detail::reduction_samples(
        s, [](const auto& x, Axes axes) { return max(x, axes); },
        [](const std::vector<double>& v) { return *std::max_element(v.begin(), v.end()); });
  }
};

struct MinOp {
  static constexpr const char* name = "min";
  static void samples(auto& s) {
    detail::reduction_samples(
        s, [](const auto& x, Axes axes) { return min(x, axes); },
        [](const std::vector<double>& v) { return *std::min_element(v.begin(), v.end()); });
  }
};

struct VarOp {
  static constexpr const char* name = "var";
  static void samples(auto& s) {
    const auto spread = [](const std::vector<double>& v) {
      const double mean = detail::plain_sum(v) / static_cast<double>(v.size());
      double total = 0;
      for (double x : v) total += (x - mean) * (x - mean);
      return total;
    };
    detail::reduction_samples(
        s, [](const auto& x, Axes axes) { return var(x, axes, 0); },
        [=](const std::vector<double>& v) { return spread(v) / static_cast<double>(v.size()); });
    s.add(
        "unbiased, axes made at run time",
        [](const auto& in) {
          const std::vector<int> axes{0, 2};
          return var(in[0], axes);
        },
        {s.uniform({2, 3, 2})},
        [=, &s](const auto& in) {
          return s.table({1, 3, 1}, [&](Index c) {
            const double* x = in[0].data() + 2 * c;
            return spread({x[0], x[1], x[6], x[7]}) / 3;
          });
        });
  }
};

struct LogsumexpOp {
  static constexpr const char* name = "logsumexp";
  static void samples(auto& s) {
    detail::reduction_samples(
        s, [](const auto& x, Axes axes) { return logsumexp(x, axes); }, detail::plain_logsumexp);
  }
};

namespace detail {

/// Samples of log_softmax and softmax: `f(x, axis)`, and `value(v, all)` for a value v among all of the axis.
void softmax_samples(auto& s, auto f, auto value) {
  const auto add = [&](const char* title, Shape shape, int axis) {
    s.add(
        title, [=](const auto& in) { return f(in[0], axis); }, {s.uniform(shape, -3, 3)},
        [=, &s](const auto& in) {
          return s.table(shape, [&](Index k) {
            auto i = s.position(shape, k);
            std::vector<double> values;
            for (i[axis] = 0; i[axis] < shape[axis]; ++i[axis]) values.push_back(s.at(in[0], i));
            return value(in[0].data()[k], values);
          });
        });
  };
  add("classes of each row", {3, 5}, 1);
  add("classes of each pixel", {2, 3, 2, 3}, 1);
  add("the last axis", {2, 3}, -1);
  add("one class", {2, 1}, 1);
  add("an empty batch", {0, 3}, 1);
  add("no classes", {2, 0}, 1);
}

}  // namespace detail

struct LogSoftmaxOp {
  static constexpr const char* name = "log_softmax";
  static void samples(auto& s) {
    detail::softmax_samples(
        s, [](const auto& x, int axis) { return log_softmax(x, axis); },
        [](double v, const std::vector<double>& all) { return v - detail::plain_logsumexp(all); });
  }
};

struct SoftmaxOp {
  static constexpr const char* name = "softmax";
  static void samples(auto& s) {
    detail::softmax_samples(
        s, [](const auto& x, int axis) { return softmax(x, axis); },
        [](double v, const std::vector<double>& all) { return std::exp(v - detail::plain_logsumexp(all)); });
  }
};

}  // namespace settle
