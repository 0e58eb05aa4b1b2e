// Scores soft maps of boundaries against annotators, as the Berkeley benchmark does: ODS, OIS, AP.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "image_progress.hpp"
#include "settle/data/bsds500.hpp"
#include "settle/io/json.hpp"
#include "settle/train/exit_codes.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

Json json_of(const BoundaryPoint& point) {
  return {{"threshold", point.threshold},
          {"precision", point.score.precision},
          {"recall", point.score.recall},
          {"f", point.score.f}};
}

void evaluate(const fs::path& predictions, const fs::path& annotators, const std::string& suffix,
              const BoundaryBenchmark& benchmark, bool as_json) {
  std::vector<std::string> stems;
  std::vector<fs::path> truths;
  std::vector<Image8> maps;
  for (const auto& file : detail::image_files(annotators, "settle_boundaries")) {
    stems.push_back(file.first), truths.push_back(file.second);
    const fs::path map = predictions / (file.first + suffix + ".png");
    if (!fs::exists(map))
      fail_data("settle_boundaries", map.string(), ": there is no such file: expected a map for each of ",
                annotators.string());
    try {
      maps.push_back(read_png(map, 1));
    } catch (const Error& error) {
      throw DataError(error.what());
    }
  }
  const Index images = std::ssize(maps);
  const BoundaryResult result = boundary_result(
      count_boundaries(maps, truths, benchmark, [&](Index done) { show_progress(done, images); }), benchmark);
  if (as_json) {
    Json out{{"ods", result.ods.score.f},
             {"threshold", result.ods.threshold},
             {"precision", result.ods.score.precision},
             {"recall", result.ods.score.recall},
             {"ois", result.ois.f},
             {"ap", result.ap},
             {"images", images}};
    out["curve"] = Json::array();
    for (const BoundaryPoint& point : result.curve) out["curve"].push_back(json_of(point));
    for (std::size_t k = 0; k < stems.size(); ++k) out["per_image"][stems[k]] = json_of(result.images[k]);
    std::printf("%s\n", out.dump().c_str());
  } else {
    std::printf("%-4s %8s %10s %10s %10s\n", "", "F", "recall", "precision", "threshold");
    const auto row = [](const char* name, const BoundaryScore& score) {
      std::printf("%-4s %8.4f %10.4f %10.4f", name, score.f, score.recall, score.precision);
    };
    row("ODS", result.ods.score), std::printf(" %10.3f\n", result.ods.threshold);
    row("OIS", result.ois), std::printf("\n");
    std::printf("%-4s %8.4f\n", "AP", result.ap);
  }
}

}  // namespace

int main(int count, char** words) {
  std::string predictions, annotators, suffix;
  BoundaryBenchmark benchmark;
  bool as_json = false, as_they_are = false;
  int threads = ThreadPool::default_threads();
  CLI::App app("Scores soft maps of boundaries against annotators: ODS, OIS and AP of the Berkeley benchmark.",
               "settle_boundaries");
  app.add_option("predictions", predictions,
                 "the folder of maps, grey PNG: NAME.png, white where a boundary is certain")
      ->required();
  app.add_option("annotators", annotators,
                 "the folder of annotators, grey PNG in which bit k is annotator k's: NAME.png")
      ->required();
  app.add_option("--suffix", suffix, "of the maps' names: \"_boundaries\" for NAME_boundaries.png");
  app.add_option("--thresholds", benchmark.thresholds, "at which maps are cut")->check(CLI::Range(1, 255));
  app.add_option("--max-distance", benchmark.max_distance, "between matched pixels, in diagonals of the image")
      ->check(CLI::Range(0.0, 0.5));
  app.add_flag("--as-they-are", as_they_are, "maps that were cut are not thinned");
  app.add_flag("--json", as_json, "one line of JSON, with the curve and each image's best");
  app.add_option("--threads", threads, "threads that compare images")->check(CLI::Range(1, 1024));
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  return run_program([&] {
    ThreadPool::instance().resize(threads);
    benchmark.thin = !as_they_are;
    evaluate(predictions, annotators, suffix, benchmark, as_json);
    return ExitCode::done;
  });
}
