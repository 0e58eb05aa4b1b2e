#pragma once
#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "settle/autodiff/tape.hpp"
#include "settle/ops/map.hpp"

namespace settle::inline v0_2 {

/// The vector-Jacobian product of a recorded computation, prepared once and applied any number of times. Only the
/// operations between the inputs and the outputs take part, and each computes only the cotangents that lead to the
/// inputs: replaying a step's product for its state never touches the weights' gradients. From the second product on,
/// or from the first when `many` are announced, operations keep what does not depend on the cotangents, such as local
/// derivatives.
template <class T, class Device = Cpu>
class Pullback {
 public:
  /// From `outputs` back to `inputs`, all on one tape. Outputs that are constants are allowed and pass nothing back.
  Pullback(std::vector<Var<T, Device>> outputs, std::vector<Var<T, Device>> inputs, bool many = false)
      : outputs_(std::move(outputs)), inputs_(std::move(inputs)), many_(many) {
    const typename Tape<T, Device>::Use use("grad", inputs_.empty() ? nullptr : inputs_.front().tape());
    for (const auto& x : inputs_) {
      require(x.tape() != nullptr, "grad",
              "an input is a constant: make it with tape.leaf(...) or by operations on leaves");
      require(!tape_ || tape_ == x.tape(), "grad", "the inputs are on two different tapes");
      tape_ = x.tape();
      tape_->require_current("grad", x);
    }
    require(tape_ != nullptr, "grad", "expected at least one input");
    int highest = -1;
    for (const auto& y : outputs_) {
      if (!y.tape()) continue;
      require(y.tape() == tape_, "grad", "an output is on another tape than the inputs");
      tape_->require_current("grad", y);
      highest = std::max(highest, tape_->producer(y.id()));
    }
    int lowest = tape_->size();
    for (const auto& x : inputs_) lowest = std::min(lowest, tape_->producer(x.id()));
    plan(lowest, highest);
  }

  /// The cotangents of the inputs for the given cotangents of the outputs (undefined: zero). With `create_graph` the
  /// computation is itself recorded. With `free` what each operation kept is dropped as soon as it was used.
  std::vector<Var<T, Device>> operator()(const std::vector<Var<T, Device>>& cotangents, bool create_graph = false,
                                         bool free = false) {
    require(cotangents.size() == outputs_.size(), "grad", "expected ", outputs_.size(), " cotangents, got ",
            cotangents.size());
    const typename Tape<T, Device>::Use use("grad", tape_);
    for (const auto& x : inputs_) tape_->require_current("grad", x);
    for (const auto& y : outputs_)
      if (y.tape()) tape_->require_current("grad", y);
    NoGrad<T, Device> pause(create_graph ? nullptr : tape_);
    std::vector<Var<T, Device>> slots(static_cast<std::size_t>(std::max(0, end_ - first_)));
    Sum sum{*this, slots};
    for (std::size_t k = 0; k < outputs_.size(); ++k) {
      if (!cotangents[k].defined() || !outputs_[k].tape()) continue;
      require(cotangents[k].shape() == outputs_[k].shape(), "grad", "expected a cotangent of shape ",
              outputs_[k].shape(), ", got ", cotangents[k].shape());
      if (outputs_[k].id() >= first_ && outputs_[k].id() < end_) sum.add_to(outputs_[k].id(), cotangents[k]);
    }
    for (Step& step : steps_) {
      const auto first = static_cast<std::size_t>(step.first_output - first_);
      const std::vector<Var<T, Device>> given(slots.begin() + static_cast<std::ptrdiff_t>(first),
                                              slots.begin() + static_cast<std::ptrdiff_t>(first) + step.outputs);
      for (int k = 0; k < step.outputs; ++k)
        if (!keep_[first + static_cast<std::size_t>(k)]) slots[first + static_cast<std::size_t>(k)] = {};
      if (std::any_of(given.begin(), given.end(), [](const auto& g) { return g.defined(); })) {
        const auto& node = tape_->node(step.node);
        require(!node.freed, "grad", "the graph through '", node.name, "' was already freed; keep it with keep_graph");
        sum.step = &step;
        node.rule->pull(given, sum);
      }
      if (free) tape_->free(step.node);
    }
    std::vector<Var<T, Device>> out;
    for (const auto& x : inputs_) {
      const bool reached = x.id() < end_ && slots[static_cast<std::size_t>(x.id() - first_)].defined();
      out.push_back(reached ? slots[static_cast<std::size_t>(x.id() - first_)]
                            : Var<T, Device>(Tensor<T, Device>(x.shape(), T{0})));
    }
    many_ = true;  // whoever asks for a second product will ask for more
    return out;
  }

 private:
  struct Step {
    int node, first_output, outputs;
    std::vector<int> needed;  ///< per input of the node: the value number, or -1
    std::shared_ptr<void> kept = nullptr;
  };

  struct Sum final : Cotangents<T, Device> {
    Sum(Pullback& p, std::vector<Var<T, Device>>& s) : pullback(p), slots(s) {}
    bool needs(std::size_t input) const override { return step->needed[input] >= 0; }
    void add(std::size_t input, const Var<T, Device>& cotangent) override {
      if (needs(input)) add_to(step->needed[input], cotangent);
    }
    Tensor<T, Device>* in_place(std::size_t input) override {
      if (!needs(input) || pullback.tape_->recording()) return nullptr;
      Var<T, Device>& slot = slots[static_cast<std::size_t>(step->needed[input] - pullback.first_)];
      if (!slot.defined() || slot.tape() || !slot.value().unique()) return nullptr;
      // One operation may use a value twice: only the slot itself may be written, so each input gets it once.
      if (std::count(step->needed.begin(), step->needed.end(), step->needed[input]) > 1) return nullptr;
      return const_cast<Tensor<T, Device>*>(&slot.value());
    }
    std::shared_ptr<void>* kept() override {
      return pullback.many_ && !pullback.tape_->recording() ? &step->kept : nullptr;
    }
    void add_to(int id, const Var<T, Device>& cotangent) {
      Var<T, Device>& slot = slots[static_cast<std::size_t>(id - pullback.first_)];
      if (!slot.defined())
        slot = cotangent;
      else if (slot.tape() || cotangent.tape() || pullback.tape_->recording() || !slot.value().unique())
        slot = slot + cotangent;
      else
        detail::add_in_place(const_cast<Tensor<T, Device>&>(slot.value()), cotangent.value());
    }
    Pullback& pullback;
    std::vector<Var<T, Device>>& slots;
    Step* step = nullptr;
  };

  void plan(int lowest, int highest) {
    if (highest < lowest) return;
    first_ = tape_->node(lowest).first_output;
    end_ = tape_->node(highest).first_output + tape_->node(highest).outputs;
    const auto slot = [&](int id) { return static_cast<std::size_t>(id - first_); };
    std::vector<char> from_input(slot(end_), 0), to_output(slot(end_), 0);
    keep_.assign(slot(end_), 0);
    for (const auto& x : inputs_) {
      if (x.id() < end_) from_input[slot(x.id())] = keep_[slot(x.id())] = 1;
    }
    for (const auto& y : outputs_)
      if (y.tape() && y.id() >= first_) to_output[slot(y.id())] = 1;

    const auto depends = [&](int id) { return id >= first_ && from_input[slot(id)]; };
    for (int k = lowest; k <= highest; ++k) {
      const auto& node = tape_->node(k);
      if (std::any_of(node.inputs.begin(), node.inputs.end(), depends))
        for (int o = 0; o < node.outputs; ++o) from_input[slot(node.first_output + o)] = 1;
    }
    for (int k = highest; k >= lowest; --k) {
      const auto& node = tape_->node(k);
      bool leads = false;
      for (int o = 0; o < node.outputs; ++o) leads = leads || to_output[slot(node.first_output + o)];
      if (!leads || !std::any_of(node.inputs.begin(), node.inputs.end(), depends)) continue;
      Step step{k, node.first_output, node.outputs, {}};
      for (int id : node.inputs) {
        step.needed.push_back(depends(id) ? id : -1);
        if (depends(id)) to_output[slot(id)] = 1;
      }
      steps_.push_back(std::move(step));
    }
  }

  std::vector<Var<T, Device>> outputs_, inputs_;
  Tape<T, Device>* tape_ = nullptr;
  std::vector<Step> steps_;
  std::vector<char> keep_;
  int first_ = 0, end_ = 0;
  bool many_;
};

struct GradOptions {
  bool create_graph = false;  ///< record the gradient's computation, so that it can be differentiated again
  bool keep_graph = false;    ///< keep what operations saved, for another call of grad (implied by create_graph)
};

/// The gradient of a scalar with respect to each of `inputs`: zero where it does not depend on one.
/// Frees the graph it went through unless told to keep it. Throws Error when y is not a single number.
template <class T, class D>
std::vector<Var<T, D>> grad(const Var<T, D>& y, const std::vector<Var<T, D>>& inputs, GradOptions options = {}) {
  require(y.size() == 1, "grad", "expected a scalar to differentiate, got shape ", y.shape());
  return Pullback<T, D>({y}, inputs)({Tensor<T, D>(y.shape(), T{1})}, options.create_graph,
                                     !options.create_graph && !options.keep_graph);
}

/// cotangentᵀ ∂y/∂x for each x of `inputs`. The graph is kept.
template <class T, class D>
std::vector<Var<T, D>> vjp(const Var<T, D>& y, const std::vector<Var<T, D>>& inputs, const Var<T, D>& cotangent,
                           bool create_graph = false) {
  return Pullback<T, D>({y}, inputs)({cotangent}, create_graph);
}

/// ∂y/∂x · tangent, as the derivative of the vector-Jacobian product with respect to its cotangent. The graph is kept.
template <class T, class D>
Var<T, D> jvp(const Var<T, D>& y, const Var<T, D>& x, const Var<T, D>& tangent, bool create_graph = false) {
  require(x.tape() != nullptr, "jvp", "expected an input on a tape");
  require(tangent.shape() == x.shape(), "jvp", "expected a tangent of shape ", x.shape(), ", got ", tangent.shape());
  Tape<T, D>& tape = *x.tape();
  const typename Tape<T, D>::Use use("jvp", &tape);
  require(tape.recording(), "jvp", "the tape is paused: the product is found by recording another");
  const int mark = tape.size();
  const Var<T, D> cotangent = tape.leaf(Tensor<T, D>(y.shape(), T{0}));
  const Var<T, D> product = Pullback<T, D>({y}, {x})({cotangent}, true).front();
  Var<T, D> out = product.tape() ? Pullback<T, D>({product}, {cotangent})({tangent}, create_graph).front()
                                 : Var<T, D>(Tensor<T, D>(y.shape(), T{0}));
  if (!create_graph) {
    out = stop_gradient(out);
    tape.truncate(mark);
  }
  return out;
}

}  // namespace settle
