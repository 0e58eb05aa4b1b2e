#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "settle/io/config.hpp"
#include "settle/optim/adam.hpp"
#include "settle/optim/schedule.hpp"
#include "settle/optim/sgd.hpp"

namespace settle::inline v0_2 {

/// Which optimiser updates the parameters. What does not belong to its kind is not looked at.
struct OptimiserOptions {
  std::string kind = "adam";
  double rate = 1e-3;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = 0;
  std::vector<std::string> no_decay = {};      ///< patterns of parameters' names
  std::vector<std::string> rate_factors = {};  ///< "pattern=factor"

  void each(auto&& visit) {
    using namespace allowed;
    visit("optimiser.kind", kind, one_of({"adam", "adamw", "sgd"}), "how a step is made of a gradient", OnResume::kept);
    visit("optimiser.rate", rate, above(0), "the learning rate, after the warm-up");
    visit("optimiser.beta1", beta1, between(0, 0.999999), "Adam: memory of the gradient");
    visit("optimiser.beta2", beta2, between(0, 0.999999999), "Adam: memory of its square");
    visit("optimiser.epsilon", epsilon, above(0), "Adam: added to the square's root");
    visit("optimiser.momentum", momentum, between(0, 0.999999), "SGD: memory of the gradient");
    visit("optimiser.nesterov", nesterov, anything(), "SGD: Nesterov's momentum");
    visit("optimiser.weight_decay", weight_decay, at_least(0), "pull of the parameters towards 0");
    visit("optimiser.no_decay", no_decay, anything(), "patterns of the names that it does not pull: [\"*bn*\"]");
    visit("optimiser.rate_factors", rate_factors, anything(), "other rates by name: [\"conv0.*=0.1\"]");
  }

  /// The groups that no_decay and rate_factors make. Throws UsageError for a text that is no pattern=factor.
  std::vector<ParameterGroup> groups() const {
    std::vector<ParameterGroup> out;
    for (const std::string& text : rate_factors) {
      const std::size_t equals = text.rfind('=');
      char* end = nullptr;
      const double factor = equals == std::string::npos ? -1 : std::strtod(text.c_str() + equals + 1, &end);
      if (!(factor >= 0) || !end || *end != '\0' || end == text.c_str() + equals + 1)
        throw UsageError("[config] optimiser.rate_factors: expected \"pattern=factor\", got \"" + text + "\"");
      out.push_back({.pattern = text.substr(0, equals), .rate_factor = factor});
    }
    for (ParameterGroup& group : out)
      for (const std::string& pattern : no_decay)
        if (pattern == group.pattern) group.weight_decay = 0;
    for (const std::string& pattern : no_decay) out.push_back({.pattern = pattern, .weight_decay = 0});
    return out;
  }
};

/// The learning rate's way from its first value, as a share of it, over the training.
struct ScheduleOptions {
  std::string kind = "constant";
  Index warm_up = 0;      ///< steps
  double final_rate = 0;  ///< at the end, as a share of the rate: cosine and linear
  Index period = 1000;    ///< steps
  double factor = 0.1;
  std::vector<Index> milestones = {};  ///< steps, in place of the period

  void each(auto&& visit) {
    using namespace allowed;
    visit("schedule.kind", kind, one_of({"constant", "cosine", "linear", "step"}), "how the rate falls");
    visit("schedule.warm_up", warm_up, at_least(0), "steps in which it rises to its full value");
    visit("schedule.final", final_rate, between(0, 1), "cosine, linear: its end, as a share of the full rate");
    visit("schedule.period", period, at_least(1), "step: after so many steps it falls");
    visit("schedule.factor", factor, above(0), "step: by this factor");
    visit("schedule.milestones", milestones, at_least(0), "step: it falls at these steps instead");
  }

  /// The rate at a step (counted from 0) when `progress` (0 to 1) of the training is done, as a share of the full one.
  double share(Index step, double progress) const {
    double out = 1;
    if (kind == "cosine") out = half_cosine(1, final_rate, progress);
    if (kind == "linear") out = 1 + (final_rate - 1) * std::min(1.0, progress);
    if (kind == "step") {
      detail::require_steps("period", period, 1);
      const auto passed = std::count_if(milestones.begin(), milestones.end(), [&](Index m) { return m <= step; });
      out = std::pow(factor, static_cast<double>(milestones.empty() ? step / period : passed));
    }
    return step < warm_up ? out * static_cast<double>(step + 1) / static_cast<double>(warm_up) : out;
  }
};

/// What the loop does.
struct TrainerOptions {
  Index batch = 8;  ///< of all ranks
  Index accumulate = 1;  ///< batches whose gradients' mean makes a step
  Index steps = 0;       ///< the end, whichever comes first; 0: no such end
  double epochs = 0, minutes = 0;
  double clip = 0;  ///< the largest global norm of the gradient; 0: any
  double ema = 0;   ///< decay of the averaged weights, which then are validated; 0: none
  Index validate_every = 100, checkpoint_every = 100;
  Index patience = 0;  ///< validations without a better score after which training ends; 0: it does not
  Index top_k = 0;     ///< of the best states of validations, so many are kept beside best.safetensors
  std::uint64_t seed = 1;
  int workers = 1;
  double deadline = 0;   ///< seconds that ranks wait for one another; 0: a minute, or 20 times the longest step where
                         ///< that is more, and a quarter of an hour for the first one and for validations
  bool together = true;  ///< several ranks: batch statistics, stop rules and penalties are those of the whole batch
  OptimiserOptions optimiser = {};
  ScheduleOptions schedule = {};

  void each(auto&& visit) {
    using namespace allowed;
    visit("train.batch", batch, at_least(1), "samples in a batch", OnResume::kept);
    visit("train.accumulate", accumulate, at_least(1), "batches whose mean gradient makes a step", OnResume::kept);
    visit("train.steps", steps, at_least(0), "end after so many steps; 0: no such end");
    visit("train.epochs", epochs, at_least(0), "end after so many rounds through the data; 0: no such end");
    visit("train.minutes", minutes, at_least(0), "end after so much time; 0: no such end");
    visit("train.clip", clip, at_least(0), "largest norm of the gradient; 0: any");
    visit("train.ema", ema, between(0, 0.999999), "decay of averaged weights; 0: none", OnResume::kept);
    visit("train.validate_every", validate_every, at_least(1), "steps between validations");
    visit("train.checkpoint_every", checkpoint_every, at_least(1), "steps between checkpoints");
    visit("train.patience", patience, at_least(0), "end after so many validations without a better score; 0: no");
    visit("train.top_k", top_k, at_least(0), "further checkpoints kept, those of the best validations");
    visit("train.seed", seed, at_least(0), "names all random numbers", OnResume::kept);
    visit("train.workers", workers, between(1, 1024), "threads that read and transform samples");
    visit("train.deadline", deadline, at_least(0), "seconds that ranks wait for each other; 0: by the steps' time");
    visit("train.together", together, anything(), "ranks: batch statistics are all ranks'; false: each one's own",
          OnResume::kept);
    optimiser.each(visit), schedule.each(visit);
  }

  /// Throws UsageError for a value out of the table's range, and where nothing would end the training.
  void check() const {
    TrainerOptions copy = *this;
    Config(copy).check();
    if (!(steps > 0 || epochs > 0 || minutes > 0))
      throw UsageError("[config] expected an end of the training: train.steps, train.epochs or train.minutes");
    optimiser.groups();
  }
};

/// An optimiser of a kind chosen at run time.
template <Scalar T, class Device = Cpu>
class Optimiser {
 public:
  explicit Optimiser(const OptimiserOptions& o = {}) {
    if (o.kind == "sgd") {
      chosen_ = Sgd<T, Device>({.rate = o.rate,
                                .momentum = o.momentum,
                                .weight_decay = o.weight_decay,
                                .nesterov = o.nesterov,
                                .groups = o.groups()});
    } else {
      const auto adam = [&]<class A>(A) {
        return A({.rate = o.rate,
                  .beta1 = o.beta1,
                  .beta2 = o.beta2,
                  .epsilon = o.epsilon,
                  .weight_decay = o.weight_decay,
                  .groups = o.groups()});
      };
      if (o.kind == "adam") chosen_ = adam(Adam<T, Device>());
      if (o.kind == "adamw") chosen_ = adam(AdamW<T, Device>());
    }
  }

  void set_rate(double rate) {
    std::visit([&](auto& o) { o.options.rate = rate; }, chosen_);
  }
  template <class M>
  void step(M& module, const std::vector<Var<T, Device>>& gradients) {
    std::visit([&](auto& o) { o.step(module, gradients); }, chosen_);
  }
  NamedTensors<T, Device> state() const {
    return std::visit([](const auto& o) { return o.state(); }, chosen_);
  }
  template <class M>
  void restore(const NamedTensors<T, Device>& state, M& module) {
    std::visit([&](auto& o) { o.restore(state, module); }, chosen_);
  }

 private:
  std::variant<Adam<T, Device>, AdamW<T, Device>, Sgd<T, Device>> chosen_;
};

}  // namespace settle
