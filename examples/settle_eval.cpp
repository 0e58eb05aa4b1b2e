// Scores a trained net on the held-out images of its run, or of another folder.
#include <CLI/CLI.hpp>

#include "segmentation_nets.hpp"

using namespace settle;

int main(int count, char** words) {
  std::string folder, checkpoint;
  std::vector<std::string> set;
  std::vector<int> steps;
  CLI::App app("Scores a trained net on the held-out images of its run.", "settle_eval");
  app.add_option("run", folder, "the run's folder")->required();
  app.add_option("--checkpoint", checkpoint, "best, last or step_N; without it best, where there is one");
  app.add_option("--steps", steps,
                 "recurrent steps, several for several scores; without it those of training, and 3 times as many")
      ->check(CLI::Range(1, 1000000));
  app.add_option("--set", set, "an option in place of the run's, as NAME=VALUE: data.folder=OTHER")
      ->take_all()
      ->expected(1);
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  return run_program([&] {
    SegmentationOptions options = run_options<SegmentationOptions>(folder);
    Config config(options);
    for (const std::string& assignment : set) config.set(assignment);
    options.check();
    const auto net = read_net(folder, options, checkpoint);
    const SegmentationData data = open_data(options);
    if (data.held_out.size() == 0) fail_data("settle_eval", "the run holds no images out: see data.held_out");
    if (steps.empty()) steps = {options.algorithm.steps, 3 * options.algorithm.steps};
    if (options.model.kind == "feed_forward") steps.resize(1);
    Json out = Json::array();
    for (const int n : steps) {
      Json line{{"steps", n}};
      for (const auto& [name, value] : scores(net->evaluate(data.held_out, n))) line[name] = value;
      if (!data.annotators.empty())
        for (const auto& [name, value] : scores(score_boundaries(*net, data, options, n))) line[name] = value;
      out.push_back(line);
    }
    std::printf("%s\n", out.dump(2).c_str());
    return ExitCode::done;
  });
}
