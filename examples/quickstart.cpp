// Trains a recurrent network to trace contours through its fixed point (C-RBP), and its feed-forward control for the
// same time; scores both on images that training never saw; writes scores, weights, pictures and a report.
#include <atomic>
#include <future>

#include "contour_course.hpp"
#include "settle/train/held_out.hpp"
#include "settle/train/report.hpp"
#include "settle/train/solve_figures.hpp"
#include "settle/train/trainer.hpp"

using namespace contours;
namespace fs = std::filesystem;

namespace {

using Net = HgruNet<float, Device>;
using Control = FeedForwardNet<float, Device>;
using V = Var<float, Device>;
using DeviceBatch = BatchOf<float, Device>;

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

Objective<V> objective(const Net& model, const DeviceBatch& batch, const Method& method) {
  const auto result = run(model, V(batch.image), method.policy);
  const V loss = focal_loss(result.logits, batch.target);
  return {penalised(loss, result.penalty, method.penalty_weight),
          [loss, penalty = result.penalty, report = result.report] {
            Figures out{{"focal_loss", static_cast<double>(loss.item())}};
            for (const auto& figure : figures_of(static_cast<double>(penalty.item()), report, 0)) out.push_back(figure);
            out.emplace_back("recurrent_steps", report->forward.steps);
            return out;
          },
          [report = result.report] { return verdicts_of(report); }};
}

/// The memory of a training step at a given progress, beyond the net's own. Nothing else may run on the device.
std::size_t peak_bytes(Net net, const Course& course, double progress) {
  const auto& memory = MemoryOf<Device>::instance();
  const std::size_t held = memory.use().current;
  Trainer<Net, float, Device> trainer(net, {.steps = 2});  // the second finds the optimiser's state there
  trainer.show_progress = false;
  const auto batch = course.batch(progress, 0);
  trainer.train_on(
      [&] { return to<Device>(batch); },
      [&](const Net& model, const DeviceBatch& b) { return objective(model, b, course.method(progress, 0)); });
  return memory.use().peak - held;
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
Trained train_both(const Settings& s, const Course& course, const std::shared_ptr<RunFolder>& folder) {
  constexpr bool at_once = std::is_same_v<Device, Cpu>;
  Net net = hgru_net<float, Device>(s.model);
  copy_parameters(initial_net(s.model), net);
  Control control = feed_forward_net<float, Device>(s.model);
  Trained out;
  ThreadPool::instance().resize(1);
  out.peak_bytes = peak_bytes(net, course, 0);

  std::atomic<double> progress = 0;  // of the recurrent net's training
  TrainerOptions as_long = s.train;
  as_long.steps = std::numeric_limits<Index>::max();
  Trainer<Control, float, Device> beside(control, as_long, folder->path() / "feed_forward");
  beside.show_progress = !at_once;
  beside.budget_used = [&] { return at_once ? progress.load() : beside.seconds() / out.seconds; };
  const auto train_control = [&] {
    beside.train_on(
        [&] { return to<Device>(course.batch(beside.progress(), beside.step())); },
        [](Control& model, const DeviceBatch& batch) { return focal_loss(model.train(V(batch.image)), batch.target); });
  };
  Trainer<Net, float, Device> trainer(net, s.train, folder, false);
  const auto progress_at = [&](Index step) { return static_cast<double>(step) / static_cast<double>(s.train.steps); };
  trainer.budget_used = [&] { return progress = progress_at(trainer.step()); };
  std::future<void> control_done;
  {
    struct Ended {
      std::atomic<double>& progress;
      ~Ended() { progress = 1; }
    } const ended{progress};  // however the training ends, the control's does too
    if (at_once) control_done = std::async(std::launch::async, train_control);
    Prefetch<BatchOf<float, Device::Staging>> batches([&](Index k) { return course.batch(progress_at(k), k); });
    trainer.train_on([&] { return to<Device>(batches.next()); },
                     [&](const Net& model, const DeviceBatch& batch) {
                       return objective(model, batch, course.method(progress_at(trainer.step()), trainer.step()));
                     });
    out.seconds = trainer.seconds();
  }
  if (at_once)
    control_done.get();
  else
    train_control();
  if (StopSignals::asked()) return out;
  out.control_steps = beside.step();
  out.peak_bytes = std::max(out.peak_bytes, peak_bytes(net, course, 1));
  ThreadPool::instance().resize(ThreadPool::default_threads());
  out.net = hgru_net<float>(s.model), out.control = feed_forward_net<float>(s.model);
  copy_parameters(net, out.net), copy_parameters(control, out.control);
  return out;
}

ExitCode quickstart(Settings& s) {
  const StopSignals signals;
  expect_device("quickstart", s.device);
  Device::synchronise();  // tells a device that is missing before the images are made
  const auto folder = std::make_shared<RunFolder>(s.output);
  Json config = Config(s).json();
  config["program"] = "quickstart";
  // What an earlier quickstart has left is trained anew; another program's training stays.
  if (fs::exists(folder->checkpoint("last")) &&
      (!fs::exists(folder->config()) || read_json(folder->config()).value("program", "") != "quickstart"))
    throw UsageError("[quickstart] " + s.output + " holds another training: choose another folder (--output)");
  for (const fs::path& old : {folder->path(), folder->path() / "feed_forward"}) fs::remove_all(old / "checkpoints");
  fs::create_directories(folder->checkpoints());
  write_json(folder->config(), config);

  const Lesson& last = s.lessons.back();
  const Course course(s);
  const Images held_out(s, last, (s.lessons.size() + 1) * s.train.seed + s.lessons.size(), s.held_out_images);
  std::printf("%zu x %lld training and %lld held-out images are made\n", s.lessons.size(),
              static_cast<long long>(s.training_images), static_cast<long long>(s.held_out_images));
  Trained trained = train_both(s, course, folder);
  if (StopSignals::asked()) return ExitCode::preempted;

  const int steps = s.settling.test_steps;
  const auto after = [&](int count) { return evaluate_at_rest(held_out, trained.net, s.at_rest(count)); };
  const AtRest on_its_way = after(last.recurrent_steps), recurrent = after(steps), recurrent_3x = after(3 * steps),
               recurrent_4x = after(4 * steps);
  const Confusion feed_forward =
      evaluate(held_out, [&](const PathfinderBatch& b) { return trained.control(Var(b.image)).value(); });
  const Confusion every_dash = evaluate(held_out, mark_all);

  Json summary = scores(recurrent.counts);
  summary.update(Json{{"recurrent_steps", steps},
                      {"f1_at_" + std::to_string(last.recurrent_steps) + "_steps", on_its_way.counts.f1()},
                      {"f1_at_3x_steps", recurrent_3x.counts.f1()},
                      {"f1_at_4x_steps", recurrent_4x.counts.f1()},
                      {"residual", recurrent.residual},
                      {"residual_at_4x_steps", recurrent_4x.residual},
                      {"training_seconds", trained.seconds},
                      {"parameters", parameter_count(trained.net)},
                      {"steps", s.train.steps},
                      {"peak_bytes", trained.peak_bytes},
                      {"seed", s.train.seed},
                      {"held_out_images", s.held_out_images}});
  summary["feedforward"] = scores(feed_forward);
  summary["feedforward"]["training_seconds"] = trained.seconds;
  summary["feedforward"]["steps"] = trained.control_steps;
  summary["feedforward"]["parameters"] = parameter_count(trained.control);
  summary["mark_all"] = scores(every_dash);

  SafetensorsWriter weights;
  weights.metadata = {{"model", "hgru"}, {"seed", std::to_string(s.train.seed)}};
  add_module(weights, "", trained.net);
  weights.write(folder->path() / "model.safetensors");
  const auto& first = held_out.batches().front();
  write_panels<Cpu>(trained.net, {first.image, first.target, {}}, steps, s.settling.damping, folder->path());
  record_held_out<Cpu>(trained.net, DataSet(held_out),
                       {.steps = steps, .damping = s.settling.damping, .batch = s.train.batch}, folder->records());
  write_json(folder->summary(), summary);
  write_report({folder->path()}, folder->report());

  std::printf("\nOn %lld held-out images (F1):  hGRU %.3f   feed-forward %.3f   every dash %.3f\n",
              static_cast<long long>(s.held_out_images), recurrent.counts.f1(), feed_forward.f1(), every_dash.f1());
  std::printf("hGRU after %d, %d, %d and %d steps: F1 %.3f, %.3f, %.3f, %.3f; residual %.1e, %.1e, %.1e, %.1e\n",
              last.recurrent_steps, steps, 3 * steps, 4 * steps, on_its_way.counts.f1(), recurrent.counts.f1(),
              recurrent_3x.counts.f1(), recurrent_4x.counts.f1(), on_its_way.residual, recurrent.residual,
              recurrent_3x.residual, recurrent_4x.residual);
  std::printf(
      "Each trained for %.0f s; peak memory of the recurrent training %.1f MB. Open %s; beside it are\n"
      "summary.json, metrics.jsonl, model.safetensors, panels.png (image, target, prediction) and\n"
      "segmentation.gif (over the recurrent steps)\n",
      trained.seconds, static_cast<double>(trained.peak_bytes) / 1e6, folder->report().c_str());
  return ExitCode::done;
}

}  // namespace

int main(int count, char** words) {
  return run_program([&] {
    Settings settings;
    Config config(settings);
    for (int k = 1; k < count; k += 2) {
      std::string name = words[k];
      if (name == "--help" || !name.starts_with("--") || k + 1 == count) {
        std::printf("quickstart [--OPTION VALUE]...\n%s", config.help().c_str());
        return name == "--help" ? ExitCode::done : ExitCode::usage;
      }
      std::replace(name.begin(), name.end(), '-', '_');
      config.set(name.substr(2) + '=' + words[k + 1]);
    }
    settings.model.seed = settings.train.seed;
    return quickstart(settings);
  });
}
