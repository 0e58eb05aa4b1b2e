#pragma once
#include <png.h>
#include <torch/torch.h>

#include <filesystem>
#include <set>

namespace fs = std::filesystem;

// libtorch reads no image files: libpng does.
inline torch::Tensor read_grey(const fs::path& file) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  TORCH_CHECK(png_image_begin_read_from_file(&image, file.c_str()), file, ": ", image.message);
  image.format = PNG_FORMAT_GRAY;
  const torch::Tensor pixels = torch::empty({1, image.height, image.width}, torch::kUInt8);
  TORCH_CHECK(png_image_finish_read(&image, nullptr, pixels.data_ptr(), 0, nullptr), file, ": ", image.message);
  return pixels;
}

/// Images (1, H, W) in [0, 1] and their masks (H, W) of 0 and 1.
struct Folder {
  std::vector<torch::Tensor> images, masks;

  explicit Folder(const fs::path& root) {
    std::set<fs::path> names;
    for (const auto& entry : fs::directory_iterator(root / "images")) names.insert(entry.path().filename());
    for (const auto& name : names) {
      images.push_back(read_grey(root / "images" / name).to(torch::kFloat) / 255);
      masks.push_back((read_grey(root / "labels" / name)[0] == 0).to(torch::kLong));
    }
  }

  /// Crops of 64 x 64 of images before `end`, stacked.
  std::pair<torch::Tensor, torch::Tensor> batch(std::int64_t count, std::int64_t end) const {
    std::vector<torch::Tensor> crops, targets;
    for (std::int64_t k = 0; k < count; ++k) {
      const auto i = torch::randint(end, {1}).item<std::int64_t>();
      const auto at = static_cast<std::size_t>(i);
      const auto y = torch::randint(images[at].size(1) - 63, {1}).item<std::int64_t>();
      const auto x = torch::randint(images[at].size(2) - 63, {1}).item<std::int64_t>();
      crops.push_back(images[at].slice(1, y, y + 64).slice(2, x, x + 64));
      targets.push_back(masks[at].slice(0, y, y + 64).slice(1, x, x + 64));
    }
    return {torch::stack(crops), torch::stack(targets)};
  }
};

/// F1 of the pixels of class 1 of the images from `first` on.
template <class Net>
double f1(const Folder& data, std::int64_t first, Net&& net) {
  torch::NoGradGuard no_grad;
  double both = 0, predicted = 0, marked = 0;
  for (auto k = static_cast<std::size_t>(first); k < data.images.size(); ++k) {
    const torch::Tensor mine = net(data.images[k].unsqueeze(0)).argmax(1)[0];
    both += (mine * data.masks[k]).sum().template item<double>();
    predicted += mine.sum().template item<double>(), marked += data.masks[k].sum().template item<double>();
  }
  return 2 * both / (predicted + marked);
}
