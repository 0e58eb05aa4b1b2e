#pragma once
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "settle/data/loader.hpp"
#include "settle/fixed_point/stability.hpp"
#include "settle/io/gif.hpp"
#include "settle/io/json.hpp"
#include "settle/io/png.hpp"
#include "settle/nn/confusion_matrix.hpp"
#include "settle/nn/recurrent_net.hpp"
#include "settle/nn/stem.hpp"
#include "settle/train/pictures.hpp"

namespace settle::inline v0_2 {

/// How a trained net is looked at on images that it has not seen.
struct HeldOutOptions {
  int steps = 20;      ///< recurrent steps: those of training
  int most_steps = 0;  ///< how far the state is followed; 0: four times as far
  double damping = 0;  ///< share of the old state in each step
  Index classes = 2;
  Index batch = 1;                         ///< images at once: batch norm takes their statistics
  Index images = 64;                       ///< at most so many are looked at: the first ones
  Index shown = 10;                        ///< the best so many and the worst are shown
  Index largest_side = 96;                 ///< of a picture; larger images are made smaller
  std::vector<Transform> transforms = {};  ///< what every image goes through
};

namespace detail {

/// A cell whose steps keep a share of the old state.
template <class Cell>
struct DampedCell {
  Cell cell;
  double damping = 0;

  void parameters(auto&& visit) { cell.parameters(visit); }
  template <class X>
  auto prepare(const X& x) const requires requires(const Cell& c) {
    c.prepare(x);
  }
  { return cell.prepare(x); }
  template <class Z, class... X>
  Z operator()(const Z& z, const X&... x) const {
    return damped(z, cell(z, x...), damping);
  }
};

/// Calls after_step(k, logits, residual |f(z) - z| / |f(z)|) for the states z after k = 1 ... steps. Nothing is
/// recorded.
template <class Net, class V, class AfterStep>
void follow(const Net& net, const V& images, int steps, double damping, const AfterStep& after_step) {
  using T = typename V::value_type;
  using D = typename V::device_type;
  if constexpr (requires { net.cell; }) {
    const V x = net.stem(images);
    const auto step = prepared_step(net.cell, x);
    auto state = net.cell.initial_state(x);
    using Z = decltype(state);
    Z next = step(state);
    for (int k = 1; k <= steps; ++k) {
      state = damped(state, next, damping);
      next = step(state);
      const auto values = [](const Z& z) {
        return fixed_point::detail::values_of<T, D>(fixed_point::detail::variables<V>(z));
      };
      const auto moved = fixed_point::detail::moved(values(next), values(state), 1);
      after_step(k, at_size_of(images, net.readout(first_part(state))).value(),
                 fixed_point::detail::relative(moved.distances.front(), moved.sizes.front()));
    }
  } else {
    after_step(1, at_size_of(images, net(images)).value(), 0.0);
  }
}

/// The spectral radius of the step's Jacobian at the states after 1 ... steps, of one batch.
template <class Net, class V>
std::vector<double> radii(const Net& net, const V& images, int training_steps, int steps, double damping) {
  std::vector<double> out;
  if constexpr (requires { net.cell; }) {
    const V x = net.stem(images);
    const DampedCell<decltype(net.cell)> cell{net.cell, damping};
    for (const auto& point : fixed_point::stability_profile(
             cell, {.steps = steps, .reference = training_steps, .products = 3}, net.cell.initial_state(x),
             [](const auto&) { return 0.0; }, x))
      out.push_back(point.spectral_radius);
  }
  return out;
}

/// The steps after which predictions are shown: at most 16 up to those of training, and 8 beyond.
inline std::vector<int> shown_steps(int training_steps, int most_steps) {
  std::vector<int> out;
  const auto spread = [&](int from, int to, int count) {
    for (int k = 1; k <= count; ++k) {
      const int step = from + static_cast<int>(std::lround((to - from) * static_cast<double>(k) / count));
      if (out.empty() || step > out.back()) out.push_back(step);
    }
  };
  spread(0, std::min(training_steps, most_steps), 16);
  spread(out.back(), most_steps, 8);
  return out;
}

}  // namespace detail

/// Follows a trained net on held-out images well past the steps of its training, and writes what a report shows of it:
/// FOLDER/held_out.json (score, residual and spectral radius by step; the best and the worst images) and
/// FOLDER/held_out.png (a row for each of them: image, target, the prediction after each of some steps). Writes nothing
/// where there is no image. Throws Error where a file cannot be written.
template <class Device, class Net>
void record_held_out(const Net& trained, const DataSet& data, const HeldOutOptions& options,
                     const std::filesystem::path& folder) {
  using V = Var<float, Device>;
  constexpr bool recurrent = requires { trained.cell; };
  const Index count = std::min(data.size(), options.images);
  if (count == 0) return;
  const Net net = as_constants(trained);
  const int steps = recurrent ? options.steps : 1;
  const int most = recurrent ? std::max(steps, options.most_steps > 0 ? options.most_steps : 4 * steps) : 1;
  const std::vector<int> frames = detail::shown_steps(steps, most);

  struct Film {
    std::vector<Image8> pictures;  ///< image, target, predictions
    std::vector<double> f1;        ///< of each prediction
    double score = 0;              ///< that after the steps of training
  };
  std::vector<Film> films;
  std::vector<ConfusionMatrix> counts(static_cast<std::size_t>(most), ConfusionMatrix(options.classes));
  std::vector<double> residuals(counts.size(), 0), radii;
  Index batches = 0;
  Loader<> loader(data.range(0, count),
                  {.batch = options.batch, .shuffle = false, .endless = false, .transforms = options.transforms});
  while (!loader.done()) {
    const Batch batch = loader.next();
    const Index first = static_cast<Index>(films.size()), size = batch.image.shape(0);
    const V images(to<Device>(batch.image));
    for (Index n = 0; n < size; ++n) {
      Film& film = films.emplace_back();
      film.pictures.push_back(picture_of(sample_of(batch.image, n)));
      film.pictures.push_back(
          overlaid(film.pictures.front(), class_shares_of_target(sample_of(batch.target, n), options.classes)));
    }
    detail::follow(net, images, most, options.damping,
                   [&](int k, const Tensor<float, Device>& on_device, double residual) {
                     const Tensor<float> logits = to<Cpu>(on_device);
                     counts[static_cast<std::size_t>(k - 1)].add(logits, batch.target, batch.ignore);
                     residuals[static_cast<std::size_t>(k - 1)] += residual;
                     const bool shown = std::binary_search(frames.begin(), frames.end(), k);
                     for (Index n = 0; n < size && (shown || k == steps); ++n) {
                       Film& film = films[static_cast<std::size_t>(first + n)];
                       const Tensor<float> own = sample_of(logits, n), target = sample_of(batch.target, n);
                       ConfusionMatrix one(options.classes);
                       one.add(own.reshape({1, own.shape(0), own.shape(1), own.shape(2)}),
                               target.reshape({1, target.shape(0), target.shape(1)}),
                               batch.ignore.size() == 0
                                   ? Tensor<float>()
                                   : sample_of(batch.ignore, n).reshape({1, target.shape(0), target.shape(1)}));
                       if (k == steps) film.score = one.f1();
                       if (!shown) continue;
                       film.pictures.push_back(overlaid(film.pictures.front(), class_shares(own)));
                       film.f1.push_back(one.f1());
                     }
                   });
    if (++batches == 1) radii = detail::radii(net, images, steps, most, options.damping);
  }

  std::vector<std::size_t> order(films.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return films[a].score > films[b].score; });
  const auto shown = static_cast<std::size_t>(std::max<Index>(1, options.shown));
  if (order.size() > 2 * shown)
    order.erase(order.begin() + static_cast<std::ptrdiff_t>(shown), order.end() - static_cast<std::ptrdiff_t>(shown));

  const Image8& front = films[order.front()].pictures.front();
  const Index side = std::min(options.largest_side, std::max(front.height, front.width));
  Sheet sheet(static_cast<Index>(order.size()), 2 + static_cast<Index>(frames.size()), side);
  Json samples = Json::array(), profile = Json::array();
  for (std::size_t row = 0; row < order.size(); ++row) {
    const Film& film = films[order[row]];
    for (std::size_t column = 0; column < film.pictures.size(); ++column)
      sheet.paint(static_cast<Index>(row), static_cast<Index>(column), film.pictures[column]);
    samples.push_back({{"number", order[row]}, {"f1", film.score}, {"f1_by_frame", film.f1}});
  }
  for (std::size_t k = 0; recurrent && k < counts.size(); ++k)
    profile.push_back({{"step", k + 1},
                       {"f1", counts[k].f1()},
                       {"residual", residuals[k] / static_cast<double>(batches)},
                       {"spectral_radius", radii[k]}});
  write_png(folder / "held_out.png", sheet.picture());
  write_json(folder / "held_out.json", {{"training_steps", steps},
                                        {"images", count},
                                        {"side", side},
                                        {"frames", frames},
                                        {"samples", samples},
                                        {"profile", profile}});
}

/// Writes pictures of what a net says of a batch of images: FOLDER/panels.png (above one another image, target, and the
/// prediction after `steps`) and FOLDER/segmentation.gif (the prediction after each step up to that). Throws Error
/// where a file cannot be written.
template <class Device, class Net>
void write_panels(const Net& trained, const Batch& batch, int steps, double damping,
                  const std::filesystem::path& folder) {
  using V = Var<float, Device>;
  constexpr Index side = 160, gap = 2;
  constexpr std::uint8_t grey = 64;
  const Index count = batch.image.shape(0);
  Sheet panels(3, count, side, gap, grey);
  std::vector<Image8> frames;
  detail::follow(as_constants(trained), V(to<Device>(batch.image)), steps, damping,
                 [&](int k, const Tensor<float, Device>& on_device, double) {
                   const Tensor<float> logits = to<Cpu>(on_device);
                   Sheet frame(1, count, side, gap, grey);
                   for (Index n = 0; n < count; ++n) {
                     const Image8 image = picture_of(sample_of(batch.image, n));
                     const Image8 marked = overlaid(image, class_shares(sample_of(logits, n)));
                     frame.paint(0, n, marked);
                     if (k < steps) continue;
                     panels.paint(0, n, image), panels.paint(2, n, marked);
                     panels.paint(1, n,
                                  overlaid(blank_image(image.height, image.width, 3),
                                           class_shares_of_target(sample_of(batch.target, n), logits.shape(1))));
                   }
                   frames.push_back(frame.picture());
                 });
  write_png(folder / "panels.png", panels.picture());
  GifOptions timing{.delays = std::vector<Index>(frames.size(), 25), .palette = {}};
  timing.delays.back() = 200;
  write_gif(folder / "segmentation.gif", frames, timing);
}

}  // namespace settle
