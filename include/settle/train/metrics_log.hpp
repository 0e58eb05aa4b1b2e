#pragma once
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "settle/train/run_folder.hpp"
#include "settle/train/tensorboard.hpp"

namespace settle::inline v0_2 {

/// A run's metrics as they come: lines of metrics.jsonl, and the same numbers as events for TensorBoard, in
/// events.out.tfevents.START.settle. A line is an object with a "step", "seconds" and numbers: tags are training/NAME,
/// and validation/NAME for those in its "validation".
class MetricsLog {
 public:
  /// Keeps the first `bytes` of the lines and drops what follows; the events are made of them again. Throws Error where
  /// there are fewer, or a file cannot be written.
  MetricsLog(const RunFolder& folder, std::uintmax_t bytes) : lines_(folder.metrics(), bytes) {
    start_ = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    const std::string prefix = "events.out.tfevents.";
    std::vector<std::filesystem::path> old;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
      if (entry.path().filename().string().starts_with(prefix)) old.push_back(entry.path());
    for (const auto& path : old) {
      // A training that goes on keeps its start.
      if (bytes > 0) start_ = std::strtod(path.filename().c_str() + prefix.size(), nullptr);
      std::error_code ignored;
      std::filesystem::remove(path, ignored);
    }
    const auto seconds = std::to_string(static_cast<long long>(start_));
    events_.emplace(folder.path() / (prefix + seconds + ".settle"), start_);
    std::ifstream lines(folder.metrics());
    for (std::string line; std::getline(lines, line);)
      if (const Json json = Json::parse(line, nullptr, false); json.is_object()) add_event(json);
  }

  void add(const Json& line) { lines_.add(line), add_event(line); }

  /// Shows the lines to whoever reads the files.
  void flush() { lines_.flush(), events_->flush(); }

  /// Makes the lines safe on the disk. Returns their size in bytes.
  std::uintmax_t save() {
    events_->flush();
    return lines_.save();
  }

 private:
  void add_event(const Json& line) {
    Figures figures;
    const auto take = [&](const std::string& prefix, const Json& from) {
      for (const auto& [name, value] : from.items())
        if (value.is_number() && name != "step" && name != "seconds")
          figures.emplace_back(prefix + name, value.get<double>());
    };
    if (const auto scores = line.find("validation"); scores != line.end())
      take("validation/", *scores);
    else
      take("training/", line);
    events_->add(line.value("step", Index{0}), start_ + line.value("seconds", 0.0), figures);
  }

  JsonLines lines_;
  double start_ = 0;  ///< seconds since 1970
  std::optional<TensorBoardWriter> events_;
};

}  // namespace settle
