// Trains an hGRU on Pathfinder images that are made as it goes, for as long as it is given, and goes on later, here or
// on another machine or device, from its checkpoint: on the same device and number of threads to the same bits.
#include <csignal>
#include <cstdio>
#include <exception>
#include <functional>
#include <limits>
#include <optional>

#include "pathfinder_trainer.hpp"

namespace {

volatile std::sig_atomic_t stop_asked = 0;

/// The first signal asks for a stop after the step and a checkpoint; a second one ends the program as usual.
void listen() {
  struct sigaction action = {};
  action.sa_handler = [](int) { stop_asked = 1; };
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
  for (const int signal : {SIGTERM, SIGINT}) ::sigaction(signal, &action, nullptr);
}

struct Limits {
  settle::Index training_steps = 20 * 1484;  ///< the paper's 20 epochs
  settle::Index checkpoint_every = 200;
  double minutes = std::numeric_limits<double>::infinity();
};

std::string usage() {
  std::string out =
      "train_pathfinder [--output FOLDER | --resume FOLDER] [--training-steps N] [--minutes M] [--checkpoint-every N]\n"
      "                 [--threads P] [--device cpu|cuda]\n"
      "and, with the values of a new training (a resumed one has its checkpoint's):\n";
  for (const auto& [name, value] : TrainingOptions().texts()) out += "  --" + name + " " + value + "\n";
  return out + "--algorithm is crbp, rbp, cbptt or bptt (with --steps 6 in the paper).\n";
}

void train(PathfinderTrainer& trainer, const Limits& limits) {
  const double end = trainer.seconds() + 60 * limits.minutes;
  std::optional<double> loss;
  const auto show = [&](bool last) {
    std::string line = text("%.0f s  step %lld", trainer.seconds(), static_cast<long long>(trainer.steps()));
    if (loss) line += text("  loss %.5f", *loss);
    if (const auto& v = trainer.validation())
      line += text("  held out: F1 %.4f, IoU %.4f, balanced accuracy %.4f", v->f1(), v->iou(), v->balanced_accuracy());
    show_progress(line, last);
  };
  while (trainer.steps() < limits.training_steps && trainer.seconds() < end && !stop_asked) {
    loss = trainer.step();
    show(false);
    if (trainer.steps() % limits.checkpoint_every == 0) trainer.save();
  }
  show(true);
  trainer.save();
  std::printf("%s after %lld steps; %s holds all that --resume needs\n",
              trainer.steps() < limits.training_steps ? "stopped" : "done", static_cast<long long>(trainer.steps()),
              trainer.checkpoint().c_str());
}

}  // namespace

int main(int count, char** words) {
  try {
    std::string folder = "out/train_pathfinder";
    bool resume = false;
    Limits limits;
    int threads = settle::ThreadPool::default_threads();
    std::map<std::string, std::string> given;
    Options known{option("--output", folder),
                  option("--training-steps", limits.training_steps),
                  option("--minutes", limits.minutes),
                  option("--checkpoint-every", limits.checkpoint_every),
                  option("--threads", threads),
                  {"--resume", [&](const std::string& v) { folder = v, resume = true; }},
                  {"--device", [](const std::string& v) { expect_device("train_pathfinder", v); }}};
    for (const auto& [name, value] : TrainingOptions().texts())
      known["--" + name] = [&, name = name](const std::string& v) { given[name] = v; };
    read_command_line(count, words, known, usage());
    settle::require(limits.checkpoint_every >= 1, "train", "expected --checkpoint-every of at least 1");
    settle::ThreadPool::instance().resize(threads);
    Device::synchronise();  // tells a device that is missing before anything is made
    listen();
    PathfinderTrainer trainer(folder, resume, given);
    train(trainer, limits);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "\n%s\n", error.what());
    return 1;
  }
  return 0;
}
