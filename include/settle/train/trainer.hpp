#pragma once
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "settle/autodiff/grad.hpp"
#include "settle/core/hash.hpp"
#include "settle/core/threads.hpp"
#include "settle/data/loader.hpp"
#include "settle/distributed/all_reduce.hpp"
#include "settle/distributed/together.hpp"
#include "settle/io/modules.hpp"
#include "settle/optim/clip.hpp"
#include "settle/train/exit_codes.hpp"
#include "settle/train/machine.hpp"
#include "settle/train/metrics_log.hpp"
#include "settle/train/progress.hpp"
#include "settle/train/run_folder.hpp"
#include "settle/train/stop_signals.hpp"
#include "settle/train/trainer_options.hpp"

namespace settle::inline v0_2 {

/// What a loss function gives to the trainer: what is to be made small, and figures and words for the metrics, which
/// are asked for after the backward pass.
template <class V>
struct Objective {
  V value;
  std::function<Figures()> figures = {};
  std::function<Words()> words = {};
};

/// Why a training ended.
enum class TrainingEnd {
  budget,      ///< the steps, epochs or minutes are used up
  early_stop,  ///< the score had not improved for as long as was allowed
  preempted    ///< it was told to stop
};

inline const char* name(TrainingEnd end) {
  constexpr const char* names[] = {"budget", "early stop", "preempted"};
  return names[static_cast<int>(end)];
}

/// Gives a module the weights of a trainer's checkpoint: the averaged ones where it has them. Throws Error where they
/// are another model's.
template <class Net>
void load_checkpoint(const std::filesystem::path& path, Net& net) {
  const SafetensorsFile file = read_safetensors(path);
  const bool averaged = std::any_of(file.names.begin(), file.names.end(),
                                    [](const std::string& name) { return name.starts_with("ema."); });
  load_module(file, averaged ? "ema." : "net.", net);
}

/// The training loop. A user gives the net, a data set, and a function that makes a loss of them:
///
///     Trainer trainer(net, {.steps = 1000}, "out/run");
///     trainer.train(data, [](auto& model, const auto& batch) {
///       return cross_entropy(model(Var(batch.image)), batch.target);
///     });
///
/// model is a copy of the net on a tape; where the net has buffers (running statistics), those of the copy are taken
/// over. The loss function must give the same for the same model and batch; it may return an Objective to add figures
/// to the metrics.
///
/// A checkpoint holds all that the next step depends on: a training that goes on from one takes the same steps, bit for
/// bit, as one that was not stopped (unless its end is a time: then the rate follows the clock). A state is only saved
/// once a loss and a gradient of it were found finite: so there is always a checkpoint that can be gone on with, were
/// it the one of step 0.
///
/// With the ranks of a group each rank has a net, and its share of each batch, as share_of cuts it: a loss that is a mean
/// over its samples becomes that of the whole batch. All start from what rank 0 has, which alone writes to the folder;
/// gradients are summed over the ranks, so that all take the same step, and a training may go on with another number of
/// ranks. Signals on any rank stop all after the same step. An error on one rank ends all of them: see Group::abandon.
template <class Net, Scalar T = float, class Device = Cpu>
class Trainer {
 public:
  using V = Var<T, Device>;
  using Batch = BatchOf<T, Device>;

  /// How samples are changed before they make a batch.
  std::vector<Transform> transforms;
  /// Scores of a net on data that it is not trained on; the first chooses the best checkpoint, the larger the better.
  std::function<Figures(const Net&)> validate;
  /// Whether to stop after the step, beside SIGINT and SIGTERM.
  std::function<bool()> stop_asked = [] { return false; };
  /// How much of the budget is used, 0 to 1, where the options do not say it all: a training that ends with another.
  std::function<double()> budget_used = [] { return 0.0; };
  /// Added to each checkpoint.
  std::map<std::string, std::string> metadata;
  bool show_progress = true;
  /// Steps between comparisons of the ranks' weights, at least 1, which throw Error where they are not the same bits.
  Index compare_every = 100;
  /// Whether the data set is gone through in another order in each epoch, or in its own.
  bool shuffle = true;
  /// Samples in an epoch, where batches come from elsewhere (train_on); 0: there are no epochs.
  Index epoch_size = 0;

  /// Trains in memory, without a folder.
  Trainer(Net& net, const TrainerOptions& options, const distributed::Group& ranks = {})
      : Trainer(net, options, std::shared_ptr<RunFolder>(), false, ranks) {}

  /// Trains in a run folder of its own. Errors as below.
  Trainer(Net& net, const TrainerOptions& options, const std::filesystem::path& folder, bool resume = false)
      : Trainer(net, options, std::make_shared<RunFolder>(folder), resume) {}

  /// Trains in a run folder, from its last checkpoint where there is one and `resume` is set. Throws UsageError where a
  /// new training finds a checkpoint, and Error where one is damaged or another model's; the folder then stays as it
  /// is. Of several ranks only rank 0 has a folder.
  Trainer(Net& net, const TrainerOptions& options, std::shared_ptr<RunFolder> folder, bool resume,
          const distributed::Group& ranks = {})
      : net_(net), options_(options), folder_(std::move(folder)), ranks_(ranks), optimiser_(options.optimiser) {
    options_.check();
    if (options_.ema > 0) ema_ = net_;
    telling_all([&] {
      if (options_.batch < ranks_.size())
        throw UsageError("[config] train.batch: expected at least a sample for each of the " +
                         std::to_string(ranks_.size()) + " ranks, got " + std::to_string(options_.batch));
      require(!folder_ || ranks_.rank() == 0, "train", "expected a run folder on rank 0 alone");
      if (folder_) open_folder(resume);
      if (ranks_.size() > 1) take_from_first_rank();
    });
  }
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  const TrainerOptions& options() const { return options_; }
  Index step() const { return step_; }  ///< steps taken so far
  /// The time spent on training so far, that before a checkpoint included.
  double seconds() const { return seconds_before_ + std::chrono::duration<double>(Clock::now() - start_).count(); }
  /// How much of the budget is used, 0 to 1.
  double progress() const {
    double out = budget_used();
    const auto use = [&](double now, double end) {
      if (end > 0) out = std::max(out, now / end);
    };
    use(static_cast<double>(step_), static_cast<double>(options_.steps));
    use(ranks_.size() == 1 ? seconds() : seconds_agreed_, 60 * options_.minutes);
    if (epoch_size > 0)
      use(static_cast<double>(step_ * options_.accumulate * options_.batch),
          options_.epochs * static_cast<double>(epoch_size));
    return out;
  }
  std::optional<double> best_score() const { return best_score_; }
  Index best_step() const { return best_step_; }
  const Figures& validation() const { return validation_; }  ///< the last one's

  /// Trains on a data set to the end of the budget, or until told to stop.
  template <class Loss>
  TrainingEnd train(const DataSet& data, Loss&& loss) {
    using Staged = BatchOf<T, typename Device::Staging>;
    const LoaderOptions loading{.batch = options_.batch,
                                .seed = options_.seed,
                                .shuffle = shuffle,
                                .shard = ranks_.rank(),
                                .shards = ranks_.size(),
                                .transforms = transforms,
                                .workers = options_.workers};
    const auto stage = [](settle::Batch batch) {
      if constexpr (std::same_as<T, float>)
        return to<typename Device::Staging>(batch);
      else
        return Staged{to<typename Device::Staging>(cast<T>(batch.image)),
                      to<typename Device::Staging>(cast<T>(batch.target)),
                      to<typename Device::Staging>(cast<T>(batch.ignore))};
    };
    Loader<Staged> loader(data, loading, stage, step_ * options_.accumulate);
    epoch_size = data.size();
    return train_on([&] { return to<Device>(loader.next()); }, loss);
  }

  /// Trains on batches of any kind: next() gives them in order, from number step() · accumulate on, and of each one this
  /// rank's share.
  template <class Next, class Loss>
  TrainingEnd train_on(Next&& next, Loss&& loss) {
    return telling_all([&] { return train_to_end(next, loss); });
  }

  /// Gives the net the weights of the best validation, or the last ones where there was none.
  void load_best() {
    telling_all([&] {
      require(folder_ || ranks_.rank() > 0, "train", "the best weights are kept in a run folder, and there is none");
      if (folder_) load_checkpoint(folder_->checkpoint(best_score_ ? "best" : "last"), net_);
      if (ranks_.size() > 1) take_net(net_);
    });
  }

 private:
  template <class Next, class Loss>
  TrainingEnd train_to_end(Next& next, Loss& loss) {
    if (compare_every < 1)
      throw UsageError("[train] compare_every: expected at least 1, got " + std::to_string(compare_every));
    StopSignals signals;
    MemoryOf<Device>::instance().reset_peak();
    start_ = Clock::now();
    const Index first = step_;
    std::optional<TrainingEnd> end;
    while (!(end = reached_end())) take_step(next, loss, first);
    if (step_ > first && *end != TrainingEnd::preempted && validated_step_ != step_) run_validation();
    if (step_ > first) {
      Net carried = net_;  // thrown away: what is saved has not seen this batch
      forward(carried, next(), loss, [](auto&&...) {});
      last_due_ = true;
    }
    save();
    wait_at_most(900);
    if (show_progress && step_ > first) show(first, true);
    if (folder_) record(step_ - first);
    seconds_before_ = seconds(), start_ = Clock::now();
    return *end;
  }

  using Clock = std::chrono::steady_clock;
  static constexpr const char* program = "settle trainer 1";

  std::optional<TrainingEnd> reached_end() const {
    if (progress() >= 1) return TrainingEnd::budget;
    if (options_.patience > 0 && since_best_ >= options_.patience) return TrainingEnd::early_stop;
    if (ranks_.size() == 1 ? stops_here() : stop_agreed_) return TrainingEnd::preempted;
    return {};
  }
  bool stops_here() const { return StopSignals::asked() || stop_asked(); }

  /// The loss on one batch; use(part, reached, objective, model) while its tape is there: what this rank is to
  /// differentiate, and the loss of all ranks. `carried` takes over the model's buffers.
  template <class B, class Loss, class Use>
  void forward(Net& carried, const B& batch, Loss& loss, const Use& use) {
    const distributed::Share mine = distributed::share_of(options_.batch, ranks_);
    const distributed::Together together(options_.together ? distributed::JoinedBatch{ranks_, mine}
                                                           : distributed::JoinedBatch{});
    Tape<T, Device> tape;
    Net model = on_tape(carried, tape);
    Objective<V> objective = [&] {
      const MemoryTag tag("forward pass");
      return as_objective(loss(model, batch));
    }();
    const double reached = agree(mine.weight() * static_cast<double>(objective.value.item()));
    if (!std::isfinite(reached)) blame_operation(carried, batch, loss);
    if constexpr (requires { model.buffers([](const std::string&, V&) {}); }) {
      std::vector<V> values;
      model.buffers([&](const std::string&, const V& v) { values.push_back(stop_gradient(v)); });
      auto value = values.begin();
      carried.buffers([&](const std::string&, V& v) { v = *value++; });
    }
    use(mine.of(objective.value), reached, objective, model);
  }

  /// The sum over the ranks; and they agree on all else that a step's end depends on.
  double agree(double own) {
    if (ranks_.size() == 1) return own;
    std::array<double, 3> told{own, stops_here() ? 1.0 : 0.0, ranks_.rank() == 0 ? seconds() : 0.0};
    distributed::sum_over_ranks(std::span<double>(told), ranks_);
    stop_agreed_ = told[1] > 0, seconds_agreed_ = told[2];
    return told[0];
  }

  template <class Next, class Loss>
  void take_step(Next& next, Loss& loss, Index first) {
    const auto begun = Clock::now();
    std::vector<V> gradients;
    Net carried = net_;
    double mean_loss = 0;
    Figures figures;
    Words words;
    const double share = 1 / static_cast<double>(options_.accumulate);
    for (Index k = 0; k < options_.accumulate; ++k)
      forward(carried, next(), loss, [&](const V& part, double reached, const Objective<V>& objective, Net& model) {
        const MemoryTag tag("backward pass");
        std::vector<V> own = grad(part, parameters<V>(model));
        mean_loss += share * reached;
        if (objective.figures) figures = objective.figures();
        if (objective.words) words = objective.words();
        for (std::size_t i = 0; i < own.size(); ++i)
          own[i] = options_.accumulate == 1 ? own[i] : share * stop_gradient(own[i]);
        for (std::size_t i = 0; i < gradients.size(); ++i) gradients[i] = gradients[i] + stop_gradient(own[i]);
        if (gradients.empty()) gradients = std::move(own);
      });
    for (V& gradient : gradients) gradient = stop_gradient(gradient);
    gradients = distributed::all_reduce(gradients, ranks_);
    const double norm = options_.clip > 0 ? clip_global_norm(gradients, options_.clip) : global_norm(gradients);
    if (!std::isfinite(norm)) blame_gradient(gradients);
    save();  // if it is time: this state is healthy, as a loss and a gradient of it are finite

    const double rate = options_.optimiser.rate * options_.schedule.share(step_, progress());
    optimiser_.set_rate(rate);
    net_ = std::move(carried);
    {
      const MemoryTag tag("parameters and optimiser");
      optimiser_.step(net_, gradients);
      if (ema_) average();
    }
    ++step_;
    last_due_ = last_due_ || step_ % options_.checkpoint_every == 0;

    shown_ = {{"loss", mean_loss}};
    shown_.insert(shown_.end(), figures.begin(), figures.end());
    if (metrics_) {
      Json line{{"step", step_}, {"loss", mean_loss}};
      for (const auto& [name, value] : figures) line[name] = value;
      for (const auto& [name, word] : words) line[name] = word;
      line["gradient_norm"] = norm, line["rate"] = rate, line["seconds"] = seconds();
      metrics_->add(line);
    }
    if (ranks_.size() > 1 && step_ % compare_every == 0) compare_weights();
    if (step_ % options_.validate_every == 0) run_validation();
    if (show_progress) show(first, false);
    const double took = std::chrono::duration<double>(Clock::now() - begun).count();
    longest_step_ = std::max(longest_step_, took);
    wait_at_most(std::max(60.0, 20 * longest_step_));
  }

  void wait_at_most(double seconds) {
    ranks_.patience(std::chrono::duration<double>(options_.deadline > 0 ? options_.deadline : seconds));
  }

  void run_validation() {
    if (!validate) return;
    wait_at_most(900);
    validation_ = validate(ema_ ? *ema_ : net_);
    validated_step_ = step_;
    require(!validation_.empty(), "train", "expected a validation to give at least one score");
    if (ranks_.size() > 1)
      for (auto& [name, score] : validation_)
        ranks_.broadcast(std::as_writable_bytes(std::span(&score, 1)));
    if (metrics_) {
      Json scores = Json::object();
      for (const auto& [name, value] : validation_) scores[name] = value;
      metrics_->add({{"step", step_}, {"validation", scores}, {"seconds", seconds()}});
      metrics_->flush();
    }
    const double score = validation_.front().second;
    ++since_best_;
    if (!best_score_ || score > *best_score_)
      best_score_ = score, best_step_ = step_, since_best_ = 0, best_due_ = true;
    if (options_.top_k > 0) {
      top_.emplace(score, step_);
      while (static_cast<Index>(top_.size()) > options_.top_k) top_.erase(top_.begin());
      top_due_ = std::any_of(top_.begin(), top_.end(), [&](const auto& kept) { return kept.second == step_; });
    }
    last_due_ = last_due_ || best_due_ || top_due_;
  }

  void average() {
    std::vector<V> now = parameters<V>(net_);
    auto value = now.begin();
    ema_->parameters([&](const std::string&, V& v) {
      v = map([](auto old, auto p, auto kept, auto part) { return kept * old + part * p; }, v, *value++, options_.ema,
              1 - options_.ema);
    });
    if constexpr (requires { net_.buffers([](const std::string&, V&) {}); }) {
      std::vector<V> buffers;
      net_.buffers([&](const std::string&, V& v) { buffers.push_back(v); });
      auto buffer = buffers.begin();
      ema_->buffers([&](const std::string&, V& v) { v = *buffer++; });
    }
  }

  void show(Index first, bool last) {
    if (ranks_.rank() > 0) return;
    Figures figures = shown_;
    for (const auto& [name, value] : validation_) figures.emplace_back("validation " + name, value);
    const double spent = std::chrono::duration<double>(Clock::now() - start_).count();
    if (spent > 0)
      figures.emplace_back("images/s",
                           static_cast<double>((step_ - first) * options_.batch * options_.accumulate) / spent);
    progress_.show(progress(), seconds(), step_, figures, last);
  }

  // --- ranks -------------------------------------------------------------------------------------

  /// Does something; an exception is told to all ranks.
  template <class F>
  auto telling_all(const F& f) {
    try {
      return f();
    } catch (const std::exception& error) {
      ranks_.abandon(error.what());
      throw;
    }
  }

  /// What has to be the same on all ranks for them to do the same.
  std::string conditions() {
    const Json told{{"options", Config(options_).json()},
                    {"threads that compute", ThreadPool::instance().size()},
                    {"parameters", parameter_names(net_)},
                    {"bytes of a number", sizeof(T)}};
    return told.dump();
  }

  /// All ranks go on from what the first one has. Throws Error where they are not told the same.
  void take_from_first_rank() {
    wait_at_most(900);
    const std::string own = conditions(), wanted = distributed::text_of(own, ranks_);
    if (own != wanted) {
      const auto differs = std::mismatch(own.begin(), own.end(), wanted.begin(), wanted.end()).first - own.begin();
      const auto begin = static_cast<std::size_t>(std::max<std::ptrdiff_t>(0, differs - 60));
      fail("train", "expected the same options and threads on all ranks, got on rank ", ranks_.rank(), " \"...",
           own.substr(begin, 100), "...\" and on rank 0 \"...", wanted.substr(begin, 100), "...\"");
    }
    NamedTensors<T, Device> optimiser = optimiser_.state();
    Json head{{"state", state()}, {"optimiser", Json::array()}};
    for (const auto& [name, tensor] : optimiser)
      head["optimiser"].push_back({name, std::vector<Index>(tensor.shape().begin(), tensor.shape().end())});
    head = Json::parse(distributed::text_of(head.dump(), ranks_));
    if (ranks_.rank() > 0) {
      take(head["state"]);
      optimiser.clear();
      for (const Json& entry : head["optimiser"]) {
        Shape shape;
        for (const Json& extent : entry[1]) shape.append(extent.get<Index>());
        optimiser.emplace_back(entry[0].get<std::string>(), Tensor<T, Device>(shape));
      }
    }
    take_net(net_);
    if (ema_) take_net(*ema_);
    for (auto& [name, tensor] : optimiser) tensor = of_first_rank(tensor);
    if (ranks_.rank() > 0 && !optimiser.empty()) optimiser_.restore(optimiser, net_);
  }

  Tensor<T, Device> of_first_rank(const Tensor<T, Device>& own) const {
    Tensor<T, Cpu> values = to<Cpu>(own);
    ranks_.broadcast(
        std::as_writable_bytes(std::span(values.mutable_data(), static_cast<std::size_t>(values.size()))));
    return to<Device>(values);
  }
  void take_net(Net& net) const {
    visit_state(net, [&](const std::string&, V& v) { v = of_first_rank(v.value()); });
  }

  /// Throws Error on all ranks unless they have the same weights: where they do not, a machine is at fault, or code that
  /// draws other numbers on each rank.
  void compare_weights() const {
    std::uint64_t mine = 0;
    Net net = net_;
    net.parameters([&](const std::string&, const V& v) {
      const Tensor<T, Cpu> values = to<Cpu>(v.value());
      const std::string_view bytes(reinterpret_cast<const char*>(values.data()), values.bytes());
      mine = 31 * mine + detail::hash(bytes);
    });
    const auto all = distributed::gather_numbers(std::span<const std::uint64_t>(&mine, 1), ranks_);
    for (std::size_t r = 1; r < all.size(); ++r)
      require(all[r] == all[0], "train", "after step ", step_, " the weights of rank ", r, " are not those of rank 0");
  }

  // --- checkpoints -------------------------------------------------------------------------------

  /// What the report says of the machine and the memory, of the last sitting.
  void record(Index steps) const {
    if (steps == 0) return;
    const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    Json out{{"command", command_line()},
             {"seed", options_.seed},
             {"parameters", parameter_count(net_)},
             {"images_per_second", static_cast<double>(steps * options_.batch * options_.accumulate) / seconds},
             {"seconds_per_step", seconds / static_cast<double>(steps)},
             {"machine", machine(std::same_as<Device, Cpu> ? "cpu" : "cuda")}};
    const auto& memory = MemoryOf<Device>::instance();
    out["memory"] = Json{{"peak_bytes", memory.use().peak}, {"tags", Json::object()}};
    for (const auto& [name, use] : memory.use_by_tag())
      if (use.peak > 0) out["memory"]["tags"][name] = use.peak;
    write_json(folder_->training_record(), out);
  }

  std::string top_name(Index step) const { return "step_" + std::to_string(step); }

  /// What a training goes on from, beside tensors.
  Json state() const {
    Json out{{"step", step_},
             {"seconds", seconds()},
             {"best_score", best_score_ ? Json(*best_score_) : Json()},
             {"best_step", best_step_},
             {"since_best", since_best_},
             {"validated_step", validated_step_},
             {"top", Json::array()}};
    for (const auto& [score, step] : top_) out["top"].push_back({score, step});
    return out;
  }
  void take(const Json& from) {
    step_ = from.at("step").get<Index>();
    seconds_before_ = seconds_agreed_ = from.at("seconds").get<double>();
    if (!from.at("best_score").is_null()) best_score_ = from.at("best_score").get<double>();
    best_step_ = from.at("best_step").get<Index>();
    since_best_ = from.at("since_best").get<Index>();
    validated_step_ = from.at("validated_step").get<Index>();
    for (const Json& kept : from.at("top")) top_.emplace(kept.at(0).get<double>(), kept.at(1).get<Index>());
  }

  void open_folder(bool resume) {
    std::uintmax_t metrics_bytes = 0;
    if (std::filesystem::exists(folder_->checkpoint("last"))) {
      if (!resume)
        throw UsageError("[train] " + folder_->checkpoint("last").string() +
                         " is there already: go on with that training (resume), or choose another folder");
      metrics_bytes = restore();
    }
    metrics_.emplace(*folder_, metrics_bytes);
    last_due_ = last_due_ || step_ == 0;
  }

  /// Writes what is due of this state.
  void save() {
    if (!folder_ || !last_due_) return;
    SafetensorsWriter writer;
    writer.metadata = metadata;
    writer.metadata["program"] = program;
    Json now = state();
    now["metrics_bytes"] = metrics_->save();
    writer.metadata["trainer"] = now.dump();
    add_module(writer, "net.", net_);
    if (ema_) add_module(writer, "ema.", *ema_);
    add_tensors(writer, "optimiser.", optimiser_.state());
    writer.write(folder_->checkpoint("last"));
    if (best_due_) writer.write(folder_->checkpoint("best"));
    if (top_due_) writer.write(folder_->checkpoint(top_name(step_)));
    remove_old_tops();
    last_due_ = best_due_ = top_due_ = false;
  }

  void remove_old_tops() const {
    for (const auto& entry : std::filesystem::directory_iterator(folder_->checkpoints())) {
      const std::string stem = entry.path().stem().string();
      const bool kept =
          std::any_of(top_.begin(), top_.end(), [&](const auto& t) { return top_name(t.second) == stem; });
      std::error_code ignored;
      if (stem.starts_with("step_") && !kept) std::filesystem::remove(entry.path(), ignored);
    }
  }

  /// Takes everything back from the last checkpoint. Returns the size that the metrics had.
  std::uintmax_t restore() {
    const SafetensorsFile saved = read_safetensors(folder_->checkpoint("last"));
    const auto found = saved.metadata.find("program");
    require(found != saved.metadata.end() && found->second == program, "train", saved.path(),
            ": expected a trainer's checkpoint, found another file");
    require(ema_.has_value() == std::any_of(saved.names.begin(), saved.names.end(),
                                            [](const std::string& n) { return n.starts_with("ema."); }),
            "train", saved.path(), ": expected averaged weights where train.ema is above 0, and only there");
    load_module(saved, "net.", net_);
    if (ema_) load_module(saved, "ema.", *ema_);
    optimiser_.restore(load_tensors<T, Device>(saved, "optimiser."), net_);
    try {
      const Json known = Json::parse(saved.metadata.at("trainer"));
      take(known);
      // Written again, as a process may have been killed before it wrote them.
      best_due_ = best_score_ && best_step_ == step_;
      top_due_ = std::any_of(top_.begin(), top_.end(), [&](const auto& kept) { return kept.second == step_; });
      last_due_ = best_due_ || top_due_;
      return known.at("metrics_bytes").get<std::uintmax_t>();
    } catch (const std::exception& problem) {
      fail("train", saved.path(), ": the trainer's state is damaged: ", problem.what());
    }
  }

  // --- what is not finite ------------------------------------------------------------------------

  static bool is_finite(const Tensor<T, Device>& x) {
    std::vector<double> squares{0};
    if (x.size() > 0) Backend<Device>::add_dots(x.size(), x.data(), x.data(), squares);
    return std::isfinite(squares.front());
  }

  template <class... Parts>
  [[noreturn]] void diverge(const Parts&... parts) {
    std::ostringstream text;
    text << "[train] at step " << step_ + 1 << ": ";
    (text << ... << parts);
    if (folder_ && std::filesystem::exists(folder_->checkpoint("last")))
      text << ". The last healthy checkpoint is " << folder_->checkpoint("last").string()
           << ": go on from it with a smaller rate, or with clipping";
    throw Diverged(text.str());
  }

  /// Finds what made a loss that is not finite, and throws.
  template <class B, class Loss>
  [[noreturn]] void blame_operation(const Net& net, const B& batch, Loss& loss) {
    Net copy = net;
    copy.parameters([&](const std::string& name, const V& p) {
      if (!is_finite(p.value())) diverge("the parameter ", name, " is not finite");
    });
    if constexpr (requires { batch.image; })
      if (!is_finite(batch.image)) fail_data("train", "at step ", step_ + 1, ": the batch's images are not finite");
    std::ostringstream first;
    Tape<T, Device> tape;
    tape.watch = [&](const char* name, std::span<const Tensor<T, Device>> outputs) {
      for (const auto& output : outputs)
        if (first.view().empty() && !is_finite(output)) first << name << ' ' << output.shape();
    };
    Net model = on_tape(net, tape);
    const Objective<V> objective = as_objective(loss(model, batch));
    diverge("the loss is ", objective.value.item(), "; the first result that is not finite is that of ",
            first.view().empty() ? "an operation that was not recorded" : first.str());
  }

  [[noreturn]] void blame_gradient(const std::vector<V>& gradients) {
    const auto names = parameter_names(net_);
    for (std::size_t k = 0; k < gradients.size(); ++k)
      if (!is_finite(gradients[k].value())) diverge("the gradient of the parameter ", names[k], " is not finite");
    diverge("the gradient's norm is not finite");
  }

  static Objective<V> as_objective(Objective<V> objective) { return objective; }
  static Objective<V> as_objective(V value) { return {std::move(value)}; }

  Net& net_;
  TrainerOptions options_;
  std::shared_ptr<RunFolder> folder_;
  distributed::Group ranks_;
  Optimiser<T, Device> optimiser_;
  std::optional<Net> ema_;
  std::optional<MetricsLog> metrics_;
  Progress progress_;
  Index step_ = 0;
  double seconds_before_ = 0, seconds_agreed_ = 0, longest_step_ = 0;
  bool stop_agreed_ = false;
  Clock::time_point start_ = Clock::now();
  Figures shown_, validation_;
  std::optional<double> best_score_;
  Index best_step_ = 0, since_best_ = 0, validated_step_ = 0;
  std::multimap<double, Index> top_;  ///< score, step
  bool last_due_ = false, best_due_ = false, top_due_ = false;
};

template <class Net, class... Rest>
Trainer(Net&, const TrainerOptions&, Rest...) -> Trainer<Net>;

}  // namespace settle
