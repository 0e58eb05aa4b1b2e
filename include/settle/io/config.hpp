#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "settle/core/shape.hpp"
#include "settle/io/json.hpp"

namespace settle::inline v0_2 {

/// A mistake in what the user asked for: an unknown option, a value out of its range.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// Which values an option may have.
struct Allowed {
  double least = -std::numeric_limits<double>::infinity(), most = std::numeric_limits<double>::infinity();
  bool open = false;                    ///< `least` itself is not allowed
  bool odd = false;                     ///< whole numbers that 2 does not divide
  std::vector<std::string> names = {};  ///< of a text; empty: any text

  /// In words, or nothing where all is allowed.
  std::string text() const {
    std::ostringstream out;
    if (!names.empty()) {
      for (std::size_t k = 0; k < names.size(); ++k)
        out << (k == 0 ? "" : k + 1 == names.size() ? " or " : ", ") << names[k];
      return out.str();
    }
    if (odd) out << "odd, ";
    if (std::isfinite(least) && std::isfinite(most))
      out << (open ? "above " : "") << least << (open ? ", at most " : " to ") << most;
    else if (std::isfinite(least))
      out << (open ? "above " : "at least ") << least;
    return out.str();
  }
};

/// What an option's range may be.
namespace allowed {
inline Allowed anything() { return {}; }
inline Allowed at_least(double least) { return {.least = least}; }
inline Allowed above(double least) { return {.least = least, .open = true}; }
inline Allowed between(double least, double most) { return {.least = least, .most = most}; }
inline Allowed odd() { return {.least = 1, .odd = true}; }
inline Allowed one_of(std::vector<std::string> names) { return {.names = std::move(names)}; }
}  // namespace allowed

/// Whether a run that goes on from a checkpoint may change an option.
enum class OnResume { free, kept };

namespace detail {

/// The number of single-character edits (a neighbour swapped counts as one) that make one text of the other.
inline std::size_t typing_distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i)
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = i + j;
        continue;
      }
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  return d[a.size()][b.size()];
}

template <class Value>
constexpr const char* option_type() {
  if constexpr (std::is_same_v<Value, bool>)
    return "true or false";
  else if constexpr (std::is_integral_v<Value>)
    return "whole number";
  else if constexpr (std::is_floating_point_v<Value>)
    return "number";
  else if constexpr (std::is_same_v<Value, std::string>)
    return "text";
  else
    return "list";
}

/// Reads one JSON value as the option's type, and checks it. `complain(expected, found)` throws.
template <class Value, class Complain>
void read_option_value(const Json& json, const Allowed& allowed, Value& value, const Complain& complain) {
  if constexpr (std::is_same_v<Value, bool>) {
    if (!json.is_boolean()) complain("true or false", json);
    value = json.get<bool>();
  } else if constexpr (std::is_arithmetic_v<Value>) {
    const std::string range = allowed.text();
    const std::string expected = std::string("a ") + option_type<Value>() + (range.empty() ? "" : ", ") + range;
    if (!json.is_number()) complain(expected, json);
    const double number = json.get<double>();
    bool good = std::isfinite(number) && number >= allowed.least && number <= allowed.most &&
                !(allowed.open && number == allowed.least);
    if constexpr (std::is_floating_point_v<Value>) {
      if (good) value = number;
    } else {
      const auto take = [&](auto whole) {
        good = good && std::in_range<Value>(whole) && !(allowed.odd && whole % 2 == 0);
        if (good) value = static_cast<Value>(whole);
      };
      if (json.is_number_unsigned())
        take(json.get<std::uint64_t>());
      else if (json.is_number_integer() || (std::floor(number) == number && std::abs(number) < 9e15))  // 2.0, 1e6
        take(json.get<std::int64_t>());
      else
        good = false;
    }
    if (!good) complain(expected, json);
  } else if constexpr (std::is_same_v<Value, std::string>) {
    const bool known =
        json.is_string() && (allowed.names.empty() || std::find(allowed.names.begin(), allowed.names.end(),
                                                                json.get<std::string>()) != allowed.names.end());
    if (!known) complain(allowed.names.empty() ? "a text" : allowed.text(), json);
    value = json.get<std::string>();
  } else {
    if (!json.is_array()) complain("a list, [...]", json);
    value.clear();
    for (const Json& item : json) read_option_value(item, allowed, value.emplace_back(), complain);
  }
}

}  // namespace detail

/// The table of a program's options: each has a name ("data.folder"), a place in a struct of options, a range, and a
/// sentence. Parsing, range checks, help texts, and the resolved configuration that a run saves all follow from it. The
/// struct lists its options once, with its defaults as theirs:
///
///     struct Options {
///       Index kernel = 5;
///       void each(auto&& visit) { visit("model.kernel", kernel, allowed::odd(), "side of the convolutions"); }
///     };
///     Options options;
///     Config config(options);
///     config.read(read_json("config.json"), "config.json");
///     config.set("model.kernel=7");
///
/// It refers to the struct, which must outlive it.
class Config {
 public:
  struct Option {
    std::string name, type, range, standard, help;
    OnResume on_resume = OnResume::free;
    std::function<void(const Json&, const std::string&)> read;  ///< of a value, from a place in words
    std::function<Json()> write;
  };

  template <class Options>
  explicit Config(Options& options) {
    options.each([this](const char* name, auto& value, const Allowed& allowed, const char* help,
                        OnResume on_resume = OnResume::free) { this->add(name, value, allowed, help, on_resume); });
  }

  const std::vector<Option>& options() const { return options_; }

  /// Takes the values of a JSON object, nested at the dots of the names. `place` is told in complaints. Throws
  /// UsageError for an unknown name, with the nearest known one, and for a value out of its range.
  void read(const Json& json, const std::string& place) { read_object(json, "", place); }

  /// Takes one value, as "a.b=c": c is JSON, or a text as it is.
  void set(const std::string& assignment) {
    const std::size_t equals = assignment.find('=');
    if (equals == std::string::npos) usage("--set ", assignment, ": expected NAME=VALUE");
    const std::string name = assignment.substr(0, equals), text = assignment.substr(equals + 1);
    const Option& option = find(name, "--set");
    Json value = Json::parse(text, nullptr, false);
    if (value.is_discarded() || (option.type == "text" && !value.is_string())) value = text;
    option.read(value, "--set " + name);
  }

  /// Throws UsageError for the first value that is out of its range, as a program may have set it.
  void check() const {
    for (const Option& option : options_) option.read(option.write(), option.name);
  }

  /// All values, nested at the dots.
  Json json() const {
    Json out = Json::object();
    for (const Option& option : options_) {
      Json* at = &out;
      std::size_t begin = 0;
      for (std::size_t dot; (dot = option.name.find('.', begin)) != std::string::npos; begin = dot + 1)
        at = &(*at)[option.name.substr(begin, dot - begin)];
      (*at)[option.name.substr(begin)] = option.write();
    }
    return out;
  }

  /// A line for each option: name, default, range, sentence.
  std::string help() const {
    std::string out, group;
    for (const Option& option : options_) {
      const std::string own = option.name.substr(0, option.name.find('.') + 1);
      if (own != group) out += "\n";
      group = own;
      std::string line = "  " + option.name + " = " + option.standard;
      line.resize(std::max<std::size_t>(line.size() + 2, 36), ' ');
      out += line + option.help + (option.range.empty() ? "" : " (" + option.range + ")") + "\n";
    }
    return out;
  }

  /// What differs from another configuration among the options that a checkpoint keeps, in words; empty: nothing.
  std::string kept_differences(const Config& asked) const {
    std::string out;
    for (std::size_t k = 0; k < options_.size(); ++k) {
      const Json own = options_[k].write(), other = asked.options_[k].write();
      if (options_[k].on_resume == OnResume::kept && own != other)
        out += (out.empty() ? "" : "; ") + options_[k].name + " is " + own.dump() + ", not " + other.dump();
    }
    return out;
  }

 private:
  template <class... Parts>
  [[noreturn]] static void usage(const Parts&... parts) {
    std::ostringstream text;
    text << "[config] ";
    (text << ... << parts);
    throw UsageError(text.str());
  }

  template <class Value>
  void add(const char* name, Value& value, const Allowed& allowed, const char* help, OnResume on_resume) {
    Option option{name, detail::option_type<Value>(), allowed.text(), Json(value).dump(), help, on_resume, {}, {}};
    option.read = [&value, allowed](const Json& json, const std::string& place) {
      Value read{};
      detail::read_option_value(json, allowed, read, [&](const std::string& expected, const Json& found) {
        // JSON has no word for what is not finite.
        const bool no_number = found.is_number_float() && !std::isfinite(found.get<double>());
        usage(place, ": expected ", expected, ", got ", no_number ? std::to_string(found.get<double>()) : found.dump());
      });
      value = std::move(read);
    };
    option.write = [&value] { return Json(value); };
    options_.push_back(std::move(option));
  }

  const Option& find(const std::string& name, const std::string& place) const {
    const Option* nearest = nullptr;
    std::size_t least = std::string::npos;
    for (const Option& option : options_) {
      if (option.name == name) return option;
      // The last part alone counts too: who writes "rate" means "optimiser.rate".
      const std::string last = option.name.substr(option.name.rfind('.') + 1);
      const std::size_t distance =
          std::min(detail::typing_distance(name, option.name), detail::typing_distance(name, last) + 1);
      if (distance < least) nearest = &option, least = distance;
    }
    if (!nearest) usage(place, ": there is no option ", name);
    usage(place, ": there is no option ", name, "; did you mean ", nearest->name, "?");
  }

  void read_object(const Json& json, const std::string& prefix, const std::string& place) {
    if (!json.is_object())
      usage(place, ": expected an object, {...}", prefix.empty() ? "" : " for " + prefix.substr(0, prefix.size() - 1),
            ", got ", json.dump());
    for (const auto& [key, value] : json.items()) {
      const std::string name = prefix + key;
      const bool group = std::any_of(options_.begin(), options_.end(),
                                     [&](const Option& option) { return option.name.starts_with(name + '.'); });
      if (group || (value.is_object() && !value.empty()))
        read_object(value, name + '.', place);
      else
        find(name, place).read(value, place + ": " + name);
    }
  }

  std::vector<Option> options_;
};

}  // namespace settle
