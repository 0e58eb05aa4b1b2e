// One page about one run, or several side by side.
#include <CLI/CLI.hpp>

#include "settle/train/exit_codes.hpp"
#include "settle/train/report.hpp"

using namespace settle;

int main(int count, char** words) {
  std::vector<std::filesystem::path> runs;
  std::string baseline, output;
  CLI::App app("Writes one page about one run, or several side by side.", "settle_report");
  app.add_option("run", runs, "the runs' folders")->required();
  app.add_option("--baseline", baseline, "the run that others are compared with; without it the first");
  app.add_option("-o,--output", output,
                 "the page; without it RUN/report.html, or comparison.html here for several runs");
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  return run_program([&] {
    const bool one = runs.size() == 1 && baseline.empty();
    const std::filesystem::path page = !output.empty() ? std::filesystem::path(output)
                                       : one           ? runs.front() / "report.html"
                                                       : std::filesystem::path("comparison.html");
    write_report(runs, page, baseline.empty() ? std::nullopt : std::optional<std::filesystem::path>(baseline));
    std::printf("%s\n", page.c_str());
    return ExitCode::done;
  });
}
