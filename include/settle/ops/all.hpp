#pragma once
#include <concepts>

#include "settle/ops/attention.hpp"
#include "settle/ops/concat.hpp"
#include "settle/ops/constants.hpp"
#include "settle/ops/conv_transpose.hpp"
#include "settle/ops/convolution.hpp"
#include "settle/ops/elements.hpp"
#include "settle/ops/gather.hpp"
#include "settle/ops/linear_map.hpp"
#include "settle/ops/map.hpp"
#include "settle/ops/matmul.hpp"
#include "settle/ops/order.hpp"
#include "settle/ops/pad.hpp"
#include "settle/ops/pool.hpp"
#include "settle/ops/reduce.hpp"
#include "settle/ops/reshape.hpp"
#include "settle/ops/resize.hpp"
#include "settle/ops/roi_align.hpp"
#include "settle/ops/scan.hpp"
#include "settle/ops/slice.hpp"
#include "settle/ops/stack.hpp"
#include "settle/ops/transpose.hpp"

namespace settle::inline v0_2 {

template <class T = double, class Device = Cpu>
class OpSamples;  // ops/samples.hpp

/// What the list below asks of an op: a name, and samples that the tests check its values and its gradients with.
template <class Op>
concept SampledOp = requires(OpSamples<>& s) {
  { Op::name } -> std::convertible_to<const char*>;
  Op::samples(s);
};

template <SampledOp... Op>
struct OpList {
  /// Calls f(Op{}) for each op.
  template <class F>
  static void for_each(F&& f) {
    (f(Op{}), ...);
  }
};

/// All ops. Adding one means adding its file, and its name here: an op without samples does not compile.
using AllOps = OpList<MapOp, SumOp, BroadcastOp, MeanOp, MaxOp, LogsumexpOp, LogSoftmaxOp, SoftmaxOp,  //
                      ConvOp, ConvInputGradOp, ConvWeightGradOp, ConvTransposeOp, MatmulOp,            //
                      ReshapeOp, TransposeOp, SliceOp, EmbedOp, PadOp, ConcatOp, StackOp,   //
                      GatherOp, ScatterAddOp, LinearMapOp, MaxPoolOp, AveragePoolOp, ResizeOp,  //
                      RoiAlignOp, MinOp, VarOp, ProdOp, CumsumOp, SortOp, TopKOp, GatherElementsOp,  //
                      ScatterElementsOp, ScatterAddElementsOp, BorderPadOp, AdaptiveAveragePoolOp,   //
                      AdaptiveMaxPoolOp, AttentionOp>;

}  // namespace settle
