// What train/ranks.cpp starts: a training on ranks that are processes, `ranks_training FOLDER [CONFIG.json]
// [NAME=VALUE...]`, of pathfinder_small.json or another shipped configuration, with other values. It goes on where
// FOLDER/run has a checkpoint. Each process leaves its number in FOLDER/pid<rank>, and FOLDER/end<rank> says how it ended.
#include <unistd.h>

#include <fstream>
#include <string>

#include "ranks.hpp"
#include "ranks_training.hpp"
#include "settle/io/json.hpp"

using namespace settle;

int main(int count, char** words) {
  return end_program(run_program([&] {
    const std::filesystem::path folder = words[1];
    const distributed::Group processes = program_ranks();
    const std::string rank = std::to_string(processes.rank());
    std::ofstream(folder / ("pid" + rank)) << ::getpid();
    const auto say = [&](const std::string& text) { std::ofstream(folder / ("end" + rank)) << text; };
    try {
      SegmentationOptions options;
      Config config(options);
      const bool named = count > 2 && std::string(words[2]).ends_with(".json");
      const std::string file = named ? words[2] : "pathfinder_small.json";
      config.read(read_json(SETTLE_SOURCE_DIR "/examples/configs/" + file), file);
      for (int k = named ? 3 : 2; k < count; ++k) config.set(words[k]);
      ThreadPool::instance().resize(std::max(1, options.threads));
      const auto run = processes.rank() == 0 ? std::make_shared<RunFolder>(folder / "run") : nullptr;
      TrainingEnd end{};
      distributed::on_shards(processes, options.shards > 0 ? static_cast<int>(options.shards) : processes.size(),
                             [&](const distributed::Group& group) {
                               const TrainingEnd own = train_in_double(options, group.rank() == 0 ? run : nullptr, group);
                               if (group.rank() == 0) end = own;
                             });
      say(processes.rank() == 0 ? name(end) : "done");
      return end == TrainingEnd::preempted ? ExitCode::preempted : ExitCode::done;
    } catch (const std::exception& error) {
      processes.abandon(error.what());
      say(error.what());
      throw;
    }
  }));
}
