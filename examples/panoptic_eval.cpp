// Scores panoptic predictions in COCO's format against the truth: panoptic quality by category, for things, for stuff
// and for all, by the rules of COCO's panoptic task.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "image_progress.hpp"
#include "settle/io/coco_panoptic.hpp"

using namespace settle;
using Json = nlohmann::ordered_json;

namespace {

Json json_of(const Quality& quality) {
  return {{"pq", quality.pq}, {"sq", quality.sq}, {"rq", quality.rq}, {"n", quality.n}};
}

Json json_of(const PanopticQuality& quality) {
  Json out = json_of(quality.all);
  out["things"] = json_of(quality.things);
  out["stuff"] = json_of(quality.stuff);
  return out;
}

Json json_of(const MatchCounts& counts) {
  Json out = json_of(quality_of(counts));
  out.erase("n");
  out["tp"] = counts.true_positives;
  out["fp"] = counts.false_positives;
  out["fn"] = counts.false_negatives;
  out["iou_sum"] = counts.iou_sum;
  return out;
}

void print_row(const std::string& name, const Quality& q, const std::string& rest) {
  std::printf("%-24.24s %6.2f %6.2f %6.2f  %s\n", name.c_str(), 100 * q.pq, 100 * q.sq, 100 * q.rq, rest.c_str());
}

void print_table(const PanopticQuality& quality, PanopticCounts counts, const std::vector<Category>& categories) {
  std::printf("%-24s %6s %6s %6s\n", "", "PQ", "SQ", "RQ");
  for (const Category& category : categories) {
    const MatchCounts& c = counts[category.id];
    if (c.all() > 0)
      print_row(category.name, quality.per_category.at(category.id),
                std::to_string(c.true_positives) + " found, " + std::to_string(c.false_positives) + " made up, " +
                    std::to_string(c.false_negatives) + " missed");
  }
  for (const auto& [name, mean] : {std::pair("things", quality.things), {"stuff", quality.stuff}, {"all", quality.all}})
    print_row(name, mean, std::to_string(mean.n) + " categories");
}

void evaluate(const std::string& truth_json, const std::string& truth_folder, const std::string& json,
              const std::string& folder, bool as_json, bool per_image) {
  const CocoPanoptic truth = read_coco_panoptic(truth_json);
  const auto predictions = read_coco_predictions(json, truth);
  const Index images = std::ssize(predictions);
  const auto by_image =
      compare_panoptic(truth, truth_folder, predictions, folder, [&](Index done) { show_progress(done, images); });
  PanopticCounts counts;
  std::map<std::string, PanopticCounts> by_kind;
  for (std::size_t k = 0; k < by_image.size(); ++k) {
    counts += by_image[k];
    const std::string& kind = truth.image(truth.annotations[k].image).kind;
    if (!kind.empty()) by_kind[kind] += by_image[k];
  }
  const PanopticQuality quality = panoptic_quality(counts, truth.categories);

  Json out = json_of(quality);
  if (as_json) {
    for (const Category& category : truth.categories)
      out["per_category"][std::to_string(category.id)] = json_of(counts[category.id]);
  } else {
    print_table(quality, counts, truth.categories);
  }
  for (const auto& [kind, counts_of_it] : by_kind) {
    const PanopticQuality of_kind = panoptic_quality(counts_of_it, truth.categories);
    if (as_json)
      out["per_kind"][kind] = json_of(of_kind);
    else
      print_row(kind, of_kind.all, std::to_string(of_kind.all.n) + " categories");
  }
  if (per_image) {
    if (!as_json) std::printf("\n%-24s %6s %6s %6s\n", "image", "PQ", "SQ", "RQ");
    for (std::size_t k = 0; k < by_image.size(); ++k) {
      const PanopticQuality of_image = panoptic_quality(by_image[k], truth.categories);
      if (as_json)
        out["per_image"][std::to_string(truth.annotations[k].image)] = json_of(of_image);
      else
        print_row(truth.annotations[k].file_name, of_image.all, std::to_string(of_image.all.n) + " categories");
    }
  }
  if (as_json) std::printf("%s\n", out.dump().c_str());
}

}  // namespace

int main(int count, char** words) {
  std::string truth, truth_folder, predictions, folder;
  bool as_json = false, per_image = false;
  int threads = ThreadPool::default_threads();
  CLI::App app("Panoptic quality of predictions in COCO's format, by the rules of COCO's panoptic task.");
  app.add_option("truth", truth, "the truth's JSON file")->required();
  app.add_option("truth-folder", truth_folder, "the folder of its PNG files")->required();
  app.add_option("predictions", predictions, "the predictions' JSON file")->required();
  app.add_option("folder", folder, "the folder of their PNG files")->required();
  app.add_flag("--json", as_json, "one line of JSON, qualities from 0 to 1, instead of a table of percentages");
  app.add_flag("--per-image", per_image, "the quality of each image on its own too");
  app.add_option("--threads", threads, "threads that compare images")->check(CLI::Range(1, 1024));
  CLI11_PARSE(app, count, words);
  try {
    ThreadPool::instance().resize(threads);
    evaluate(truth, truth_folder, predictions, folder, as_json, per_image);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
