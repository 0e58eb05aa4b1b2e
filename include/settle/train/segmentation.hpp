#pragma once
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "settle/data/bsds500.hpp"
#include "settle/distributed/sums.hpp"
#include "settle/fixed_point/modulation.hpp"
#include "settle/nn/confusion_matrix.hpp"
#include "settle/nn/pixel_loss.hpp"
#include "settle/train/boundary_maps.hpp"
#include "settle/train/held_out.hpp"
#include "settle/train/segmentation_options.hpp"
#include "settle/train/solve_figures.hpp"
#include "settle/train/trainer.hpp"

namespace settle::inline v0_2 {

/// The data that options name, in its three parts.
struct SegmentationData {
  DataSet training, validation, held_out;
  bool shuffle = true;               ///< not where every image is new
  std::vector<std::string> skipped;  ///< what could not be read, each with its reason
  std::vector<std::filesystem::path> annotators = {};  ///< bsds500: the files of those of the images that are held out
};

namespace detail {

/// Pathfinder images as samples: number i is image first + i of the data set `seed`.
struct PathfinderSamples {
  std::shared_ptr<const Pathfinder> generator;
  std::uint64_t seed, first;
  Index count;
  bool same_contour = false;

  Index size() const { return count; }
  Sample sample(Index i) const {
    const std::uint64_t number = first + static_cast<std::uint64_t>(i);
    if (same_contour) return two_marks(*generator, seed, number);
    const PathfinderSample made = generator->sample(seed, number);
    return {made.image, made.target, {}};
  }

  /// The classification task of 2018: two discs, at both ends of one contour (class 1 for all pixels) or at an end each
  /// of two (class 0).
  static Sample two_marks(const Pathfinder& pathfinder, std::uint64_t seed, std::uint64_t number) {
    const PathfinderScene scene = pathfinder.scene(seed, number);
    const bool same = number % 2 == 1;
    Image8 image = pathfinder.draw(scene).image;
    const Image8 other =
        pathfinder.draw(pathfinder.far_end_marked(same ? scene : pathfinder.rival_marked(scene))).image;
    for (std::size_t k = 0; k < image.pixels.size(); ++k) image.pixels[k] = std::max(image.pixels[k], other.pixels[k]);
    const Index size = pathfinder.options().size;
    // What is drawn twice is a target too, so that nothing of it can be lost unseen when it is made smaller.
    const PathfinderSample made = to_sample({image, image}, size);
    return {made.image, Tensor<float>({size, size}, same ? 1.f : 0.f), {}};
  }
};

struct PathfinderFolderSamples {
  std::shared_ptr<const PathfinderFolder> folder;

  Index size() const { return folder->size(); }
  Sample sample(Index i) const {
    const PathfinderSample read = folder->sample(i);
    return {read.image, read.target, {}};
  }
};

}  // namespace detail

namespace detail {

/// Data sets one after the other: sample i is of the set whose part of the training it falls in, whose samples come
/// round again.
struct Curriculum {
  std::vector<DataSet> lessons;
  std::vector<Index> ends;  ///< the number of the first sample that is not a lesson's

  Index size() const { return ends.back(); }
  Sample sample(Index i) const {
    const auto k = static_cast<std::size_t>(std::upper_bound(ends.begin(), ends.end(), i) - ends.begin());
    const Index first = k == 0 ? 0 : ends[k - 1];
    return lessons[k].sample((i - first) % lessons[k].size());
  }
};

}  // namespace detail

/// Opens the data. Throws DataError where it is missing, damaged, or too small for its three parts.
inline SegmentationData open_data(const SegmentationOptions& options) {
  const auto& d = options.data;
  SegmentationData out;
  const auto bytes = static_cast<std::size_t>(1e6 * d.cache_megabytes);
  if (d.kind == "pathfinder") {
    constexpr std::uint64_t far = std::uint64_t{1} << 40;  // training never gets there
    const auto generator_of = [&](Index contour_length) {
      return std::make_shared<const Pathfinder>(PathfinderOptions{.size = d.size,
                                                                  .window = d.window,
                                                                  .contour_length = contour_length,
                                                                  .distractors = d.distractors,
                                                                  .distractor_length = d.distractor_length,
                                                                  .thickness = d.thickness,
                                                                  .random_flips = true});
    };
    const auto generator = generator_of(d.contour_length);
    const bool two_marks = d.task == "same_contour";
    const auto part = [&](std::uint64_t first, Index count) -> DataSet {
      return detail::PathfinderSamples{generator, options.train.seed, first, count, two_marks};
    };
    const auto training_part = [&](const std::shared_ptr<const Pathfinder>& of) -> DataSet {
      const Index count = d.count > 0 ? d.count : static_cast<Index>(far);
      const DataSet all = detail::PathfinderSamples{of, options.train.seed, 0, count, two_marks};
      return d.count > 0 ? cached(all, bytes) : all;
    };
    out.shuffle = d.count > 0;
    out.training = training_part(generator);
    if (!d.curriculum.empty()) {
      const auto& t = options.train;
      const Index samples = t.steps * t.batch * t.accumulate;
      detail::Curriculum course;
      for (std::size_t k = 0; k < d.curriculum.size(); ++k) {
        course.lessons.push_back(training_part(generator_of(d.curriculum[k])));
        const double share = d.curriculum_share * static_cast<double>(k + 1);
        course.ends.push_back(static_cast<Index>(share * static_cast<double>(samples)));
      }
      course.lessons.push_back(out.training);
      course.ends.push_back(samples + t.batch);  // the trainer looks at one batch more
      out.training = std::move(course);
      out.shuffle = false;
    }
    out.validation = cached(part(far, d.validation), bytes), out.held_out = part(2 * far, d.held_out);
    return out;
  }
  const auto too_few = [](const auto& needed, Index found) {
    fail_data("data", "expected more images than the ", needed, ", found ", found);
  };
  if (d.kind == "bsds500") {
    const Bsds500Options of{.channels = d.channels, .consensus = d.consensus, .radius = d.boundary_radius};
    const DataSet seen = cached(Bsds500(d.folder, {"train", "val"}, of), bytes);
    if (seen.size() <= d.validation) too_few(std::to_string(d.validation) + " for validation", seen.size());
    out.training = seen.range(0, seen.size() - d.validation);
    out.validation = seen.range(out.training.size(), d.validation);
    if (d.held_out == 0) return out;
    const Bsds500 test(d.folder, {"test"}, of);
    if (test.size() < d.held_out) too_few(std::to_string(d.held_out - 1) + " held out", test.size());
    for (Index k = test.size() - d.held_out; k < test.size(); ++k) out.annotators.push_back(test.annotators(k));
    out.held_out = DataSet(test).range(test.size() - d.held_out, d.held_out);
    return out;
  }
  DataSet all;
  if (d.kind == "folder") {
    ImageFolder folder(d.folder, {.images = d.images,
                                  .masks = d.masks,
                                  .channels = d.channels,
                                  .classes = d.classes,
                                  .ignore = d.ignore,
                                  .on_corrupt = d.on_corrupt == "skip" ? OnCorrupt::skip : OnCorrupt::error});
    out.skipped = folder.skipped();
    all = std::move(folder);
  } else {
    try {
      all = detail::PathfinderFolderSamples{std::make_shared<const PathfinderFolder>(d.folder, d.list, d.size)};
    } catch (const Error& error) {
      throw DataError(error.what());
    }
  }
  all = cached(all, bytes);
  const Index training = all.size() - d.validation - d.held_out;
  if (training < 1)
    too_few(std::to_string(d.validation) + " for validation and the " + std::to_string(d.held_out) + " held out",
            all.size());
  out.training = all.range(0, training);
  out.validation = all.range(training, d.validation);
  out.held_out = all.range(training + d.validation, d.held_out);
  return out;
}

/// What every image goes through, in training and after.
inline std::vector<Transform> evaluation_transforms(const SegmentationOptions& options) {
  const auto& d = options.data;
  std::vector<Transform> out;
  if (d.resize > 0) out.push_back(transforms::resize(d.resize, d.resize));
  if (!d.mean.empty() || !d.deviation.empty())
    out.push_back(transforms::normalise(d.mean.empty() ? std::vector<double>{0} : d.mean,
                                        d.deviation.empty() ? std::vector<double>{1} : d.deviation));
  return out;
}

/// What training images go through.
inline std::vector<Transform> training_transforms(const SegmentationOptions& options) {
  const auto& d = options.data;
  std::vector<Transform> out;
  if (d.resize > 0) out.push_back(transforms::resize(d.resize, d.resize));
  if (d.least_scale != 1 || d.most_scale != 1) out.push_back(transforms::random_scale(d.least_scale, d.most_scale));
  if (d.rotate > 0) out.push_back(transforms::random_rotate(d.rotate));
  if (d.crop > 0) {
    out.push_back(transforms::pad(d.crop, d.crop));
    out.push_back(transforms::random_crop(d.crop, d.crop));
  }
  if (d.flip != "none") out.push_back(transforms::random_flip(d.flip != "vertical", d.flip != "horizontal"));
  if (d.rotate90) out.push_back(transforms::random_rotate90());
  if (d.brightness > 0 || d.contrast > 0)
    out.push_back(transforms::random_brightness_contrast(d.brightness, d.contrast));
  if (!d.mean.empty() || !d.deviation.empty()) {
    SegmentationOptions last = options;
    last.data.resize = 0;
    for (Transform& transform : evaluation_transforms(last)) out.push_back(std::move(transform));
  }
  return out;
}

/// What the step's Jacobian J looks like at a state.
struct JacobianLook {
  std::vector<double> column_sums;  ///< 1ᵀ J, of all numbers of the state
  double spectral_radius = 0;       ///< by power iteration
  double penalty = 0;               ///< the two-sided LCP with lambda = 0.9
  double residual = 0;              ///< |f(z) - z| / |f(z)|
};

/// What a run shows after each step.
struct StepShown {
  int step;
  const Tensor<float>& state;   ///< its first part; empty for a feed-forward net
  const Tensor<float>& logits;  ///< (N, K, H, W)
  double residual;              ///< |f(z) - z| / |f(z)| of the step; 0 for a feed-forward net
};

/// A net of a kind chosen at run time, in training and in use.
class Segmentation {
 public:
  virtual ~Segmentation() = default;

  /// Trains to the end of the budget, in a run folder.
  /// With several ranks each calls this, and rank 0 alone has a folder.
  virtual TrainingEnd train(const SegmentationData& data, std::shared_ptr<RunFolder> folder, bool resume, Json& summary,
                            const distributed::Group& ranks = {}) = 0;
  /// Takes the weights of a checkpoint.
  virtual void load(const std::filesystem::path& checkpoint) = 0;
  /// Counts over a data set, with so many recurrent steps: the same, whatever the number of ranks.
  virtual ConfusionMatrix evaluate(const DataSet& data, int steps, const distributed::Group& ranks = {}) = 0;
  /// The logits (K, H, W) of an image (C, H, W) that has gone through evaluation_transforms.
  virtual Tensor<float> logits(const Tensor<float>& image, int steps) = 0;
  virtual Index parameter_count() const = 0;
  /// Writes what a report shows of held-out images into a folder: see settle::record_held_out.
  virtual void record_held_out(const DataSet& data, const std::filesystem::path& folder) = 0;
  /// Shows every step of a run on images (N, C, H, W) that have gone through evaluation_transforms.
  virtual void follow(const Tensor<float>& images, int steps, const std::function<void(const StepShown&)>& show) = 0;
  /// Runs through frames (N, C, H, W), so many steps on each, and shows each frame's last logits (N, K, H, W). `warm`:
  /// a frame starts from the last one's state, but for samples whose state was not finite there: these start from what
  /// they had before. Else all start from the initial one. A feed-forward net looks at each frame.
  virtual void track(const std::vector<Tensor<float>>& frames, int steps, bool warm,
                     const std::function<void(std::size_t, const Tensor<float>&)>& show) = 0;
  /// The Jacobian of the step after a number of steps, by `products` power iterations. Throws Error for a feed-forward
  /// net.
  virtual JacobianLook look_at_jacobian(const Tensor<float>& images, int steps, int products) = 0;
  /// The peak memory in bytes of one training step on a batch, beyond what is held before it.
  virtual std::size_t training_peak_bytes(const Batch& batch) = 0;
};

inline Figures scores(const ConfusionMatrix& counts) {
  return {{"f1", counts.f1()},
          {"iou", counts.iou()},
          {"precision", counts.precision()},
          {"recall", counts.recall()},
          {"accuracy", counts.accuracy()}};
}

inline Figures scores(const BoundaryResult& result) {
  return {{"ods", result.ods.score.f},
          {"ods_threshold", result.ods.threshold},
          {"ods_precision", result.ods.score.precision},
          {"ods_recall", result.ods.score.recall},
          {"ois", result.ois.f},
          {"ap", result.ap}};
}

namespace detail {

/// The initial values that options ask for, beyond those of the library's nets.
template <class Net, class T, class D>
void prepare_initial(Net& net, const SegmentationOptions& options) {
  using V = Var<T, D>;
  const Index channels = options.model_options().channels();
  if constexpr (requires { net.readout; })
    net.readout.whole_image = options.model.readout == "image";
  else
    net.whole_image = options.model.readout == "image";
  if constexpr (requires { net.stem; })
    net.stem.stride = options.model.stride;
  else
    net.stride = options.model.stride;
  if (options.classes() == 2 && options.model.foreground != 0.5) {
    const double logit = std::log(options.model.foreground / (1 - options.model.foreground)) / 2;
    const V bias(to<D>(Tensor<T>(Shape{2}, {static_cast<T>(-logit), static_cast<T>(logit)})));
    if constexpr (requires { net.readout; })
      net.readout.conv6.bias = bias;
    else
      net.conv7.bias = bias;
  }
  if constexpr (requires { net.cell.bn; })
    for (auto& norm : net.cell.bn)
      norm.weight = Tensor<T, D>(norm.weight.shape(), static_cast<T>(options.model.norm_weight));
  if constexpr (requires { net.stem; })
    if (options.model.unit_stem) {
      Tensor<T> filters = to<Cpu>(net.stem.conv0.weight.value());
      const Index taps = filters.size() / channels;
      T* const brightness = filters.mutable_data() + (channels - 1) * taps;
      const T norm = std::sqrt(std::inner_product(brightness, brightness + taps, brightness, T{0}));
      for (Index k = 0; k < taps; ++k) brightness[k] /= norm;
      net.stem.conv0.weight = to<D>(filters);
    }
}

}  // namespace detail

/// Segmentation with one type of net.
template <class Net, class Device = Cpu>
class SegmentationOf final : public Segmentation {
 public:
  using V = Var<float, Device>;

  SegmentationOf(Net net, SegmentationOptions options) : net_(std::move(net)), options_(std::move(options)) {
    detail::prepare_initial<Net, float, Device>(net_, options_);
  }

  TrainingEnd train(const SegmentationData& data, std::shared_ptr<RunFolder> folder, bool resume, Json& summary,
                    const distributed::Group& ranks) override {
    Trainer<Net, float, Device> trainer(net_, options_.train, std::move(folder), resume, ranks);
    trainer.transforms = training_transforms(options_);
    trainer.shuffle = data.shuffle;
    if (data.validation.size() > 0)
      trainer.validate = [&](const Net& net) {
        const ConfusionMatrix counts = evaluate(net, data.validation, options_.algorithm.steps, ranks);
        Figures out{{"f1", counts.f1()}, {"iou", counts.iou()}};
        if (recurrent && options_.watch_jacobian) {
          const JacobianLook look = look_at_jacobian(net, first_batch(data.validation), options_.algorithm.steps, 20);
          out.emplace_back("radius", look.spectral_radius);
          out.emplace_back("column_sum", *std::max_element(look.column_sums.begin(), look.column_sums.end()));
          out.emplace_back("penalty", look.penalty);
          out.emplace_back("residual", look.residual);
        }
        return out;
      };
    const auto loss = [&](Net& model, const BatchOf<float, Device>& batch) {
      const auto [policy, weight] = options_.policy_at(trainer.step());
      return objective(model, batch, policy, weight);
    };
    const TrainingEnd end = trainer.train(data.training, loss);
    summary["steps"] = trainer.step();
    summary["training_seconds"] = trainer.seconds();
    summary["end"] = name(end);
    if (trainer.best_score()) {
      summary["validation_f1"] = *trainer.best_score();
      summary["best_step"] = trainer.best_step();
    }
    if (end != TrainingEnd::preempted) trainer.load_best();
    return end;
  }

  void load(const std::filesystem::path& checkpoint) override { load_checkpoint(checkpoint, net_); }

  ConfusionMatrix evaluate(const DataSet& data, int steps, const distributed::Group& ranks) override {
    return evaluate(net_, data, steps, ranks);
  }

  Tensor<float> logits(const Tensor<float>& image, int steps) override {
    const Shape& s = image.shape();
    const Tensor<float> out = predict(net_, image.reshape({1, s[0], s[1], s[2]}), steps);
    return out.reshape({out.shape(1), out.shape(2), out.shape(3)});
  }

  Index parameter_count() const override { return settle::parameter_count(net_); }

  void record_held_out(const DataSet& data, const std::filesystem::path& folder) override {
    settle::record_held_out<Device>(net_, data,
                                    {.steps = options_.algorithm.steps,
                                     .classes = options_.classes(),
                                     .batch = options_.evaluation_batch,
                                     .transforms = evaluation_transforms(options_)},
                                    folder);
  }

  void follow(const Tensor<float>& images, int steps, const std::function<void(const StepShown&)>& show) override {
    const V input(to<Device>(images));
    if constexpr (recurrent) {
      Tensor<float, Device> start;  // what the next step starts from
      const auto damping = static_cast<float>(options_.test_damping());
      detail::iterate_off_tape(
          net_, input, steps,
          [&](int k, const Net& constants, const auto& next) {
            const V& z = detail::first_part(next);
            if (start.size() == 0) start = Tensor<float, Device>(z.shape(), 0.f);
            const auto moved = fixed_point::detail::moved<float, Device>({z.value()}, {start}, 1);
            show({k, to<Cpu>(z.value()), to<Cpu>(at_size_of(input, constants.readout(z)).value()),
                  fixed_point::detail::relative(moved.distances.front(), moved.sizes.front())});
            start = detail::damped(V(start), z, damping).value();
          },
          options_.test_damping());
    } else {
      show({1, Tensor<float>(), to<Cpu>(at_size_of(input, as_constants(net_)(input)).value()), 0});
    }
  }

  void track(const std::vector<Tensor<float>>& frames, int steps, bool warm,
             const std::function<void(std::size_t, const Tensor<float>&)>& show) override {
    require(steps >= 1, "track", "expected at least 1 step, got ", steps);
    const Net constants = as_constants(net_);
    if constexpr (recurrent) {
      using State = decltype(constants.cell.initial_state(V()));
      const double damping = options_.test_damping();
      std::optional<State> start;
      for (std::size_t t = 0; t < frames.size(); ++t) {
        const V frame(to<Device>(frames[t]));
        const V x = constants.stem(frame);
        const auto step = detail::prepared_step(constants.cell, x);
        if (!start || !warm) start = constants.cell.initial_state(x);
        State state = *start;
        for (int k = 1; k <= steps; ++k) {
          State next = step(state);
          state = k < steps && damping > 0 ? detail::damped(state, next, damping) : std::move(next);
        }
        show(t, to<Cpu>(at_size_of(frame, constants.readout(detail::first_part(state))).value()));
        if (!warm) continue;
        namespace fp = fixed_point::detail;
        fp::Numbers finite = fp::largest_magnitudes(fp::values_of(fp::variables<V>(state)), x.shape(0));
        for (double& largest : finite) largest = std::isfinite(largest) ? 1 : 0;
        fp::keep_settled(state, finite, *start);
      }
    } else {
      for (std::size_t t = 0; t < frames.size(); ++t) {
        const V frame(to<Device>(frames[t]));
        show(t, to<Cpu>(at_size_of(frame, constants(frame)).value()));
      }
    }
  }

  JacobianLook look_at_jacobian(const Tensor<float>& images, int steps, int products) override {
    return look_at_jacobian(net_, images, steps, products);
  }

  std::size_t training_peak_bytes(const Batch& batch) override {
    auto& memory = MemoryOf<Device>::instance();
    const BatchOf<float, Device> input = to<Device>(batch);
    const std::size_t held = memory.use().current;
    memory.reset_peak();
    {
      Tape<float, Device> tape;
      Net model = on_tape(net_, tape);
      const auto [policy, weight] = options_.policy_at(0);
      const Objective<V> made = objective(model, input, policy, weight);
      const auto gradients = grad(made.value, parameters<V>(model));
    }
    return memory.use().peak - held;
  }

 private:
  static constexpr bool recurrent = requires(Net net) { net.cell; };

  Tensor<float> first_batch(const DataSet& data) const {
    Loader<> batches(data, {.batch = std::min(options_.evaluation_batch, data.size()),
                            .shuffle = false,
                            .endless = false,
                            .transforms = evaluation_transforms(options_)});
    return batches.next().image;
  }

  JacobianLook look_at_jacobian(const Net& net, const Tensor<float>& images, int steps, int products) const {
    JacobianLook out;
    if constexpr (recurrent) {
      namespace fp = fixed_point::detail;
      const Net constants = as_constants(net);
      const V x = constants.stem(V(to<Device>(images)));
      const auto step = detail::prepared_step(constants.cell, x);
      auto state = constants.cell.initial_state(x);
      const double damping = options_.test_damping();
      for (int k = 1; k < steps; ++k) {
        auto next = step(state);
        state = damping > 0 ? detail::damped(state, next, damping) : next;
      }
      Tape<float, Device> tape;
      std::vector<V> z;
      fp::each_variable<V>(state, [&](V& part) { z.push_back(part = tape.leaf(part.value())); });
      const std::vector<V> next = fp::variables<V>(step(state));
      const fp::Moved moved = fp::moved(fp::values_of(next), fp::values_of(z), 1);
      out.residual = fp::relative(moved.distances.front(), moved.sizes.front());
      Pullback<float, Device> product(next, z, true);
      for (const V& part : product(fp::filled_like(next, 1.f))) {
        const Tensor<float> sums = to<Cpu>(part.value());
        out.column_sums.insert(out.column_sums.end(), sums.values().begin(), sums.values().end());
      }
      for (const double sum : out.column_sums) {
        const double above = std::max(0.0, std::abs(sum) - 0.9);
        out.penalty += above * above / static_cast<double>(out.column_sums.size());
      }
      fp::Values<float, Device> direction;
      Random random(0);
      for (const V& part : z) direction.push_back(normal<float, Device>(part.shape(), 0, 1, random));
      fp::normalise(direction, 1);
      double logarithm = 0;
      for (int k = 0; k < products; ++k) {
        direction = fp::values_of(product(fp::constants<float, Device>(direction)));
        // The first half turns the direction; complex pairs are measured by the mean over the second.
        if (k >= products / 2) logarithm += std::log(fp::norms(direction, 1).front());
        fp::normalise(direction, 1);
      }
      out.spectral_radius = products > 0 ? std::exp(logarithm / (products - products / 2)) : 0;
    } else {
      fail("jacobian", "a feed-forward net has no step");
    }
    return out;
  }

  Objective<V> objective(Net& model, const BatchOf<float, Device>& batch, const Training& policy,
                         double penalty_weight) {
    const auto loss_of = [&](const V& own) {
      const V logits = at_size_of(V(batch.image), own);
      // Of two classes it is the released code's own.
      if (logits.shape(1) == 2 && batch.ignore.size() == 0 && options_.loss.class_weights.empty())
        return focal_loss(logits, batch.target, options_.loss.gamma);
      return pixel_loss(logits, batch.target, batch.ignore, options_.loss.gamma, options_.loss.class_weights);
    };
    if constexpr (recurrent) {
      const auto result = run(model, V(batch.image), policy);
      V loss = loss_of(result.logits);
      for (const V& logits : result.earlier) loss = loss + loss_of(logits);
      if (!result.earlier.empty()) loss = (1.0 / static_cast<double>(result.earlier.size() + 1)) * loss;
      const bool penalises = options_.algorithm.kind.starts_with('c'), dual = options_.algorithm.weighting == "dual";
      const auto figures = [this, dual, penalty = result.penalty, report = result.report] {
        if (dual && report) weight_.update(*report);
        const auto now = Clock::now();
        const double seconds = last_step_ ? std::chrono::duration<double>(now - *last_step_).count() : 0.0;
        last_step_ = now;
        return figures_of(static_cast<double>(penalty.item()), report, seconds);
      };
      V value = loss;
      if (penalises)
        value = options_.algorithm.weighting == "gated"
                    ? gated(loss, result.penalty, penalty_weight)
                    : penalised(loss, result.penalty, dual ? weight_.weight() * penalty_weight : penalty_weight);
      return {value, figures, [report = result.report] { return verdicts_of(report); }};
    } else {
      return {loss_of(model.train(V(batch.image))), {}};
    }
  }

  Tensor<float> predict(const Net& net, const Tensor<float>& images, int steps) const {
    const V input(to<Device>(images));
    if constexpr (recurrent)
      return to<Cpu>(at_size_of(input, settle::predict(net, input, steps, options_.test_damping())).value());
    else
      return to<Cpu>(at_size_of(input, as_constants(net)(input)).value());
  }

  /// Each rank has every so-manieth batch, whole: batch norm sees the batches that it sees on one rank.
  ConfusionMatrix evaluate(const Net& net, const DataSet& data, int steps, const distributed::Group& ranks) const {
    ConfusionMatrix out(options_.classes());
    const Index batch = options_.evaluation_batch;
    std::vector<Index> mine;
    for (Index k = 0; k < data.size(); ++k)
      if (k / batch % ranks.size() == ranks.rank()) mine.push_back(k);
    if (!mine.empty()) {
      Loader<> batches(data.subset(std::move(mine)), {.batch = batch,
                                                      .shuffle = false,
                                                      .endless = false,
                                                      .transforms = evaluation_transforms(options_)});
      while (!batches.done()) {
        const Batch next = batches.next();
        out.add(predict(net, next.image, steps), next.target, next.ignore);
      }
    }
    out.sum_over(ranks);
    return out;
  }

  using Clock = std::chrono::steady_clock;
  Net net_;
  SegmentationOptions options_;
  std::optional<Clock::time_point> last_step_;
  fixed_point::DualWeight weight_;  ///< begins anew with each sitting
};

/// How a trained net finds boundaries in the held-out images of bsds500: the Berkeley benchmark of its boundary_map.
inline BoundaryResult score_boundaries(Segmentation& net, const SegmentationData& data,
                                       const SegmentationOptions& options, int steps,
                                       const distributed::Group& ranks = {}) {
  const BoundaryBenchmark benchmark;
  const auto thresholds = static_cast<std::size_t>(benchmark.thresholds);
  const auto images = static_cast<std::size_t>(data.held_out.size());
  std::vector<Image8> maps;
  std::vector<std::filesystem::path> annotators;
  std::vector<std::size_t> mine;
  for (auto k = static_cast<std::size_t>(ranks.rank()); k < images; k += static_cast<std::size_t>(ranks.size())) {
    Sample sample = data.held_out.sample(static_cast<Index>(k));
    Random random(0);
    for (const Transform& transform : evaluation_transforms(options)) transform(sample, random);
    maps.push_back(boundary_map(net.logits(sample.image, steps)));
    annotators.push_back(data.annotators[k]), mine.push_back(k);
  }
  const auto counted = count_boundaries(maps, annotators, benchmark);
  std::vector<Index> numbers(images * thresholds * 4, 0);  // all ranks' together
  for (std::size_t k = 0; k < mine.size(); ++k)
    for (std::size_t t = 0; t < thresholds; ++t) {
      const BoundaryCounts& c = counted[k][t];
      std::copy_n(std::array{c.found, c.marked, c.right, c.predicted}.begin(), 4,
                  numbers.begin() + static_cast<std::ptrdiff_t>((mine[k] * thresholds + t) * 4));
    }
  distributed::sum_over_ranks(std::span(numbers), ranks);
  std::vector<std::vector<BoundaryCounts>> all(images, std::vector<BoundaryCounts>(thresholds));
  for (std::size_t k = 0; k < images * thresholds; ++k)
    all[k / thresholds][k % thresholds] = {numbers[4 * k], numbers[4 * k + 1], numbers[4 * k + 2], numbers[4 * k + 3]};
  return boundary_result(all, benchmark);
}

/// The scores of a trained net on the held-out images, for summary.json: at the steps of training, and at three times
/// as many, where the state should still be what it was.
inline void summarise(Segmentation& net, const SegmentationData& data, const SegmentationOptions& options, Json& out,
                      const distributed::Group& ranks = {}) {
  out["parameters"] = net.parameter_count();
  if (data.held_out.size() == 0) return;
  const int steps = options.algorithm.steps;
  for (const auto& [name, value] : scores(net.evaluate(data.held_out, steps, ranks))) out[name] = value;
  if (options.model.kind != "feed_forward") out["f1_at_3x_steps"] = net.evaluate(data.held_out, 3 * steps, ranks).f1();
  out["held_out_images"] = data.held_out.size();
  if (!data.annotators.empty())
    for (const auto& [name, value] : scores(score_boundaries(net, data, options, steps, ranks))) out[name] = value;
}

}  // namespace settle
