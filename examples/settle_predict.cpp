// Classifies each pixel of images by a trained net: for IMAGE.png it writes IMAGE_classes.png, with the masks' values
// of the run's configuration, and of two classes IMAGE_probability.png, white where class 1 is certain; when asked to,
// IMAGE_boundaries.png, the same where it is largest across a boundary, for settle_boundaries.
#include <CLI/CLI.hpp>

#include "segmentation_nets.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

/// The colour or grey value that stands for each class.
std::vector<std::array<std::uint8_t, 3>> class_colours(const SegmentationOptions& options) {
  std::vector<std::array<std::uint8_t, 3>> out;
  for (const std::string& name : options.data.classes) {
    const std::uint32_t value = detail::mask_value(name), rgb = value < 256 ? value * 0x10101 : value - 256;
    out.push_back(
        {static_cast<std::uint8_t>(rgb >> 16), static_cast<std::uint8_t>(rgb >> 8), static_cast<std::uint8_t>(rgb)});
  }
  return out.empty() ? std::vector<std::array<std::uint8_t, 3>>{{0, 0, 0}, {255, 255, 255}} : out;
}

void predict(Segmentation& net, const SegmentationOptions& options, int steps, const fs::path& image,
             const fs::path& output, bool boundaries) {
  Sample sample{to_tensor(read_image(image, options.image_channels())), {}, {}};
  sample.target = Tensor<float>({sample.image.shape(1), sample.image.shape(2)}, 0.f);
  Random random(0);
  for (const Transform& transform : evaluation_transforms(options)) transform(sample, random);
  const Tensor<float> logits = net.logits(sample.image, steps);
  const Index height = logits.shape(1), width = logits.shape(2), area = height * width;
  const auto colours = class_colours(options);
  Image8 classes = blank_image(height, width, 3), probability = blank_image(height, width);
  for (Index k = 0; k < area; ++k) {
    std::size_t best = 0;
    for (std::size_t c = 1; c < colours.size(); ++c)
      if (logits.data()[static_cast<Index>(c) * area + k] > logits.data()[static_cast<Index>(best) * area + k])
        best = c;
    std::copy_n(colours[best].begin(), 3, classes.pixels.begin() + 3 * k);
    const float p = 1 / (1 + std::exp(logits.data()[k] - logits.data()[area + k]));
    probability.pixels[static_cast<std::size_t>(k)] = static_cast<std::uint8_t>(255 * p + 0.5f);
  }
  const std::string stem = (output / image.stem()).string();
  write_png(stem + "_classes.png", classes);
  if (colours.size() == 2) write_png(stem + "_probability.png", probability);
  if (boundaries) write_png(stem + "_boundaries.png", boundary_map(logits));
  std::printf("%s_classes.png\n", stem.c_str());
}

}  // namespace

int main(int count, char** words) {
  std::string folder, checkpoint, output = ".";
  std::vector<std::string> images;
  int steps = 0;
  bool boundaries = false;
  CLI::App app("Classifies each pixel of images by a trained net.", "settle_predict");
  app.add_option("--run", folder, "the run's folder")->required();
  app.add_option("images", images, "the images' files")->required();
  app.add_option("-o,--output", output, "where the pictures go");
  app.add_option("--checkpoint", checkpoint, "best, last or step_N; without it best, where there is one");
  app.add_option("--steps", steps, "recurrent steps; without it those of training")->check(CLI::Range(1, 1000000));
  app.add_flag("--boundaries", boundaries, "write maps of class 1 as boundaries too, for settle_boundaries");
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  return run_program([&] {
    const SegmentationOptions options = run_options<SegmentationOptions>(folder);
    if (boundaries && options.classes() != 2)
      throw UsageError("[settle_predict] --boundaries: expected a run of 2 classes, found " +
                       std::to_string(options.classes()));
    const auto net = read_net(folder, options, checkpoint);
    std::error_code error;
    fs::create_directories(output, error);
    for (const std::string& image : images) {
      try {
        predict(*net, options, steps > 0 ? steps : options.algorithm.steps, image, output, boundaries);
      } catch (const UsageError&) {
        throw;
      } catch (const Error& problem) {
        throw DataError(problem.what());
      }
    }
    return ExitCode::done;
  });
}
