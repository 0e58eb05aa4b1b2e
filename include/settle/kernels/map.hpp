#pragma once
#include <algorithm>
#include <array>
#include <charconv>
#include <span>
#include <string>
#include <vector>

#include "settle/core/hash.hpp"
#include "settle/core/round_up.hpp"
#include "settle/expr/program.hpp"
#include "settle/kernels/fold.hpp"
#include "settle/kernels/print.hpp"

namespace settle::inline v0_2::kernels {

// A launch's arguments: the layout with all strides in 64 bits, and a pointer for each operand.
static_assert(8 * (3 + Shape::max_rank - 1 + 2 * expr::max_operands * (Shape::max_rank + 1)) <= 4096,
              "settle: a map of the most operands must fit into a kernel's arguments");

/// How an operand changes along the innermost axis: not at all, by one element, or by a stride.
enum class Step { none, one, strided };

/// What becomes of a result.
enum class Put { skip, assign, accumulate, sum };

/// How a map is cut and indexed.
struct MapOptions {
  Index chunk = 4096;                   ///< the most elements of the innermost axis for one block
  Index narrow_limit = Index{1} << 31;  ///< a space of this many elements has 64-bit positions
};

/// All that a map's text depends on; the extents are arguments of the launch.
struct MapForm {
  expr::Program lowered;  ///< with the results that are not skipped, in order
  int outer_axes = 0;
  bool wide = false;         ///< 64-bit positions
  std::vector<Step> inputs;  ///< of each input
  std::vector<Step> outputs;
  std::vector<Put> put;
};

namespace detail {

/// The operands whose strides the launch gives: all inputs, then the results that are written.
inline std::string operand_offset(const MapForm& form, std::size_t operand) {
  std::string out;
  for (int a = 0; a < form.outer_axes; ++a)
    out += (a ? " + i" : "i") + std::to_string(a) + " * at.stride[" + std::to_string(operand) + "][" +
           std::to_string(a) + "]";
  return out;
}

inline std::string element(const MapForm& form, Step step, std::size_t operand) {
  if (step == Step::none) return "[0]";
  if (step == Step::one) return "[i]";
  return "[i * at.stride[" + std::to_string(operand) + "][" + std::to_string(form.outer_axes) + "]]";
}

inline std::string map_body(const MapForm& form) {
  using std::to_string;
  const std::size_t n = form.inputs.size(), m = form.put.size();
  std::vector<bool> used(n);
  for (const expr::Instruction& i : form.lowered.code)
    if (i.operation == expr::Operation::input) used[static_cast<std::size_t>(i.input_number())] = true;
  const std::string axes = to_string(std::max(form.outer_axes, 1)), places = to_string(form.outer_axes + 1);
  std::string out;
  out += std::string("typedef ") + (form.wide ? "uint64" : "uint32") + " index;\n";
  out += "struct Layout { index inner, pieces, length, extent[" + axes + "], stride[" + to_string(n + m) + "][" +
         places + "]; };\n";
  out += "extern \"C\" __global__ void __launch_bounds__(256) $(const Layout at";
  for (std::size_t k = 0; k < n; ++k) out += used[k] ? ", const real* x" + to_string(k) : ", const real*";
  for (std::size_t r = 0; r < m; ++r)
    if (form.put[r] != Put::skip) out += (form.put[r] == Put::sum ? ", double* t" : ", real* y") + to_string(r);
  out += ") {\n";
  out += "  const index run = blockIdx.x / at.pieces, begin = blockIdx.x % at.pieces * at.length;\n";
  out += "  const index end = begin + at.length < at.inner ? begin + at.length : at.inner;\n";
  for (int a = form.outer_axes - 1; a >= 0; --a) {
    const std::string rest = a == form.outer_axes - 1 ? "run" : "rest" + to_string(a);
    const std::string here = "i" + to_string(a), extent = "at.extent[" + to_string(a) + "]";
    out += "  const index " + here + " = " + (a == 0 ? rest : rest + " % " + extent);
    if (a > 0) out += ", rest" + to_string(a - 1) + " = " + rest + " / " + extent;
    out += ";\n";
  }
  if (form.outer_axes == 0) out += "  (void)run;\n";
  for (std::size_t k = 0; k < n; ++k)
    if (used[k] && form.outer_axes > 0) out += "  x" + to_string(k) + " += " + operand_offset(form, k) + ";\n";
  for (std::size_t k = 0; k < n; ++k)  // the compiler must take them for changed by each write
    if (used[k] && form.inputs[k] == Step::none)
      out += "  const real c" + to_string(k) + " = x" + to_string(k) + "[0];\n";
  for (std::size_t r = 0; r < m; ++r) {
    if (form.put[r] == Put::sum)
      out += "  real total" + to_string(r) + " = 0;\n";
    else if (form.put[r] != Put::skip && form.outer_axes > 0)
      out += "  y" + to_string(r) + " += " + operand_offset(form, n + r) + ";\n";
  }
  out += "  for (index i = begin + threadIdx.x; i < end; i += blockDim.x) {\n";
  out += print(form.lowered, "    ", [&](int k) {
    const auto input = static_cast<std::size_t>(k);
    if (form.inputs[input] == Step::none) return "c" + to_string(k);
    return "x" + to_string(k) + element(form, form.inputs[input], input);
  });
  auto result = form.lowered.results.begin();
  for (std::size_t r = 0; r < m; ++r) {
    if (form.put[r] == Put::skip) continue;
    const std::string value = "v" + to_string(*result++);
    if (form.put[r] == Put::sum)
      out += "    total" + to_string(r) + " += " + value + ";\n";
    else
      out += "    y" + to_string(r) + element(form, form.outputs[r], n + r) +
             (form.put[r] == Put::accumulate ? " += " : " = ") + value + ";\n";
  }
  out += "  }\n";
  const bool sums = std::find(form.put.begin(), form.put.end(), Put::sum) != form.put.end();
  if (sums) out += "  __shared__ double shared[256];\n";
  for (std::size_t r = 0; r < m; ++r)
    if (form.put[r] == Put::sum) {
      const std::string k = to_string(r);
      out += "  const double sum" + k + " = combine_row<Sum>(double(total" + k + "), shared);\n";
      out += "  if (threadIdx.x == 0) t" + k + "[blockIdx.x] = sum" + k + ";\n";
    }
  return out += "}\n";
}

}  // namespace detail

/// The kernel of a form. Arguments: the layout, the inputs, and for each result that is wanted its tensor, or for a sum
/// a double for each block.
template <class T>
Kernel map_kernel(const MapForm& form) {
  const std::string body = detail::map_body(form);
  char name[24] = "map_";
  std::to_chars(name + 4, name + sizeof(name), settle::detail::hash(body), 16);
  return for_scalar<T>(name, body, {.registers = 168, .shared = 2048});
}

/// One pointwise evaluation, as launches: a map of chunks of the innermost axis, one block each, and for each result of
/// a smaller shape a fold of the blocks' sums. Sums are made in a fixed order, which no number of processors changes.
template <class T>
class Map {
 public:
  struct Result {
    Put put = Put::assign;  ///< assign or accumulate, to the shape or summed to it; or skip
    Shape shape;
  };

  /// Throws Error when there are too many operands, or the shapes do not broadcast to `space`.
  Map(const expr::Program& lowered, const Shape& space, std::span<const Shape> inputs, std::span<const Result> results,
      const MapOptions& options = {}) {
    require(inputs.size() <= expr::max_operands && results.size() <= expr::max_operands, "map",
            "a gradient of this order has ", inputs.size(), " inputs and ", results.size(), " results, more than ",
            expr::max_operands, "; split the map into two");
    // A result that varies along the innermost axis and is summed along another one is summed in a launch of its own,
    // with the axes in an order that suits it.
    std::vector<Result> first(results.begin(), results.end());
    for (std::size_t r = 0; r < results.size(); ++r) {
      if (results[r].put == Put::skip || results[r].shape.size() == space.size()) continue;
      const Order order = summed_last(space, results[r].shape);
      if (order.same) continue;
      std::vector<Result> only(results.size(), Result{Put::skip, {}});
      only[r] = results[r];
      first[r].put = Put::skip;
      plan(lowered, space, inputs, only, order, options);
    }
    plan(lowered, space, inputs, first, Order::unchanged(space.rank()), options);
  }

  /// The kernels, each once for each launch that it has.
  std::vector<Kernel> kernels() const {
    std::vector<Kernel> out;
    for (const Pass& pass : passes_) out.push_back(pass.kernel);
    out.push_back(fold_sums<T>());
    return out;
  }

  /// The doubles that run() needs for the blocks' sums.
  Index scratch() const { return scratch_; }

  /// Makes the launches: `launch(kernel, grid, arguments)`, the arguments as cudaLaunchKernel takes them. A result that
  /// is not wanted is null.
  template <class Launch>
  void run(Launch&& launch, std::span<const T* const> inputs, std::span<T* const> results, double* scratch) const {
    for (const Pass& pass : passes_) {
      std::vector<const void*> pointers;
      for (const T* x : inputs) pointers.push_back(x);
      for (std::size_t r = 0; r < results.size(); ++r)
        if (pass.put[r] == Put::sum)
          pointers.push_back(scratch + pass.scratch[r]);
        else if (pass.put[r] != Put::skip)
          pointers.push_back(results[r]);
      std::vector<void*> arguments{const_cast<void*>(pass.layout())};
      for (const void*& p : pointers) arguments.push_back(&p);
      if (pass.grid.blocks > 0) launch(pass.kernel, pass.grid, arguments.data());
      for (std::size_t r = 0; r < results.size(); ++r) {
        if (pass.put[r] != Put::sum) continue;
        Fold fold = pass.fold[r];
        const double* from = scratch + pass.scratch[r];
        T* to = results[r];
        void* fold_arguments[] = {&fold, &from, &to};
        if (fold.results > 0) launch(fold_, fold.grid(), fold_arguments);
      }
    }
  }

 private:
  /// The axes of the space from the outermost: places in the shape.
  struct Order {
    std::array<int, Shape::max_rank> axis{};
    bool same = true;

    static Order unchanged(int rank) {
      Order out;
      for (int a = 0; a < rank; ++a) out.axis[static_cast<std::size_t>(a)] = a;
      return out;
    }
  };

  static Index extent_of(const Shape& shape, int axis_from_the_end) {
    return axis_from_the_end <= shape.rank() ? shape[-axis_from_the_end] : 1;
  }

  /// The order with the axes that `to` is summed over innermost; the same order where the innermost axis longer than 1
  /// is one of them already.
  static Order summed_last(const Shape& space, const Shape& to) {
    Order out;
    std::size_t at = 0;
    const auto is_summed = [&](int a) { return space[a] != extent_of(to, space.rank() - a); };
    for (const bool summed : {false, true})
      for (int a = 0; a < space.rank(); ++a)
        if (is_summed(a) == summed) out.axis[at++] = a;
    int innermost = space.rank() - 1;
    while (innermost > 0 && space[innermost] == 1) --innermost;
    out.same = is_summed(innermost);
    return out;
  }

  struct Pass {
    Kernel kernel;
    Grid grid;
    std::vector<Put> put;
    std::vector<Index> scratch;
    std::vector<Fold> fold;
    std::vector<std::uint32_t> narrow;  ///< the layout, in the form's width
    std::vector<std::uint64_t> wide;

    const void* layout() const { return wide.empty() ? static_cast<const void*>(narrow.data()) : wide.data(); }
  };

  void plan(const expr::Program& lowered, const Shape& space, std::span<const Shape> inputs,
            const std::vector<Result>& results, const Order& order, const MapOptions& options) {
    if (std::all_of(results.begin(), results.end(), [](const Result& r) { return r.put == Put::skip; })) return;
    const std::size_t n = inputs.size(), m = results.size();
    MapForm form;
    std::vector<Shape> shapes(inputs.begin(), inputs.end());
    for (const Result& r : results) shapes.push_back(r.put == Put::skip ? space : r.shape);
    for (const Shape& s : shapes)
      require(broadcasts_to(s, space), "map", "shape ", s, " does not broadcast to ", space);
    const Axes axes = merged(space, shapes, order);

    Pass pass;
    pass.put.resize(m), pass.scratch.resize(m), pass.fold.resize(m);
    form.lowered = lowered;
    form.lowered.results.clear();
    for (std::size_t r = 0; r < m; ++r)
      if (results[r].put != Put::skip) form.lowered.results.push_back(lowered.results[r]);
    form.lowered = expr::compact(form.lowered);
    form.outer_axes = static_cast<int>(axes.extent.size()) - 1;
    const auto step = [&](std::size_t operand) {
      const Index stride = axes.stride[operand].back();
      return stride == 0 ? Step::none : stride == 1 ? Step::one : Step::strided;
    };
    for (std::size_t k = 0; k < n; ++k) form.inputs.push_back(step(k));
    for (std::size_t r = 0; r < m; ++r) {
      form.outputs.push_back(step(n + r));
      const bool summed = results[r].put != Put::skip && results[r].shape.size() != space.size();
      pass.put[r] = summed ? Put::sum : results[r].put;
    }
    form.put = pass.put;
    form.wide = space.size() >= options.narrow_limit;
    // Small spaces are cut finer, lest most processors idle; but sums are not to depend on the extent of the batch.
    const bool sums = std::find(form.put.begin(), form.put.end(), Put::sum) != form.put.end();
    const Index chunk = sums ? options.chunk : std::min(options.chunk, std::max<Index>(256, space.size() / 1024));
    const Index inner = axes.extent.back(), length = std::max<Index>(1, std::min(chunk, inner));
    const Index pieces = divide_up(inner, length);
    const Index runs = inner == 0 ? 0 : space.size() / inner, blocks = runs * pieces;
    pass.grid = {groups_of(1, blocks), 1, std::min(256u, std::max(32u, power_of_two_from((length + 3) / 4))), 1};

    for (std::size_t r = 0; r < m; ++r) {
      if (pass.put[r] != Put::sum) continue;
      pass.scratch[r] = scratch_;
      scratch_ += blocks;
      Fold& fold = pass.fold[r];
      Index from = blocks;
      for (std::size_t a = 0; a + 1 < axes.extent.size(); ++a) {
        from /= std::max<Index>(axes.extent[a], 1);
        if (const Index to = axes.stride[n + r][a])
          fold.keep(axes.extent[a], from, to);
        else
          fold.fold(axes.extent[a], from);
      }
      fold.fold(pieces, 1);
      fold.add = results[r].put == Put::accumulate;
    }

    std::vector<std::uint64_t> layout;
    const auto add = [&](Index value) { layout.push_back(static_cast<std::uint64_t>(value)); };
    add(inner), add(pieces), add(length);
    for (std::size_t a = 0; a + 1 < axes.extent.size(); ++a) add(axes.extent[a]);
    if (axes.extent.size() == 1) add(1);
    for (const auto& strides : axes.stride)
      for (const Index stride : strides) add(stride);
    if (form.wide)
      pass.wide = std::move(layout);
    else
      pass.narrow.assign(layout.begin(), layout.end());
    pass.kernel = map_kernel<T>(form);
    passes_.push_back(std::move(pass));
  }

  /// The axes of the space in an order, merged where every operand allows.
  struct Axes {
    std::vector<Index> extent;
    std::vector<std::vector<Index>> stride;  ///< of each operand
  };

  static Axes merged(const Shape& space, const std::vector<Shape>& operands, const Order& order) {
    const auto stride_of = [&](const Shape& shape, int axis) {
      const int from_the_end = space.rank() - axis;
      if (extent_of(shape, from_the_end) == 1) return Index{0};
      Index stride = 1;
      for (int a = 1; a < from_the_end; ++a) stride *= extent_of(shape, a);
      return stride;
    };
    Axes out;
    out.stride.resize(operands.size());
    for (int place = 0; place < space.rank(); ++place) {
      const int axis = order.axis[static_cast<std::size_t>(place)];
      const Index extent = space[axis];
      if (extent == 1) continue;
      bool merges = !out.extent.empty();
      for (std::size_t o = 0; o < operands.size() && merges; ++o)
        merges = out.stride[o].back() == stride_of(operands[o], axis) * extent;
      if (!merges) out.extent.push_back(1);
      out.extent.back() *= extent;
      for (std::size_t o = 0; o < operands.size(); ++o) {
        if (!merges) out.stride[o].push_back(0);
        out.stride[o].back() = stride_of(operands[o], axis);
      }
    }
    if (out.extent.empty()) {
      out.extent.push_back(1);
      for (auto& strides : out.stride) strides.push_back(0);
    }
    return out;
  }

  std::vector<Pass> passes_;
  Kernel fold_ = fold_sums<T>();
  Index scratch_ = 0;
};

}  // namespace settle::kernels
