// Segments images by a trained net: those of a list in COCO's format into a JSON file and PNG files of that format, or
// any images into pictures to look at.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>

#include "panoptic_nets.hpp"
#include "settle/data/panoptic_picture.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

struct Arguments {
  std::string run, json, images, output = ".", checkpoint;
  std::vector<std::string> pictures, set;
  int steps = 0;
};

/// "142 of 5000 images" on the standard error stream, over and over on a terminal, every ten seconds elsewhere.
void show_progress(std::size_t done, std::size_t of) {
  using Clock = std::chrono::steady_clock;
  static const bool terminal = isatty(STDERR_FILENO) != 0;
  static Clock::time_point shown = Clock::now();
  if (done < of && Clock::now() - shown < std::chrono::milliseconds(terminal ? 100 : 10000)) return;
  shown = Clock::now();
  std::fprintf(stderr, terminal ? "\r%zu of %zu images%s" : "%zu of %zu images%s", done, of,
               done == of || !terminal ? "\n" : "");
}

/// OUTPUT.json and OUTPUT/*.png for the images of a list.
void predict_list(PanopticModel& net, const std::vector<Category>& categories, const Arguments& arguments, int steps) {
  const CocoLists list = read_coco_images(arguments.json);
  if (!detail::same_categories(list.categories, categories))
    fail_data("predict_panoptic", arguments.json, ": expected the ", categories.size(),
              " categories that the net was trained on, in their order");
  CocoPanopticWriter writer(arguments.output + ".json", arguments.output, list.categories);
  for (std::size_t k = 0; k < list.images.size(); ++k) {
    const CocoImage& image = list.images[k];
    const auto found = net.predict(read_coco_image(arguments.images, list, image), steps);
    writer.add(image, found.map, found.segments);
    show_progress(k + 1, list.images.size());
  }
  writer.finish();
  std::printf("%s.json\n", arguments.output.c_str());
}

/// "2 person, 1 dog; grass, sky"
std::string in_words(const std::vector<Segment>& segments, const std::vector<Category>& categories) {
  std::string things, stuff;
  for (const Category& category : categories) {
    const auto count = std::count_if(segments.begin(), segments.end(),
                                     [&](const Segment& s) { return s.category == category.id; });
    if (count == 0) continue;
    std::string& text = category.thing ? things : stuff;
    text += (text.empty() ? "" : ", ") + (category.thing ? std::to_string(count) + " " : "") + category.name;
  }
  return things + (things.empty() || stuff.empty() ? "" : "; ") + stuff;
}

/// OUTPUT/NAME_panoptic.png for each picture.
void predict_pictures(PanopticModel& net, const std::vector<Category>& categories, const Arguments& arguments,
                      int steps) {
  std::error_code error;
  fs::create_directories(arguments.output, error);
  for (const std::string& path : arguments.pictures) {
    const Image8 picture = read_image(path, 3);
    const PanopticSegments found = net.predict(picture, steps);
    const fs::path to = fs::path(arguments.output) / (fs::path(path).stem().string() + "_panoptic.png");
    write_png(to, side_by_side({panoptic_picture(picture, void_map(picture.height, picture.width), {}, categories),
                                panoptic_picture(picture, found.map, found.segments, categories)}));
    std::printf("%s: %s\n", to.string().c_str(), in_words(found.segments, categories).c_str());
  }
}

ExitCode run(const Arguments& arguments) {
  PanopticOptions options = run_options<PanopticOptions>(arguments.run);
  Config config(options);
  for (const std::string& assignment : arguments.set) config.set(assignment);
  options.check();
  if (arguments.json.empty() == arguments.pictures.empty())
    throw UsageError("[predict_panoptic] expected images to segment, or a list of them: --json LIST.json --images DIR");
  if (arguments.json.empty() != arguments.images.empty())
    throw UsageError("[predict_panoptic] expected --images, the folder of the list's images, with --json");
  ThreadPool::instance().resize(options.threads > 0 ? options.threads : ThreadPool::default_threads());
  const fs::path checkpoint = run_checkpoint(arguments.run, arguments.checkpoint);
  const auto categories = checkpoint_categories(checkpoint);
  const auto net = panoptic_model(options, categories);
  net->load(checkpoint);
  const int steps = arguments.steps > 0 ? arguments.steps : options.test_steps();
  try {
    if (arguments.json.empty())
      predict_pictures(*net, categories, arguments, steps);
    else
      predict_list(*net, categories, arguments, steps);
  } catch (const UsageError&) {
    throw;
  } catch (const Error& problem) {
    throw DataError(problem.what());
  }
  return ExitCode::done;
}

}  // namespace

int main(int count, char** words) {
  Arguments arguments;
  CLI::App app("Segments images by a trained net.", "predict_panoptic");
  app.add_option("--run", arguments.run, "the run's folder")->required();
  app.add_option("pictures", arguments.pictures, "images to draw what is found in them");
  app.add_option("--json", arguments.json, "a list of images in COCO's format; only images and categories are read");
  app.add_option("--images", arguments.images, "the folder of the list's images");
  app.add_option("-o,--output", arguments.output,
                 "pictures: the folder that they go to; a list: PRED, for PRED.json and the folder PRED");
  app.add_option("--checkpoint", arguments.checkpoint, "best, last or step_N; without it best, where there is one");
  app.add_option("--steps", arguments.steps, "of the mask head; without it those of the run")
      ->check(CLI::Range(1, 1000000));
  app.add_option("--set", arguments.set, "an option in place of the run's, as NAME=VALUE: evaluation.least_score=0.7")
      ->take_all()
      ->expected(1);
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  return run_program([&] { return run(arguments); });
}
