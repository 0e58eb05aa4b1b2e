#pragma once
#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "settle/io/config.hpp"
#include "settle/io/json.hpp"

// What a report is made of: the files of a run's folder.
namespace settle::inline v0_2 {

namespace detail {

using Points = std::vector<std::pair<double, double>>;

/// A metrics.jsonl by columns, each over the steps.
struct MetricsTable {
  std::vector<std::pair<std::string, Points>> training, validation;
  Points seconds;  ///< step, seconds
  std::map<std::string, std::vector<std::pair<double, std::string>>> words;
  std::vector<Json> lines;

  static const Points* find(const std::vector<std::pair<std::string, Points>>& columns, std::string_view name) {
    for (const auto& [known, points] : columns)
      if (known == name) return &points;
    return nullptr;
  }
};

/// Lines that are no JSON, as a run that was killed may leave, are passed over.
inline MetricsTable read_metrics(const std::filesystem::path& path) {
  MetricsTable out;
  const auto column = [](auto& columns, const std::string& name) -> Points& {
    for (auto& [known, points] : columns)
      if (known == name) return points;
    return columns.emplace_back(name, Points()).second;
  };
  std::ifstream file(path);
  for (std::string text; std::getline(file, text);) {
    Json line = Json::parse(text, nullptr, false);
    if (!line.is_object() || !line.contains("step") || !line["step"].is_number()) continue;
    const double step = line["step"].get<double>();
    const auto scores = line.find("validation");
    const bool validated = scores != line.end() && scores->is_object();
    for (const auto& [name, value] : (validated ? *scores : line).items()) {
      if (name == "step" || name == "validation") continue;
      if (name == "seconds") {
        if (value.is_number()) out.seconds.emplace_back(step, value.get<double>());
      } else if (value.is_string()) {
        out.words[name].emplace_back(step, value.get<std::string>());
      } else if (value.is_number() || value.is_null()) {  // JSON has no number that is not finite: it is null
        column(validated ? out.validation : out.training, name)
            .emplace_back(step, value.is_number() ? value.get<double>() : std::nan(""));
      }
    }
    out.lines.push_back(std::move(line));
  }
  return out;
}

/// All training steps as comma-separated values.
inline std::string as_csv(const MetricsTable& metrics) {
  std::vector<std::string> names;
  for (const Json& line : metrics.lines)
    for (const auto& [name, value] : line.items())
      if (!value.is_object() && std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ",") + name;
  out += '\n';
  for (const Json& line : metrics.lines) {
    if (line.contains("validation")) continue;
    for (std::size_t k = 0; k < names.size(); ++k) {
      if (k > 0) out += ',';
      if (const auto found = line.find(names[k]); found != line.end() && !found->is_null()) out += found->dump();
    }
    out += '\n';
  }
  return out;
}

inline std::string base64(std::string_view bytes) {
  constexpr const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t k = 0; k < bytes.size(); k += 3) {
    std::uint32_t word = 0;
    for (std::size_t j = 0; j < 3; ++j)
      word = word << 8 | (k + j < bytes.size() ? static_cast<unsigned char>(bytes[k + j]) : 0u);
    for (std::size_t j = 0; j < 4; ++j) out += k + j <= bytes.size() ? digits[word >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

/// A path as a relative address.
inline std::string as_address(const std::filesystem::path& path) {
  std::string out;
  for (const char c : path.generic_string()) {
    const bool plain =
        std::isalnum(static_cast<unsigned char>(c)) || std::string_view("-._~/").find(c) != std::string_view::npos;
    char code[4];
    std::snprintf(code, sizeof code, "%%%02X", static_cast<unsigned>(static_cast<unsigned char>(c)));
    out += plain ? std::string(1, c) : code;
  }
  return out;
}

/// The numbers and texts of nested objects, named by the path to them.
inline void flatten(const Json& json, const std::string& prefix, std::vector<std::pair<std::string, Json>>& out) {
  if (json.is_object() && !json.empty())
    for (const auto& [name, value] : json.items()) flatten(value, prefix.empty() ? name : prefix + '.' + name, out);
  else
    out.emplace_back(prefix, json);
}
inline std::vector<std::pair<std::string, Json>> flat(const Json& json) {
  std::vector<std::pair<std::string, Json>> out;
  if (json.is_object()) flatten(json, "", out);
  return out;
}

/// What a page shows of a run.
struct ReportedRun {
  std::filesystem::path folder;
  std::string name;
  std::size_t colour = 0;
  Json config, summary, training, held_out;
  std::string film;  ///< the held-out pictures' PNG, in base64
  MetricsTable metrics, control;

  std::optional<double> score(const char* pointer) const {
    const Json::json_pointer at(pointer);
    if (!summary.is_object() || !summary.contains(at) || !summary[at].is_number()) return {};
    return summary[at].get<double>();
  }

  /// Of held-out images, after the steps of training.
  std::optional<double> residual() const {
    if (const auto known = score("/residual")) return known;
    if (!held_out.is_object()) return {};
    for (const Json& point : held_out.value("profile", Json::array()))
      if (point.value("step", 0) == held_out.value("training_steps", -1)) return point.value("residual", 0.0);
    return {};
  }
};

inline ReportedRun read_reported_run(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  const auto json = [](const fs::path& path) { return fs::exists(path) ? read_json(path) : Json(); };
  if (!fs::exists(folder / "metrics.jsonl") && !fs::exists(folder / "config.json"))
    throw UsageError("[report] " + folder.string() + ": expected a run's folder, with metrics.jsonl or config.json");
  ReportedRun out;
  out.folder = folder;
  out.config = json(folder / "config.json"), out.summary = json(folder / "summary.json");
  out.training = json(folder / "report" / "training.json"), out.held_out = json(folder / "report" / "held_out.json");
  out.metrics = read_metrics(folder / "metrics.jsonl");
  out.control = read_metrics(folder / "feed_forward" / "metrics.jsonl");
  std::ifstream film(folder / "report" / "held_out.png", std::ios::binary);
  out.film = base64(std::string{std::istreambuf_iterator<char>(film), {}});
  return out;
}

/// Short names that differ: of each folder's path the last part, or as many as it takes.
inline void name_runs(std::vector<ReportedRun>& runs) {
  for (ReportedRun& run : runs) {
    const auto path = std::filesystem::absolute(run.folder).lexically_normal();
    std::vector<std::string> parts;
    for (const auto& part : path)
      if (!part.empty() && part != "/") parts.push_back(part.string());
    const auto last = [](const std::vector<std::string>& all, std::size_t count) {
      std::string out;
      for (std::size_t k = all.size() - std::min(count, all.size()); k < all.size(); ++k)
        out += (out.empty() ? "" : "/") + all[k];
      return out;
    };
    for (std::size_t count = 1; count <= parts.size(); ++count) {
      run.name = last(parts, count);
      const auto same = std::count_if(runs.begin(), runs.end(), [&](const ReportedRun& other) {
        const std::string own = std::filesystem::absolute(other.folder).lexically_normal().generic_string();
        const std::string trimmed = own.ends_with('/') ? own.substr(0, own.size() - 1) : own;
        return trimmed == run.name || trimmed.ends_with('/' + run.name);
      });
      if (same <= 1) break;
    }
  }
}

}  // namespace detail

}  // namespace settle
