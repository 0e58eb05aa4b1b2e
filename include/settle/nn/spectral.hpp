#pragma once
#include <cmath>
#include <numbers>
#include <utility>

#include "settle/nn/conv_layer.hpp"
#include "settle/nn/readout.hpp"
#include "settle/nn/stem.hpp"
#include "settle/ops/matmul.hpp"
#include "settle/ops/transpose.hpp"

namespace settle::inline v0_2 {

/// The discrete Fourier transform of real images: real and imaginary part, with the frequency of the columns before
/// that of the rows, (N, C, W, H).
template <class T, class D>
struct Spectrum {
  Var<T, D> re, im;
};

namespace detail {

/// cos and sin of 2 π f (t - centre) / n for t = 0 ... taps - 1 and f = 0 ... n - 1, (taps, n).
template <class T, class D>
std::pair<Var<T, D>, Var<T, D>> waves(Index taps, Index n, Index centre) {
  Tensor<T> c(Shape{taps, n}), s(Shape{taps, n});
  T *const cosine = c.mutable_data(), *const sine = s.mutable_data();
  for (Index t = 0; t < taps; ++t)
    for (Index f = 0; f < n; ++f) {
      const Index turn = ((t - centre) * f % n + n) % n;  // whole turns cost no digits
      const double angle = 2 * std::numbers::pi * static_cast<double>(turn) / static_cast<double>(n);
      cosine[t * n + f] = static_cast<T>(std::cos(angle)), sine[t * n + f] = static_cast<T>(std::sin(angle));
    }
  return {Var<T, D>(to<D>(c)), Var<T, D>(to<D>(s))};
}

/// x (..., taps) times a matrix (taps, n).
template <class T, class D>
Var<T, D> along_last(const Var<T, D>& x, const Var<T, D>& matrix) {
  Shape shape = x.shape();
  const Index taps = shape[-1];
  const Var<T, D> rows = reshape(x, {x.size() / taps, taps});
  shape[-1] = matrix.shape(1);
  return reshape(matmul(rows, matrix), shape);
}

/// A kernel for each channel, (1, C, k, k), of normal values whose transform is about 1 in size.
template <class T, class D>
Var<T, D> channel_kernels(Index channels, Index extent, ParameterStreams& streams) {
  Random random = streams.next();
  return to<D>(normal<T>(Shape{1, channels, extent, extent}, 0, 1 / static_cast<double>(extent), random));
}

template <class T, class D>
Var<T, D> plus(const Var<T, D>& a, const Var<T, D>& b) {
  return map([](auto u, auto v) { return u + v; }, a, b);
}
template <class T, class D>
Var<T, D> minus(const Var<T, D>& a, const Var<T, D>& b) {
  return map([](auto u, auto v) { return u - v; }, a, b);
}

}  // namespace detail

/// The transform of x (N, C, h, w) at the frequencies of images of height x width, with x's pixel (top, left) at the
/// origin: sum over (i, j) of x[i, j] exp(-2 π i (u (i - top) / height + v (j - left) / width)).
template <class T, class D>
Spectrum<T, D> spectrum(const Var<T, D>& x, Index height, Index width, Index top = 0, Index left = 0) {
  require(x.shape().rank() == 4 && x.size() > 0 && x.shape(2) <= height && x.shape(3) <= width, "spectrum",
          "expected images (N, C, h, w) of at most ", height, " x ", width, ", got ", x.shape());
  const auto [cw, sw] = detail::waves<T, D>(x.shape(3), width, left);
  const auto [ch, sh] = detail::waves<T, D>(x.shape(2), height, top);
  const Var<T, D> a = transpose(detail::along_last(x, cw)), b = transpose(detail::along_last(x, sw));
  // (a - i b)(ch - i sh)
  return {detail::minus(detail::along_last(a, ch), detail::along_last(b, sh)),
          -detail::plus(detail::along_last(a, sh), detail::along_last(b, ch))};
}

/// The real part of the inverse transform, (N, C, H, W).
template <class T, class D>
Var<T, D> from_spectrum(const Spectrum<T, D>& s) {
  const Index width = s.re.shape(2), height = s.re.shape(3);
  const auto [ch, sh] = detail::waves<T, D>(height, height, 0);
  const auto [cw, sw] = detail::waves<T, D>(width, width, 0);
  const Var<T, D> re = transpose(detail::minus(detail::along_last(s.re, ch), detail::along_last(s.im, sh)));
  const Var<T, D> im = transpose(detail::plus(detail::along_last(s.re, sh), detail::along_last(s.im, ch)));
  const double share = 1 / static_cast<double>(width * height);
  return share * detail::minus(detail::along_last(re, cw), detail::along_last(im, sw));
}

/// The circular convolution of each channel of x (N, C, H, W) with its own kernel (1, C, kh, kw), centred, kernels up
/// to the images' size: by the transform.
template <class T, class D>
Var<T, D> global_conv(const Var<T, D>& x, const Var<T, D>& kernel) {
  require(kernel.shape().rank() == 4 && kernel.shape(0) == 1 && kernel.shape(1) == x.shape(1), "global_conv",
          "expected a kernel (1, ", x.shape(1), ", kh, kw), got ", kernel.shape());
  const Index height = x.shape(2), width = x.shape(3);
  const auto k = spectrum(kernel, height, width, kernel.shape(2) / 2, kernel.shape(3) / 2);
  const auto s = spectrum(x, height, width);
  const auto [re, im] =
      map([](auto a, auto b, auto c, auto d) { return outputs(a * c - b * d, a * d + b * c); }, s.re, s.im, k.re, k.im);
  return from_spectrum(Spectrum<T, D>{re, im});
}

/// A linear recurrence that contracts by construction: h' = K * h + x, a circular convolution of each channel with a
/// kernel whose transform is squashed at each frequency to ρ k / (1 + |k|), so that ρ bounds the spectral radius and
/// the norm of the Jacobian (the CSSM's squashing, github.com/drewlinsley/CSSM, 2026). The fixed point is exact at one
/// stroke, as is its gradient: h* has the transform x / (1 - K).
template <Scalar T, class Device = Cpu>
struct SpectralCell {
  using V = Var<T, Device>;

  V kernel;  ///< (1, C, k, k)
  double rho = 0.999;

  /// Normal values whose transform is about 1 in size. Throws Error for no channels and an even kernel.
  static SpectralCell initial(Index channels, Index extent, ParameterStreams& streams) {
    require_layer("spectral", channels, extent);
    return {detail::channel_kernels<T, Device>(channels, extent, streams)};
  }

  V initial_state(const V& x) const { return Tensor<T, Device>(x.shape(), T{0}); }

  /// The squashed kernel's transform, for images of a size.
  Spectrum<T, Device> squashed(Index height, Index width) const {
    const auto k = spectrum(kernel, height, width, kernel.shape(2) / 2, kernel.shape(3) / 2);
    const auto [re, im] = map(
        [](auto a, auto b, auto r, auto least) {
          const auto share = r / (1. + sqrt(a * a + b * b + least));
          return outputs(share * a, share * b);
        },
        k.re, k.im, rho, 1e-12);
    return {re, im};
  }

  /// The next state: h and x (N, C, H, W).
  V operator()(const V& h, const V& x) const {
    const auto k = squashed(x.shape(2), x.shape(3));
    const auto s = spectrum(h, x.shape(2), x.shape(3));
    const auto [re, im] = map([](auto a, auto b, auto c, auto d) { return outputs(a * c - b * d, a * d + b * c); },
                              s.re, s.im, k.re, k.im);
    return detail::plus(from_spectrum(Spectrum<T, Device>{re, im}), x);
  }

  /// The fixed point.
  V settled(const V& x) const {
    const auto k = squashed(x.shape(2), x.shape(3));
    const auto s = spectrum(x, x.shape(2), x.shape(3));
    const auto [re, im] = map(
        [](auto a, auto b, auto c, auto d) {
          const auto p = 1. - c, size = p * p + d * d;  // (a + i b) / (p - i d)
          return outputs((a * p - b * d) / size, (a * d + b * p) / size);
        },
        s.re, s.im, k.re, k.im);
    return from_spectrum(Spectrum<T, Device>{re, im});
  }

  void parameters(auto&& visit) { visit("kernel", kernel); }
};

/// A net whose recurrence contracts by construction: stem, then twice the exact fixed point of a spectral cell, between
/// them batch norm, a 1 x 1 convolution and a gate by the drive, then the batch norm readout.
template <Scalar T, class Device = Cpu>
struct SpectralNet {
  using V = Var<T, Device>;

  SquaringStem<T, Device> stem;
  SpectralCell<T, Device> first, second;
  BatchNorm<T, Device> bn;
  ConvLayer<T, Device> mix;
  BatchNormReadout<T, Device> readout;

  static SpectralNet initial(Index orientations, Index kernel, ParameterStreams& streams, Index image_channels = 1,
                             Index classes = 2) {
    const Index channels = 2 * orientations + 1;
    return {.stem = SquaringStem<T, Device>::initial(orientations, streams, image_channels),
            .first = SpectralCell<T, Device>::initial(channels, kernel, streams),
            .second = SpectralCell<T, Device>::initial(channels, kernel, streams),
            .bn = BatchNorm<T, Device>::initial(channels, 1, 0, 1e-3),
            .mix = ConvLayer<T, Device>::initial(channels, channels, 1, streams),
            .readout = BatchNormReadout<T, Device>::initial(channels, streams, classes)};
  }

  V operator()(const V& images) const {
    const V x = stem(images);
    const V gated = map([](auto drive, auto u, auto b) { return drive * sigmoid(u + b); }, x,
                        mix.linear(bn(first.settled(x))), mix.channel_bias());
    return readout(second.settled(gated));
  }
  V train(const V& images) const { return (*this)(images); }

  void parameters(auto&& visit) {
    stem.parameters(visit), visit_part("first", first, visit), visit_part("second", second, visit);
    visit_part("norm", bn, visit), visit_part("mix", mix, visit), readout.parameters(visit);
  }
};

/// A control without recurrence whose reach is the whole image: one global convolution by the transform, gated by its
/// input before and after (the hGRU's first author's, 2026): y = σ(V x + b) ⊙ (K * (x ⊙ σ(U x + a))), then the batch
/// norm readout.
template <Scalar T, class Device = Cpu>
struct GlobalConvNet {
  using V = Var<T, Device>;

  SquaringStem<T, Device> stem;
  ConvLayer<T, Device> before, after;  ///< 3 x 3
  V kernel;                            ///< (1, C, k, k)
  BatchNormReadout<T, Device> readout;

  static GlobalConvNet initial(Index orientations, Index kernel, ParameterStreams& streams, Index image_channels = 1,
                               Index classes = 2) {
    const Index channels = 2 * orientations + 1;
    require_layer("global_conv", channels, kernel);
    return {.stem = SquaringStem<T, Device>::initial(orientations, streams, image_channels),
            .before = ConvLayer<T, Device>::initial(channels, channels, 3, streams),
            .after = ConvLayer<T, Device>::initial(channels, channels, 3, streams),
            .kernel = detail::channel_kernels<T, Device>(channels, kernel, streams),
            .readout = BatchNormReadout<T, Device>::initial(channels, streams, classes)};
  }

  V operator()(const V& images) const {
    const auto gate = [](auto v, auto u, auto b) { return v * sigmoid(u + b); };
    const V x = stem(images);
    const V spread = global_conv(map(gate, x, before.linear(x), before.channel_bias()), kernel);
    return readout(map(gate, spread, after.linear(x), after.channel_bias()));
  }
  V train(const V& images) const { return (*this)(images); }

  void parameters(auto&& visit) {
    stem.parameters(visit), visit_part("before", before, visit), visit_part("after", after, visit);
    visit("kernel", kernel), readout.parameters(visit);
  }
};

}  // namespace settle
