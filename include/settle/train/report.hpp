#pragma once
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "settle/fixed_point/report.hpp"
#include "settle/train/chart.hpp"
#include "settle/train/progress.hpp"
#include "settle/train/report_data.hpp"
#include "settle/train/report_page.hpp"

namespace settle::inline v0_2 {

namespace detail {

inline std::string value_text(const Json& value) {
  if (value.is_number_integer()) return value.dump();
  if (value.is_number()) return short_text(value.get<double>());
  return value.is_string() ? value.get<std::string>() : value.is_null() ? "" : value.dump();
}

inline std::string bytes_text(double bytes) {
  char out[32];
  if (bytes >= 1e9)
    std::snprintf(out, sizeof out, "%.2f GB", bytes / 1e9);
  else if (bytes >= 1e6)
    std::snprintf(out, sizeof out, "%.1f MB", bytes / 1e6);
  else
    std::snprintf(out, sizeof out, "%.0f kB", bytes / 1e3);
  return out;
}

inline std::string score_text(double value) {
  char out[32];
  std::snprintf(out, sizeof out, "%.3f", value);
  return out;
}

/// What came of a run, in a sentence or two.
inline std::string verdict_section(const ReportedRun& run, bool pinned) {
  const auto f1 = run.score("/f1"), later = run.score("/f1_at_3x_steps"), control = run.score("/feedforward/f1");
  std::string text;
  const auto word = [](const char* kind, const std::string& words) {
    return joined("<b class=\"", kind, "\">", words, "</b>");
  };
  if (!f1) {
    text = run.metrics.lines.empty() ? "Nothing has been recorded yet."
                                     : "This run has no final scores: it has not ended, or it holds no images out.";
  } else {
    text = joined("F1 <b>", score_text(*f1), "</b>");
    if (const auto images = run.score("/held_out_images"))
      text += joined(" on ", short_text(*images), " held-out images");
    if (control) {
      const double gain = *f1 - *control;
      text += gain > 0.005    ? joined(", ", word("good", score_text(gain) + " above"), " the feed-forward control")
              : gain < -0.005 ? joined(", ", word("bad", score_text(-gain) + " below"), " the feed-forward control")
                              : joined(", ", word("warn", "no better than"), " the feed-forward control");
      text += joined(" (", score_text(*control), ")");
    }
    text += '.';
    if (later) {
      const double change = *later - *f1;
      text += joined(" At three times the recurrent steps it is ", score_text(*later), ": ");
      text += std::abs(change) <= 0.01 ? joined(word("good", "it stays"), " where training read it.")
              : change < 0 ? joined(word("bad", "it is lost"), ", the state does not stay where training read it.")
                           : joined(word("warn", "it still rises"), ", the state had not arrived.");
    }
    if (!control && run.config.is_object())
      text += " No feed-forward control was trained, so nothing says that recurrence was needed.";
  }
  std::string tiles;
  const auto tile = [&](const std::string& value, const std::string& label) {
    tiles += joined("<div class=\"tile\"><b>", escaped(value), "</b><span>", escaped(label), "</span></div>");
  };
  if (f1) tile(score_text(*f1), "F1, held out");
  if (later) tile(score_text(*later), "F1 at 3x the steps");
  if (control) tile(score_text(*control), "F1 of the control");
  if (const auto residual = run.residual())
    tile(short_text(*residual), "residual, held out");
  else if (const Points* column = MetricsTable::find(run.metrics.training, "residual"))
    tile(short_text(column->back().second), "residual, last step");
  if (const Points* radius = MetricsTable::find(run.metrics.training, "radius"))
    tile(short_text(radius->back().second), "spectral radius, last step");
  if (const auto seconds = run.score("/training_seconds"))
    tile(duration_text(*seconds), "of training");
  else if (!run.metrics.seconds.empty())
    tile(duration_text(run.metrics.seconds.back().second), "of training so far");
  return joined("<section class=\"verdict c", run.colour % 6, "\"><div class=\"name\">", escaped(run.name),
                pinned ? "<span>baseline</span>" : "", "</div><p>", text, "</p><div class=\"tiles\">", tiles,
                "</div></section>\n");
}

inline std::string metric_title(const std::string& name) {
  static const std::map<std::string, std::string> titles{{"loss", "Training loss"},
                                                         {"focal_loss", "Focal loss"},
                                                         {"penalty", "Penalty"},
                                                         {"gradient_norm", "Gradient's norm"},
                                                         {"rate", "Learning rate"},
                                                         {"residual", "Residual at the last step"},
                                                         {"radius", "Spectral radius"},
                                                         {"products", "Products of the adjoint solve"},
                                                         {"products_share", "The adjoint's share of the time"},
                                                         {"dropped", "Dropped samples"},
                                                         {"recurrent_steps", "Recurrent steps"}};
  const auto found = titles.find(name);
  return found == titles.end() ? name : found->second;
}

inline std::string metric_note(const std::string& name) {
  static const std::map<std::string, std::string> notes{{"residual", "|f(z) - z| / |f(z)|, the worst sample"},
                                                        {"radius", "of the step's Jacobian; below 1 it contracts"},
                                                        {"focal_loss", "what the loss is without the penalty"},
                                                        {"products", "with the Jacobian's transpose, a step"},
                                                        {"dropped", "left out of the gradient, as their solve failed"}};
  const auto found = notes.find(name);
  return found == notes.end() ? "" : found->second;
}

/// The page as it grows.
class ReportPage {
 public:
  ReportPage(std::vector<ReportedRun> runs, bool pinned, std::filesystem::path from)
      : runs_(std::move(runs)), pinned_(pinned), from_(std::move(from)) {
    // A control takes as much time, but not as many steps: it does not stretch the axis.
    for (const ReportedRun& run : runs_)
      for (const auto& [step, seconds] : run.metrics.seconds) last_step_ = std::max(last_step_, step);
  }

  std::string html() {
    verdicts(), curves(), convergence(), stability(), samples(), values(), configuration(), machines();
    const std::string title = runs_.size() == 1 ? runs_.front().name : joined(runs_.size(), " runs compared");
    std::string subtitle;
    for (const ReportedRun& run : runs_) {
      const Json& c = run.config;
      subtitle = c.is_object() && c.contains("model") && c["model"].is_object()
                     ? joined(value_text(c["model"].value("kind", Json())), " trained by ",
                              value_text(c.value("algorithm", Json::object()).value("kind", Json())), " on ",
                              value_text(c.value("data", Json::object()).value("kind", Json())))
                     : "";
      if (runs_.size() > 1)
        subtitle = "the same axes for all; differences are from the baseline, " + runs_.front().name;
    }
    return report_document(title, subtitle, body_, films_, runs_.size() > 1);
  }

 private:
  void section(const std::string& title, const std::string& lead, const std::string& content) {
    if (content.empty()) return;
    body_ += joined("<h2>", title, "</h2>\n<p class=\"lead\">", lead, "</p>\n", content, "\n");
  }

  void verdicts() {
    for (const ReportedRun& run : runs_) body_ += verdict_section(run, pinned_ && &run == &runs_.front());
  }

  /// A chart of one metric of all runs that have it.
  std::string chart(Chart panel, const std::string& name, bool validation, bool with_control) {
    for (const ReportedRun& run : runs_) {
      const auto add = [&](const MetricsTable& table, const std::string& label, bool dashed) {
        if (const Points* points = MetricsTable::find(validation ? table.validation : table.training, name))
          panel.series.push_back({label, run.colour, dashed, *points});
      };
      add(run.metrics, run.name, false);
      if (with_control && runs_.size() == 1) add(run.control, run.name + ", feed-forward", true);
    }
    if (panel.series.empty()) return "";
    if (!panel.x_range) panel.x_range = {0, std::max(1.0, last_step_)};
    return chart_figure(panel, joined("chart-", ++charts_));
  }

  std::vector<std::string> names(bool validation) const {
    std::vector<std::string> out;
    for (const ReportedRun& run : runs_)
      for (const MetricsTable* table : {&run.metrics, &run.control})
        for (const auto& [name, points] : validation ? table->validation : table->training)
          if (std::find(out.begin(), out.end(), name) == out.end()) out.push_back(name);
    return out;
  }

  static bool of_convergence(const std::string& name) {
    static const std::set<std::string> known{"residual",       "radius",  "products",
                                             "products_share", "dropped", "recurrent_steps"};
    return known.contains(name);
  }

  void curves() {
    const auto label = [](const char* id, const char* text) {
      return joined("<label for=\"", id, "\">", text, "</label>");
    };
    std::string out = joined("<div class=\"switches\"><span>axis</span><div>", label("axis-auto", "as it suits"),
                             label("axis-lin", "linear"), label("axis-log", "log"),
                             "</div><span>smoothing (EMA)</span><div>", label("ema-0", "none"), label("ema-1", "0.9"),
                             label("ema-2", "0.99"), "</div></div><div class=\"charts\">");
    const std::size_t before = out.size();
    for (const std::string& name : names(false))
      if (!of_convergence(name))
        out += chart(
            {.title = metric_title(name),
             .note = metric_note(name),
             .logarithmic = name == "loss" || name == "focal_loss" || name == "gradient_norm" || name == "penalty",
             .smooth = name != "rate"},
            name, false, name == "loss");
    for (const std::string& name : names(true))
      out += chart({.title = "Validation: " + name, .note = "on images that choose the checkpoint"}, name, true, true);
    if (out.size() == before) return;
    out += loss_by_time() + "</div>";
    section("Curves", "All share the axis of steps. Thin lines are single steps, thick ones their exponential average.",
            out);
  }

  std::string loss_by_time() {
    Chart by_time{.title = "Training loss by time", .x_label = "minutes", .logarithmic = true, .smooth = true};
    for (const ReportedRun& run : runs_) {
      const auto add = [&](const MetricsTable& table, const std::string& label, bool dashed) {
        const Points* loss = MetricsTable::find(table.training, "loss");
        if (!loss) return;
        std::map<double, double> minutes;
        for (const auto& [step, seconds] : table.seconds) minutes[step] = seconds / 60;
        Points points;
        for (const auto& [step, value] : *loss)
          if (const auto found = minutes.find(step); found != minutes.end()) points.emplace_back(found->second, value);
        by_time.series.push_back({label, run.colour, dashed, points});
      };
      add(run.metrics, run.name, false);
      if (runs_.size() == 1) add(run.control, run.name + ", feed-forward", true);
    }
    return by_time.series.size() > 1 ? chart_figure(by_time, joined("chart-", ++charts_)) : "";
  }

  void convergence() {
    std::string out;
    for (const std::string& name : names(false)) {
      if (!of_convergence(name)) continue;
      Chart panel{
          .title = metric_title(name), .note = metric_note(name), .logarithmic = name == "residual", .smooth = true};
      if (name == "radius") panel.y_marks = {{1, "1"}};
      out += chart(panel, name, false, false);
    }
    if (!out.empty()) out = "<div class=\"charts\">" + out + "</div>";
    std::string rows;
    for (const ReportedRun& run : runs_)
      for (const char* solve : {"forward", "adjoint"})
        if (const auto found = run.metrics.words.find(solve); found != run.metrics.words.end())
          rows += verdict_row(run, solve, found->second);
    if (!rows.empty())
      out += joined("<h3>Verdicts of the solves, over the training</h3><div class=\"wide\"><table class=\"verdicts\">",
                    rows, "</table></div>");
    section("Convergence",
            "Whether the state settled in training, and what its gradient took. Scores hold at more steps where the "
            "residual is small and the spectral radius stays below 1.",
            out);
  }

  std::string verdict_row(const ReportedRun& run, const std::string& solve,
                          const std::vector<std::pair<double, std::string>>& words) {
    constexpr std::size_t bins = 60, kinds = 8;
    std::vector<std::array<std::size_t, kinds>> counts(bins);
    std::array<std::size_t, kinds> total{};
    for (const auto& [step, word] : words) {
      std::size_t kind = 0;
      while (kind + 1 < kinds && word != fixed_point::name(static_cast<fixed_point::Verdict>(kind))) ++kind;
      const auto bin = static_cast<std::size_t>(std::clamp(step / std::max(1.0, last_step_), 0.0, 1.0) * bins);
      ++counts[std::min(bin, bins - 1)][kind], ++total[kind];
    }
    std::string strip, legend;
    for (const auto& bin : counts) {
      strip += "<i>";
      for (std::size_t kind = 0; kind < kinds; ++kind)
        if (bin[kind] > 0) strip += joined("<s class=\"v", kind, "\" style=\"flex:", bin[kind], "\"></s>");
      strip += "</i>";
    }
    for (std::size_t kind = 0; kind < kinds; ++kind)
      if (total[kind] > 0)
        legend += joined("<span><i class=\"v", kind, "\"></i>",
                         fixed_point::name(static_cast<fixed_point::Verdict>(kind)), ' ', total[kind], "</span>");
    return joined("<tr class=\"c", run.colour % 6, "\"><td>", runs_.size() > 1 ? escaped(run.name) + ", " : "",
                  solve == "forward" ? "state" : "adjoint", "</td><td><div class=\"strip\">", strip, "</div></td><td>",
                  legend, "</td></tr>");
  }

  void stability() {
    std::string out;
    const auto profile = [&](const char* key, const std::string& title, const std::string& note, bool logarithmic) {
      Chart panel{.title = title, .note = note, .x_label = "recurrent steps", .logarithmic = logarithmic};
      std::set<double> marked;
      for (const ReportedRun& run : runs_) {
        if (!run.held_out.is_object() || run.held_out.value("profile", Json()).empty()) continue;
        Points points;
        for (const Json& point : run.held_out["profile"])
          if (point.contains(key) && point[key].is_number())
            points.emplace_back(point["step"].get<double>(), point[key].get<double>());
        if (points.empty()) continue;
        panel.series.push_back({run.name, run.colour, false, points});
        const double trained = run.held_out.value("training_steps", 0.0);
        if (marked.insert(trained).second && marked.size() == 1)
          panel.x_marks = {{trained, "training's"}, {3 * trained, "3x"}};
      }
      if (std::string_view(key) == "spectral_radius") panel.y_marks = {{1, "1"}};
      if (!panel.series.empty()) out += chart_figure(panel, joined("chart-", ++charts_));
    };
    profile("f1", "F1", "by the step at which it is read", false);
    profile("residual", "Residual", "|f(z) - z| / |f(z)|", true);
    profile("spectral_radius", "Spectral radius", "of the Jacobian at the state, one batch", false);
    if (!out.empty()) out = "<div class=\"charts\">" + out + "</div>";
    std::string images = "held-out images";
    for (const ReportedRun& run : runs_)
      if (run.held_out.is_object()) images = joined(run.held_out.value("images", 0), " held-out images");
    section("Stability beyond training",
            "The trained net on " + images + ", run for four times the steps of its training.", out);
  }

  void samples() {
    std::string out;
    for (std::size_t r = 0; r < runs_.size(); ++r) {
      const ReportedRun& run = runs_[r];
      if (run.film.empty() || !run.held_out.is_object() || run.held_out.value("samples", Json()).empty()) continue;
      const std::vector<int> frames = run.held_out.at("frames").get<std::vector<int>>();
      const Json& list = run.held_out.at("samples");
      const int trained = run.held_out.value("training_steps", 1);
      const auto at = std::lower_bound(frames.begin(), frames.end(), trained) - frames.begin();
      const auto chosen = std::min<std::ptrdiff_t>(at, std::ssize(frames) - 1);
      films_ += joined(".film", r, " i{background-image:url(data:image/png;base64,", run.film,
                       ");--columns:", 2 + frames.size(), ";--rows:", list.size(), "}\n");
      std::vector<std::ptrdiff_t> stills;
      for (const double share : {0.0, 0.15, 0.4})
        stills.push_back(static_cast<std::ptrdiff_t>(share * static_cast<double>(chosen) + 0.5));
      stills.push_back(chosen), stills.push_back(std::ssize(frames) - 1);
      stills.erase(std::unique(stills.begin(), stills.end()), stills.end());
      const std::size_t half = (list.size() + 1) / 2;
      std::string groups;
      for (const bool best : {true, false}) {
        std::string rows = "<tr><th></th><th>image</th><th>target</th><th class=\"script-only\">chosen step</th>";
        for (const auto still : stills)
          rows += joined("<th class=\"still\">step ", frames[static_cast<std::size_t>(still)], "</th>");
        rows += "</tr>";
        for (std::size_t j = 0; j < (best ? half : list.size() - half); ++j) {
          const std::size_t row = best ? j : list.size() - 1 - j;
          const Json& sample = list[row];
          std::string by_frame;
          for (const Json& value : sample.at("f1_by_frame"))
            by_frame += (by_frame.empty() ? "" : ",") + exact_text(value.get<double>());
          rows += joined("<tr style=\"--r:", row, "\"><td>no. ", sample.at("number").get<int>(), "<b data-f1=\"",
                         by_frame, "\">", score_text(sample.at("f1").get<double>()),
                         "</b></td><td><i style=\"--k:0\"></i></td><td><i style=\"--k:1\"></i></td>"
                         "<td class=\"now-cell script-only\"><i class=\"now\"></i></td>");
          for (const auto still : stills)
            rows += joined("<td class=\"still\"><i style=\"--k:", 2 + still, "\"></i></td>");
          rows += "</tr>";
        }
        if (best || list.size() > half)
          groups += joined("<div class=\"panel\"><h3>", best ? "Best" : "Worst", "</h3><table class=\"film film", r,
                           "\">", rows, "</table></div>");
      }
      std::string list_of_frames;
      for (const int frame : frames) list_of_frames += (list_of_frames.empty() ? "" : ",") + std::to_string(frame);
      const std::string films = joined("<div class=\"samples\" style=\"--frame:", chosen,
                                       "\"><div class=\"scrub script-only\"><button>play</button>"
                                       "<input type=\"range\" min=\"0\" max=\"",
                                       frames.size() - 1, "\" value=\"", chosen, "\" data-frames=\"", list_of_frames,
                                       "\" aria-label=\"recurrent step\"", frames.size() == 1 ? " disabled" : "",
                                       "><output></output></div><div class=\"groups\">", groups, "</div></div>");
      out += runs_.size() == 1 ? films
                               : joined("<details", out.empty() ? " open" : "", "><summary>", escaped(run.name),
                                        "</summary>", films, "</details>\n");
    }
    section("Images",
            "Held-out images by their F1 after the steps of training, and what the net says of them at other steps: "
            "the more of a class, the more of its colour.",
            out);
  }

  void values() {
    std::vector<std::pair<std::string, std::map<const ReportedRun*, Json>>> rows;
    const auto row = [&](const std::string& name) -> std::map<const ReportedRun*, Json>& {
      for (auto& [known, cells] : rows)
        if (known == name) return cells;
      return rows.emplace_back(name, std::map<const ReportedRun*, Json>()).second;
    };
    for (const ReportedRun& run : runs_) {
      for (const auto& [name, value] : flat(run.summary))
        if (value.is_number() || value.is_string()) row(name)[&run] = value;
      for (const auto& [name, points] : run.metrics.training)
        if (std::isfinite(points.back().second)) row("last step: " + name)[&run] = points.back().second;
    }
    if (rows.empty()) return;
    std::string out = joined("<div class=\"wide", runs_.size() == 1 ? " narrow" : "", "\"><table><tr><th></th>");
    for (const ReportedRun& run : runs_)
      out += joined("<th class=\"run c", run.colour % 6, "\">", escaped(run.name), "</th>");
    out += "</tr>";
    for (const auto& [name, cells] : rows) {
      out += joined("<tr><td>", escaped(name), "</td>");
      const auto base = cells.find(&runs_.front());
      for (const ReportedRun& run : runs_) {
        const auto cell = cells.find(&run);
        if (cell == cells.end()) {
          out += "<td></td>";
          continue;
        }
        const Json& value = cell->second;
        out +=
            joined("<td title=\"", escaped(value.is_number() ? value.dump() : ""), "\">", escaped(value_text(value)));
        if (&run != &runs_.front() && base != cells.end() && value.is_number() && base->second.is_number()) {
          const double change = value.get<double>() - base->second.get<double>();
          const bool is_score = name.find("f1") != std::string::npos || name.find("iou") != std::string::npos ||
                                name.find("accuracy") != std::string::npos;
          if (change != 0)
            out += joined("<small class=\"",
                          is_score && change > 0   ? "up"
                          : is_score && change < 0 ? "down"
                                                   : "",
                          "\">", change >= 0 ? "+" : "\xE2\x88\x92", short_text(std::abs(change)), "</small>");
        }
        out += "</td>";
      }
      out += "</tr>";
    }
    section("Final values",
            runs_.size() > 1 ? "Small figures are the difference from the baseline."
                             : "On held-out images, and at the last step of training.",
            out + "</table></div>");
  }

  void configuration() {
    std::vector<std::string> options;
    std::vector<std::map<std::string, std::string>> values;
    for (const ReportedRun& run : runs_) {
      auto& own = values.emplace_back();
      for (const auto& [name, value] : flat(run.config)) {
        own[name] = value_text(value);
        if (std::find(options.begin(), options.end(), name) == options.end()) options.push_back(name);
      }
    }
    if (options.empty()) return;
    std::string differing, everything, head = "<tr><th></th>";
    for (const ReportedRun& run : runs_)
      head += joined("<th class=\"run c", run.colour % 6, "\">", escaped(run.name), "</th>");
    head += "</tr>";
    for (const std::string& option : options) {
      std::string line = joined("<tr><td>", escaped(option), "</td>");
      bool differs = false;
      for (auto& own : values) {
        const bool other = own[option] != values.front()[option];
        differs = differs || other;
        line += joined("<td class=\"", other ? "differs" : "", "\">", escaped(own[option]), "</td>");
      }
      line += "</tr>";
      everything += line;
      if (differs) differing += line;
    }
    std::string out;
    if (!differing.empty()) out = joined("<div class=\"wide\"><table>", head, differing, "</table></div>");
    out += joined("<details><summary>all ", options.size(), " options</summary><div class=\"wide",
                  runs_.size() == 1 ? " narrow" : "", "\"><table>", head, everything, "</table></div></details>");
    section("Configuration",
            runs_.size() == 1   ? "As it was resolved. With a baseline, settle_report shows what differs from it."
            : differing.empty() ? "All runs have the same options."
                                : "What differs from the baseline, " + escaped(runs_.front().name) + '.',
            out);
  }

  void machines() {
    std::string out;
    for (const ReportedRun& run : runs_) {
      const Json& t = run.training;
      std::string rows, command;
      const auto add = [&](const char* name, const std::string& value) {
        if (!value.empty()) rows += joined("<tr><td>", name, "</td><td class=\"text\">", escaped(value), "</td></tr>");
      };
      if (t.is_object()) {
        const Json machine = t.value("machine", Json::object());
        add("speed", joined(short_text(t.value("images_per_second", 0.0)), " images/s, ",
                            short_text(1e3 * t.value("seconds_per_step", 0.0)), " ms a step"));
        add("parameters", value_text(t.value("parameters", Json())));
        add("seed", value_text(t.value("seed", Json())));
        add("processor", value_text(machine.value("processor", Json())));
        add("threads", joined(value_text(machine.value("threads", Json())), " of ",
                              value_text(machine.value("processors", Json()))));
        for (const char* name : {"device", "system", "compiler", "settle"})
          add(name, value_text(machine.value(name, Json())));
        for (const Json& word : t.value("command", Json::array())) {
          const std::string text = value_text(word);
          const bool plain = !text.empty() && text.find_first_of(" \"'\\$`*?[]{}()<>|&;") == std::string::npos;
          std::string quoted = "'";
          for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
          command += (command.empty() ? "" : " ") + (plain ? text : quoted + '\'');
        }
      }
      std::string bars;
      if (t.is_object() && t.contains("memory")) {
        std::vector<std::pair<double, std::string>> tags;
        const Json by_tag = t["memory"].value("tags", Json::object());
        for (const auto& [name, bytes] : by_tag.items()) tags.emplace_back(bytes.get<double>(), name);
        std::stable_sort(tags.begin(), tags.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
        for (const auto& [bytes, name] : tags)
          bars += joined("<span>", escaped(name), "</span><i style=\"width:", place(100 * bytes / tags.front().first),
                         "%\"></i><b>", bytes_text(bytes), "</b>");
        bars = joined("<h3>Memory at most, by tag (together ", bytes_text(t["memory"].value("peak_bytes", 0.0)),
                      ")</h3><div class=\"bars\">", bars, "</div>");
      }
      out += joined("<div class=\"panel c", run.colour % 6, "\"><h3>", escaped(run.name), "</h3>",
                    rows.empty() ? "" : "<table>" + rows + "</table>", bars,
                    command.empty() ? "" : "<h3>Command</h3><pre>" + escaped(command) + "</pre>", "<h3>Files</h3><p>",
                    links(run), "</p></div>");
    }
    section("Machine, memory and files", "How it was made, and the numbers behind the pictures.",
            "<div class=\"two\">" + out + "</div>");
  }

  std::string links(const ReportedRun& run) const {
    namespace fs = std::filesystem;
    std::string out;
    const fs::path folder = fs::absolute(run.folder).lexically_normal().lexically_proximate(from_);
    for (const char* name : {"config.json", "metrics.jsonl", "report/metrics.csv", "summary.json",
                             "report/held_out.json", "report/training.json", "checkpoints", "feed_forward"})
      if (fs::exists(run.folder / name))
        out += joined(out.empty() ? "" : " \xC2\xB7 ", "<a href=\"",
                      escaped(as_address((folder / name).lexically_normal())), "\">",
                      escaped(fs::path(name).filename().string()), "</a>");
    return out;
  }

  std::vector<ReportedRun> runs_;
  bool pinned_;
  std::filesystem::path from_;  ///< the folder that the page will be in
  double last_step_ = 0;
  int charts_ = 0;
  std::string body_, films_;
};

}  // namespace detail

/// Writes one page about one or several runs' folders: verdict, curves, convergence, stability, images, final values,
/// configuration, machine. It needs no network, and no script to be read. Of several runs the baseline comes first and
/// the others are compared with it: `baseline`, or else the first. Beside it, RUN/report/metrics.csv is written where
/// that can be. The same folders give the same page. Throws UsageError where a folder holds no run, and Error where a
/// file is damaged or the page cannot be written.
inline void write_report(const std::vector<std::filesystem::path>& runs, const std::filesystem::path& output,
                         const std::optional<std::filesystem::path>& baseline = {}) {
  namespace fs = std::filesystem;
  const auto normal = [](const fs::path& path) { return (fs::absolute(path) / "").lexically_normal(); };
  std::vector<fs::path> folders;
  if (baseline) folders.push_back(*baseline);
  for (const fs::path& run : runs) {
    const auto same = [&](const fs::path& other) { return normal(other) == normal(run); };
    if (std::none_of(folders.begin(), folders.end(), same)) folders.push_back(run);
  }
  if (folders.empty()) throw UsageError("[report] expected at least one run's folder");
  std::vector<detail::ReportedRun> read;
  for (const fs::path& folder : folders) {
    read.push_back(detail::read_reported_run(folder));
    read.back().colour = read.size() - 1;
    if (!read.back().metrics.lines.empty() && ::access((folder / "report").c_str(), W_OK) == 0) {
      AtomicFile table(folder / "report" / "metrics.csv");
      table.write(detail::as_csv(read.back().metrics));
      table.commit();
    }
  }
  detail::name_runs(read);
  const fs::path from = fs::absolute(output).lexically_normal().parent_path();
  AtomicFile file(output);
  file.write(detail::ReportPage(std::move(read), folders.size() > 1, from).html());
  file.commit();
}

}  // namespace settle
