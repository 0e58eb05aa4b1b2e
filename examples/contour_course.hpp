#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "device.hpp"
#include "settle/data/data_set.hpp"
#include "settle/io/json.hpp"
#include "settle/settle.hpp"
#include "settle/train/pictures.hpp"
#include "settle/train/trainer_options.hpp"

// What quickstart trains, on what, by which method, and how it is scored: its recipe.

namespace contours {

using namespace settle;

/// One part of the training. A net that has learnt to carry the mark along short contours goes on to longer ones, with
/// more steps to carry it in; long ones alone take it many times as long to learn from.
struct Lesson {
  Index contour_length, distractor_length;  ///< dashes
  int recurrent_steps;
  double share;  ///< of the training steps
};

/// The last part of the training, in which a net that can do the task learns to stay where it has arrived: its steps
/// are damped, their number is another each time so that it can rely on none, and what then still moves has a price.
struct Settling {
  double from = 0.6;  ///< progress
  double damping = 0.3;
  int more_steps = 60;           ///< at most so many beyond the lesson's
  int test_steps = 40;           ///< after which the trained net is read
  double movement_weight = 0.6;  ///< after the most steps; less after fewer, as a mark on its way must move
};

struct Settings {
  std::string output = "out/quickstart", device = device_name;
  TrainerOptions train{.batch = 4, .steps = 6000, .checkpoint_every = 1000};
  double penalty_weight = 3;
  Index training_images = 4096;  ///< in each lesson
  Index held_out_images = 1024;
  ModelOptions model{.kernel = 3, .orientations = 8, .seed = 1, .initialisation = Initialisation::corrected};
  PathfinderOptions task{.size = 32, .window = 112, .distractors = 3, .thickness = 3, .random_flips = true};
  std::array<Lesson, 3> lessons{{{3, 3, 10, 0.12}, {6, 6, 16, 0.3}, {9, 6, 20, 0.58}}};
  Settling settling;

  Settings() {
    train.optimiser.rate = 2.5e-2, train.optimiser.beta2 = 0.99;
    train.schedule = {.kind = "cosine", .final_rate = 0.02};
  }

  void each(auto&& visit) {
    using namespace allowed;
    visit("output", output, anything(), "the folder for everything");
    visit("device", device, one_of({"cpu", "cuda"}), "what it computes on: this program's");
    visit("seed", train.seed, at_least(0), "names all random numbers");
    visit("training_steps", train.steps, at_least(1), "of the recurrent net; the control trains as long");
    visit("batch", train.batch, at_least(1), "images in a step");
    visit("kernel", model.kernel, odd(), "side of the convolutions");
    visit("orientations", model.orientations, at_least(1), "of the stem; 2 n + 1 channels");
    visit("rate", train.optimiser.rate, above(0), "the learning rate at first");
    visit("penalty_weight", penalty_weight, at_least(0), "in the objective");
    visit("size", task.size, at_least(1), "height and width of the images");
    visit("window", task.window, at_least(0), "side of the canvas that they are drawn on");
    visit("distractors", task.distractors, at_least(0), "short contours");
    visit("training_images", training_images, at_least(1), "in each of the three lessons");
    visit("held_out_images", held_out_images, at_least(1), "for the scores");
  }

  /// How the trained net is run.
  Rbp at_rest(int steps) const {
    return {{.forward = fixed_point::Plain{.damping = settling.damping},
             .stop = fixed_point::Steps{.count = steps},
             .on_fail = fixed_point::OnFail::report}};
  }
};

/// Images of one purpose, made once. A Pathfinder data set is a seed, and its images are numbered; training and
/// held-out images come from different seeds.
class Images {
 public:
  Images(const Settings& s, const Lesson& lesson, std::uint64_t data_set, Index count)
      : count_(count), batch_(s.train.batch), batches_(static_cast<std::size_t>((count + batch_ - 1) / batch_)) {
    PathfinderOptions task = s.task;
    task.contour_length = lesson.contour_length, task.distractor_length = lesson.distractor_length;
    const Pathfinder pathfinder(task);
    for (std::size_t k = 0; k < batches_.size(); ++k) {
      const Index first = static_cast<Index>(k) * batch_;
      batches_[k] = pathfinder.batch(data_set, static_cast<std::uint64_t>(first), std::min(batch_, count - first));
      // A stroke is narrower than a pixel here, and dimmer than the stem's initial filters expect.
      batches_[k].image = map([](auto v, auto contrast) { return contrast * v; }, Var(batches_[k].image), 1.5).value();
    }
  }

  const std::vector<PathfinderBatch>& batches() const { return batches_; }

  /// A training step's: each round through the images sees them mirrored another way.
  BatchOf<float, Device::Staging> training_batch(Index step) const {
    const auto count = static_cast<Index>(batches_.size());
    const PathfinderBatch& batch = batches_[static_cast<std::size_t>(step % count)];
    const auto flip = static_cast<Flip>(step / count % 4);
    return {to<Device::Staging>(flipped(batch.image, flip)), to<Device::Staging>(flipped(batch.target, flip)), {}};
  }

  // They are a data set, too.
  Index size() const { return count_; }
  Sample sample(Index i) const {
    const PathfinderBatch& batch = batches_[static_cast<std::size_t>(i / batch_)];
    return {sample_of(batch.image, i % batch_), sample_of(batch.target, i % batch_), {}};
  }

 private:
  Index count_, batch_;
  std::vector<PathfinderBatch> batches_;
};

/// How a step of the recurrent net's training is differentiated, and what it is penalised for.
struct Method {
  Rbp policy;
  double penalty_weight;
};

/// The lessons, each with its images, and the method, as functions of how far the training is (0 to 1). The control has
/// no number of steps of its own: it is as far as the recurrent net is.
class Course {
 public:
  explicit Course(const Settings& s) : settings_(s) {
    for (std::size_t k = 0; k < s.lessons.size(); ++k)
      images_.emplace_back(s, s.lessons[k], (s.lessons.size() + 1) * s.train.seed + k, s.training_images);
  }

  /// C-RBP: the recurrent steps are not recorded; the loss is differentiated through the fixed point that they
  /// approach. At first the penalty keeps sums of the last step's derivatives small, on both sides, as a factor near -1
  /// makes the state flicker. It is blind to states that turn in circles; at the end their movement itself is
  /// penalised, and the adjoint is solved by GMRES, as damped steps may settle where the series of the undamped ones
  /// diverges.
  Method method(double progress, Index step) const {
    const int steps = settings_.lessons[at(progress)].recurrent_steps;
    const Settling& settling = settings_.settling;
    if (progress < settling.from)
      return {{{.stop = fixed_point::Steps{.count = steps},
                .adjoint = fixed_point::Neumann{.max_products = 8, .rtol = 0.1},
                .penalty = fixed_point::Lcp{.lambda = 0.9, .two_sided = true},
                .on_fail = fixed_point::OnFail::report}},
              settings_.penalty_weight};
    Random random(settings_.train.seed, static_cast<std::uint64_t>(step));
    const auto more = static_cast<int>(random.below(settling.more_steps + 1));
    Method out{settings_.at_rest(steps + more), settling.movement_weight * more / settling.more_steps};
    out.policy.options.adjoint = fixed_point::Gmres{.restart = 8, .max_products = 8, .rtol = 0.1};
    out.policy.options.penalty = fixed_point::Movement{};
    return out;
  }

  BatchOf<float, Device::Staging> batch(double progress, Index step) const {
    return images_[at(progress)].training_batch(step);
  }

 private:
  std::size_t at(double progress) const {
    std::size_t k = 0;
    for (double end = settings_.lessons[0].share; k + 1 < images_.size() && progress >= end;)
      end += settings_.lessons[++k].share;
    return k;
  }

  const Settings& settings_;
  std::vector<Images> images_;
};

// --- how it is scored ----------------------------------------------------------------------------

/// Counts over the held-out images, in batches as in training: batch norm uses the batch's statistics.
template <class Predict>
Confusion evaluate(const Images& images, Predict&& predict_logits) {
  Confusion out;
  for (const PathfinderBatch& batch : images.batches()) out += confusion(predict_logits(batch), batch.target);
  return out;
}

/// The recurrent net's scores after a number of steps, and its relative residual |f(z) - z| / |f(z)|, the batches'
/// mean.
struct AtRest {
  Confusion counts;
  double residual = 0;
};

inline AtRest evaluate_at_rest(const Images& images, const HgruNet<float>& net, const Rbp& policy) {
  AtRest out;
  out.counts = evaluate(images, [&](const PathfinderBatch& batch) {
    const auto result = run(net, Var(batch.image), policy);
    out.residual += result.report->forward.relative.front() / static_cast<double>(images.batches().size());
    return result.logits.value();
  });
  return out;
}

/// The logits of the predictor that marks every dash.
inline Tensor<float> mark_all(const PathfinderBatch& batch) {
  const Shape& shape = batch.dashes.shape();
  const Var<float> dashes(batch.dashes.reshape({shape[0], 1, shape[1], shape[2]}));
  const Var<float> sign(Tensor<float>(Shape{2, 1, 1}, {-1.f, 1.f}));
  return map([](auto d, auto c) { return c * (d - 0.5); }, dashes, sign).value();
}

inline Json scores(const Confusion& s) {
  return {{"f1", s.f1()},
          {"iou", s.iou()},
          {"precision", s.precision()},
          {"recall", s.recall()},
          {"balanced_accuracy", s.balanced_accuracy()}};
}

}  // namespace contours
