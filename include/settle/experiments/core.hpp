#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "settle/experiments/paper.hpp"
#include "settle/experiments/report.hpp"

// The experiments that make the paper's claims.
namespace settle::inline v0_2::experiments {

/// The cells of some algorithms, lengths (their places in the plan) and all seeds.
inline std::vector<Cell> cells_of(const Plan& plan, const std::vector<Algorithm>& algorithms,
                                  const std::vector<std::size_t>& lengths) {
  std::vector<Cell> out;
  for (const std::uint64_t seed : plan.seeds)  // so that what is there early has all of one seed
    for (const std::size_t length : lengths)
      for (const Algorithm& algorithm : algorithms) out.push_back(plan.cell(algorithm, length, seed));
  return out;
}

/// The cells of an algorithm that were trained on a length, out of cells_of's.
inline std::vector<DoneCell> select(const Plan& plan, const std::vector<DoneCell>& cells, const Algorithm& algorithm,
                                    std::size_t length) {
  std::vector<DoneCell> out;
  for (const std::uint64_t seed : plan.seeds) {
    const std::string folder = plan.cell(algorithm, length, seed).folder();
    for (const DoneCell& cell : cells)
      if (cell.folder.filename() == folder) {
        out.push_back(cell);
        break;
      }
  }
  return out;
}

/// A number of each of some cells.
template <class Number>
Spread spread_of(const std::vector<DoneCell>& cells, const Number& number_of) {
  std::vector<double> values;
  for (const DoneCell& cell : cells) values.push_back(number_of(cell));
  return spread(values);
}

/// Fig. 2a: accuracy against contour length. Validation images choose the checkpoint, others are reported.
inline void accuracy(const Plan& plan) {
  Report report(plan, "accuracy", "Accuracy against contour length (Fig. 2a)");
  std::vector<Algorithm> algorithms;
  for (const std::string& key : plan.accuracy_algorithms) algorithms.push_back(plan.algorithm(key));
  const auto cells = run_cells(plan, cells_of(plan, algorithms, plan.accuracy_lengths));
  constexpr std::size_t longest = 2;
  // A cell's IoU on the longest contours after so many times the training's steps.
  const auto at = [length = plan.lengths[longest]](const DoneCell& c, int times) {
    return c.at("iou", length, times * c.steps());
  };
  const std::array<std::string, 3> papers{"14", "20", "25"};
  Chart chart{.title = "IoU against contour length", .x_label = "dashes (the paper's: 14, 20, 25)", .y_label = "IoU"};
  std::vector<std::string> head{""};
  for (const std::size_t k : plan.accuracy_lengths) {
    const std::string length = std::to_string(plan.lengths[k]);
    chart.x_ticks.emplace_back(static_cast<double>(k), length);
    head.push_back(length + (head.size() == 1 ? " dashes (" : " (") + papers[k] + ")");
  }
  for (const char* const title : {"longest, 3 x the steps", "collapsed", "seconds of a training, longest contours"})
    head.emplace_back(title);
  std::vector<std::vector<std::string>> rows;
  for (const Algorithm& algorithm : algorithms) {
    std::vector<std::string> row{algorithm.label};
    Series series{.name = algorithm.label};
    int collapsed = 0, ended = 0, runs = 0;
    Json result = Json::object();
    const auto published = paper::accuracy(algorithm.key);
    for (const std::size_t k : plan.accuracy_lengths) {
      const auto own = select(plan, cells, algorithm, k);
      const Index length = plan.lengths[k];
      const Spread iou = spread_of(own, [&](const DoneCell& c) { return c.at("iou", length, c.steps()); });
      for (const DoneCell& cell : own) {
        ++runs, collapsed += cell.collapsed() ? 1 : 0;
        ended += cell.summary["end"] == "diverged" || cell.summary["validations"].value("ended_collapsed", false);
      }
      row.push_back(number(iou) + (published ? " (" + number((*published)[k]) + ")" : ""));
      series.x.push_back(static_cast<double>(k)), series.y.push_back(iou.mean);
      series.low.push_back(iou.mean - iou.deviation), series.high.push_back(iou.mean + iou.deviation);
      if (published) chart.marks.push_back({algorithm.label, static_cast<double>(k), (*published)[k]});
      result[std::to_string(length)] = json_of(iou);
    }
    const auto on_longest = select(plan, cells, algorithm, longest);
    const Spread later = spread_of(on_longest, [&](const DoneCell& c) { return at(c, 3); });
    row.push_back(number(later));
    double seconds = 0;
    for (const DoneCell& cell : on_longest)
      seconds += cell.summary.value("training_seconds", 0.0) / static_cast<double>(plan.seeds.size());
    row.push_back(std::to_string(collapsed) + " of " + std::to_string(runs));
    row.push_back(number(seconds, "%.0f"));
    rows.push_back(row);
    result["longest_at_3x_steps"] = json_of(later);
    result["collapsed"] = collapsed, result["ended_collapsed"] = ended, result["runs"] = runs;
    result["training_seconds_longest"] = seconds;
    report.result["algorithms"][algorithm.key] = result;
    chart.series.push_back(series);
    if (algorithm.key == "crbp" || algorithm.key == "crbp_released" || algorithm.key == "bptt")
      report.summary(algorithm.key + "_drop_at_3x_steps_longest",
                     spread_of(on_longest, [&](const DoneCell& c) { return at(c, 1) - at(c, 3); }));
    if (algorithm.key == "crbp") report.summary("collapses_of_seeds", Json{{"collapsed", collapsed}, {"runs", runs}});
  }
  report.table(
      "IoU on test images after the training's steps, mean and deviation over seeds (the paper's in brackets). "
      "A training counts as collapsed if it diverged, or a validation after its best one was a quarter below.",
      head, rows);
  if (plan.accuracy_lengths.size() > 1) report.figure("accuracy", chart);
  std::vector<double> differences;
  const auto crbp = select(plan, cells, plan.algorithm("crbp"), longest),
             rbp = select(plan, cells, plan.algorithm("rbp"), longest);
  for (std::size_t k = 0; k < crbp.size(); ++k) differences.push_back(at(crbp[k], 1) - at(rbp[k], 1));
  report.summary("crbp_minus_rbp_iou_longest", spread(differences));
  report.finish();
}

/// Fig. 2c: trained on the shortest contours, tested on all lengths at every step up to four times the training's.
inline void generalisation(const Plan& plan) {
  Report report(plan, "generalisation", "Generalisation and stability (Fig. 2c)");
  std::vector<Algorithm> algorithms;
  for (const char* key : {"crbp", "crbp_released", "cbptt", "bptt", "feed_forward"})
    algorithms.push_back(plan.algorithm(key));
  const auto cells = run_cells(plan, cells_of(plan, algorithms, {0}));
  std::vector<std::vector<std::string>> rows;
  for (std::size_t k = 0; k < 3; ++k) {
    const Index length = plan.lengths[k];
    Chart chart{
        .title = "Trained on " + std::to_string(plan.lengths[0]) + " dashes, tested on " + std::to_string(length),
        .x_label = "steps / steps of training",
        .y_label = "IoU"};
    for (const Algorithm& algorithm : algorithms) {
      const auto own = select(plan, cells, algorithm, 0);
      const bool recurrent = algorithm.key != "feed_forward";
      Series series{.name = algorithm.label, .dotted = !recurrent};
      Json values = Json::array();
      const int trained = own.front().steps(), last = 4 * trained;
      double peak = 0;
      int peak_step = 1;
      for (int step = 1; step <= last; ++step) {
        const Spread iou = spread_of(own, [&](const DoneCell& c) { return c.at("iou", length, step); });
        series.x.push_back(static_cast<double>(step) / trained), series.y.push_back(iou.mean);
        series.low.push_back(iou.mean - iou.deviation), series.high.push_back(iou.mean + iou.deviation);
        values.push_back(iou.mean);
        if (iou.mean > peak) peak = iou.mean, peak_step = step;
      }
      const auto at = [&](int factor) {
        return spread_of(own, [&](const DoneCell& c) { return c.at("iou", length, factor * trained); });
      };
      const Spread residual = spread_of(own, [&](const DoneCell& c) { return c.at("residual", length, 4 * trained); });
      rows.push_back({algorithm.label, std::to_string(length), std::to_string(trained),
                      number(peak) + " @ " + std::to_string(peak_step), number(at(1)), number(at(2)), number(at(3)),
                      number(at(4)), recurrent ? number(residual, "%.1e") : "-"});
      report.result["algorithms"][algorithm.key][std::to_string(length)] = {
          {"training_steps", trained}, {"iou", values}, {"peak", peak}, {"peak_step", peak_step}};
      if (k == 0 && recurrent) {
        const Spread drop = spread_of(
            own, [&](const DoneCell& c) { return c.at("iou", length, trained) - c.at("iou", length, 3 * trained); });
        report.result["algorithms"][algorithm.key]["drop_at_3x_steps"] = json_of(drop);
        if (algorithm.key == "crbp" || algorithm.key == "bptt" || algorithm.key == "cbptt" ||
            algorithm.key == "crbp_released")
          report.summary(algorithm.key + "_drop_at_3x_steps", drop);
      }
      chart.series.push_back(series);
      if (const auto published = paper::generalisation(algorithm.key)) {
        const double steps = algorithm.follows_length ? paper::settled_steps : paper::unrolled_steps;
        for (std::size_t i = 0; i < paper::generalisation_steps.size(); ++i)
          if (const double x = paper::generalisation_steps[i] / steps; x <= 4)
            chart.marks.push_back({algorithm.label, x, (*published)[k][i]});
      }
    }
    report.figure("tested_on_" + std::to_string(length), chart);
  }
  report.table(
      "IoU of nets trained on the shortest contours. The steps of training are the most that a net has seen; "
      "the residual |f(z) - z| / |f(z)| is that after four times as many.",
      {"", "tested on", "steps of training", "peak", "1 x", "2 x", "3 x", "4 x", "residual"}, rows);
  report.finish();
}

/// Fig. 2a's column: memory of a training step against the number of steps, measured.
inline void memory(const Plan& plan) {
  if (plan.list_only) throw Listed("[experiment] memory trains nothing");
  Report report(plan, "memory", "Memory against steps");
  Chart chart{.title = "Peak memory of a training step", .x_label = "steps", .y_label = "MB"};
  std::vector<std::vector<std::string>> rows;
  const std::vector<int> steps = plan.size == "paper" ? std::vector{1, 2, 6, 20} : std::vector{1, 2, 4, 8, 16, 32};
  const Cell first = plan.cell(plan.algorithm("bptt"), 0, 1);
  Loader<> batches(open_data(first.options).training, {.batch = first.options.train.batch, .shuffle = false});
  const Batch batch = batches.next();
  for (const char* key : {"crbp_released", "rbp", "cbptt", "bptt"}) {
    const Algorithm algorithm = plan.algorithm(key);
    Series series{.name = algorithm.label};
    std::vector<std::string> row{algorithm.label};
    for (const int count : steps) {
      const Cell cell = plan.cell(algorithm, 0, 1, {"algorithm.steps=" + std::to_string(count)});
      const auto net = plan.make_net(cell.options);
      net->training_peak_bytes(batch);  // what is kept between steps is there after the first
      const double megabytes = static_cast<double>(net->training_peak_bytes(batch)) / 1e6;
      series.x.push_back(count), series.y.push_back(megabytes);
      row.push_back(number(megabytes, "%.1f"));
    }
    // From two steps on: a run of one has no earlier state.
    const double growth = (series.y.back() - series.y[1]) / (series.x.back() - series.x[1]);
    row.push_back(number(growth, "%.2f"));
    report.result["algorithms"][key] = {{"steps", series.x}, {"megabytes", series.y}, {"megabytes_per_step", growth}};
    report.summary(std::string(key) + "_megabytes_per_step", Json(growth));
    rows.push_back(row), chart.series.push_back(series);
  }
  std::vector<std::string> columns{""};
  for (const int count : steps) columns.push_back(std::to_string(count));
  columns.push_back("MB a step");
  report.table(
      "Peak MB that a training step allocates. The paper: 6 GB a GPU for C-RBP at 20, 30 and 80 steps, 10.5 GB "
      "for 6 steps of BPTT, 12 GB with the penalty.",
      columns, rows);
  report.figure("memory", chart);
  report.finish();
}

/// What the penalty does: radius, column sums and penalty during training with and without.
inline void penalty(const Plan& plan) {
  Report report(plan, "penalty", "What the penalty does");
  const Algorithm rbp = plan.algorithm("rbp"), released = plan.algorithm("crbp_released");
  const Settings watch{"evaluation.jacobian=true"};
  struct Variant {
    std::string label;
    Cell cell;
  };
  std::vector<Variant> variants;
  const std::uint64_t seed = plan.seeds.front();
  const auto add = [&](const std::string& label, const Algorithm& algorithm, const Settings& more) {
    variants.push_back({label, plan.cell(algorithm, 0, seed, watch + more)});
  };
  add("none (RBP)", rbp, {});
  add("LCP, lambda 0.9", released, {});
  add("LCP, lambda 0.5", released, {"algorithm.lambda=0.5"});
  add("LCP, two-sided", released, {"algorithm.two_sided=true"});
  add("LCP, gated", released, {"algorithm.weighting=gated"});
  add("LCP, automatic", released,
      {"algorithm.weighting=dual", "algorithm.penalty_weight=1", "algorithm.adjoint=auto",
       "algorithm.adjoint_rtol=0.01"});
  add("spectral hinge", released, {"algorithm.penalty=spectral", "algorithm.penalty_weight=1"});
  add("C-RBP, settling", plan.algorithm("crbp"), {});
  std::vector<Cell> cells;
  for (const Variant& v : variants) cells.push_back(v.cell);
  const auto done = run_cells(plan, cells);
  std::vector<Chart> charts;
  const std::vector<std::pair<const char*, const char*>> quantities{{"radius", "spectral radius"},
                                                                    {"column_sum", "largest column sum"},
                                                                    {"penalty", "penalty (two-sided, 0.9)"},
                                                                    {"residual", "residual"},
                                                                    {"f1", "validation F1"}};
  for (const auto& quantity : quantities)
    charts.push_back({.title = std::string(quantity.second) + " during training",
                      .x_label = "training steps",
                      .y_label = quantity.second,
                      .log_y = std::string(quantity.first) == "penalty" || std::string(quantity.first) == "residual"});
  std::vector<std::vector<std::string>> rows;
  for (std::size_t k = 0; k < done.size(); ++k) {
    std::vector<Series> series(quantities.size(), Series{.name = variants[k].label});
    std::ifstream file(done[k].folder / "metrics.jsonl");
    Json last;
    for (std::string line; std::getline(file, line);) {
      const Json json = Json::parse(line, nullptr, false);
      if (json.is_discarded() || !json.contains("validation")) continue;
      last = json["validation"];
      for (std::size_t q = 0; q < quantities.size(); ++q)
        if (last.contains(quantities[q].first)) {
          series[q].x.push_back(json["step"].get<double>());
          series[q].y.push_back(last[quantities[q].first].get<double>());
        }
    }
    for (std::size_t q = 0; q < quantities.size(); ++q) charts[q].series.push_back(series[q]);
    const DoneCell& cell = done[k];
    const Index length = plan.lengths[0];
    const auto value = [&](const char* name, const char* format) {
      return last.is_object() && last.contains(name) ? number(last[name].get<double>(), format) : std::string("-");
    };
    rows.push_back({variants[k].label, number(cell.at("iou", length, cell.steps())),
                    number(cell.at("iou", length, 3 * cell.steps())), value("radius", "%.2f"),
                    value("column_sum", "%.2f"), value("penalty", "%.1e"), value("residual", "%.1e"),
                    cell.collapsed() ? "yes" : "no"});
    report.result["variants"][variants[k].label] = {{"iou", cell.at("iou", length, cell.steps())},
                                                    {"iou_at_3x_steps", cell.at("iou", length, 3 * cell.steps())},
                                                    {"last_validation", last}};
  }
  report.table(
      "Short contours, one seed. Radius, column sums, penalty and residual are those at the training's steps, "
      "at the last validation. In the paper's logs the penalty's median in the last epoch is 0.1 to 0.2 for "
      "BPTT, 0.03 to 0.45 for RBP, and 1e-7 to 5e-7 for C-RBP.",
      {"penalty", "IoU", "IoU at 3 x", "radius", "largest column sum", "penalty", "residual", "collapsed"}, rows);
  for (std::size_t q = 0; q < quantities.size(); ++q) report.figure(quantities[q].first, charts[q]);
  report.finish();
}

}  // namespace settle::experiments
