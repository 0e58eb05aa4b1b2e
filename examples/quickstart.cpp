// Trains a recurrent network to trace contours through its fixed point (C-RBP), and its feed-forward control for the
// same time; scores both on images that training never saw; writes scores, weights and pictures.
#include <atomic>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <mutex>
#include <thread>

#include "common.hpp"
#include "settle/io/gif.hpp"
#include "settle/io/modules.hpp"
#include "settle/io/png.hpp"

using namespace settle;

namespace {

// --- what is trained, on what --------------------------------------------------------------------

/// One part of the training. A net that has learnt to carry the mark along short contours goes on to longer ones, with
/// more steps to carry it in; long ones alone take it many times as long to learn from.
struct Lesson {
  Index contour_length, distractor_length;  ///< dashes
  int recurrent_steps;
  double share;  ///< of the training steps
};

struct Settings {
  std::filesystem::path output = "out/quickstart";
  std::uint64_t seed = 1;
  Index training_steps = 6000;
  Index batch = 4;
  double rate = 2.5e-2;
  double penalty_weight = 3;
  Index training_images = 4096;  ///< in each lesson
  Index held_out_images = 1024;
  ModelOptions model{.kernel = 3, .orientations = 8, .seed = 1, .initialisation = Initialisation::corrected};
  PathfinderOptions task{.size = 32, .window = 112, .distractors = 3, .thickness = 3, .random_flips = true};
  std::array<Lesson, 3> lessons{{{3, 3, 10, 0.12}, {6, 6, 16, 0.3}, {9, 6, 20, 0.58}}};
};

/// Images of one purpose, made once. A Pathfinder data set is a seed, and its images are numbered; training and
/// held-out images come from different seeds.
class Images {
 public:
  Images(const Settings& s, const Lesson& lesson, std::uint64_t data_set, Index count)
      : batches_(static_cast<std::size_t>((count + s.batch - 1) / s.batch)) {
    PathfinderOptions task = s.task;
    task.contour_length = lesson.contour_length, task.distractor_length = lesson.distractor_length;
    const Pathfinder pathfinder(task);
    for (std::size_t k = 0; k < batches_.size(); ++k) {
      const Index first = static_cast<Index>(k) * s.batch;
      batches_[k] = pathfinder.batch(data_set, static_cast<std::uint64_t>(first), std::min(s.batch, count - first));
      // A stroke is narrower than a pixel here, and dimmer than the stem's initial filters expect.
      batches_[k].image = map([](auto v, auto contrast) { return contrast * v; }, Var(batches_[k].image), 1.5).value();
    }
  }

  const std::vector<PathfinderBatch>& batches() const { return batches_; }

  /// Images and targets of a training step: each round through the images sees them mirrored another way.
  PathfinderBatch training_batch(Index step) const {
    const auto count = static_cast<Index>(batches_.size());
    const PathfinderBatch& batch = batches_[static_cast<std::size_t>(step % count)];
    const auto flip = static_cast<Flip>(step / count % 4);
    return {.image = flipped(batch.image, flip), .target = flipped(batch.target, flip), .dashes = {}};
  }

 private:
  std::vector<PathfinderBatch> batches_;
};

/// The lessons, each with its images, and the learning rate, as functions of how far the training is (0 to 1). The
/// control has no number of steps of its own: it is as far as the recurrent net is.
class Course {
 public:
  explicit Course(const Settings& s) : settings_(s) {
    for (std::size_t k = 0; k < s.lessons.size(); ++k)
      images_.emplace_back(s, s.lessons[k], (s.lessons.size() + 1) * s.seed + k, s.training_images);
  }

  const Lesson& lesson(double progress) const { return settings_.lessons[at(progress)]; }
  PathfinderBatch batch(double progress, Index step) const { return images_[at(progress)].training_batch(step); }

  double rate(double progress) const { return half_cosine(settings_.rate, 0.02 * settings_.rate, progress); }

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

// --- training ------------------------------------------------------------------------------------

/// One line of metrics.jsonl a step, and the progress line. Both nets write to it.
class Log {
 public:
  Log(const std::filesystem::path& path, std::initializer_list<std::string> models) : file_(path) {
    require(file_.good(), "quickstart", "cannot write ", path.string());
    for (const auto& model : models) lines_.push_back({.model = model});
  }

  void step(std::size_t model, Index step, double seconds, double loss, const Json& more) {
    const std::lock_guard lock(mutex_);
    Line& own = lines_[model];
    Json line{{"model", own.model}, {"step", step}, {"seconds", seconds}, {"loss", loss}};
    line.update(more);
    file_ << line.dump() << '\n';
    require(std::isfinite(loss), "quickstart", "the loss of the ", own.model, " is ", loss, " at step ", step);
    own.loss = step == 1 ? loss : 0.98 * own.loss + 0.02 * loss;
    own.shown = text("%s: step %lld, loss %.5f", own.model.c_str(), static_cast<long long>(step), own.loss);
    if (more.contains("residual")) own.shown += text(", residual %.1e", more["residual"].get<double>());
    show(seconds, false);
  }

  /// Ends the progress line.
  void end(double seconds) { show(seconds, true); }

 private:
  struct Line {
    std::string model, shown = {};
    double loss = 0;
  };

  void show(double seconds, bool last) const {
    std::string all = text("%5.1f s", seconds);
    for (const Line& line : lines_) all += (line.shown.empty() ? "" : "  |  ") + line.shown;
    show_progress(all, last);
  }

  std::mutex mutex_;
  std::ofstream file_;
  std::vector<Line> lines_;
};

using Net = HgruNet<float, Device>;
using Control = FeedForwardNet<float, Device>;
using V = Var<float, Device>;

/// The released initial values, but for what a few minutes of training cannot make up for: the stem's brightness filter
/// has the norm of the others, the cell's batch norms let more through, and the read-out expects few contour pixels.
HgruNet<float> initial_net(const ModelOptions& options) {
  HgruNet<float> net = hgru_net<float>(options);
  Tensor<float> filters = net.stem.conv0.weight.value();
  const Index taps = filters.size() / options.channels();
  float* const brightness = filters.mutable_data() + (options.channels() - 1) * taps;
  double squares = 0;
  for (Index k = 0; k < taps; ++k) squares += static_cast<double>(brightness[k] * brightness[k]);
  for (Index k = 0; k < taps; ++k) brightness[k] /= static_cast<float>(std::sqrt(squares));
  net.stem.conv0.weight = filters;
  for (auto& norm : net.cell.bn) norm.weight = Tensor<float>(norm.weight.shape(), 1.f);
  net.readout.conv6.bias = Tensor<float>(Shape{2}, {1.5f, -1.5f});
  return net;
}

/// C-RBP: the recurrent steps are not recorded; the loss is differentiated through the fixed point that they approach,
/// and the penalty keeps the last step contractive: on both sides, as a factor near -1 makes the state flicker.
/// Calls after_step(steps done, seconds).
void train(Net& net, const Settings& s, const Course& course, Log& log,
           const std::function<void(Index, double)>& after_step) {
  Adam<float, Device> adam({.beta2 = 0.99});
  const auto progress_at = [&](Index step) {
    return static_cast<double>(step) / static_cast<double>(s.training_steps);
  };
  Prefetch<Staged> batches([&](Index step) { return staged(course.batch(progress_at(step), step)); });
  const auto start = std::chrono::steady_clock::now();
  for (Index step = 0; step < s.training_steps; ++step) {
    const double progress = progress_at(step);
    const Staged batch = batches.next();
    const Rbp policy{{.stop = fixed_point::Steps{.count = course.lesson(progress).recurrent_steps},
                      .adjoint = fixed_point::Neumann{.max_products = 8, .rtol = 0.1},
                      .penalty = fixed_point::Lcp{.lambda = 0.9, .two_sided = true},
                      .on_fail = fixed_point::OnFail::report}};
    adam.options.rate = course.rate(progress);
    const TrainingStep done = training_step(net, adam, batch, policy, s.penalty_weight);
    const double seconds = seconds_since(start);
    log.step(0, step + 1, seconds, done.loss,
             {{"penalty", done.penalty},
              {"residual", done.report->forward.relative.front()},
              {"adjoint_products", done.report->adjoint.products},
              {"rate", adam.options.rate}});
    after_step(step + 1, seconds);
  }
}

/// The feed-forward control, for as long as the recurrent net trains: until `progress` is 1. Returns its steps.
Index train(Control& net, const Course& course, const std::function<double()>& progress, Log& log) {
  Adam<float, Device> adam({.beta2 = 0.99});
  const auto start = std::chrono::steady_clock::now();
  Index step = 0;
  for (double now = progress(); now < 1; now = progress()) {
    const Staged batch = staged(course.batch(now, step));
    std::vector<V> gradients;
    double loss_value = 0;
    {
      Tape<float, Device> tape;
      Control model = on_tape(net, tape);
      const V loss = focal_loss(model.train(Var(to<Device>(batch.image))), to<Device>(batch.target));
      gradients = grad(loss, parameters<V>(model));
      loss_value = static_cast<double>(loss.item());
      for (std::size_t k = 0; k < net.bn.size(); ++k) {
        net.bn[k].running_mean = stop_gradient(model.bn[k].running_mean);
        net.bn[k].running_var = stop_gradient(model.bn[k].running_var);
      }
    }
    adam.options.rate = course.rate(now);
    adam.step(net, gradients);
    log.step(1, ++step, seconds_since(start), loss_value, {{"rate", adam.options.rate}});
  }
  return step;
}

/// What training both nets gives, on the CPU.
struct Trained {
  HgruNet<float> net;
  FeedForwardNet<float> control;
  double seconds = 0;
  Index control_steps = 0;
  std::size_t peak_bytes = 0;  ///< of the recurrent training on its device, beyond the images
};

/// Trains both nets for the same time. On the CPU at the same time, each on one core, as they are too small to be worth
/// splitting; on another device, which would serve them in turns, one after the other.
Trained train_both(const Settings& s, const Course& course, Log& log) {
  constexpr bool at_once = std::is_same_v<Device, Cpu>;
  Net net = hgru_net<float, Device>(s.model);
  copy_parameters(initial_net(s.model), net);
  Control control = feed_forward_net<float, Device>(s.model);
  Trained out;
  ThreadPool::instance().resize(1);
  auto& memory = MemoryOf<Device>::instance();
  const std::size_t held = memory.use().current;
  memory.reset_peak();
  std::atomic<double> progress = 0;
  std::exception_ptr control_error;
  std::jthread control_thread;
  const auto after_step = [&](Index done, double seconds) {
    out.seconds = seconds;
    if (done == std::min<Index>(2, s.training_steps)) {  // every later step takes the same memory
      out.peak_bytes = memory.use().peak - held;
      if (at_once)
        control_thread = std::jthread([&] {
          try {
            out.control_steps = train(
                control, course, [&] { return progress.load(); }, log);
          } catch (...) {
            control_error = std::current_exception();
          }
        });
    }
    progress = static_cast<double>(done) / static_cast<double>(s.training_steps);
  };
  try {
    train(net, s, course, log, after_step);
  } catch (...) {
    progress = 1;  // ends the control's training too
    throw;
  }
  if (control_thread.joinable()) control_thread.join();
  if (control_error) std::rethrow_exception(control_error);
  if (!at_once) {
    const auto start = std::chrono::steady_clock::now();
    out.control_steps = train(
        control, course, [&] { return seconds_since(start) / out.seconds; }, log);
  }
  log.end(out.seconds);
  ThreadPool::instance().resize(ThreadPool::default_threads());
  out.net = hgru_net<float>(s.model), out.control = feed_forward_net<float>(s.model);
  copy_parameters(net, out.net), copy_parameters(control, out.control);
  return out;
}

// --- evaluation ----------------------------------------------------------------------------------

/// Counts over the held-out images, in batches as in training: batch norm uses the batch's statistics.
template <class Predict>
Confusion evaluate(const Images& images, Predict&& predict_logits) {
  Confusion out;
  for (const PathfinderBatch& batch : images.batches()) out += confusion(predict_logits(batch), batch.target);
  return out;
}

/// The logits of the predictor that marks every dash.
Tensor<float> mark_all(const PathfinderBatch& batch) {
  const Shape& shape = batch.dashes.shape();
  const Var<float> dashes(batch.dashes.reshape({shape[0], 1, shape[1], shape[2]}));
  const Var<float> sign(Tensor<float>(Shape{2, 1, 1}, {-1.f, 1.f}));
  return map([](auto d, auto c) { return c * (d - 0.5); }, dashes, sign).value();
}

// --- pictures ------------------------------------------------------------------------------------

constexpr Index zoom = 5, gap = 2;

/// A grid of small pictures on a grey ground.
class Sheet {
 public:
  Sheet(Index rows, Index columns, Index size)
      : size_(size * zoom), picture_(blank_image(rows * (size_ + gap) + gap, columns * (size_ + gap) + gap, 3, 64)) {}

  /// Fills one cell: colour(pixel) gives red, green, blue in [0, 1] of the small picture's pixel.
  void paint(Index row, Index column, const std::function<std::array<float, 3>(Index)>& colour) {
    for (Index y = 0; y < size_; ++y)
      for (Index x = 0; x < size_; ++x) {
        const auto c = colour(y / zoom * (size_ / zoom) + x / zoom);
        const Index at = ((gap + row * (size_ + gap) + y) * picture_.width + gap + column * (size_ + gap) + x) * 3;
        for (std::size_t k = 0; k < 3; ++k)
          picture_.pixels[static_cast<std::size_t>(at) + k] =
              static_cast<std::uint8_t>(255 * std::clamp(c[k], 0.f, 1.f) + 0.5f);
      }
  }

  const Image8& picture() const { return picture_; }

 private:
  Index size_;
  Image8 picture_;
};

std::function<std::array<float, 3>(Index)> grey(const float* values) {
  return [=](Index k) { return std::array{values[k], values[k], values[k]}; };
}

/// The image in grey with the marked pixels' probability in orange, for logits (2, S, S).
std::function<std::array<float, 3>(Index)> marked(const float* image, const float* logits, Index pixels) {
  return [=](Index k) {
    const float p = 1 / (1 + std::exp(logits[k] - logits[pixels + k])), rest = (1 - p) * image[k];
    return std::array{rest + p, rest + 0.6f * p, rest};
  };
}

void write_pictures(const Settings& s, const HgruNet<float>& net, const Images& images) {
  const Index shown = std::min<Index>(8, s.batch), pixels = s.task.size * s.task.size;
  const PathfinderBatch& batch = images.batches().front();
  std::vector<Tensor<float>> logits;
  const int steps = s.lessons.back().recurrent_steps;
  predict(net, Var(batch.image), 2 * steps, [&](int, const Var<float>& y) { logits.push_back(y.value()); });
  const auto image = [&](Index n) { return batch.image.data() + n * pixels; };

  Sheet panels(3, shown, s.task.size);
  const Tensor<float>& settled = logits[static_cast<std::size_t>(steps - 1)];
  for (Index n = 0; n < shown; ++n) {
    panels.paint(0, n, grey(image(n)));
    panels.paint(1, n, grey(batch.target.data() + n * pixels));
    panels.paint(2, n, marked(image(n), settled.data() + 2 * n * pixels, pixels));
  }
  write_png(s.output / "panels.png", panels.picture());

  std::vector<Image8> frames;
  for (const auto& y : logits) {
    Sheet frame(2, shown / 2, s.task.size);
    for (Index n = 0; n < shown / 2 * 2; ++n)
      frame.paint(n % 2, n / 2, marked(image(n), y.data() + 2 * n * pixels, pixels));
    frames.push_back(frame.picture());
  }
  GifOptions timing{.delays = std::vector<Index>(frames.size(), 25), .palette = {}};
  timing.delays.back() = 200;
  write_gif(s.output / "segmentation.gif", frames, timing);
}

// --- the command line ----------------------------------------------------------------------------

constexpr const char* usage =
    "quickstart [--output FOLDER] [--seed N] [--training-steps N] [--batch N] [--kernel K] [--orientations N]\n"
    "           [--rate R] [--penalty-weight W] [--size S] [--window W] [--distractors D] [--training-images N]\n"
    "           [--held-out-images N] [--device cpu|cuda]\n";

Settings parse(int count, char** words) {
  Settings s;
  read_command_line(count, words,
                    {option("--output", s.output),
                     option("--seed", s.seed, s.model.seed),
                     option("--training-steps", s.training_steps),
                     option("--batch", s.batch),
                     option("--kernel", s.model.kernel),
                     option("--orientations", s.model.orientations),
                     option("--rate", s.rate),
                     option("--penalty-weight", s.penalty_weight),
                     option("--size", s.task.size),
                     option("--window", s.task.window),
                     option("--distractors", s.task.distractors),
                     option("--training-images", s.training_images),
                     option("--held-out-images", s.held_out_images),
                     {"--device", [](const std::string& v) { expect_device("quickstart", v); }}},
                    usage);
  for (Index value : {s.training_steps, s.batch, s.training_images, s.held_out_images})
    require(value >= 1, "quickstart", "expected a whole number of at least 1, got ", value);
  return s;
}

void quickstart(const Settings& s) {
  Device::synchronise();  // tells a device that is missing before the images are made
  std::filesystem::create_directories(s.output);
  Log log(s.output / "metrics.jsonl", {"hGRU", "feed-forward"});
  const auto start = std::chrono::steady_clock::now();
  const Lesson& last = s.lessons.back();
  const Course course(s);
  const Images held_out(s, last, (s.lessons.size() + 1) * s.seed + s.lessons.size(), s.held_out_images);
  std::printf("%zu x %lld training and %lld held-out images of %lld x %lld pixels, made in %.1f s\n", s.lessons.size(),
              static_cast<long long>(s.training_images), static_cast<long long>(s.held_out_images),
              static_cast<long long>(s.task.size), static_cast<long long>(s.task.size), seconds_since(start));
  Trained trained = train_both(s, course, log);

  const Confusion recurrent = evaluate(held_out, [&](const PathfinderBatch& b) {
    return predict(trained.net, Var(b.image), last.recurrent_steps).value();
  });
  const Confusion feed_forward =
      evaluate(held_out, [&](const PathfinderBatch& b) { return trained.control(Var(b.image)).value(); });
  const Confusion every_dash = evaluate(held_out, mark_all);

  Json summary = scores(recurrent);
  summary.update(Json{{"training_seconds", trained.seconds},
                      {"parameters", parameter_count(trained.net)},
                      {"steps", s.training_steps},
                      {"peak_bytes", trained.peak_bytes},
                      {"seed", s.seed},
                      {"held_out_images", s.held_out_images}});
  summary["feedforward"] = scores(feed_forward);
  summary["feedforward"]["training_seconds"] = trained.seconds;
  summary["feedforward"]["steps"] = trained.control_steps;
  summary["feedforward"]["parameters"] = parameter_count(trained.control);
  summary["mark_all"] = scores(every_dash);

  SafetensorsWriter weights;
  weights.metadata = {{"model", "hgru"}, {"seed", std::to_string(s.seed)}};
  add_module(weights, "", trained.net);
  weights.write(s.output / "model.safetensors");
  write_pictures(s, trained.net, held_out);
  AtomicFile file(s.output / "summary.json");
  file.write(summary.dump(2) + '\n');
  file.commit();

  std::printf("\nOn %lld held-out images (F1):  hGRU %.3f   feed-forward %.3f   every dash %.3f\n",
              static_cast<long long>(s.held_out_images), recurrent.f1(), feed_forward.f1(), every_dash.f1());
  std::printf(
      "Each trained for %.0f s; peak memory of the recurrent training %.1f MB. See %s: summary.json, "
      "metrics.jsonl,\n"
      "model.safetensors, panels.png (image, target, prediction), segmentation.gif (over the recurrent steps)\n",
      trained.seconds, static_cast<double>(trained.peak_bytes) / 1e6, s.output.c_str());
}

}  // namespace

int main(int count, char** words) {
  try {
    quickstart(parse(count, words));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "\n%s\n", error.what());
    return 1;
  }
  return 0;
}
