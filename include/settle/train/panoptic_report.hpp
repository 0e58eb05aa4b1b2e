#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "settle/data/panoptic_picture.hpp"
#include "settle/train/panoptic_model.hpp"
#include "settle/train/report.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// Values from 0 to 1 as a grey picture of three channels, each value a square of `factor` pixels.
inline Image8 grey_picture(const float* values, Index height, Index width, Index factor) {
  Image8 out = blank_image(height * factor, width * factor, 3);
  for (Index y = 0; y < out.height; ++y)
    for (Index x = 0; x < out.width; ++x) {
      const float value = std::clamp(values[y / factor * width + x / factor], 0.f, 1.f);
      std::fill_n(out.pixels.begin() + 3 * (y * out.width + x), 3, static_cast<std::uint8_t>(255 * value + 0.5f));
    }
  return out;
}

/// What a picture shows within a box (left, top, width, height), as a square.
inline Image8 box_picture(const Image8& picture, const CocoBox& box, Index side) {
  const auto pixel = [](double at, Index end) { return std::clamp<Index>(static_cast<Index>(at), 0, end - 1); };
  const Index left = pixel(box[0], picture.width), top = pixel(box[1], picture.height);
  const Index width = pixel(box[0] + box[2] - 1, picture.width) - left + 1,
              height = pixel(box[1] + box[3] - 1, picture.height) - top + 1;
  Image8 cut = blank_image(height, width, 3);
  for (Index y = 0; y < height; ++y)
    std::copy_n(picture.pixels.begin() + 3 * ((top + y) * picture.width + left), 3 * width,
                cut.pixels.begin() + 3 * y * width);
  return resize_image(cut, side, side, Filter::bilinear);
}

/// The scores on validation images, and how they depend on the steps of the mask head.
inline std::string panoptic_scores(const Json& summary, int steps) {
  const Json& scores = summary.at("validation");
  std::string tiles;
  for (const auto& [name, title] : {std::pair{"pq", "panoptic quality"}, std::pair{"sq", "segmentation quality"},
                                    std::pair{"rq", "recognition quality"}, std::pair{"pq_things", "PQ of things"},
                                    std::pair{"pq_stuff", "PQ of stuff"},
                                    std::pair{"mask_iou", "IoU of masks in true boxes"}})
    if (scores.contains(name) && scores[name].is_number())
      tiles += joined("<div class=\"tile\"><b>", score_text(scores[name].get<double>()), "</b><span>", title,
                      "</span></div>");
  std::string out = joined("<div class=\"verdict c0\"><p>", summary.value("steps", Index{0}), " steps of training in ",
                           duration_text(summary.value("training_seconds", 0.0)), "; ", scores.value("images", Index{0}),
                           " validation images.</p><div class=\"tiles\">", tiles, "</div></div>\n");
  if (!summary.contains("curve")) return out;
  const auto chart = [&](const char* key, const char* title, const char* note, const char* id) {
    Chart panel{.title = title, .note = note, .x_label = "steps of the mask head"};
    std::vector<std::pair<double, double>> points;
    for (const Json& point : summary["curve"])
      if (point.contains(key) && point[key].is_number())
        points.emplace_back(point["steps"].get<double>(), point[key].get<double>());
    if (points.empty()) return std::string();
    panel.series.push_back({title, 0, false, points});
    panel.x_marks = {{steps, "training's"}};
    return chart_figure(panel, id);
  };
  return joined(out,
                "<h2>Stability beyond training</h2>\n<p class=\"lead\">The trained net, its mask head run for fewer and "
                "for more steps than in training.</p>\n<div class=\"charts\">",
                chart("mask_iou", "IoU of masks", "in true boxes", "chart-1"),
                chart("pq_things", "PQ of things", "of the whole net", "chart-2"),
                chart("pq", "PQ", "things and stuff", "chart-3"), "</div>\n");
}

}  // namespace detail

/// Writes one page, `file`, about a trained net: its scores on a data set (`summary`, with the members "validation" and
/// "curve" of the training program), and pictures of the first `count` images: image, truth, prediction; and of the
/// largest things of each the mask after some numbers of steps, up to twice `steps`, in its true box. The pictures are
/// also written to the folder report/ beside the page.
inline void write_panoptic_report(const std::filesystem::path& file, PanopticModel& net, const PanopticData& data,
                                  const Json& summary, int steps, Index count) {
  using detail::joined;
  const std::filesystem::path folder = file.parent_path() / "report";
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  require(!error, "report", folder.string(), ": cannot be created: ", error.message());
  std::vector<int> shown;  // steps
  for (int k = 1; k < steps; k *= 2) shown.push_back(k);
  shown.push_back(steps), shown.push_back(2 * steps);

  std::string body = detail::panoptic_scores(summary, steps);
  body += "<h2>Images</h2>\n<p class=\"lead\">Image, truth and prediction. Beneath, for the largest things: what is in "
          "the true box, and the mask after";
  for (const int k : shown) body += ' ' + std::to_string(k) + (k == shown.back() ? " steps.</p>\n" : ",");
  for (Index i = 0; i < std::min(count, data.size()); ++i) {
    const PanopticSample sample = data.sample(i);
    const PanopticSegments found = net.predict(sample.image, steps);
    const auto add = [&](const char* kind, const Image8& picture) {
      const std::filesystem::path path = folder / joined(kind, '_', i + 1, ".png");
      write_png(path, picture);
      std::ifstream written(path, std::ios::binary);
      body += joined("<img class=\"", kind, "\" alt=\"", kind, " of image ", i + 1, "\" src=\"data:image/png;base64,",
                     detail::base64(std::string{std::istreambuf_iterator<char>(written), {}}), "\">\n");
    };
    body += "<figure class=\"image\">\n";
    const SegmentMap nothing = void_map(sample.map.height, sample.map.width);
    add("segments",
        side_by_side({panoptic_picture(sample.image, nothing, {}, data.categories()),
                      panoptic_picture(sample.image, sample.map, sample.segments, data.categories()),
                      panoptic_picture(sample.image, found.map, found.segments, data.categories())}));
    const MaskSteps masks = net.masks_over_steps(sample, 4, shown.back());
    constexpr Index factor = 2;
    std::vector<Image8> rows;
    for (std::size_t r = 0; r < masks.boxes.size(); ++r) {
      const Index side = masks.after_step.front().shape(1);
      std::vector<Image8> row{detail::box_picture(sample.image, masks.boxes[r], factor * side)};
      for (const int k : shown) {
        const auto at = std::min(static_cast<std::size_t>(k), masks.after_step.size()) - 1;  // one without recurrence
        const float* values = masks.after_step[at].data() + static_cast<Index>(r) * side * side;
        row.push_back(detail::grey_picture(values, side, side, factor));
      }
      rows.push_back(side_by_side(row, 4));
    }
    if (!rows.empty()) add("masks", side_by_side(rows, 24));
    body += "</figure>\n";
  }
  constexpr const char* style =
      "figure.image{margin:0 0 14px}figure.image img{display:block;max-width:100%;image-rendering:pixelated}"
      "figure.image img.segments{width:100%;max-width:1000px;margin-bottom:10px}";
  AtomicFile page(file);
  page.write(detail::report_document(
      std::filesystem::absolute(file).parent_path().filename().string(),
      joined("Panoptic segmentation, ", summary.value("parameters", Index{0}), " parameters, mask head ",
             summary.value("mask_head", std::string())),
      body, style));
  page.commit();
}

}  // namespace settle
