#include "parity_case.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "device.hpp"
#include "settle/io/modules.hpp"
#include "settle/nn/losses.hpp"
#include "settle/nn/released_models.hpp"

namespace parity {

namespace {

using settle::Index;
using settle::SafetensorsFile;
using settle::Shape;
using settle::Tensor;
using settle::Var;

/// What the file's metadata asks for.
struct Case {
  enum class Model { hgru, clstm, ff };
  Model model = Model::hgru;
  bool rbp = false, penalty = false;
  int kernel = 1, steps = 1, neumann_terms = 0;
  double loss_scale = 1, lambda = 0, penalty_weight = 0;
};

/// The metadata of one file, with complaints that name it.
class Metadata {
 public:
  Metadata(std::string path, const SafetensorsFile& file) : path_(std::move(path)), file_(file) {}

  const std::string& text(const std::string& key) const {
    const auto found = file_.metadata.find(key);
    settle::require(found != file_.metadata.end(), "parity", path_, ": metadata: expected '", key, "', found none");
    return found->second;
  }

  /// One of several words, as its position among them.
  std::size_t choice(const std::string& key, const std::vector<std::string>& words) const {
    const auto found = std::find(words.begin(), words.end(), text(key));
    std::string expected;
    for (const auto& word : words) expected += (expected.empty() ? "" : " | ") + word;
    settle::require(found != words.end(), "parity", path_, ": metadata: '", key, "': expected ", expected, ", got '",
                    text(key), "'");
    return static_cast<std::size_t>(found - words.begin());
  }

  int whole(const std::string& key, int least) const {
    const auto value = number<int>(key);
    settle::require(value >= least, "parity", path_, ": metadata: '", key, "': expected at least ", least, ", got ",
                    value);
    return value;
  }

  template <class N>
  N number(const std::string& key) const {
    const std::string& word = text(key);
    N value{};
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    settle::require(error == std::errc{} && end == word.data() + word.size() && !word.empty(), "parity", path_,
                    ": metadata: '", key, "': expected a number, got '", word, "'");
    return value;
  }

 private:
  std::string path_;
  const SafetensorsFile& file_;
};

Case read_case(const std::string& path, const SafetensorsFile& file) {
  const Metadata metadata(path, file);
  Case out;
  out.model = static_cast<Case::Model>(metadata.choice("model", {"hgru", "clstm", "ff"}));
  const bool recurrent = out.model != Case::Model::ff;
  out.rbp = metadata.choice("algorithm", recurrent ? std::vector<std::string>{"bptt", "rbp"}
                                                   : std::vector<std::string>{"none"}) == 1;
  out.penalty =
      metadata.choice("penalty", recurrent ? std::vector<std::string>{"0", "1"} : std::vector<std::string>{"0"}) == 1;
  out.kernel = metadata.whole("kernel", 1);
  settle::require(out.kernel % 2 == 1, "parity", path, ": metadata: 'kernel': expected an odd number, got ",
                  out.kernel);
  out.loss_scale = metadata.number<double>("loss_scale");
  if (recurrent) {
    out.steps = metadata.whole("steps", 1);
    out.lambda = metadata.number<double>("lambda_");
    out.penalty_weight = metadata.number<double>("penalty_weight");
  }
  if (out.rbp) out.neumann_terms = metadata.whole("neumann_terms", 0);

  const Index batch = metadata.whole("batch", 1), size = metadata.whole("size", 1);
  const auto expect_shape = [&](const std::string& name, const Shape& expected) {
    settle::require(file.shape(name) == expected, "parity", path, ": '", name, "': expected shape ", expected,
                    " by the metadata, got ", file.shape(name));
  };
  expect_shape("input", {batch, 1, size, size});
  expect_shape("target", {batch, size, size});
  return out;
}

/// Compares what is computed with what the file holds.
template <settle::Scalar T>
class Comparer {
 public:
  Comparer(std::string path, const SafetensorsFile& file) : path_(std::move(path)), file_(file) {
    comparison_.bound = std::same_as<T, double> ? 1e-9 : 2e-4;
    for (const std::string& name : file.names)
      if (name.starts_with("grad."))
        largest_gradient_ = std::max(largest_gradient_, largest(file.get_as<double>(name)));
  }

  /// `floor`: a smaller largest value is not what the difference is measured against.
  void add(const std::string& name, const Tensor<T, Device>& there, double floor = 0, bool judged = true) {
    const Tensor<T> ours = settle::to<settle::Cpu>(there);
    const Tensor<double> expected = file_.get_as<double>(name);
    const bool scalar = ours.size() == 1 && expected.size() == 1;  // the files keep numbers as vectors of one
    settle::require(scalar || ours.shape() == expected.shape(), "parity", path_, ": '", name, "': expected shape ",
                    ours.shape(), ", got ", expected.shape());
    double difference = 0;
    for (Index k = 0; k < ours.size(); ++k) {
      const double a = static_cast<double>(ours.data()[k]), b = expected.data()[k];
      if (a == b || (std::isnan(a) && std::isnan(b))) continue;
      if (const double d = std::abs(a - b); !(d <= difference)) difference = std::isnan(difference) ? difference : d;
    }
    const double scale = std::max(largest(expected), floor);
    comparison_.quantities.push_back({name, scale > 0 ? difference / scale : difference, judged});
  }

  /// A gradient. One that is zero but for rounding (that of a bias before batch norm) is measured against the largest
  /// of all gradients, as are those below 1e-4 of it.
  void add_gradient(const std::string& name, const Tensor<T, Device>& ours) {
    add(name, ours, 1e-4 * largest_gradient_, std::same_as<T, double>);
  }

  Comparison result() && { return std::move(comparison_); }

 private:
  static double largest(const Tensor<double>& x) {
    double out = 0;
    for (double v : x.values())
      if (std::isfinite(v)) out = std::max(out, std::abs(v));
    return out;
  }

  std::string path_;
  const SafetensorsFile& file_;
  Comparison comparison_;
  double largest_gradient_ = 0;
};

template <settle::Scalar T, class Model>
void compare_gradients(const SafetensorsFile& file, const Var<T, Device>& total, const Model& model,
                       Comparer<T>& comparer) {
  const auto gradients = settle::grad(total, settle::parameters<Var<T, Device>>(model));
  const auto names = settle::parameter_names(model);
  for (std::size_t k = 0; k < names.size(); ++k)
    if (file.has("grad." + names[k])) comparer.add_gradient("grad." + names[k], gradients[k].value());
}

template <settle::Scalar T, class Net>
Comparison compare_recurrent(const std::string& path, const SafetensorsFile& file, const Case& c, Net net) {
  settle::load_parameters(file, "param.", net);
  const Var<T, Device> input(settle::to<Device>(file.get_as<T>("input")));
  const bool lstm = c.model == Case::Model::clstm;
  settle::fixed_point::Penalty lcp = settle::fixed_point::NoPenalty{};
  if (c.penalty || lstm)
    lcp = settle::fixed_point::Lcp{
        .lambda = c.lambda, .blocks = lstm ? settle::fixed_point::Blocks::diagonal : settle::fixed_point::Blocks::full};
  settle::Training training = settle::Bptt{.steps = c.steps, .penalty = lcp};
  if (c.rbp) training = settle::Rbp::released(c.steps, c.neumann_terms, lcp);

  settle::Tape<T, Device> tape;
  const Net taped = settle::on_tape(net, tape);
  const auto run = settle::run(taped, input, training);
  const Var<T, Device> loss = settle::focal_loss(run.logits, settle::to<Device>(file.get_as<T>("target")));
  const Var<T, Device> total =
      c.loss_scale * (c.penalty ? settle::penalised(loss, run.penalty, c.penalty_weight) : loss);

  Comparer<T> comparer(path, file);
  std::vector<int> inner_states;
  for (int k = 0; k + 1 < c.steps; ++k)
    if (file.has("state." + std::to_string(k))) inner_states.push_back(k);
  if (!inner_states.empty())
    settle::detail::iterate_off_tape(net, input, inner_states.back() + 1, [&](int k, const Net&, const auto& state) {
      const std::string name = "state." + std::to_string(k - 1);
      if (file.has(name)) comparer.add(name, settle::detail::first_part(state).value());
    });
  comparer.add("state." + std::to_string(c.steps - 1), settle::detail::first_part(run.state).value());
  comparer.add("logits", run.logits.value());
  comparer.add("loss", loss.value());
  comparer.add("penalty", run.penalty.value(), 1e-6, std::same_as<T, double>);
  comparer.add("total", total.value());
  compare_gradients(file, total, taped, comparer);
  return std::move(comparer).result();
}

template <settle::Scalar T>
Comparison compare_feed_forward(const std::string& path, const SafetensorsFile& file, const Case& c,
                                settle::FeedForwardNet<T, Device> net) {
  settle::load_parameters(file, "param.", net);
  settle::Tape<T, Device> tape;
  auto taped = settle::on_tape(net, tape);
  const Var<T, Device> logits = taped.train(settle::to<Device>(file.get_as<T>("input")));
  const Var<T, Device> loss = settle::focal_loss(logits, settle::to<Device>(file.get_as<T>("target")));
  const Var<T, Device> total = c.loss_scale * loss;

  Comparer<T> comparer(path, file);
  comparer.add("logits", logits.value());
  comparer.add("loss", loss.value());
  comparer.add("penalty", Tensor<T, Device>(Shape{}, T{0}));
  comparer.add("total", total.value());
  compare_gradients(file, total, taped, comparer);
  taped.buffers([&](const std::string& name, const Var<T, Device>& buffer) {
    comparer.add("buffer_after." + name, buffer.value());
  });
  return std::move(comparer).result();
}

template <settle::Scalar T>
Comparison compare_in(const std::string& path) {
  const SafetensorsFile file = settle::read_safetensors(path);
  const Case c = read_case(path, file);
  const Shape& first = file.shape("param.conv0.weight");
  settle::require(first.rank() == 4, "parity", path, ": 'param.conv0.weight': expected shape (C, 1, 7, 7), got ",
                  first);
  const Index channels = first[0];
  settle::ParameterStreams streams(0);
  if (c.model == Case::Model::ff) {
    const auto net = settle::FeedForwardNet<T, Device>::initial(channels, c.kernel, streams);
    return compare_feed_forward<T>(path, file, c, net);
  }
  const settle::SquaringStem<T, Device> stem{settle::ConvLayer<T, Device>::initial(channels, 1, 7, streams)};
  const auto readout = settle::BatchNormReadout<T, Device>::initial(channels, streams);
  if (c.model == Case::Model::clstm) {
    const auto cell = settle::ConvLstmCell<T, Device>::initial(channels, c.kernel, streams);
    return compare_recurrent<T>(path, file, c, settle::ConvLstmNet<T, Device>{stem, cell, readout});
  }
  const auto cell = settle::HgruCell<T, Device>::initial(channels, c.kernel, streams);
  return compare_recurrent<T>(path, file, c, settle::HgruNet<T, Device>{stem, cell, readout});
}

}  // namespace

double Comparison::worst() const {
  double out = 0;
  for (const auto& q : quantities)
    if (q.judged && !(q.error <= out)) out = std::isnan(out) ? out : q.error;
  return out;
}

Comparison compare(const std::filesystem::path& path, Precision precision) {
  return precision == Precision::float64 ? compare_in<double>(path.string()) : compare_in<float>(path.string());
}

}  // namespace parity
