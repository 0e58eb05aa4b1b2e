#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "settle/core/tensor.hpp"

namespace settle::inline v0_2 {

template <class T, class Device>
class Tape;

/// A tensor, and its place on a tape if it has one. Operations on Vars record themselves on that tape; a Var without a
/// tape is a constant, and operations on constants record nothing.
template <class T, class Device = Cpu>
class Var {
 public:
  using value_type = T;
  using device_type = Device;

  /// Undefined: stands for "no gradient" or "not given".
  Var() = default;
  /// A constant.
  Var(Tensor<T, Device> value) : value_(std::move(value)), defined_(true) {}

  const Tensor<T, Device>& value() const { return value_; }
  const Shape& shape() const { return value_.shape(); }
  Index shape(int axis) const { return value_.shape(axis); }
  Index size() const { return value_.size(); }
  bool defined() const { return defined_; }
  /// The value of a tensor with exactly one element; throws otherwise.
  T item() const { return value_.item(); }

  /// The tape, or null for a constant.
  Tape<T, Device>* tape() const { return tape_; }
  /// The value's number on its tape, or -1.
  int id() const { return id_; }

 private:
  friend class Tape<T, Device>;
  Var(Tensor<T, Device> value, Tape<T, Device>* tape, int id, unsigned generation)
      : value_(std::move(value)), tape_(tape), id_(id), generation_(generation), defined_(true) {}

  Tensor<T, Device> value_;
  Tape<T, Device>* tape_ = nullptr;
  int id_ = -1;
  unsigned generation_ = 0;
  bool defined_ = false;
};

template <class T, class Device>
Var(Tensor<T, Device>) -> Var<T, Device>;

/// The same value as a constant: nothing flows back through it.
template <class T, class D>
Var<T, D> stop_gradient(const Var<T, D>& x) {
  return x.value();
}

/// What a rule of differentiation adds its results to: the cotangents of one recorded operation's inputs.
template <class T, class Device>
class Cotangents {
 public:
  virtual ~Cotangents() = default;
  /// Whether the cotangent of this input is wanted.
  virtual bool needs(std::size_t input) const = 0;
  /// Adds to the cotangent of an input.
  virtual void add(std::size_t input, const Var<T, Device>& cotangent) = 0;
  /// The tensor that this input's cotangent is summed in, when it may be written in place; null otherwise.
  virtual Tensor<T, Device>* in_place(std::size_t input) = 0;
  /// Where the operation may keep what its cotangents do not depend on, for further products with the same recorded
  /// operation and the same wanted inputs; null when none are expected.
  virtual std::shared_ptr<void>* kept() { return nullptr; }
};

/// The record of a computation, as a flat list of operations. Not copyable: Vars point to it, so it must outlive them.
/// It serves one thread at a time: recording, differentiating (though the graph is kept) or pausing it while another
/// thread does throws Error. Values may be read by any thread.
template <class T, class Device = Cpu>
class Tape {
 public:
  /// How an operation's cotangents become its inputs' cotangents. Written in terms of operations on Vars, so that it
  /// can be recorded and differentiated again. `cotangents` has one entry per output, undefined where nothing flowed
  /// back.
  struct Rule {
    virtual ~Rule() = default;
    virtual void pull(std::span<const Var<T, Device>> cotangents, Cotangents<T, Device>& inputs) const = 0;
  };

  struct Node {
    const char* name = "";
    std::vector<int> inputs;  ///< value numbers; -1 for constants
    int first_output = 0;
    int outputs = 0;
    std::unique_ptr<const Rule> rule;  ///< null for a leaf, and once freed
    bool freed = false;
    unsigned generation = 0;
  };

  /// Keeps a tape to this thread while it lives; throws Error where another thread has it. A null tape is allowed.
  class Use {
   public:
    Use(const char* where, Tape* tape) : tape_(tape) {
      if (tape_) tape_->enter(where);
    }
    ~Use() {
      if (tape_) tape_->leave();
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    Tape* tape_;
  };

  Tape() = default;
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// A value to differentiate with respect to.
  Var<T, Device> leaf(Tensor<T, Device> value) {
    std::vector<Tensor<T, Device>> outputs{std::move(value)};
    return append("leaf", {}, outputs, nullptr).front();
  }

  /// Whether operations are being recorded.
  bool recording() const { return paused_ == 0; }

  /// Forgets everything; Vars of this tape may still be read but not used in operations.
  void clear() { truncate(0); }

  /// The number of operations recorded so far: a mark to truncate to.
  int size() const { return static_cast<int>(nodes_.size()); }

  /// Forgets the operations after a mark; their Vars may still be read but not used in operations.
  void truncate(int mark) {
    const Use use("truncate", this);
    ++generation_;
    while (size() > mark) {
      producer_.resize(static_cast<std::size_t>(nodes_.back().first_output));
      nodes_.pop_back();
    }
  }

  /// The operation that made a value.
  int producer(int id) const { return producer_[static_cast<std::size_t>(id)]; }
  const Node& node(int k) const { return nodes_[static_cast<std::size_t>(k)]; }
  int values() const { return static_cast<int>(producer_.size()); }

  /// Drops what an operation keeps for its gradient.
  void free(int k) {
    Node& node = nodes_[static_cast<std::size_t>(k)];
    if (node.rule) {
      node.rule.reset();
      node.freed = true;
    }
  }

  /// If set, it is shown each operation's name and results before they are recorded: a way to find what went wrong.
  std::function<void(const char*, std::span<const Tensor<T, Device>>)> watch;

  /// Records an operation; used through `record` below.
  std::vector<Var<T, Device>> append(const char* name, std::vector<int> inputs,
                                     std::span<const Tensor<T, Device>> outputs, std::unique_ptr<const Rule> rule) {
    const Use use(name, this);
    if (watch) watch(name, outputs);
    Node node{name, std::move(inputs), values(), static_cast<int>(outputs.size()), std::move(rule), false,
              generation_};
    std::vector<Var<T, Device>> vars;
    for (const auto& value : outputs) {
      vars.push_back(Var<T, Device>(value, this, values(), generation_));
      producer_.push_back(size());
    }
    nodes_.push_back(std::move(node));
    return vars;
  }

  /// Throws unless the Var's record is still on this tape.
  void require_current(const char* where, const Var<T, Device>& v) const {
    require(v.id() < values() && node(producer(v.id())).generation == v.generation_, where,
            "a variable's tape was cleared since it was made");
  }

 private:
  template <class U, class D>
  friend class NoGrad;

  void enter(const char* where) {
    const std::thread::id me = std::this_thread::get_id();
    std::thread::id nobody;
    if (user_.load(std::memory_order_relaxed) != me)
      require(user_.compare_exchange_strong(nobody, me, std::memory_order_acquire), where,
              "another thread is using the tape, which serves one at a time: give each thread its own, or let it wait");
    ++uses_;
  }
  void leave() {
    if (--uses_ == 0) user_.store({}, std::memory_order_release);
  }

  std::vector<Node> nodes_;
  std::vector<int> producer_;
  unsigned generation_ = 0;
  int paused_ = 0;
  std::atomic<std::thread::id> user_{};
  int uses_ = 0;  ///< of the user's, one inside another
};

/// While it lives, operations on a tape's Vars are computed but not recorded: `NoGrad pause(tape);`.
template <class T, class Device = Cpu>
class NoGrad {
 public:
  explicit NoGrad(Tape<T, Device>& tape) : NoGrad(&tape) {}
  /// A null tape is allowed and does nothing.
  explicit NoGrad(Tape<T, Device>* tape) : use_("no_grad", tape), tape_(tape) {
    if (tape_) ++tape_->paused_;
  }
  ~NoGrad() {
    if (tape_) --tape_->paused_;
  }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  typename Tape<T, Device>::Use use_;
  Tape<T, Device>* tape_;
};

/// The tape that an operation on these inputs is recorded on: null when none of them is taped or recording is paused.
/// Throws Error when two inputs live on different tapes: a gradient would be lost silently otherwise.
template <class T, class D>
Tape<T, D>* recording_tape(const char* name, std::span<const Var<T, D>> inputs) {
  Tape<T, D>* tape = nullptr;
  for (const auto& v : inputs) {
    require(!tape || !v.tape() || tape == v.tape(), name, "the inputs are on two different tapes");
    if (v.tape()) tape = v.tape();
  }
  if (!tape) return nullptr;
  const typename Tape<T, D>::Use use(name, tape);
  for (const auto& v : inputs)
    if (v.tape()) tape->require_current(name, v);
  return tape->recording() ? tape : nullptr;
}

/// Records an operation with one or more outputs. `rule(cotangents, inputs)` is the vector-Jacobian product, in terms
/// of operations (see Tape::Rule). Returns the outputs as Vars, constants when nothing is recorded.
template <class T, class D, class Rule>
std::vector<Var<T, D>> record_outputs(const char* name, std::span<const Tensor<T, D>> outputs,
                                      std::span<const Var<T, D>> inputs, Rule&& rule) {
  Tape<T, D>* tape = recording_tape(name, inputs);
  if (!tape) return {outputs.begin(), outputs.end()};
  struct Recorded final : Tape<T, D>::Rule {
    explicit Recorded(Rule&& r) : rule(std::forward<Rule>(r)) {}
    void pull(std::span<const Var<T, D>> cotangents, Cotangents<T, D>& gradients) const override {
      rule(cotangents, gradients);
    }
    std::decay_t<Rule> rule;
  };
  std::vector<int> ids;
  for (const auto& v : inputs) ids.push_back(v.tape() ? v.id() : -1);
  return tape->append(name, std::move(ids), outputs, std::make_unique<Recorded>(std::forward<Rule>(rule)));
}

/// Records an operation with one output: `rule(cotangent, inputs)`.
template <class T, class D, class Rule>
Var<T, D> record(const char* name, const Tensor<T, D>& output, std::initializer_list<Var<T, D>> inputs, Rule&& rule) {
  return record_outputs<T, D>(name, std::span<const Tensor<T, D>>(&output, 1),
                              std::span<const Var<T, D>>(inputs.begin(), inputs.size()),
                              [rule = std::forward<Rule>(rule)](std::span<const Var<T, D>> cotangents,
                                                                Cotangents<T, D>& gradients) {
                                rule(cotangents[0], gradients);
                              })
      .front();
}

}  // namespace settle
