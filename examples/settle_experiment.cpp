// The paper's experiments and the reviewers' questions, each by one command: trains what is not trained yet, and writes
// tables and figures with the paper's values beside the measured ones.
#include <CLI/CLI.hpp>

#include "segmentation_nets.hpp"
#include "settle/experiments/all.hpp"

using namespace settle;
namespace fs = std::filesystem;

int main(int count, char** words) {
  std::string name, size = "small", output, train_cell;
  std::vector<std::uint64_t> seeds;
  int jobs = ThreadPool::default_threads();
  bool list = false;
  CLI::App app("Runs an experiment of the paper's, or one that its reviewers asked for.", "settle_experiment");
  app.add_option("name", name, "the experiment, or all");
  app.add_option("--size", size, "tiny (seconds), small (2 CPU cores), overnight, or paper (a GPU)");
  app.add_option("-o,--output", output, "where trainings, tables and figures go; without it out/experiments/SIZE");
  app.add_option("--seeds", seeds, "of the trainings; without it the size's")->delimiter(',');
  app.add_option("--jobs", jobs, "trainings at a time")->check(CLI::Range(1, 4096));
  app.add_flag("--list", list, "only write the configurations of the trainings, for settle_train, and name them");
  app.add_option("--train-cell", train_cell, "train one cell, in its folder")->group("");
  std::string names;
  for (const auto& experiment : experiments::experiments())
    names += "\n  " + std::string(experiment.name) + ": " + experiment.title;
  app.footer("What is done is not done again: the same command goes on after a stop.\n\nExperiments:" + names);
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  return run_program([&] {
    const StopSignals signals;
    experiments::Plan plan = experiments::plan_of(size);
    plan.output = output.empty() ? fs::path("out/experiments") / size : fs::path(output);
    plan.jobs = jobs;
    plan.list_only = list;
    plan.make_net = [](const SegmentationOptions& options) { return segmentation(options); };
    if (!seeds.empty()) plan.seeds = seeds;
    if (!train_cell.empty()) return experiments::train_cell(plan, train_cell);
    bool known = false;
    for (const auto& experiment : experiments::experiments())
      if (name == "all" || name == experiment.name) {
        known = true;
        try {
          const auto start = std::chrono::steady_clock::now();
          experiment.run(plan);
          const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
          std::printf("%s: %s\n", experiment.name, duration_text(spent.count()).c_str());
        } catch (const experiments::Stopped& stopped) {
          std::fprintf(stderr, "%s\n", stopped.what());
          return ExitCode::preempted;
        } catch (const experiments::Listed&) {
        }
      }
    if (!known) throw UsageError("[experiment] expected an experiment's name, or all: settle_experiment --help");
    return ExitCode::done;
  });
}
