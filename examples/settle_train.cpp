// Trains a net on images with a class for each pixel, as a configuration says, in a run folder; goes on from its last
// checkpoint when asked to. On one process, or on several that torchrun has started, or mpirun the program with MPI.
#include "ranks.hpp"
#include "segmentation_nets.hpp"
#include "settle/train/report.hpp"
#include "training_program.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

/// Trains one net in its folder, which rank 0 has, and scores it. Nothing where it was told to stop.
std::optional<Json> train(const SegmentationOptions& options, const SegmentationData& data,
                          std::shared_ptr<RunFolder> folder, const distributed::Group& ranks) {
  const auto net = segmentation(options);
  Json summary{{"model", options.model.kind}};
  if (net->train(data, folder, true, summary, ranks) == TrainingEnd::preempted) return {};
  summarise(*net, data, options, summary, ranks);
  if (folder) net->record_held_out(data.held_out, folder->records());
  return summary;
}

/// What one rank does.
ExitCode train_all(SegmentationOptions options, std::shared_ptr<RunFolder> folder, const distributed::Group& ranks) {
  const SegmentationData data = open_data(options);
  if (folder)
    for (const std::string& reason : data.skipped) std::printf("skipped: %s\n", reason.c_str());

  auto summary = train(options, data, folder, ranks);
  if (summary && options.control) {
    options.model.kind = "feed_forward";
    const auto own = folder ? std::make_shared<RunFolder>(folder->path() / "feed_forward") : nullptr;
    const auto control = train(options, data, own, ranks);
    if (control)
      (*summary)["feedforward"] = *control;
    else
      summary.reset();
  }
  if (!summary) {
    if (folder) std::printf("stopped; --resume goes on\n");
    return ExitCode::preempted;
  }
  if (!folder) return ExitCode::done;
  if (!data.skipped.empty()) (*summary)["skipped_images"] = data.skipped.size();
  write_json(folder->summary(), *summary);
  write_report({folder->path()}, folder->report());
  std::printf("%s\n", summary->dump(2).c_str());
  return ExitCode::done;
}

/// What one process does: its ranks are threads of it, where there are more ranks than processes.
ExitCode train_on(const TrainingArguments& arguments, const distributed::Group& processes) {
  SegmentationOptions options;
  std::shared_ptr<RunFolder> folder;
  if (processes.rank() == 0) {
    resolve_options(arguments, options);
    folder = std::make_shared<RunFolder>(arguments.output);
    write_json(folder->config(), Config(options).json());
  }
  const std::string resolved = distributed::text_of(Config(options).json().dump(), processes);
  if (processes.rank() > 0) Config(options).read(Json::parse(resolved), "rank 0's options");
  ThreadPool::instance().resize(options.threads > 0 ? options.threads : threads_of_rank(processes));
  use_local_device();
  Device::synchronise();  // tells a device that is missing before anything is made
  ExitCode end{};
  const int ranks = options.shards > 0 ? static_cast<int>(options.shards) : processes.size();
  if (ranks == processes.size()) connect_devices(processes);
  distributed::on_shards(processes, ranks, [&](const distributed::Group& group) {
    const ExitCode own = train_all(options, group.rank() == 0 ? folder : nullptr, group);
    if (group.rank() % (ranks / processes.size()) == 0) end = own;  // all have the same
  });
  return end;
}

ExitCode run(const TrainingArguments& arguments) {
  const StopSignals signals;
  expect_device("settle_train", arguments.device);
  const distributed::Group processes = program_ranks();
  try {
    return train_on(arguments, processes);
  } catch (const std::exception& error) {
    processes.abandon(error.what());
    throw;
  }
}

}  // namespace

int main(int count, char** words) {
  return end_program(training_main<SegmentationOptions>(
      count, words, "settle_train", "Trains a net on images with a class for each pixel.", device_name, run));
}
