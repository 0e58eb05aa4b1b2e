#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "settle/data/pathfinder.hpp"
#include "settle/experiments/core.hpp"
#include "settle/io/gif.hpp"
#include "settle/io/png.hpp"

// The paper's other figures, and what its reviewers asked for.
namespace settle::inline v0_2::experiments {

namespace detail {

/// The generator of a cell's data, without its random flips: scenes and images belong together.
inline Pathfinder generator_of(const SegmentationOptions& options, Index contour_length) {
  const auto& d = options.data;
  return Pathfinder({.size = d.size,
                     .window = d.window,
                     .contour_length = contour_length,
                     .distractors = d.distractors,
                     .distractor_length = d.distractor_length,
                     .thickness = d.thickness});
}

/// A sample as a net takes it.
inline Sample prepared(const SegmentationOptions& options, Sample sample) {
  Random random(0);
  for (const Transform& transform : evaluation_transforms(options)) transform(sample, random);
  return sample;
}

/// Samples in a batch, as a net takes them.
inline Batch batch_of(const SegmentationOptions& options, const std::vector<Sample>& samples) {
  struct Source {
    std::vector<Sample> samples;
    Index size() const { return std::ssize(samples); }
    Sample sample(Index i) const { return samples[static_cast<std::size_t>(i)]; }
  };
  Loader<> batches(
      DataSet(Source{samples}),
      {.batch = std::ssize(samples), .shuffle = false, .endless = false, .transforms = evaluation_transforms(options)});
  return batches.next();
}

constexpr std::uint64_t scene_seed = 424242;  // of no data set that is trained on

/// Whether a pixel of sample n is class 1, for logits (N, 2, H, W).
inline bool is_marked(const Tensor<float>& logits, Index n, Index pixel) {
  const Index pixels = logits.shape(2) * logits.shape(3);
  const float* const first = logits.data() + n * 2 * pixels;
  return first[pixels + pixel] > first[pixel];
}

/// Counts of one sample's pixels.
inline Confusion confusion_of(const Tensor<float>& logits, const Tensor<float>& target, Index n) {
  const Index pixels = logits.shape(2) * logits.shape(3);
  Confusion out;
  for (Index k = 0; k < pixels; ++k) {
    const bool truth = target.data()[n * pixels + k] > 0.5f, marked = is_marked(logits, n, k);
    (truth ? (marked ? out.true_positives : out.false_negatives)
           : (marked ? out.false_positives : out.true_negatives))++;
  }
  return out;
}

/// The way along a contour from its marked end to the point of it that is nearest to each pixel of an image, in the
/// window's pixels: the geodesic distance over dashes and gaps.
inline std::vector<double> path_distances(const PathfinderScene& scene, const PathfinderOptions& task) {
  std::vector<std::array<double, 2>> corners{
      {static_cast<double>(scene.marker.x), static_cast<double>(scene.marker.y)}};
  for (const Dash& dash : scene.target) {
    const double angle = static_cast<double>(dash.heading) * std::numbers::pi / 180;
    const double x = static_cast<double>(dash.head.x), y = static_cast<double>(dash.head.y);
    const double length = static_cast<double>(task.dash_length);
    corners.push_back({x - length * std::cos(angle), y - length * std::sin(angle)});
    corners.push_back({x, y});
  }
  const double scale = static_cast<double>(task.window) / static_cast<double>(task.size);
  std::vector<double> out;
  for (Index i = 0; i < task.size; ++i)
    for (Index j = 0; j < task.size; ++j) {
      const double px = (static_cast<double>(j) + 0.5) * scale - 0.5, py = (static_cast<double>(i) + 0.5) * scale - 0.5;
      double nearest = std::numeric_limits<double>::infinity(), way = 0, best = 0;
      for (std::size_t k = 1; k < corners.size(); ++k) {
        const double ax = corners[k - 1][0], ay = corners[k - 1][1];
        const double dx = corners[k][0] - ax, dy = corners[k][1] - ay, squared = dx * dx + dy * dy;
        const double t = squared > 0 ? std::clamp(((px - ax) * dx + (py - ay) * dy) / squared, 0.0, 1.0) : 0;
        const double ex = ax + t * dx - px, ey = ay + t * dy - py, distance = ex * ex + ey * ey;
        if (distance < nearest) nearest = distance, best = way + t * std::sqrt(squared);
        way += std::sqrt(squared);
      }
      out.push_back(best);
    }
  return out;
}

/// A colour from blue over green to yellow for t from 0 to 1.
inline std::array<std::uint8_t, 3> colour_of(double t) {
  constexpr double stops[5][3] = {{68, 1, 84}, {59, 82, 139}, {33, 145, 140}, {94, 201, 98}, {253, 231, 37}};
  const double place = std::clamp(t, 0.0, 1.0) * 4;
  const int k = std::min(3, static_cast<int>(place));
  std::array<std::uint8_t, 3> out{};
  for (std::size_t c = 0; c < 3; ++c)
    out[c] = static_cast<std::uint8_t>(stops[k][c] + (place - k) * (stops[k + 1][c] - stops[k][c]));
  return out;
}

/// Small pictures side by side, each pixel `zoom` pixels wide: colour(sample, pixel).
template <class Colour>
Image8 sheet(Index samples, Index size, const Colour& colour) {
  constexpr Index zoom = 4, gap = 2;
  Image8 out = blank_image(size * zoom + 2 * gap, samples * (size * zoom + gap) + gap, 3, 64);
  for (Index n = 0; n < samples; ++n)
    for (Index y = 0; y < size * zoom; ++y)
      for (Index x = 0; x < size * zoom; ++x) {
        const std::array<std::uint8_t, 3> c = colour(n, y / zoom * size + x / zoom);
        const Index at = ((gap + y) * out.width + gap + n * (size * zoom + gap) + x) * 3;
        for (std::size_t k = 0; k < 3; ++k) out.pixels[static_cast<std::size_t>(at) + k] = c[k];
      }
  return out;
}

}  // namespace detail

/// Fig. 2b: kernel width against steps, on the shortest contours.
inline void kernels(const Plan& plan) {
  Report report(plan, "kernels", "Kernel width against steps (Fig. 2b)");
  const Algorithm crbp = plan.algorithm("crbp"), bptt = plan.algorithm("bptt");
  std::vector<Cell> cells;
  const std::uint64_t seed = plan.seeds.front();
  for (std::size_t k = 0; k < plan.kernels.size(); ++k) {
    const std::string kernel = std::to_string(plan.kernels[k]);
    cells.push_back(plan.cell(crbp, 0, seed,
                              {"model.kernel=" + kernel, "algorithm.steps=" + std::to_string(plan.kernel_steps[k])}));
    cells.push_back(plan.cell(bptt, 0, seed, {"model.kernel=" + kernel}));
  }
  const auto done = run_cells(plan, cells);
  Chart chart{.title = "IoU against the kernel's width", .x_label = "kernel", .y_label = "IoU"};
  Series with{.name = crbp.label}, without{.name = bptt.label};
  std::vector<std::vector<std::string>> rows;
  for (std::size_t k = 0; k < plan.kernels.size(); ++k) {
    const DoneCell &own = done[2 * k], &unrolled = done[2 * k + 1];
    const double a = own.at("iou", plan.lengths[0], own.steps());
    const double b = unrolled.at("iou", plan.lengths[0], unrolled.steps());
    with.x.push_back(static_cast<double>(plan.kernels[k])), with.y.push_back(a);
    without.x.push_back(static_cast<double>(plan.kernels[k])), without.y.push_back(b);
    std::string published = "-";
    for (const auto& row : paper::kernels)
      if (row.kernel == plan.kernels[k]) {
        published = number(row.crbp) + ", " + number(row.bptt);
        chart.marks.push_back({crbp.label, static_cast<double>(row.kernel), row.crbp});
        chart.marks.push_back({bptt.label, static_cast<double>(row.kernel), row.bptt});
      }
    rows.push_back({std::to_string(plan.kernels[k]), std::to_string(own.summary["parameters"].get<Index>()),
                    std::to_string(plan.kernel_steps[k]), number(a), number(b), published});
    report.result["kernels"].push_back({{"kernel", plan.kernels[k]}, {"crbp", a}, {"bptt", b}});
  }
  chart.series = {with, without};
  report.table("IoU on short contours, one seed; the paper's on 14 dashes, best epoch on all validation images.",
               {"kernel", "parameters", "steps of C-RBP", "C-RBP",
                "BPTT, " + std::to_string(plan.unrolled_steps) + " steps", "the paper's C-RBP, BPTT"},
               rows);
  report.figure("kernels", chart);
  report.finish();
}

/// Fig. 1: states over time, and whether they stay.
inline void state_space(const Plan& plan) {
  Report report(plan, "state_space", "State space (Fig. 1)");
  const std::vector<const char*> keys{"bptt", "cbptt", "crbp"};
  std::vector<Algorithm> algorithms;
  for (const char* key : keys) algorithms.push_back(plan.algorithm(key));
  const std::uint64_t seed = plan.seeds.front();
  std::vector<Cell> cells;
  for (const Algorithm& algorithm : algorithms) cells.push_back(plan.cell(algorithm, 0, seed));
  const auto done = run_cells(plan, cells);
  std::vector<std::vector<double>> distances(keys.size());
  std::vector<std::vector<std::string>> rows;
  for (std::size_t m = 0; m < keys.size(); ++m) {
    const auto net = net_of(plan, done[m]);
    const int trained = done[m].steps(), last = 4 * trained;
    const Index wanted = std::min<Index>(plan.size == "tiny" ? 8 : 32, plan.test_images);
    // Every stride-th step of every image is a row.
    const int stride = std::max(1, last / 24);
    std::vector<std::vector<float>> states;
    std::vector<int> steps;
    const DataSet data = test_images(plan, done[m].cell.options, plan.lengths[0]).range(0, wanted);
    Loader<> batches(data, {.batch = done[m].cell.options.evaluation_batch,
                            .shuffle = false,
                            .endless = false,
                            .transforms = evaluation_transforms(done[m].cell.options)});
    while (!batches.done()) {
      const Batch batch = batches.next();
      Tensor<float> at_end;
      net->follow(batch.image, last, [&](const StepShown& shown) {
        const Index images = shown.state.shape(0), size = shown.state.size() / images;
        const auto row = [&](const Tensor<float>& z, Index n) {
          return std::vector<float>(z.data() + n * size, z.data() + (n + 1) * size);
        };
        if (shown.step % stride == 0)
          for (Index n = 0; n < images; ++n) states.push_back(row(shown.state, n)), steps.push_back(shown.step);
        if (shown.step == trained) at_end = shown.state;
        if (shown.step != last) return;
        for (Index n = 0; n < images; ++n) {
          const auto a = row(at_end, n), b = row(shown.state, n);
          double apart = 0, norm = 0;
          for (std::size_t k = 0; k < a.size(); ++k) {
            apart += static_cast<double>(a[k] - b[k]) * static_cast<double>(a[k] - b[k]);
            norm += static_cast<double>(a[k]) * static_cast<double>(a[k]);
          }
          distances[m].push_back(std::sqrt(apart / std::max(norm, 1e-300)));
        }
      });
    }
    const PrincipalComponents found = principal_components(states, 2);
    Chart chart{.title = algorithms[m].label + ": states over " + std::to_string(last) + " steps, to N in blue",
                .x_label = "component 1, " + number(100 * found.shares[0], "%.0f") + " %",
                .y_label = "component 2, " + number(100 * found.shares[1], "%.0f") + " %"};
    Series early{.name = "to N", .points = true}, late{.name = "N to 4 N", .points = true};
    for (std::size_t k = 0; k < steps.size(); ++k) {
      Series& s = steps[k] <= trained ? early : late;
      s.x.push_back(found.projected[k][0]), s.y.push_back(found.projected[k][1]);
    }
    chart.series = {early, late};
    report.figure(std::string("states_") + keys[m], chart);
    const Spread distance = spread(distances[m]);
    const auto published = std::string(keys[m]) == "bptt"    ? "98 %, 2 %"
                           : std::string(keys[m]) == "cbptt" ? "91 %, 5 %"
                                                             : "not computed";
    rows.push_back({algorithms[m].label, std::to_string(trained),
                    number(100 * found.shares[0], "%.0f %%") + ", " + number(100 * found.shares[1], "%.0f %%"),
                    published, number(distance), number(quantile(distances[m], 0.5))});
    report.result["models"][keys[m]] = {
        {"training_steps", trained}, {"component_shares", found.shares}, {"distances", distances[m]}};
  }
  report.table(
      "Distance |z(N) - z(4 N)| / |z(N)| of each image's state, N the training's steps, in the whole state "
      "space (the released script takes the mean square of two components, and calls it Euclidean).",
      {"", "N", "variance of two components", "the paper's", "distance", "median"}, rows);
  std::vector<std::vector<std::string>> tests;
  for (std::size_t a = 0; a < keys.size(); ++a)
    for (std::size_t b = a + 1; b < keys.size(); ++b) {
      const KsTest test = ks_test(distances[a], distances[b]);
      tests.push_back(
          {algorithms[a].label + ", " + algorithms[b].label, number(test.statistic, "%.2f"), number(test.p, "%.1e")});
      report.result["tests"].push_back({{"a", keys[a]}, {"b", keys[b]}, {"statistic", test.statistic}, {"p", test.p}});
    }
  report.table(
      "Two-sample Kolmogorov-Smirnov tests of these distances. The paper: BPTT differs from both others with p "
      "< 0.001, and these do not differ; the released script compares C-BPTT with itself there.",
      {"samples", "statistic", "p"}, tests);
  report.finish();
}

/// How a segmentation fills in: the step from which a pixel stays labelled against its distance along the contour.
inline void fill_in(const Plan& plan) {
  Report report(plan, "fill_in", "How a segmentation fills in");
  const Algorithm crbp = plan.algorithm("crbp");
  const auto cells = run_cells(plan, cells_of(plan, {crbp}, {2}));
  std::vector<double> of_seeds;
  std::vector<std::vector<std::string>> rows;
  const Index wanted = plan.size == "tiny" ? 8 : 64, shown_images = 8;
  for (const DoneCell& cell : cells) {
    const SegmentationOptions& options = cell.cell.options;
    const Pathfinder pathfinder = detail::generator_of(options, options.data.contour_length);
    const auto net = net_of(plan, cell);
    const int last = cell.steps();
    const Index size = options.data.size, pixels = size * size;
    std::vector<double> correlations;
    double labelled = 0, target_pixels = 0;
    std::vector<Image8> frames;
    for (Index first = 0; first < wanted; first += options.evaluation_batch) {
      std::vector<Sample> samples;
      std::vector<PathfinderScene> scenes;
      const Index count = std::min(options.evaluation_batch, wanted - first);
      for (Index n = 0; n < count; ++n) {
        scenes.push_back(pathfinder.scene(detail::scene_seed, static_cast<std::uint64_t>(first + n)));
        const PathfinderSample made = to_sample(pathfinder.draw(scenes.back()), size);
        samples.push_back({made.image, made.target, {}});
      }
      const Batch batch = detail::batch_of(options, samples);
      // The step from which on a pixel is labelled until the end; 0: it is not at the end.
      std::vector<int> since(static_cast<std::size_t>(count * pixels), 0);
      net->follow(batch.image, last, [&](const StepShown& shown) {
        for (Index n = 0; n < count; ++n)
          for (Index k = 0; k < pixels; ++k) {
            int& step = since[static_cast<std::size_t>(n * pixels + k)];
            if (!detail::is_marked(shown.logits, n, k))
              step = 0;
            else if (step == 0)
              step = shown.step;
          }
        if (first == 0 && &cell == &cells.front())
          frames.push_back(detail::sheet(std::min(count, shown_images), size, [&](Index n, Index k) {
            const auto v = static_cast<std::uint8_t>(
                255 * std::clamp(samples[static_cast<std::size_t>(n)].image.data()[k], 0.f, 1.f));
            return detail::is_marked(shown.logits, n, k) ? std::array<std::uint8_t, 3>{255, 140, 0}
                                                         : std::array<std::uint8_t, 3>{v, v, v};
          }));
      });
      for (Index n = 0; n < count; ++n) {
        const auto ways = detail::path_distances(scenes[static_cast<std::size_t>(n)], pathfinder.options());
        std::vector<double> when, where;
        for (Index k = 0; k < pixels; ++k) {
          if (!(batch.target.data()[n * pixels + k] > 0.5f)) continue;
          ++target_pixels;
          const int step = since[static_cast<std::size_t>(n * pixels + k)];
          if (step == 0) continue;
          ++labelled;
          when.push_back(step), where.push_back(ways[static_cast<std::size_t>(k)]);
        }
        if (when.size() >= 8) correlations.push_back(rank_correlation(when, where));
      }
      if (first == 0 && &cell == &cells.front()) {
        write_png(report.folder() / "time_course.png",
                  detail::sheet(std::min(count, shown_images), size, [&](Index n, Index k) {
                    const int step = since[static_cast<std::size_t>(n * pixels + k)];
                    const auto v = static_cast<std::uint8_t>(
                        120 * std::clamp(samples[static_cast<std::size_t>(n)].image.data()[k], 0.f, 1.f));
                    return step > 0 ? detail::colour_of(static_cast<double>(step) / last)
                                    : std::array<std::uint8_t, 3>{v, v, v};
                  }));
        GifOptions timing{.delays = std::vector<Index>(frames.size(), 20), .palette = {}};
        timing.delays.back() = 200;
        write_gif(report.folder() / "time_course.gif", frames, timing);
      }
    }
    const Spread found = spread(correlations);
    of_seeds.push_back(found.mean);
    rows.push_back({std::to_string(options.train.seed), number(found), std::to_string(found.count),
                    number(labelled / std::max(1.0, target_pixels))});
    report.result["seeds_found"].push_back({{"seed", options.train.seed},
                                            {"rank_correlation", json_of(found)},
                                            {"labelled_share", labelled / std::max(1.0, target_pixels)}});
  }
  report.table(
      "Spearman's rank correlation, within an image, between the step from which a pixel of the marked contour "
      "stays labelled and its distance from the disc along the contour; C-RBP, longest contours. The paper "
      "shows such maps, and gives no number.",
      {"seed", "mean and deviation over images", "images with at least 8 labelled pixels",
       "share of the contours' pixels that is labelled"},
      rows);
  report.picture("time_course.png", "The step from which each pixel is labelled, from violet to yellow");
  report.picture("time_course.gif", "The segmentation at each step");
  report.summary("flood_fill_rank_correlation", spread(of_seeds));
  report.finish();
}

/// Trained on one length, tested on two and three times that, each image until its state rests.
inline void extrapolation(const Plan& plan) {
  Report report(plan, "extrapolation", "Longer contours, with as many steps as the state asks for");
  const Algorithm crbp = plan.algorithm("crbp");
  const auto cells = run_cells(plan, cells_of(plan, {crbp}, {0}));
  std::vector<std::vector<std::string>> rows;
  for (const double tolerance : {0.03, 0.01, 0.003})
    for (const Index length : plan.lengths) {
      std::vector<double> adaptive, fixed, steps, fixed_late;
      for (const DoneCell& cell : cells) {
        const SegmentationOptions& options = cell.cell.options;
        const auto net = net_of(plan, cell);
        const int trained = cell.steps(), last = 4 * trained;
        Loader<> batches(test_images(plan, options, length), {.batch = options.evaluation_batch,
                                                              .shuffle = false,
                                                              .endless = false,
                                                              .transforms = evaluation_transforms(options)});
        Confusion stopped, at_trained, at_last;
        double sum = 0, images = 0;
        while (!batches.done()) {
          const Batch batch = batches.next();
          const Index count = batch.image.shape(0);
          std::vector<int> stop(static_cast<std::size_t>(count), 0);
          Tensor<float> before;
          net->follow(batch.image, last, [&](const StepShown& shown) {
            const Index size = shown.state.size() / count;
            for (Index n = 0; n < count; ++n) {
              if (shown.step == trained) at_trained += detail::confusion_of(shown.logits, batch.target, n);
              if (shown.step == last) at_last += detail::confusion_of(shown.logits, batch.target, n);
              int& own = stop[static_cast<std::size_t>(n)];
              if (own > 0) continue;
              double apart = std::numeric_limits<double>::infinity(), norm = 1;
              if (before.size() > 0) {
                apart = 0, norm = 0;
                for (Index k = n * size; k < (n + 1) * size; ++k) {
                  const double a = static_cast<double>(shown.state.data()[k]),
                               b = static_cast<double>(before.data()[k]);
                  apart += (a - b) * (a - b), norm += a * a;
                }
              }
              if (apart > tolerance * tolerance * norm && shown.step < last) continue;
              own = shown.step;
              stopped += detail::confusion_of(shown.logits, batch.target, n);
            }
            before = shown.state;
          });
          for (const int own : stop) sum += own, ++images;
        }
        adaptive.push_back(stopped.iou()), fixed.push_back(at_trained.iou()), fixed_late.push_back(at_last.iou());
        steps.push_back(sum / images);
      }
      rows.push_back({number(tolerance, "%g"), std::to_string(length), number(spread(steps), "%.1f"),
                      number(spread(adaptive)), number(spread(fixed)), number(spread(fixed_late))});
      report.result["rows"].push_back({{"tolerance", tolerance},
                                       {"length", length},
                                       {"steps", json_of(spread(steps))},
                                       {"iou", json_of(spread(adaptive))},
                                       {"iou_at_training_steps", json_of(spread(fixed))},
                                       {"iou_at_4x_steps", json_of(spread(fixed_late))}});
    }
  report.table("C-RBP trained on " + std::to_string(plan.lengths[0]) +
                   " dashes. An image's run stops once its state changes by less than the tolerance from one step to "
                   "the next, at the latest after four times the training's steps.",
               {"tolerance", "dashes", "mean steps", "IoU", "IoU at the training's steps", "IoU at four times as many"},
               rows);
  report.finish();
}

/// Inputs that move: frames in which the scene drifts, and in which the marked contour changes.
inline void dynamic(const Plan& plan) {
  Report report(plan, "dynamic", "Dynamic inputs");
  const Algorithm crbp = plan.algorithm("crbp"), bptt = plan.algorithm("bptt");
  const auto cells = run_cells(plan, cells_of(plan, {crbp, bptt}, {0}));
  const auto settled = select(plan, cells, crbp, 0), unrolled = select(plan, cells, bptt, 0);
  const std::size_t frames = 12;
  const Index wanted = plan.size == "tiny" ? 8 : 64;
  std::vector<std::vector<std::string>> rows;
  Chart chart{.title = "IoU on drifting scenes", .x_label = "steps a frame", .y_label = "IoU"};
  Series warm_series{.name = "C-RBP, warm"}, cold_series{.name = "C-RBP, anew"};
  // Frame t shows the scene moved by t pixels, or, from the middle on, with its rival marked.
  const auto sequence = [&](const SegmentationOptions& options, bool changes, Index first, Index count) {
    const Pathfinder pathfinder = detail::generator_of(options, options.data.contour_length);
    const Index pixel = std::max<Index>(1, pathfinder.options().window / options.data.size);
    std::vector<Batch> out;
    for (std::size_t t = 0; t < frames; ++t) {
      std::vector<Sample> samples;
      for (Index n = 0; n < count; ++n) {
        PathfinderScene scene = pathfinder.scene(detail::scene_seed, static_cast<std::uint64_t>(first + n));
        if (changes && t >= frames / 2) scene = pathfinder.rival_marked(std::move(scene));
        if (!changes) {
          const Index moved = (static_cast<Index>(t) - static_cast<Index>(frames) / 2) * pixel / 2;
          const auto move = [&](std::vector<Dash>& contour) {
            for (Dash& dash : contour) dash.pivot.x += moved, dash.head.x += moved;
          };
          move(scene.target), move(scene.rival);
          for (auto& distractor : scene.distractors) move(distractor);
          scene.marker.x += moved;
        }
        const PathfinderSample made = to_sample(pathfinder.draw(scene), options.data.size);
        samples.push_back({made.image, made.target, {}});
      }
      out.push_back(detail::batch_of(options, samples));
    }
    return out;
  };
  // The mean over seeds of the IoU of frames from `from` on.
  const auto iou = [&](const std::vector<DoneCell>& of, int steps, bool warm, bool changes, std::size_t from) {
    std::vector<double> out;
    for (const DoneCell& cell : of) {
      const SegmentationOptions& options = cell.cell.options;
      const auto net = net_of(plan, cell);
      Confusion counts;
      for (Index first = 0; first < wanted; first += options.evaluation_batch) {
        const auto batches = sequence(options, changes, first, std::min(options.evaluation_batch, wanted - first));
        std::vector<Tensor<float>> images;
        for (const Batch& batch : batches) images.push_back(batch.image);
        net->track(images, steps, warm, [&](std::size_t t, const Tensor<float>& logits) {
          if (t >= from) counts += confusion(logits, batches[t].target);
        });
      }
      out.push_back(counts.iou());
    }
    return spread(out);
  };
  const int trained = settled.front().steps();
  std::vector<int> steps{1, 2, 4, 8};
  if (trained > 8) steps.push_back(trained);
  for (const int count : steps) {
    const Spread warm = iou(settled, count, true, false, frames / 2);
    const Spread cold = iou(settled, count, false, false, frames / 2);
    const Spread change = iou(settled, count, true, true, frames - 2);
    const Spread change_cold = iou(settled, count, false, true, frames - 2);
    rows.push_back({std::to_string(count), number(warm), number(cold), number(change), number(change_cold)});
    warm_series.x.push_back(count), warm_series.y.push_back(warm.mean);
    cold_series.x.push_back(count), cold_series.y.push_back(cold.mean);
    report.result["crbp"].push_back({{"steps", count},
                                     {"drift_warm", json_of(warm)},
                                     {"drift_anew", json_of(cold)},
                                     {"change_warm", json_of(change)},
                                     {"change_anew", json_of(change_cold)}});
  }
  const Spread fixed = iou(unrolled, plan.unrolled_steps, false, false, frames / 2);
  const Spread fixed_warm = iou(unrolled, plan.unrolled_steps, true, false, frames / 2);
  rows.push_back({"BPTT, " + std::to_string(plan.unrolled_steps), number(fixed_warm), number(fixed), "-", "-"});
  report.result["bptt"] = {{"drift_anew", json_of(fixed)}, {"drift_warm", json_of(fixed_warm)}};
  chart.series = {warm_series, cold_series};
  report.table(
      "IoU over the last half of 12 frames that drift by half a pixel each, and over the last two of 12 frames "
      "in which the mark changes to the rival contour in the middle. Warm: a frame starts from the last one's "
      "state.",
      {"steps a frame", "drift, warm", "drift, anew", "change, warm", "change, anew"}, rows);
  report.figure("drift", chart);
  report.finish();
}

/// The reviewers' other ways to train, and those that came after the paper, on the shortest contours.
inline void algorithms(const Plan& plan) {
  Report report(plan, "algorithms", "Other algorithms");
  const Algorithm bptt = plan.algorithm("bptt"), rbp = plan.algorithm("rbp"),
                  released = plan.algorithm("crbp_released"), crbp = plan.algorithm("crbp");
  const std::string half = std::to_string(plan.unrolled_steps / 2);
  struct Row {
    std::string label;
    Cell cell;
    std::string published;
  };
  std::vector<Row> table;
  const auto add = [&](const std::string& label, const Algorithm& algorithm, const Settings& more,
                       const std::string& published = "-") {
    table.push_back({label, plan.cell(algorithm, 0, plan.seeds.front(), more), published});
  };
  const std::string full = "algorithm.adjoint_state=full";
  add("BPTT", bptt, {}, "0.986");
  add("BPTT, every step supervised", bptt, {"algorithm.every_step=true"}, "0.979");
  add("BPTT, last " + half + " of " + std::to_string(plan.unrolled_steps) + " steps", bptt,
      {"algorithm.recorded=" + half}, "0.917");
  add("reversible", bptt, {"algorithm.kind=reversible"});
  add("online (UORO)", bptt, {"algorithm.kind=uoro"});
  add("RBP", rbp, {}, "0.714");
  add("one-step (JFB)", rbp, {full, "algorithm.adjoint=terms", "algorithm.products=0"});
  add("checkpointed BPTT of RBP's steps", rbp, {full, "algorithm.adjoint=checkpointed"});
  add("C-RBP, released", released, {}, "0.962");
  add("C-RBP, gated objective", released, {"algorithm.weighting=gated"});
  add("C-RBP, GMRES", released, {full, "algorithm.adjoint=gmres", "algorithm.adjoint_rtol=0.01"});
  add("C-RBP, Auto", released, {full, "algorithm.adjoint=auto", "algorithm.adjoint_rtol=0.01"});
  add("C-RBP, automatic weight", released,
      {full, "algorithm.weighting=dual", "algorithm.penalty_weight=1", "algorithm.adjoint=auto",
       "algorithm.adjoint_rtol=0.01"});
  add("C-RBP, settling", crbp, {});
  std::vector<Cell> cells;
  for (const Row& row : table) cells.push_back(row.cell);
  const auto done = run_cells(plan, cells);
  std::vector<std::vector<std::string>> rows;
  const Index length = plan.lengths[0];
  for (std::size_t k = 0; k < done.size(); ++k) {
    const DoneCell& cell = done[k];
    const double iou = cell.at("iou", length, cell.steps()), late = cell.at("iou", length, 3 * cell.steps());
    rows.push_back({table[k].label, number(iou), table[k].published, number(late),
                    number(cell.at("residual", length, cell.steps()), "%.1e"), cell.collapsed() ? "yes" : "no",
                    number(cell.summary.value("training_seconds", 0.0), "%.0f")});
    report.result["algorithms"][table[k].label] = {{"iou", iou}, {"iou_at_3x_steps", late}};
  }
  report.table("Short contours, one seed.",
               {"", "IoU", "the paper's", "IoU at 3 x", "residual", "collapsed", "seconds of training"}, rows);
  report.finish();
}

/// Other recurrent nets, and controls without or with a contractive recurrence.
inline void models(const Plan& plan) {
  Report report(plan, "models", "Other nets");
  const std::vector<std::pair<std::string, std::string>> recurrent{
      {"hgru", "hGRU"}, {"conv_lstm", "convLSTM"}, {"conv_gru", "convolutional GRU"}, {"fgru", "gamma-net's unit"}};
  const auto published = [](const std::string& kind, const std::string& key) -> std::string {
    if (kind == "hgru") return key == "bptt" ? "0.986" : "0.962";
    if (kind == "conv_lstm") return key == "bptt" ? "0.809" : "0.933";
    return kind == "feed_forward" ? "0.790" : "-";
  };
  std::vector<Cell> cells;
  std::vector<std::array<std::string, 3>> names;
  const std::uint64_t seed = plan.seeds.front();
  for (const auto& kind : recurrent)
    for (const char* key : {"bptt", "crbp"}) {
      const Algorithm algorithm = plan.algorithm(key);
      Settings more;
      if (kind.first != "hgru") more.push_back("model.kind=" + kind.first);
      cells.push_back(plan.cell(algorithm, 0, seed, more));
      names.push_back({kind.second, algorithm.label, published(kind.first, key)});
    }
  const Algorithm control = plan.algorithm("feed_forward");
  // The whole image, or as much of it as an odd kernel has.
  const Index size = cells.front().options.data.size;
  const std::string whole = "model.kernel=" + std::to_string(size - (size % 2 == 0 ? 1 : 0));
  cells.push_back(plan.cell(control, 0, seed));
  names.push_back({control.label, "", published("feed_forward", "")});
  cells.push_back(plan.cell(control, 0, seed, {"model.kind=global_conv", whole}));
  names.push_back({"one global convolution, gated", "", "-"});
  cells.push_back(plan.cell(control, 0, seed, {"model.kind=spectral"}));
  names.push_back({"contractive by construction", "exact", "-"});
  const auto done = run_cells(plan, cells);
  std::vector<std::vector<std::string>> rows;
  const Index length = plan.lengths[0];
  for (std::size_t k = 0; k < done.size(); ++k) {
    const double iou = done[k].at("iou", length, done[k].steps());
    const double late = done[k].at("iou", length, 3 * done[k].steps());
    rows.push_back({names[k][0], names[k][1], std::to_string(done[k].summary["parameters"].get<Index>()), number(iou),
                    names[k][2], number(late)});
    report.result["rows"].push_back(
        {{"net", names[k][0]}, {"algorithm", names[k][1]}, {"iou", iou}, {"iou_at_3x_steps", late}});
  }
  report.table("Short contours, one seed; the paper's on 14 dashes.",
               {"net", "algorithm", "parameters", "IoU", "the paper's", "IoU at 3 x"}, rows);
  report.finish();
}

/// Whether two marks are on one contour: the classification task of 2018, with the same nets.
inline void classification(const Plan& plan) {
  Report report(plan, "classification", "Classification: same contour or not");
  const Settings task{"data.task=same_contour", "model.readout=image", "model.foreground=0.5"};
  const Algorithm control = plan.algorithm("feed_forward");
  const Index size = plan.cell(control, 0, 1).options.data.size;
  const std::string whole = "model.kernel=" + std::to_string(size - (size % 2 == 0 ? 1 : 0));
  std::vector<std::pair<std::string, Cell>> table;
  const auto add = [&](const std::string& label, const Algorithm& algorithm, const Settings& more) {
    for (const std::uint64_t seed : plan.seeds) table.emplace_back(label, plan.cell(algorithm, 0, seed, task + more));
  };
  add("hGRU, C-RBP", plan.algorithm("crbp"), {});
  add("hGRU, BPTT", plan.algorithm("bptt"), {});
  add("6-layer CNN", control, {});
  add("one global convolution, gated", control, {"model.kind=global_conv", whole});
  std::vector<Cell> cells;
  for (const auto& row : table) cells.push_back(row.second);
  const auto done = run_cells(plan, cells);
  std::vector<std::vector<std::string>> rows;
  for (std::size_t k = 0; k < done.size(); k += plan.seeds.size()) {
    const std::vector<DoneCell> own(done.begin() + static_cast<std::ptrdiff_t>(k),
                                    done.begin() + static_cast<std::ptrdiff_t>(k + plan.seeds.size()));
    const Index length = plan.lengths[0];
    const Spread accuracy = spread_of(own, [&](const DoneCell& c) { return c.at("accuracy", length, c.steps()); });
    const Spread late = spread_of(own, [&](const DoneCell& c) { return c.at("accuracy", length, 3 * c.steps()); });
    rows.push_back({table[k].first, number(accuracy), number(late)});
    report.result["rows"].push_back(
        {{"net", table[k].first}, {"accuracy", json_of(accuracy)}, {"accuracy_at_3x_steps", json_of(late)}});
  }
  report.table(
      "Accuracy on test images, half of which have both marks on one contour; short contours. The paper has no "
      "such experiment.",
      {"", "accuracy", "at 3 x the steps"}, rows);
  report.finish();
}

}  // namespace settle::experiments
