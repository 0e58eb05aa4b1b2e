#pragma once
#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "run_options.hpp"
#include "settle/train/exit_codes.hpp"

// The command line of programs that train as a configuration says: CONFIG.json --output RUN --set A.B=C --resume.

struct TrainingArguments {
  std::string config, output, device;
  std::vector<std::string> set;
  bool resume = false;

  /// Adds them to a program.
  void add_to(CLI::App& app, const std::string& help) {
    app.add_option("config", config, "the configuration, a JSON file; a run that goes on has its own");
    app.add_option("-o,--output", output, "the run's folder")->required();
    app.add_option("--set", set, "an option, as NAME=VALUE")->take_all()->expected(1);
    app.add_flag("--resume", resume, "go on from the run's last checkpoint, or start where there is none");
    app.add_option("--device", device, "cpu or cuda: this program's");
    app.footer(
        "Ends with 0: done, 1: failure, 2: usage, 3: data, 4: not finite, 75: stopped by a signal, --resume goes on."
        "\n\nOptions of a configuration, and what they are without it:\n" +
        help);
  }
};

/// Fills in the resolved options: the file's, or those of the run that goes on; then what was set. Throws UsageError
/// where a run that goes on would become another.
template <class Options>
void resolve_options(const TrainingArguments& arguments, Options& options) {
  const std::filesystem::path run = arguments.output, before = run / "config.json";
  const bool goes_on = std::filesystem::exists(run / "checkpoints" / "last.safetensors");
  if (arguments.config.empty() && !(arguments.resume && std::filesystem::exists(before)))
    throw settle::UsageError("[config] expected a configuration's file, CONFIG.json");
  settle::Config config(options);
  read_config(config, arguments.config.empty() ? before : std::filesystem::path(arguments.config));
  for (const std::string& assignment : arguments.set) config.set(assignment);
  options.check();
  if (!goes_on) return;
  if (!arguments.resume)
    throw settle::UsageError("[train] " + run.string() +
                             " holds a training: go on with it (--resume), or choose another folder");
  Options own;
  settle::Config kept(own);
  const std::string differences = read_config(kept, before).kept_differences(config);
  if (!differences.empty())
    throw settle::UsageError("[config] the run in " + run.string() + " has other options: " + differences);
}

/// A program's main: reads the command line, whose help lists the configuration's options, and ends as run(arguments)
/// says.
template <class Options>
int training_main(int count, char** words, const char* name, const char* about, const char* device,
                  settle::ExitCode (*run)(const TrainingArguments&)) {
  TrainingArguments arguments;
  arguments.device = device;
  CLI::App app(about, name);
  Options defaults;
  arguments.add_to(app, settle::Config(defaults).help());
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(settle::ExitCode::usage);
  }
  return settle::run_program([&] { return run(arguments); });
}
