#pragma once
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "settle/autodiff/tape.hpp"
#include "settle/io/safetensors.hpp"

namespace opinfo {

using namespace settle;

using V = Var<double>;
using Json = nlohmann::json;
struct NotGiven {};  ///< an output that settle does not have
using Outputs = std::vector<std::variant<V, Tensor<Index>, NotGiven>>;
using Pair = std::array<Index, 2>;

/// Why a case is not compared.
struct LeftOut {
  std::string reason;
};
[[noreturn]] inline void leave_out(const std::string& reason) { throw LeftOut{reason}; }

/// A case's arguments by their names. Those that nobody asks for are what settle does not have.
class Arguments {
 public:
  Arguments(const Json& one, const SafetensorsFile& file)
      : given_(one.at("arguments")), gradients_(one.at("gradients")), file_(file) {}

  bool has(const std::string& name) const { return given_.contains(name); }

  /// A tensor, differentiated where PyTorch does; a number is a constant scalar.
  V tensor(const std::string& name) { return tensor_of(take(name)); }
  V tensor_or(const std::string& name, const V& otherwise) { return has(name) ? tensor(name) : otherwise; }
  std::vector<V> tensors(const std::string& name) {
    std::vector<V> out;
    for (const Json& each : take(name)) out.push_back(tensor_of(each));
    return out;
  }
  /// What settle takes as a constant.
  Tensor<double> constant(const std::string& name) { return read(take(name).at("tensor")); }
  Tensor<Index> positions(const std::string& name) {
    Tensor<double> numbers = constant(name);
    Tensor<Index> out(numbers.shape());
    for (Index k = 0; k < out.size(); ++k) out.mutable_data()[k] = static_cast<Index>(numbers.data()[k]);
    return out;
  }
  bool is_tensor(const std::string& name) const { return has(name) && given_.at(name).is_object(); }
  bool is_boolean(const std::string& name) const {
    return is_tensor(name) && file_.dtype(given_.at(name).at("tensor")) == "BOOL";
  }

  double number(const std::string& name, double otherwise) { return has(name) ? number_of(take(name)) : otherwise; }
  Index integer(const std::string& name, Index otherwise) {
    if (is_tensor(name)) return static_cast<Index>(constant(name).item());
    const double value = number(name, static_cast<double>(otherwise));
    if (value != std::floor(value)) leave_out(name + " is no whole number");
    return static_cast<Index>(value);
  }
  int dim(const std::string& name = "dim", int otherwise = 0) { return static_cast<int>(integer(name, otherwise)); }
  bool flag(const std::string& name, bool otherwise) { return has(name) ? take(name).get<bool>() : otherwise; }
  std::string text(const std::string& name, const std::string& otherwise) {
    return has(name) ? take(name).get<std::string>() : otherwise;
  }
  bool is_text(const std::string& name) const { return has(name) && given_.at(name).is_string(); }
  /// A list of numbers, or one.
  std::vector<Index> list(const std::string& name) {
    const Json& value = take(name);
    if (!value.is_array()) return {value.get<Index>()};
    return value.get<std::vector<Index>>();
  }
  /// One number for both axes, or two.
  Pair pair(const std::string& name, Pair otherwise) {
    if (!has(name)) return otherwise;
    const auto numbers = list(name);
    return numbers.empty() ? otherwise : Pair{numbers.front(), numbers.back()};
  }
  const Json& json(const std::string& name) { return take(name); }
  /// An argument that changes none of the outputs.
  void pass_over(const std::string& name) { taken_.insert(name); }

  std::string not_taken() const {
    for (const auto& [name, value] : given_.items())
      if (!taken_.contains(name)) return name;
    return {};
  }
  const std::map<std::string, V>& leaves() const { return leaves_; }

 private:
  const Json& take(const std::string& name) {
    taken_.insert(name);
    return given_.at(name);
  }
  static double number_of(const Json& value) {
    if (value.is_string()) return std::stod(value.get<std::string>());  // inf, nan
    return value.is_boolean() ? value.get<bool>() : value.get<double>();
  }
  Tensor<double> read(const std::string& tensor) const {
    if (file_.extents(tensor).size() > static_cast<std::size_t>(Shape::max_rank)) leave_out("more than 6 axes");
    return file_.get_as<double>(tensor);
  }
  V tensor_of(const Json& value) {
    if (!value.is_object()) return Tensor<double>(Shape{}, number_of(value));
    const std::string tensor = value.at("tensor");
    if (!gradients_.contains(tensor)) return read(tensor);
    if (!leaves_.contains(tensor)) leaves_[tensor] = tape_.leaf(read(tensor));
    return leaves_.at(tensor);
  }

  const Json &given_, &gradients_;
  const SafetensorsFile& file_;
  Tape<double> tape_;
  std::map<std::string, V> leaves_;
  std::set<std::string> taken_;
};

}  // namespace opinfo
