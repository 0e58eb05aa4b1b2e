#pragma once
#include <array>
#include <string_view>
#include <vector>

#include "settle/core/shape.hpp"
#include "settle/nn/conv_norm.hpp"
#include "settle/nn/gala_hgru.hpp"
#include "settle/nn/recurrent_net.hpp"

namespace settle::inline v0_2 {

/// The trunk: residual stages res2 ... res5 with strides 4, 8, 16, 32.
struct ResnetOptions {
  std::array<Index, 4> blocks{3, 4, 6, 3};
  bool bottleneck = true;     ///< blocks of 1 x 1, 3 x 3, 1 x 1 convolutions; false: of two 3 x 3
  Index stem_channels = 64;   ///< of the 7 x 7 convolution
  Index channels = 256;       ///< res2 gives; doubled in each further stage
  Index squeeze = 4;          ///< how many times fewer a bottleneck has inside
  bool stride_in_1x1 = true;  ///< where a bottleneck strides: MSRA's weights have it so, torchvision's in the 3 x 3
  Index freeze_at = 2;        ///< stages that are not trained: 0 none, 1 the stem, 2 res2 too, ... 5 all
  NormOptions norm{NormKind::frozen_batch};
  Index image_channels = 3;

  /// A ResNet of 18, 34, 50 or 101 layers. Throws Error for another depth.
  static ResnetOptions of_depth(Index depth) {
    ResnetOptions out;
    switch (depth) {
      case 18:
        out.blocks = {2, 2, 2, 2};
        break;
      case 34:
      case 50:
        out.blocks = {3, 4, 6, 3};
        break;
      case 101:
        out.blocks = {3, 4, 23, 3};
        break;
      default:
        fail("resnet", "expected a depth of 18, 34, 50 or 101, got ", depth);
    }
    if (depth < 50) out.bottleneck = false, out.channels = 64;
    return out;
  }
};

/// How the state of a recurrent part is trained.
enum class RecurrentTraining {
  bptt,  ///< back-propagation through time
  rbp,   ///< recurrent back-propagation
  cbp    ///< the same with the Lipschitz coefficient penalty: C-RBP
};
using MaskTraining = RecurrentTraining;

/// A recurrent part: its cell, and how long and by which gradient its state settles.
struct RecurrenceOptions {
  RecurrentTraining training = RecurrentTraining::cbp;
  int steps = 20;        ///< in training, and at test unless test_steps says otherwise
  int test_steps = 0;    ///< 0: as in training
  int terms = 15;        ///< of the Neumann series, rbp and cbp
  bool norm_cap = true;  ///< the released stop rule of the series (fixed_point::ReleasedNeumann); false: all terms
  double penalty_weight = 0.001, penalty_threshold = 0.95;  ///< XI and TAU
  Index kernel = 3;
  bool gala = true, less_softplus = true;
  Index groups = 32;  ///< of the cell's group norms
  Initialisation initialisation = Initialisation::released;

  int steps_at_test() const { return test_steps > 0 ? test_steps : steps; }

  /// A cell's options whose state and drive have `in` channels.
  GalaHgruOptions cell(Index in) const { return {in, kernel, gala, less_softplus, groups, steps, initialisation}; }

  /// How the state is trained, as RecurrentNet's run() takes it. An adjoint without the cap is the plain series of
  /// `terms` terms; the penalty is summed over all elements.
  Training policy() const {
    namespace fp = fixed_point;
    if (training == RecurrentTraining::bptt) return Bptt{.steps = steps};
    fp::Options options{.stop = fp::Steps{.count = steps}, .on_fail = fp::OnFail::report, .check_adjoint = false};
    if (norm_cap)
      options.adjoint = fp::ReleasedNeumann{.terms = terms, .rejected = fp::Rejected::continue_};
    else
      options.adjoint = fp::Terms{terms};
    if (training == RecurrentTraining::cbp)
      options.penalty = fp::Lcp{.lambda = penalty_threshold, .reduction = fp::Reduction::sum};
    return Rbp{options};
  }
};

/// The feature pyramid p2 ... p5, and p6 for the proposals.
struct FpnOptions : RecurrenceOptions {
  Index channels = 256;
  NormOptions norm{};
  bool recurrent = false;  ///< an hGRU (HgruV2Cell) with a group norm behind it in the place of each lateral 1 x 1
                           ///< convolution; less_softplus and initialisation have no effect
};

/// Proposals of regions.
struct ProposalOptions {
  std::vector<double> anchor_sizes{32, 64, 128, 256, 512};  ///< one for each of p2 ... p6
  std::vector<double> anchor_ratios{0.5, 1, 2};             ///< height / width
  double anchor_offset = 0;
  double background_below = 0.3, object_from = 0.7;  ///< intersection over union with truth; between them: either
  Index batch = 256;                                 ///< anchors of an image that the loss is of
  double positive_share = 0.5;                       ///< of them at most
  double smooth_l1_beta = 0;
  Index before_nms_train = 2000, before_nms_test = 1000;  ///< of each level
  Index after_nms_train = 1000, after_nms_test = 1000;    ///< of all levels
  double nms_threshold = 0.7;
};

/// Classes and boxes of regions.
struct BoxHeadOptions {
  Index pool = 7;       ///< bins of a region, down and across
  Index hidden = 1024;  ///< of two fully connected layers
  Index batch = 512;    ///< regions of an image that the loss is of
  double positive_share = 0.25;
  double object_from = 0.5;  ///< intersection over union with truth
  double smooth_l1_beta = 0;
  double least_score = 0.05, nms_threshold = 0.5;  ///< of detections
  Index detections = 100;                          ///< of an image at most
};

/// Masks of regions.
struct MaskHeadOptions : RecurrenceOptions {
  bool recurrent = true;                     ///< an hGRU in the place of the convolutions
  Index pool = 14;                           ///< bins of a region; masks are twice as large
  Index channels = 256;                      ///< of the convolutions and of the upsampling
  Index convolutions = 4;                    ///< without recurrence
  NormOptions output_norm{NormKind::batch};  ///< behind the recurrence's last step
};

/// Stuff of each pixel.
struct SemanticHeadOptions : RecurrenceOptions {
  Index channels = 128;
  NormOptions norm{NormKind::group};
  double loss_weight = 0.5;
  bool recurrent = false;  ///< an hGRU on the sum of the levels, with a norm as the convolutions' behind it
};

/// A Panoptic FPN: sizes and topology, how it is trained and what it makes of an image. Defaults are detectron2's for
/// COCO with a ResNet-50 and the C-RBP mask head.
struct PanopticFpnOptions {
  Index things = 80, stuff = 53;                              ///< classes
  std::array<double, 3> pixel_mean{123.675, 116.28, 103.53};  ///< red, green, blue, of 0 ... 255
  std::array<double, 3> pixel_deviation{1, 1, 1};
  bool blue_first = true;      ///< the trunk's weights expect blue, green, red, as MSRA's do
  Index canonical_size = 224;  ///< side of the boxes that are pooled from p4
  ResnetOptions resnet{};
  FpnOptions fpn{};
  ProposalOptions proposals{};
  BoxHeadOptions box{};
  MaskHeadOptions mask{};
  SemanticHeadOptions semantic{};

  /// The defaults.
  static PanopticFpnOptions full() { return {}; }

  /// The same graph for images of about 96 x 96 pixels, trained from scratch on a CPU: three things, three kinds of
  /// stuff.
  static PanopticFpnOptions tiny() {
    PanopticFpnOptions o;
    o.things = o.stuff = 3;
    o.pixel_deviation = {58.395, 57.12, 57.375};
    o.blue_first = false;
    o.canonical_size = 96;
    o.resnet = {.blocks = {1, 1, 1, 1},
                .stem_channels = 16,
                .channels = 32,
                .squeeze = 2,
                .stride_in_1x1 = false,
                .freeze_at = 0,
                .norm = {NormKind::group, 8}};
    o.fpn.channels = 32;
    o.proposals.anchor_sizes = {10, 20, 40, 80, 120};
    o.proposals.batch = 64;
    o.proposals.before_nms_train = o.proposals.before_nms_test = 150;
    o.proposals.after_nms_train = o.proposals.after_nms_test = 60;
    o.box.hidden = 128;
    o.box.batch = 32;
    o.mask.channels = 32;
    o.mask.steps = 8;
    o.semantic.channels = 32;
    return o;
  }

  /// "full" or "tiny". Throws Error for another name.
  static PanopticFpnOptions preset(std::string_view name) {
    require(name == "full" || name == "tiny", "panoptic_fpn", "expected the preset full or tiny, got ", name);
    return name == "full" ? full() : tiny();
  }
};

}  // namespace settle
