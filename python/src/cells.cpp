#include "cells.hpp"

#include <optional>

#include "settle/autodiff/grad.hpp"
#include "settle/nn/hgru.hpp"

using namespace settle;

namespace {

template <class T, class Cell>
class StepOf final : public CellStep<T> {
 public:
  StepOf(Cell cell, const std::vector<Tensor<T>>& parameters, const Tensor<T>& state, const Tensor<T>& input) {
    leaves_ = {tape_.leaf(state), tape_.leaf(input)};
    std::size_t next = 0;
    cell.parameters([&](const std::string& name, Var<T>& value) {
      require(next < parameters.size(), "cell", "expected a value for '", name, "'");
      value = tape_.leaf(parameters[next++]);
      leaves_.push_back(value);
    });
    require(next == parameters.size(), "cell", "expected ", next, " parameters, got ", parameters.size());
    next_ = cell(leaves_[0], leaves_[1]);
    require(next_.shape() == state.shape(), "cell", "expected a state of shape ", next_.shape(), ", got ",
            state.shape());
  }

  Tensor<T> value() const override { return next_.value(); }

  std::vector<Tensor<T>> pull(const Tensor<T>& cotangent) override {
    if (!pullback_) pullback_.emplace(std::vector{next_}, leaves_, true);
    std::vector<Tensor<T>> out;
    const std::vector<Var<T>> gradients = (*pullback_)({Var<T>(cotangent)});
    for (std::size_t k = 0; k < leaves_.size(); ++k)
      out.push_back(gradients[k].defined() ? gradients[k].value() : Tensor<T>(leaves_[k].shape(), T{0}));
    return out;
  }

 private:
  Tape<T> tape_;
  std::vector<Var<T>> leaves_;
  Var<T> next_;
  std::optional<Pullback<T>> pullback_;
};

}  // namespace

template <class T>
NamedValues<T> hgru_parameters(Index channels, Index kernel, std::uint64_t seed) {
  ParameterStreams streams(seed);
  auto cell = HgruCell<T>::initial(channels, kernel, streams, Initialisation::corrected);
  NamedValues<T> out;
  cell.parameters([&](const std::string& name, const Var<T>& value) { out.emplace_back(name, value.value()); });
  return out;
}

template <class T>
std::unique_ptr<CellStep<T>> hgru_step(const std::vector<Tensor<T>>& parameters, const Tensor<T>& state,
                                       const Tensor<T>& input) {
  HgruCell<T> cell{};
  for (auto& norm : cell.bn) norm.epsilon = 1e-3;  // as initial() makes it
  return std::make_unique<StepOf<T, HgruCell<T>>>(cell, parameters, state, input);
}

template NamedValues<float> hgru_parameters(Index, Index, std::uint64_t);
template NamedValues<double> hgru_parameters(Index, Index, std::uint64_t);
template std::unique_ptr<CellStep<float>> hgru_step(const std::vector<Tensor<float>>&, const Tensor<float>&,
                                                    const Tensor<float>&);
template std::unique_ptr<CellStep<double>> hgru_step(const std::vector<Tensor<double>>&, const Tensor<double>&,
                                                     const Tensor<double>&);
