#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "settle/experiments/cells.hpp"
#include "settle/experiments/chart.hpp"
#include "settle/experiments/statistics.hpp"

namespace settle::inline v0_2::experiments {

/// A number with three decimals; "-" where there is none.
inline std::string number(double value, const char* format = "%.3f") {
  return std::isfinite(value) ? detail::formatted(format, value) : "-";
}

/// "mean ± deviation" of several values, the value of one, "-" of none.
inline std::string number(const Spread& s, const char* format = "%.3f") {
  if (s.count == 0) return "-";
  return s.count == 1 ? number(s.mean, format) : number(s.mean, format) + " ± " + number(s.deviation, format);
}

inline Json json_of(const Spread& s) {
  return {{"mean", s.mean}, {"deviation", s.deviation}, {"least", s.least}, {"most", s.most}, {"seeds", s.count}};
}

/// The processor, and how many of its threads this process may use.
inline std::string machine() {
  std::string model = "an unknown processor";
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name") && line.find(": ") != std::string::npos) {
      model = line.substr(line.find(": ") + 2);
      break;
    }
  return model + ", " + std::to_string(ThreadPool::default_threads()) + " threads";
}

/// What an experiment leaves behind, in OUTPUT/NAME: result.json, table.md, and its figures.
class Report {
 public:
  Report(const Plan& plan, std::string name, std::string title)
      : plan_(plan), name_(std::move(name)), folder_(plan.output / name_) {
    std::filesystem::create_directories(folder_);
    const std::string command = "settle_experiment " + name_ + " --size " + plan.size;
    result = {{"experiment", name_}, {"title", title},     {"size", plan.size},
              {"seeds", plan.seeds}, {"command", command}, {"machine", machine()}};
    std::string seeds;
    for (const std::uint64_t seed : plan.seeds) seeds += (seeds.empty() ? "" : ", ") + std::to_string(seed);
    text_ = "## " + title + "\n\n`" + command + "`, seeds " + seeds + ", " + machine() + ".\n";
  }

  Json result;

  const std::filesystem::path& folder() const { return folder_; }

  void table(const std::string& title, const std::vector<std::string>& columns,
             const std::vector<std::vector<std::string>>& rows) {
    text_ += '\n' + title + "\n\n" + line(columns) + line(std::vector<std::string>(columns.size(), "---"));
    for (const auto& row : rows) text_ += line(row);
  }

  void say(const std::string& sentence) { text_ += '\n' + sentence + '\n'; }

  void figure(const std::string& name, const Chart& chart) {
    write_svg(folder_ / (name + ".svg"), chart);
    picture(name + ".svg", chart.title);
  }

  /// A picture that is in the folder.
  void picture(const std::string& file, const std::string& title) {
    text_ += "\n![" + title + "](" + file + ")\n";
  }

  /// A key of OUTPUT/summary.json.
  void summary(const std::string& key, const Spread& value) { summary_[key] = json_of(value); }
  void summary(const std::string& key, const Json& value) { summary_[key] = value; }

  /// Writes all; the last thing to do.
  void finish() {
    write_json(folder_ / "result.json", result);
    AtomicFile file(folder_ / "table.md");
    file.write(text_);
    file.commit();
    const auto path = plan_.output / "summary.json";
    Json all = std::filesystem::exists(path) ? read_json(path) : Json::object();
    all["size"] = plan_.size;
    for (const auto& [key, value] : summary_.items()) all[key] = value;
    write_json(path, all);
    std::printf("%s\n", text_.c_str());
  }

 private:
  static std::string line(const std::vector<std::string>& cells) {
    std::string out = "|";
    for (const std::string& cell : cells) out += ' ' + cell + " |";
    return out + '\n';
  }

  const Plan& plan_;
  std::string name_;
  std::filesystem::path folder_;
  std::string text_;
  Json summary_ = Json::object();
};

}  // namespace settle::experiments
