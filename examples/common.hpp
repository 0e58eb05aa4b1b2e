#pragma once
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "device.hpp"
#include "settle/settle.hpp"

// What the examples share: a step of training, scores, the command line.

using Json = nlohmann::ordered_json;

// --- training ------------------------------------------------------------------------------------

/// The part of a batch that training takes, in the memory that the device copies from.
struct Staged {
  settle::Tensor<float, Device::Staging> image, target;
};

inline Staged staged(const settle::PathfinderBatch& batch) {
  return {settle::to<Device::Staging>(batch.image), settle::to<Device::Staging>(batch.target)};
}

/// What one training step of a recurrent net tells.
struct TrainingStep {
  double loss = 0, penalty = 0;
  std::shared_ptr<const settle::fixed_point::Report> report;  ///< null for Bptt
};

/// One step of training: focal loss plus weighted penalty, its gradient as the policy says, Adam.
template <class Net, class Policy>
TrainingStep training_step(Net& net, settle::Adam<float, Device>& adam, const Staged& batch, const Policy& policy,
                           double penalty_weight) {
  using V = settle::Var<float, Device>;
  TrainingStep out;
  std::vector<V> gradients;
  {
    settle::Tape<float, Device> tape;
    const Net model = settle::on_tape(net, tape);
    const auto result = settle::run(model, V(settle::to<Device>(batch.image)), policy);
    const V loss = settle::focal_loss(result.logits, settle::to<Device>(batch.target));
    gradients = settle::grad(settle::penalised(loss, result.penalty, penalty_weight), settle::parameters<V>(model));
    out = {static_cast<double>(loss.item()), static_cast<double>(result.penalty.item()), result.report};
  }
  adam.step(net, gradients);
  return out;
}

// --- how it is told ------------------------------------------------------------------------------

/// Scores of counts, or of batches' means.
template <class Scores>
Json scores(const Scores& s) {
  return {{"f1", s.f1()},
          {"iou", s.iou()},
          {"precision", s.precision()},
          {"recall", s.recall()},
          {"balanced_accuracy", s.balanced_accuracy()}};
}

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class... Values>
std::string text(const char* format, Values... values) {
  char out[256];
  std::snprintf(out, sizeof out, format, values...);
  return out;
}

/// A line that is written over on a terminal, and written now and then elsewhere.
inline void show_progress(const std::string& line, bool last) {
  static const bool terminal = isatty(STDOUT_FILENO) != 0;
  static auto shown = std::chrono::steady_clock::now() - std::chrono::hours(1);
  if (!last && seconds_since(shown) < (terminal ? 0.1 : 10.0)) return;
  shown = std::chrono::steady_clock::now();
  std::printf(terminal ? (last ? "\r%-118s\n" : "\r%-118s") : "%s\n", line.c_str());
  std::fflush(stdout);
}

// --- the command line ----------------------------------------------------------------------------

/// Reads an option's value: a number, or a text as it is. Throws Error for what is no number of its type.
template <class Value>
void read_option(const std::string& name, const std::string& from, Value& to) {
  if constexpr (std::is_arithmetic_v<Value>) {
    const auto [end, error] = std::from_chars(from.data(), from.data() + from.size(), to);
    settle::require(error == std::errc{} && end == from.data() + from.size(), "options", name, ": expected a ",
                    std::is_integral_v<Value> ? "whole number" : "number", ", got '", from, "'");
  } else {
    to = from;
  }
}

/// A value as a text that read_option reads back to the same.
template <class Value>
std::string option_text(const Value& value) {
  if constexpr (std::is_arithmetic_v<Value>) {
    char digits[32];
    return {digits, std::to_chars(digits, digits + sizeof digits, value).ptr};
  } else {
    return value;
  }
}

/// What is done with an option's value, by the option's name.
using Options = std::map<std::string, std::function<void(const std::string&)>>;

/// An option whose value is read into one or more variables.
template <class... Values>
Options::value_type option(const char* name, Values&... to) {
  return {name, [name, &to...](const std::string& value) { (read_option(name, value, to), ...); }};
}

/// Hands each option's value on: "--name value" to known.at("--name")(value). Anything else ends the program with its
/// usage.
inline void read_command_line(int count, char** words, const Options& known, const std::string& usage) {
  for (int k = 1; k < count; k += 2) {
    const auto found = known.find(words[k]);
    if (found == known.end() || k + 1 == count) {
      std::fputs(usage.c_str(), stdout);
      std::exit(std::string(words[k]) == "--help" ? 0 : 2);
    }
    found->second(words[k + 1]);
  }
}
