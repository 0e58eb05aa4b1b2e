// Writes a Pathfinder data set in the published layout: images, labels, and a list of them.
#include <CLI/CLI.hpp>

#include "settle/data/pathfinder_folder.hpp"
#include "settle/train/exit_codes.hpp"

using namespace settle;

int main(int count, char** words) {
  std::string output, list;
  PathfinderOptions task;
  std::uint64_t seed = 1, first = 0;
  Index images = 1000;
  CLI::App app("Writes a Pathfinder data set: images, labels, and a list of them.", "settle_make_pathfinder");
  app.option_defaults()->always_capture_default();
  app.add_option("-o,--output", output, "the folder")->required();
  app.add_option("--list", list, "the list's file; without it list.txt in the folder");
  app.add_option("--images", images, "how many")->check(CLI::Range(1, 100000000));
  app.add_option("--first", first, "the number of the first one");
  app.add_option("--seed", seed, "names the data set");
  app.add_option("--size", task.size, "of what is trained on; the files are twice as large, unless --window says more");
  app.add_option("--window", task.window, "height and width of the files; 0: twice the size");
  app.add_option("--contour-length", task.contour_length, "dashes in the marked contour");
  app.add_option("--distractors", task.distractors, "short contours");
  app.add_option("--distractor-length", task.distractor_length, "dashes in each; 0: a third of the contour's");
  app.add_option("--thickness", task.thickness, "of the strokes");
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  return run_program([&] {
    const std::filesystem::path root = output;
    std::filesystem::create_directories(root);
    const Pathfinder generator(task);
    write_pathfinder_folder(root, list.empty() ? root / "list.txt" : std::filesystem::path(list), generator, seed,
                            first, images);
    std::printf("%lld images in %s\n", static_cast<long long>(images), root.c_str());
    return ExitCode::done;
  });
}
