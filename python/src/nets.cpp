#include "nets.hpp"

#include <algorithm>
#include <map>

#include "settle/io/modules.hpp"
#include "settle/nn/released_models.hpp"

using namespace settle;

namespace {

template <class N>
class NetOf final : public Net {
 public:
  NetOf(std::string kind, N net) : kind_(std::move(kind)), net_(std::move(net)) {}

  std::string kind() const override { return kind_; }

  Tensor<float> logits(const Tensor<float>& images, int steps) const override {
    if constexpr (requires(N n) { n.cell; })
      return predict(net_, Var<float>(images), steps).value();
    else
      return as_constants(net_)(Var<float>(images)).value();
  }

  Named state() const override {
    Named out;
    N copy = net_;
    visit_state(copy, [&](const std::string& name, const auto& value) { out.emplace_back(name, value.value()); });
    return out;
  }

  void set_state(const Named& state) override {
    std::map<std::string, Tensor<float>> left(state.begin(), state.end());
    N result = net_;
    visit_state(result, [&](const std::string& name, Var<float>& value) {
      const auto given = left.find(name);
      require(given != left.end(), "load_state_dict", "there is no '", name, "'");
      require(given->second.shape() == value.shape(), "load_state_dict", "'", name, "': expected ", value.shape(),
              ", got ", given->second.shape());
      value = given->second.clone();  // whoever gave it may write it later
      left.erase(given);
    });
    for (const auto& [name, unused] : left)
      require(name.ends_with("num_batches_tracked"), "load_state_dict", "'", name, "' is not a name of this net");
    net_ = std::move(result);
  }

  void load(const SafetensorsFile& file, const std::string& prefix) { load_module(file, prefix, net_); }

 private:
  std::string kind_;
  N net_;
};

template <class N>
std::unique_ptr<Net> loaded(const char* kind, N net, const SafetensorsFile& file, const std::string& prefix) {
  auto out = std::make_unique<NetOf<N>>(kind, std::move(net));
  out->load(file, prefix);
  return out;
}

}  // namespace

std::unique_ptr<Net> read_net(const std::string& path) {
  const SafetensorsFile file = read_safetensors(path);
  // Of a checkpoint the averaged weights, if there are any; "module." is what PyTorch's DataParallel adds.
  std::string prefix;
  for (const char* known : {"ema.", "net.", "module.", ""})
    if (prefix = known; file.has(prefix + "conv0.weight")) break;
  const auto extent = [&](const std::string& name, std::size_t axis) -> Index {
    const std::string key = prefix + name;
    require(file.has(key), "load", path, ": expected a net of this library, found no '", key, "'");
    const auto& extents = file.extents(key);
    require(extents.size() == 4, "load", path, ": '", key, "': expected 4 axes, got ", extents.size());
    return extents[axis];
  };
  ModelOptions options;
  options.image_channels = extent("conv0.weight", 1);
  const bool recurrent = file.has(prefix + "conv6.weight") && file.has(prefix + "bn.weight");
  const Index channels = extent("conv0.weight", 0);
  options.orientations = (channels - 1) / 2;
  require(channels == options.channels(), "load", path, ": expected an odd number of channels, got ", channels);
  options.classes = extent(recurrent ? "conv6.weight" : "conv7.weight", 0);
  if (file.has(prefix + "unit1.w_gate_inh")) {
    options.kernel = extent("unit1.w_gate_inh", 2);
    return loaded("hgru", hgru_net<float>(options), file, prefix);
  }
  if (recurrent) {
    options.kernel = extent("unit1.Whi.weight", 2);
    return loaded("conv_lstm", conv_lstm_net<float>(options), file, prefix);
  }
  options.kernel = extent("conv1.weight", 2);
  return loaded("feed_forward", feed_forward_net<float>(options), file, prefix);
}
