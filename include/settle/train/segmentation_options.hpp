#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "settle/core/random.hpp"
#include "settle/data/image_folder.hpp"
#include "settle/data/pathfinder_folder.hpp"
#include "settle/data/transforms.hpp"
#include "settle/nn/released_models.hpp"
#include "settle/train/trainer_options.hpp"

namespace settle::inline v0_2 {

/// Everything that a training of the library's nets on images with a class for each pixel may be told: the table that
/// settle_train's configuration follows.
struct SegmentationOptions {
  struct Model {
    std::string kind = "hgru";
    Index kernel = 15, orientations = 12;
    std::string initialisation = "corrected";
    double norm_weight = 0.1;  ///< of the hGRU cell's batch norms at the start
    double foreground = 0.5;   ///< the share of pixels that the read-out expects of class 1 at the start
    Index stride = 1;          ///< of the stem: the recurrent layers work on an image so many times smaller
    bool unit_stem = false;    ///< the stem's brightness filter has the norm of the others at the start
    std::string readout = "pixels";
  } model;

  struct Algorithm {
    std::string kind = "crbp";
    int steps = 20;
    std::string stop = "steps", forward = "plain", adjoint = "neumann", penalty = "lcp", on_fail = "report";
    std::string adjoint_state = "full";
    double rtol = 1e-3, damping = 0, adjoint_rtol = 0.1, worth = 0;
    int products = 15;
    double penalty_weight = 10, lambda = 0.9;
    bool two_sided = true;
    int recorded = 0;
    bool every_step = false;
    std::string weighting = "fixed";
    double settle_from = 1, settle_damping = 0.3, movement_weight = 0.6;
    int more_steps = 0;
    double mixing = 0.5;
  } algorithm;

  struct Loss {
    double gamma = 2;
    std::vector<double> class_weights;
  } loss;

  struct Data {
    std::string kind = "folder";
    std::string task = "segmentation";
    std::string folder, images = "images", masks = "labels", list;
    Index channels = 1;
    std::vector<std::string> classes;
    std::string ignore, on_corrupt = "error";
    double consensus = 0.5;
    Index boundary_radius = 0;
    Index validation = 0, held_out = 0;
    double cache_megabytes = 1024;
    std::vector<Index> curriculum;
    double curriculum_share = 0.2;
    Index count = 0, size = 150, window = 0, contour_length = 14, distractors = 15, distractor_length = 0;
    double thickness = 1.5;
    Index resize = 0, crop = 0;
    std::string flip = "none";
    bool rotate90 = false;
    double rotate = 0, least_scale = 1, most_scale = 1, brightness = 0, contrast = 0;
    std::vector<double> mean, deviation;
  } data;

  Index evaluation_batch = 1;
  bool watch_jacobian = false;
  bool control = false;  ///< a feed-forward net is trained in the same way, for comparison
  int threads = 0;
  Index shards = 0;
  TrainerOptions train;

  /// The table.
  void each(auto&& visit) {
    constexpr OnResume kept = OnResume::kept;
    using namespace allowed;
    const Allowed any = anything();
    visit("model.kind", model.kind,
          one_of({"hgru", "conv_lstm", "conv_gru", "fgru", "spectral", "global_conv", "feed_forward"}), "the net",
          kept);
    visit("model.kernel", model.kernel, odd(), "side of its convolutions", kept);
    visit("model.orientations", model.orientations, between(1, 1024), "of the stem; 2 n + 1 channels", kept);
    visit("model.initialisation", model.initialisation, one_of({"released", "corrected"}), "hGRU: gates' biases", kept);
    visit("model.norm_weight", model.norm_weight, above(0), "hGRU: batch norms' weights at the start", kept);
    visit("model.foreground", model.foreground, between(1e-6, 1 - 1e-6), "two classes: share of class 1 expected",
          kept);
    visit("model.unit_stem", model.unit_stem, any, "the stem's brightness filter as strong as the others", kept);
    visit("model.stride", model.stride, between(1, 64), "after the stem: layers work on so many times smaller images",
          kept);
    visit("model.readout", model.readout, one_of({"pixels", "image"}), "a class for each pixel, or one for the image",
          kept);

    auto& a = algorithm;
    visit("algorithm.kind", a.kind, one_of({"bptt", "cbptt", "rbp", "crbp", "reversible", "uoro"}),
          "how recurrent nets are trained");
    visit("algorithm.steps", a.steps, between(1, 1e6), "applications of the cell");
    visit("algorithm.stop", a.stop, one_of({"steps", "residual"}), "rbp, crbp: all steps, or until the state settles");
    visit("algorithm.rtol", a.rtol, between(0, 1), "residual at which a state counts as settled");
    visit("algorithm.forward", a.forward, one_of({"plain", "anderson", "broyden"}), "rbp, crbp: how steps are taken");
    visit("algorithm.damping", a.damping, between(0, 0.999), "plain: share of the old state");
    visit("algorithm.adjoint", a.adjoint,
          one_of({"auto", "neumann", "terms", "gmres", "bicgstab", "normal_cg", "anderson", "phantom", "checkpointed",
                  "released"}),
          "rbp, crbp: how the gradient's system is solved");
    visit("algorithm.products", a.products, between(0, 1e6), "the adjoint's largest number of products");
    visit("algorithm.adjoint_rtol", a.adjoint_rtol, between(0, 1), "the adjoint's tolerance");
    visit("algorithm.worth", a.worth, at_least(0),
          "adjoint auto: solved no further than to so many times the state's residual; 0: to its tolerance");
    visit("algorithm.adjoint_state", a.adjoint_state, one_of({"full", "first_part"}), "parts of the state it couples");
    visit("algorithm.penalty", a.penalty, one_of({"lcp", "spectral", "hutchinson"}), "cbptt, crbp: what is penalised");
    visit("algorithm.penalty_weight", a.penalty_weight, at_least(0), "in the objective");
    visit("algorithm.lambda", a.lambda, at_least(0), "what the penalty allows");
    visit("algorithm.two_sided", a.two_sided, any, "lcp: on both sides of 0");
    visit("algorithm.weighting", a.weighting, one_of({"fixed", "gated", "dual"}),
          "crbp: the penalty's weight; gated: the task waits for the penalty; dual: follows the spectral radius");
    visit("algorithm.recorded", a.recorded, between(0, 1e6), "bptt: the last so many steps are recorded; 0: all");
    visit("algorithm.every_step", a.every_step, any, "bptt: the loss is the mean over the recorded steps");
    visit("algorithm.mixing", a.mixing, between(1e-6, 0.999), "reversible: share of the new state");
    visit("algorithm.settle_from", a.settle_from, between(0, 1), "crbp: the share of training before it settles");
    visit("algorithm.more_steps", a.more_steps, between(0, 1e6), "settling: up to so many further steps, at random");
    visit("algorithm.settle_damping", a.settle_damping, between(0, 0.999), "settling, test: share of the old state");
    visit("algorithm.movement_weight", a.movement_weight, at_least(0), "settling: price of what moves at the end");
    visit("algorithm.on_fail", a.on_fail, one_of({"report", "throw", "drop_sample", "unroll"}), "a solve that fails");

    visit("loss.gamma", loss.gamma, at_least(0), "focal loss; 0: cross-entropy");
    visit("loss.class_weights", loss.class_weights, at_least(0), "one for each class; none: all 1");

    auto& d = data;
    visit("data.kind", d.kind, one_of({"folder", "bsds500", "pathfinder", "pathfinder_folder"}), "the data set", kept);
    visit("data.task", d.task, one_of({"segmentation", "same_contour"}),
          "pathfinder: the marked contour, or whether two marks are on one contour", kept);
    visit("data.folder", d.folder, any, "where it is");
    visit("data.images", d.images, any, "folder: its folder of images", kept);
    visit("data.masks", d.masks, any, "folder: its folder of masks", kept);
    visit("data.list", d.list, any, "pathfinder_folder: its list of images", kept);
    visit("data.channels", d.channels, between(1, 3), "folder, bsds500: 1 grey, 3 colour", kept);
    visit("data.classes", d.classes, any, "folder: masks' value of each class, \"255\" or \"#ff0000\"", kept);
    visit("data.ignore", d.ignore, any, "folder: masks' value where nothing is known", kept);
    visit("data.on_corrupt", d.on_corrupt, one_of({"error", "skip"}), "folder: a file that cannot be read", kept);
    visit("data.consensus", d.consensus, between(1e-6, 1),
          "bsds500: share of annotators that makes a boundary; where some but fewer have one nothing is known", kept);
    visit("data.boundary_radius", d.boundary_radius, between(0, 100), "bsds500: pixels around a mark that are boundary",
          kept);
    visit("data.validation", d.validation, at_least(0), "images that choose the best checkpoint", kept);
    visit("data.held_out", d.held_out, at_least(0), "images for the final scores: the last ones", kept);
    visit("data.cache_megabytes", d.cache_megabytes, at_least(0), "images kept in memory");
    visit("data.count", d.count, at_least(0), "pathfinder: training images; 0: each is new", kept);
    visit("data.size", d.size, at_least(1), "pathfinder: height and width", kept);
    visit("data.window", d.window, at_least(0), "pathfinder: side of the canvas; 0: twice the size", kept);
    visit("data.contour_length", d.contour_length, at_least(1), "pathfinder: dashes", kept);
    visit("data.curriculum", d.curriculum, at_least(1), "pathfinder: the dashes that training starts with", kept);
    visit("data.curriculum_share", d.curriculum_share, between(0, 1), "of the training, for each of these", kept);
    visit("data.distractors", d.distractors, at_least(0), "pathfinder: short contours", kept);
    visit("data.distractor_length", d.distractor_length, at_least(0), "pathfinder: their dashes; 0: a third", kept);
    visit("data.thickness", d.thickness, above(0), "pathfinder: of the strokes", kept);
    visit("data.resize", d.resize, at_least(0), "all images to this height and width; 0: as they are", kept);
    visit("data.crop", d.crop, at_least(0), "training sees windows of this side; 0: whole images", kept);
    visit("data.flip", d.flip, one_of({"none", "horizontal", "vertical", "both"}), "mirrored at random", kept);
    visit("data.rotate90", d.rotate90, any, "turned by quarters at random", kept);
    visit("data.rotate", d.rotate, between(0, 180), "turned by up to so many degrees", kept);
    visit("data.least_scale", d.least_scale, above(0), "scaled at random, from", kept);
    visit("data.most_scale", d.most_scale, above(0), "to", kept);
    visit("data.brightness", d.brightness, at_least(0), "shifted at random by up to", kept);
    visit("data.contrast", d.contrast, between(0, 1), "its factor varied by up to", kept);
    visit("data.mean", d.mean, any, "subtracted from each channel; none: 0", kept);
    visit("data.deviation", d.deviation, above(0), "each channel is divided by; none: 1", kept);

    visit("evaluation.batch", evaluation_batch, at_least(1), "images at once: batch norm takes their statistics", kept);
    visit("evaluation.jacobian", watch_jacobian, any, "validations measure the step's Jacobian too");
    visit("control.feed_forward", control, any, "train a feed-forward net too, for comparison");
    visit("machine.threads", threads, between(0, 4096), "that compute; 0: one for each processor of the rank");
    visit("machine.shards", shards, between(0, 65536), "ranks, the same bits on any number of processes; 0: those", kept);
    train.each(visit);
  }

  /// Throws UsageError for options that do not go together.
  void check() const {
    const auto expect = [](bool good, const std::string& text) {
      if (!good) throw UsageError("[config] " + text);
    };
    train.check();
    expect(data.kind == "pathfinder" || !data.folder.empty(), "expected data.folder for data.kind " + data.kind);
    expect(data.kind != "pathfinder_folder" || !data.list.empty(),
           "expected data.list for data.kind pathfinder_folder");
    expect(data.kind != "bsds500" || data.resize == 0,
           "data.kind bsds500 is scored at its images' own size: expected data.resize 0");
    expect(data.channels != 2, "data.channels: expected 1 or 3, got 2");
    expect(data.least_scale <= data.most_scale, "expected data.least_scale of at most data.most_scale");
    expect(algorithm.kind != "cbptt" || algorithm.penalty == "lcp", "algorithm.kind cbptt takes the penalty lcp only");
    const bool implicit = algorithm.kind == "rbp" || algorithm.kind == "crbp";
    const bool without_products =
        algorithm.adjoint == "terms" || algorithm.adjoint == "checkpointed" || algorithm.adjoint == "released";
    expect(!implicit || algorithm.products >= 1 || (without_products && algorithm.settle_from == 1),
           "algorithm.products: expected at least 1 for algorithm.adjoint " +
               (without_products ? "gmres, by which a training settles" : algorithm.adjoint) + ", got 0");
    expect(
        !implicit || algorithm.adjoint != "checkpointed" || (algorithm.stop == "steps" && algorithm.forward == "plain"),
        "algorithm.adjoint checkpointed needs algorithm.stop steps and algorithm.forward plain");
    expect(algorithm.kind != "crbp" || algorithm.penalty != "spectral" || algorithm.lambda > 0,
           "algorithm.penalty spectral: expected algorithm.lambda above 0, got 0");
    expect((data.task == "same_contour") == (model.readout == "image") || data.kind != "pathfinder",
           "data.task same_contour and model.readout image go together");
    expect(algorithm.recorded <= algorithm.steps, "expected algorithm.recorded of at most algorithm.steps");
    expect(data.curriculum.empty() || (train.steps > 0 && data.kind == "pathfinder"),
           "data.curriculum needs data.kind pathfinder and an end by train.steps");
    expect(static_cast<double>(data.curriculum.size()) * data.curriculum_share <= 1,
           "data.curriculum_share: the parts of the curriculum take more than the whole training");
    expect(algorithm.settle_from == 1 || train.steps > 0, "algorithm.settle_from needs an end by train.steps");
    expect(loss.class_weights.empty() || static_cast<Index>(loss.class_weights.size()) == classes(),
           "loss.class_weights: expected a weight for each of the " + std::to_string(classes()) + " classes");
    for (const auto& [name, list] : {std::pair{"data.mean", &data.mean}, std::pair{"data.deviation", &data.deviation}})
      expect(list->size() <= 1 || static_cast<Index>(list->size()) == image_channels(),
             std::string(name) + ": expected a number for each of the " + std::to_string(image_channels()) +
                 " channels, or one for all");
  }

  Index image_channels() const { return data.kind == "folder" || data.kind == "bsds500" ? data.channels : 1; }
  Index classes() const {
    return data.kind == "folder" && !data.classes.empty() ? static_cast<Index>(data.classes.size()) : 2;
  }

  ModelOptions model_options() const {
    return {.kernel = model.kernel,
            .orientations = model.orientations,
            .seed = train.seed,
            .initialisation = model.initialisation == "released" ? Initialisation::released : Initialisation::corrected,
            .image_channels = image_channels(),
            .classes = classes()};
  }

  Training policy() const;
  /// How training step `step` is differentiated, and the weight of its penalty.
  std::pair<Training, double> policy_at(Index step) const;
  /// The share of the old state with which the trained net is run.
  double test_damping() const { return algorithm.settle_from < 1 ? algorithm.settle_damping : algorithm.damping; }
};

inline Training SegmentationOptions::policy() const {
  namespace fp = fixed_point;
  const Algorithm& a = algorithm;
  fp::Penalty penalty = fp::NoPenalty{};
  if (a.kind.starts_with('c')) {
    if (a.penalty == "lcp") penalty = fp::Lcp{.lambda = a.lambda, .two_sided = a.two_sided};
    if (a.penalty == "spectral") penalty = fp::SpectralHinge{.target = a.lambda};
    if (a.penalty == "hutchinson") penalty = fp::Hutchinson{};
  }
  if (a.kind == "reversible") return Reversibly{{.steps = a.steps, .mixing = a.mixing}};
  if (a.kind == "uoro") return Online{{.steps = a.steps}};
  if (a.kind.ends_with("bptt"))
    return Bptt{.steps = a.steps, .penalty = penalty, .recorded = a.recorded, .every_step = a.every_step};
  fp::Options out{.penalty = penalty};
  if (a.stop == "steps")
    out.stop = fp::Steps{.count = a.steps, .rtol = a.rtol};
  else
    out.stop = fp::Residual{.rtol = a.rtol, .max_steps = a.steps};
  if (a.forward == "plain") out.forward = fp::Plain{.damping = a.damping};
  if (a.forward == "anderson") out.forward = fp::Anderson{};
  if (a.forward == "broyden") out.forward = fp::Broyden{};
  const int products = a.products;
  const double rtol = a.adjoint_rtol;
  if (a.adjoint == "auto")
    out.adjoint.emplace<fp::Auto>(fp::Auto{.first = {.max_products = products, .rtol = rtol},
                                           .then = {.max_products = products, .rtol = rtol},
                                           .worth = a.worth});
  if (a.adjoint == "neumann") out.adjoint = fp::Neumann{.max_products = products, .rtol = rtol};
  if (a.adjoint == "terms") out.adjoint = fp::Terms{.count = products};
  if (a.adjoint == "gmres") out.adjoint = fp::Gmres{.max_products = products, .rtol = rtol};
  if (a.adjoint == "bicgstab") out.adjoint = fp::BiCgStab{.max_products = products, .rtol = rtol};
  if (a.adjoint == "normal_cg") out.adjoint = fp::NormalCg{.max_products = products, .rtol = rtol};
  if (a.adjoint == "anderson") out.adjoint = fp::AdjointAnderson{.solver = {}, .max_products = products, .rtol = rtol};
  if (a.adjoint == "phantom") out.adjoint = fp::Phantom{.steps = products};
  if (a.adjoint == "checkpointed") out.adjoint = fp::Checkpointed{};
  if (a.adjoint == "released") out.adjoint = fp::ReleasedNeumann{.terms = products};
  if (a.adjoint_state == "first_part") out.adjoint_state = fp::AdjointState::first_part;
  if (a.on_fail == "report") out.on_fail = fp::OnFail::report;
  if (a.on_fail == "throw") out.on_fail = fp::OnFail::throw_error;
  if (a.on_fail == "drop_sample") out.on_fail = fp::OnFail::drop_sample;
  if (a.on_fail == "unroll") out.on_fail = fp::OnFail::unroll;
  return Rbp{out};
}

/// In the last part, from settle_from on, a net that can do the task learns to stay where it has arrived
/// (docs/fixed_point.md, "How to make a net settle"): another number of steps each time, so that it can rely on none;
/// damped; and a price on what still moves, less after fewer steps, as a mark on its way must move. The adjoint is
/// solved by GMRES there, as damped steps may settle where the series diverges.
inline std::pair<Training, double> SegmentationOptions::policy_at(Index step) const {
  namespace fp = fixed_point;
  const Algorithm& a = algorithm;
  Training out = policy();
  if (auto* online = std::get_if<Online>(&out))
    online->options.seed = Random(train.seed, static_cast<std::uint64_t>(step)).bits();
  const bool settles =
      a.settle_from < 1 && static_cast<double>(step) >= a.settle_from * static_cast<double>(train.steps);
  if (!settles || !std::holds_alternative<Rbp>(out)) return {out, a.penalty_weight};
  fp::Options& options = std::get<Rbp>(out).options;
  Random random(train.seed, static_cast<std::uint64_t>(step));
  const auto more = static_cast<int>(random.below(a.more_steps + 1));
  options.forward = fp::Plain{.damping = a.settle_damping};
  options.stop = fp::Steps{.count = a.steps + more, .rtol = a.rtol};
  options.adjoint = fp::Gmres{.restart = std::max(1, a.products), .max_products = a.products, .rtol = a.adjoint_rtol};
  options.penalty = fp::Movement{};
  return {out, a.more_steps > 0 ? a.movement_weight * more / a.more_steps : a.movement_weight};
}

}  // namespace settle
