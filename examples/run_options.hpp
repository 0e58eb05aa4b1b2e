#pragma once
#include <filesystem>
#include <string>

#include "settle/io/config.hpp"
#include "settle/io/json.hpp"

// What programs read of a configuration's file and of a run's folder.

/// The options of a configuration's file.
inline settle::Config& read_config(settle::Config& config, const std::filesystem::path& path) {
  try {
    config.read(settle::read_json(path), path.string());
  } catch (const settle::UsageError&) {
    throw;
  } catch (const settle::Error& error) {
    throw settle::UsageError(error.what());
  }
  return config;
}

/// A run's options, as its folder has them. Throws UsageError where there is no run.
template <class Options>
Options run_options(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.json";
  if (!std::filesystem::exists(path))
    throw settle::UsageError("[run] " + path.string() + ": there is no such file: expected a run's folder");
  Options options;
  settle::Config(options).read(settle::read_json(path), path.string());
  return options;
}

/// The file of a run's checkpoint of a name: of none "best", or "last" where there is no best one.
inline std::filesystem::path run_checkpoint(const std::filesystem::path& folder, const std::string& name = "") {
  const auto path = [&](const std::string& of) { return folder / "checkpoints" / (of + ".safetensors"); };
  return path(!name.empty() ? name : std::filesystem::exists(path("best")) ? "best" : "last");
}
