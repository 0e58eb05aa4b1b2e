// Trains a Panoptic FPN, with a recurrent mask head or the usual one, as a configuration says, in a run folder; goes on
// from its last checkpoint when asked to.
#include <cstdio>

#include "panoptic_nets.hpp"
#include "settle/train/panoptic_report.hpp"
#include "training_program.hpp"

using namespace settle;

namespace {

ExitCode run(const TrainingArguments& arguments) {
  const StopSignals signals;
  expect_device("train_panoptic", arguments.device);
  PanopticOptions options;
  resolve_options(arguments, options);
  const auto folder = std::make_shared<RunFolder>(arguments.output);
  write_json(folder->config(), Config(options).json());
  ThreadPool::instance().resize(options.threads > 0 ? options.threads : ThreadPool::default_threads());
  Device::synchronise();  // tells a device that is missing before anything is made
  const PanopticSets data = open_data(options);

  const auto net = panoptic_model(options, data.train.categories());
  Json summary{{"mask_head", options.mask_head.kind}, {"parameters", net->parameter_count()}};
  if (net->train(data, folder, arguments.resume, summary) == TrainingEnd::preempted) {
    std::printf("stopped; --resume goes on\n");
    return ExitCode::preempted;
  }
  if (data.validation.size() > 0) {
    const auto scores = [&](int steps) {
      Json out{{"steps", steps}};
      const Figures figures = net->evaluate(data.validation, steps).figures();
      for (const auto& [name, value] : figures) out[name] = value;
      return out;
    };
    summary["validation"] = scores(options.test_steps());
    summary["validation"]["images"] = data.validation.size();
    for (const Index steps : options.evaluation.curve) summary["curve"].push_back(scores(static_cast<int>(steps)));
    write_panoptic_report(folder->report(), *net, data.validation, summary, options.test_steps(), 8);
  }
  write_json(folder->summary(), summary);
  std::printf("%s\n", summary.dump(2).c_str());
  return ExitCode::done;
}

}  // namespace

int main(int count, char** words) {
  return training_main<PanopticOptions>(count, words, "train_panoptic", "Trains a net for panoptic segmentation.",
                                        device_name, run);
}
