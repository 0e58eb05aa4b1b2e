#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "settle/core/round_up.hpp"
#include "settle/core/tensor.hpp"
#include "settle/core/threads.hpp"
#include "settle/cpu/caches.hpp"
#include "settle/cpu/chunk.hpp"
#include "settle/cpu/interpreter.hpp"
#include "settle/cpu/unroll.hpp"
#include "settle/expr/linear_form.hpp"

// How a pointwise program runs on the CPU: the iteration space is cut in chunks of contiguous elements, and for each
// chunk all results are computed packet by packet in one loop. Results of a smaller shape than the space are summed on
// the fly.
namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET {

/// A program frozen into a type: each instruction of `Source::program` becomes inlined code.
template <class T, class Source>
struct Compiled {
  static constexpr const auto& code = Source::program.code;
  static constexpr const auto& result = Source::program.result;
  static constexpr const auto& use = Source::program.use;
  static constexpr std::size_t size = code.size();
  static constexpr std::size_t results = result.size();
  static constexpr int inputs = Source::program.inputs;
  static_assert(inputs <= expr::max_operands && results <= expr::max_operands,
                "settle: a map has too many arguments; split it into two maps");

  /// Packets that are evaluated side by side, one instruction after the other: a map with functions is a long chain of
  /// dependent operations, and the processor does not look as far ahead as the next packet's. Without, two packets
  /// share the loop's own work.
  static constexpr int packets = std::none_of(code.begin(), code.end(), [](const expr::Instruction& i) {
    return i.operation >= expr::Operation::exp && i.operation <= expr::Operation::cos;
  }) ? 2 : packet_registers / (results == 1 ? 8 : 16);  // what several results share fills the registers
  using Values = std::array<std::array<Packet<T>, packets>, size>;

  using Inputs = std::array<const T*, inputs>;

  template <std::size_t k>
  static SETTLE_INLINE void step(Values& v, const Inputs& input) {
    constexpr expr::Instruction i = code[k];
    constexpr auto at = [](int operand) { return static_cast<std::size_t>(operand < 0 ? 0 : operand); };
    if constexpr (i.operation == expr::Operation::constant) {  // held: GCC finds no maximum where a bound is constant
      v[k].fill(held(splat<T>(static_cast<T>(i.literal))));
      return;
    }
    SETTLE_UNROLL for (std::size_t p = 0; p < packets; ++p) {
      if constexpr (i.operation == expr::Operation::input)
        v[k][p] = load(input[i.input_number()] + p * packet_size<T>);
      else
        v[k][p] = evaluate<i.operation, T>(v[at(i.a)][p], v[at(i.b)][p], v[at(i.c)][p], i.literal);
    }
  }

  /// The instructions that exactly the results in `mask` need; for 0, those that several results need.
  struct Selection {
    std::array<std::size_t, size> number{};
    std::size_t count = 0;

    constexpr explicit Selection(std::uint32_t mask) {
      for (std::size_t k = 0; k < size; ++k)
        if (mask == 0 ? (use[k] & (use[k] - 1)) != 0 : use[k] == mask) number[count++] = k;
    }
  };
  template <std::uint32_t mask>
  static SETTLE_INLINE void steps(Values& v, const Inputs& input) {
    static constexpr Selection chosen(mask);
    [&]<std::size_t... k>(std::index_sequence<k...>) __attribute__((always_inline)) {
      (step<chosen.number[k]>(v, input), ...);
    }
    (std::make_index_sequence<chosen.count>{});
  }

  static void run(const void* self, const Chunk<T>& chunk) {
    constexpr int width = packet_size<T>, stride = packets * width;
    const Index whole = chunk.count / stride * stride;
    std::array<std::array<Packet<T>, packets>, inputs> same;  // an input that does not vary, as packets
    Inputs input;
    std::array<Index, inputs> step;
    for (std::size_t k = 0; k < inputs; ++k) {
      if (!chunk.dense[k]) same[k].fill(splat<T>(*chunk.input[k]));
      input[k] = chunk.dense[k] ? chunk.input[k] : reinterpret_cast<const T*>(&same[k]);
      step[k] = chunk.dense[k] ? stride : 0;
    }
    std::array<Packet<T>, results> total{};
    constexpr Index run_length = 64 * width;  // sums within a run are in T, across runs in double
    for (Index at = 0; at < whole;) {
      const Index end = std::min(whole, at + run_length);
      for (; at < end; at += stride) {
        Values v;
        steps<0>(v, input);
        [&]<std::size_t... r>(std::index_sequence<r...>) __attribute__((always_inline)) {
          (
              [&]() __attribute__((always_inline)) {
                if (chunk.put[r] == Put::skip) return;
                steps<1u << r>(v, input);
                put_packets<packets>(chunk.put[r], chunk, r, at, v[static_cast<std::size_t>(result[r])], total[r]);
              }(),
              ...);
        }
        (std::make_index_sequence<results>{});
        for (std::size_t k = 0; k < inputs; ++k) {
          input[k] += step[k];
          if (step[k] != 0) fetch(input[k] + packets_ahead * width, stride);
        }
      }
      for (std::size_t r = 0; r < results; ++r)
        if (chunk.put[r] == Put::sum) *chunk.total[r] += static_cast<double>(sum(total[r])), total[r] = Packet<T>{};
    }
    if (whole < chunk.count) run_rest<T>(&run, self, chunk, whole, stride);
  }
};

/// A linear form with its factors at hand: its inputs are the m cotangents, the factors and the inputs of the function
/// that it is the gradient of. A few multiplications an element, so each term is a loop at the speed of memory.
template <class T>
class LinearKernel {
 public:
  LinearKernel(const expr::LinearForm& form, int m) {
    const int inputs = m + static_cast<int>(form.factors.size());
    for (const expr::LinearTerm& t : form.terms) {
      Term term{t.result, {t.cotangent}, 1, static_cast<T>(t.literal)};
      if (t.factor >= 0) term.operand[static_cast<std::size_t>(term.operands++)] = m + t.factor;
      if (t.input >= 0) term.operand[static_cast<std::size_t>(term.operands++)] = inputs + t.input;
      term.first = terms_.empty() || terms_.back().result != term.result;
      if (!term.first) terms_.back().last = false;
      terms_.push_back(term);
    }
  }

  static void run(const void* self, const Chunk<T>& chunk) {
    const Index whole = chunk.count / stride * stride;
    constexpr Index block = 64 * packet_size<T>;  // sums within a block are in T, across blocks in double
    for (Index at = 0; at < whole; at += block)
      for (const Term& term : static_cast<const LinearKernel*>(self)->terms_)
        add(term, chunk, at, std::min(whole, at + block));
    if (whole < chunk.count) run_rest<T>(&run, self, chunk, whole, stride);
  }

 private:
  static constexpr std::size_t packets = 4;
  static constexpr Index stride = packets * packet_size<T>;

  struct Term {
    int result;
    std::array<int, 3> operand;
    int operands;
    T literal;
    bool first = true, last = true;  ///< of its result
  };

  /// For the elements [begin, end).
  static void add(const Term& term, const Chunk<T>& chunk, Index begin, Index end) {
    T scale = term.literal;
    std::array<const T*, 3> dense{};
    int vectors = 0;
    for (int k = 0; k < term.operands; ++k) {
      const auto input = static_cast<std::size_t>(term.operand[static_cast<std::size_t>(k)]);
      if (chunk.dense[input]) {
        dense[static_cast<std::size_t>(vectors++)] = chunk.input[input];
        continue;
      }
      scale *= *chunk.input[input];
      if (k == 0 && scale == 0) break;  // no cotangent: 0, whatever it would be multiplied with
    }
    // A cotangent that varies is the first vector.
    const bool guarded = term.operands > 1 && chunk.dense[static_cast<std::size_t>(term.operand[0])];
    const auto r = static_cast<std::size_t>(term.result);
    Put put = chunk.put[r];
    if (put == Put::stream && !term.last) put = Put::assign;
    if ((put == Put::assign || put == Put::stream) && !term.first) put = Put::accumulate;
    if (put == Put::skip) return;
    Packet<T> total{};
    if (vectors == 3)
      add<3, true>(dense, scale, put, chunk, r, begin, end, total);
    else if (vectors == 2)
      (guarded ? add<2, true> : add<2, false>)(dense, scale, put, chunk, r, begin, end, total);
    else if (vectors == 1)
      (guarded ? add<1, true> : add<1, false>)(dense, scale, put, chunk, r, begin, end, total);
    else
      add<0, false>(dense, scale, put, chunk, r, begin, end, total);
    if (put == Put::sum) *chunk.total[r] += static_cast<double>(cpu::sum(total));
  }

  template <int vectors, bool guarded>
  static void add([[maybe_unused]] const std::array<const T*, 3>& dense, T scale, Put put, const Chunk<T>& chunk,
                  std::size_t r, Index begin, Index end, Packet<T>& total) {
    constexpr int width = packet_size<T>;
    for (Index at = begin; at < end; at += stride) {
      std::array<Packet<T>, packets> values;
      values.fill(splat(scale));
      SETTLE_UNROLL for (int v = 0; v < vectors; ++v) {
        const T* const from = dense[static_cast<std::size_t>(v)] + at;
        SETTLE_UNROLL for (std::size_t p = 0; p < packets; ++p) values[p] *= load(from + p * width);
        fetch(from + packets_ahead * width, stride);
      }
      if constexpr (guarded)
        SETTLE_UNROLL for (std::size_t p = 0; p < packets; ++p)
          values[p] = select_nonzero(load(dense[0] + at + p * width), values[p], Packet<T>{});
      put_packets<packets>(put, chunk, r, at, values, total);
    }
  }

  std::vector<Term> terms_;
};

/// The program of a lambda of N symbolic numbers, as it is written.
template <class F, int N>
struct Traced {
  static constexpr expr::Program make() { return expr::trace<F, N>(); }
  static constexpr auto program = expr::freeze<Traced>();
};
/// The same in the operations of the device.
template <class F, int N>
struct Lowered {
  static constexpr expr::Program make() { return expr::lower(expr::trace<F, N>()); }
  static constexpr auto program = expr::freeze<Lowered>();
};
/// Its gradient's program in the operations of the device.
template <class F, int N>
struct LoweredGradient {
  static constexpr expr::Program make() { return expr::lower(expr::gradient(expr::trace<F, N>())); }
  static constexpr auto program = expr::freeze<LoweredGradient>();
};

}  // namespace settle::cpu

namespace settle::inline v0_2 {

template <class T, class Device>
class PointwiseFunction;

/// What evaluates a pointwise function.
template <class T, class Device>
struct PointwiseKernel;

/// On the CPU: one chunk after the other.
template <class T>
struct PointwiseKernel<T, Cpu> {
  cpu::Run<T> run;
  const void* self;
};

/// A pointwise program that is interpreted, with what keeps it.
template <class T>
struct InterpretedKernel {
  cpu::Run<T> run;
  std::shared_ptr<const void> self;
};
template <class T>
InterpretedKernel<T> interpreted(const expr::Program& program) {
  return {&cpu::Interpreter<T>::run, std::make_shared<const cpu::Interpreter<T>>(expr::lower(program))};
}

/// A pointwise function with its kernel, and the function that is its gradient; one object per lambda and order.
/// The value and the first gradient are compiled; higher orders are derived on first use and interpreted, and so is the
/// first where the function's type has a true member `rarely_differentiated`. Programs that
/// define SETTLE_INTERPRETED_MAPS (in all their files, for quick debug builds) have all orders interpreted.
template <class T>
class PointwiseFunction<T, Cpu> {
 public:
  using Run = cpu::Run<T>;

  /// Whether repeated gradients are faster as products with local derivatives that are kept.
  static constexpr bool keeps_derivatives = true;

  /// The function of a captureless lambda of N symbolic numbers.
  template <class F, int N>
  static const PointwiseFunction& of() {
    static const PointwiseFunction function = [] {
      cpu::require_arithmetic_as_written();
#ifdef SETTLE_INTERPRETED_MAPS
      return PointwiseFunction(expr::trace<F, N>(), nullptr, nullptr);
#else
      return PointwiseFunction(cpu::Traced<F, N>::program.thaw(), &cpu::Compiled<T, cpu::Lowered<F, N>>::run,
                               compiled_gradient<F, N>());
#endif
    }();
    return function;
  }

  const expr::Program& program() const { return program_; }

  /// Inputs: the cotangents, then the inputs; results: the inputs' cotangents.
  const PointwiseFunction& gradient() const {
    std::call_once(gradient_made_, [&] {
      gradient_.reset(new PointwiseFunction(expr::gradient(program_), gradient_run_, nullptr));
    });
    return *gradient_;
  }

  /// The function of the wanted results alone, interpreted.
  const PointwiseFunction& only(const std::vector<bool>& wanted) const {
    std::lock_guard lock(parts_mutex_);
    auto& part = parts_[wanted];
    if (!part) part.reset(new PointwiseFunction(expr::only(program_, wanted), nullptr, nullptr));
    return *part;
  }

  PointwiseKernel<T, Cpu> kernel() const { return {run_, interpreter_.get()}; }

 private:
  template <class F, int N>
  static constexpr Run compiled_gradient() {
    if constexpr (requires { requires F::rarely_differentiated; }) return nullptr;
    else return &cpu::Compiled<T, cpu::LoweredGradient<F, N>>::run;
  }

  PointwiseFunction(expr::Program program, Run run, Run gradient_run)
      : program_(std::move(program)), run_(run), gradient_run_(gradient_run) {
    if (run_) return;
    InterpretedKernel<T> kernel = interpreted<T>(program_);
    run_ = kernel.run, interpreter_ = std::move(kernel.self);
  }

  expr::Program program_;
  Run run_, gradient_run_;
  std::shared_ptr<const void> interpreter_;
  mutable std::once_flag gradient_made_;
  mutable std::unique_ptr<const PointwiseFunction> gradient_;
  mutable std::mutex parts_mutex_;
  mutable std::map<std::vector<bool>, std::unique_ptr<const PointwiseFunction>> parts_;
};

/// One result of a pointwise evaluation: the shape it is summed to, and whether to add to what the tensor holds. A null
/// tensor is not wanted.
template <class T, class Device>
struct PointwiseResult {
  Tensor<T, Device>* tensor = nullptr;
  bool accumulate = false;
};

namespace cpu::inline SETTLE_INSTRUCTION_SET {

/// The iteration space with axes merged where every operand allows, innermost last.
struct Space {
  int axes = 1;
  std::array<Index, Shape::max_rank + 1> extent{1};
  std::array<std::array<Index, Shape::max_rank + 1>, 2 * expr::max_operands> stride;  ///< of the operands there are

  /// Operands are shapes that broadcast to `space`; an axis of extent 1 has stride 0.
  Space(const Shape& space, std::span<const Shape> operands) {
    const auto n = operands.size();
    std::array<Index, 2 * expr::max_operands> running;
    running.fill(1);
    std::array<Index, Shape::max_rank> e{};
    std::array<std::array<Index, 2 * expr::max_operands>, Shape::max_rank> s;
    int used = 0;  // axes collected innermost first
    for (int axis = 1; axis <= space.rank(); ++axis) {
      const Index extent_here = space[-axis];
      std::array<Index, 2 * expr::max_operands> here;
      for (std::size_t o = 0; o < n; ++o) {
        const Index own = axis <= operands[o].rank() ? operands[o][-axis] : 1;
        here[o] = own == 1 ? 0 : running[o];
        running[o] *= own;
      }
      if (extent_here == 1) continue;
      const auto last = static_cast<std::size_t>(used - 1);
      bool merges = used > 0;
      for (std::size_t o = 0; o < n && merges; ++o) merges = here[o] == s[last][o] * e[last];
      if (merges) {
        e[last] *= extent_here;
      } else {
        e[static_cast<std::size_t>(used)] = extent_here;
        std::copy_n(here.begin(), n, s[static_cast<std::size_t>(used++)].begin());
      }
    }
    axes = std::max(used, 1);
    if (used == 0)
      for (std::size_t o = 0; o < n; ++o) stride[o][0] = 0;
    for (int a = 0; a < used; ++a) {
      const auto from = static_cast<std::size_t>(used - 1 - a), to = static_cast<std::size_t>(a);
      extent[to] = e[from];
      for (std::size_t o = 0; o < n; ++o) stride[o][to] = s[from][o];
    }
  }

  Index inner() const { return extent[static_cast<std::size_t>(axes - 1)]; }
  Index inner_stride(std::size_t operand) const { return stride[operand][static_cast<std::size_t>(axes - 1)]; }
  Index runs() const {
    Index n = 1;
    for (int a = 0; a + 1 < axes; ++a) n *= extent[static_cast<std::size_t>(a)];
    return n;
  }
  /// Where run `r` of an operand starts.
  Index offset(std::size_t operand, Index r) const {
    Index at = 0;
    for (int a = axes - 2; a >= 0; --a) {
      const auto i = static_cast<std::size_t>(a);
      at += r % extent[i] * stride[operand][i];
      r /= extent[i];
    }
    return at;
  }
};

/// The largest value along the axes that `to` has extent 1 in; NaN if any value is NaN.
template <class T>
void max_over(const Shape& from, const T* x, const Shape& to, T* y) {
  const Shape shapes[2] = {from, to};
  const Space loops(from, shapes);
  std::fill_n(y, to.size(), -std::numeric_limits<T>::infinity());
  if (from.size() == 0) return;
  const Index inner = loops.inner(), step = loops.inner_stride(1);
  for (Index r = 0; r < loops.runs(); ++r) {
    const T* const values = x + loops.offset(0, r);
    T* const largest = y + loops.offset(1, r);
    for (Index i = 0; i < inner; ++i) {
      T& best = largest[i * step];
      best = larger(best, values[i]);
    }
  }
}

}  // namespace cpu

/// Evaluates a kernel over `space`: inputs broadcast to it, and each wanted result is summed to its tensor's
/// shape. Deterministic for a given number of threads.
template <class T>
void evaluate(const PointwiseKernel<T, Cpu>& kernel, const Shape& space, std::span<const Tensor<T>> inputs,
              std::span<const PointwiseResult<T, Cpu>> results) {
  using cpu::Put;
  constexpr Index chunk_length = 4096;
  const auto n = inputs.size(), m = results.size();
  // A gradient has more inputs than its function: only the first orders of a large map are sure to fit.
  require(n <= expr::max_operands && m <= expr::max_operands, "map", "a gradient of this order has ", n, " inputs and ",
          m, " results, more than ", expr::max_operands, "; split the map into two");
  std::array<Shape, 2 * expr::max_operands> shapes;
  for (std::size_t k = 0; k < n; ++k) shapes[k] = inputs[k].shape();
  for (std::size_t r = 0; r < m; ++r) shapes[n + r] = results[r].tensor ? results[r].tensor->shape() : space;
  const cpu::Space loops(space, {shapes.data(), n + m});

  std::array<bool, expr::max_operands> summed{};
  Index totals = 0;
  std::array<Index, expr::max_operands> first_total{};
  std::array<T*, expr::max_operands> output{};
  for (std::size_t r = 0; r < m; ++r) {
    if (!results[r].tensor) continue;
    output[r] = results[r].tensor->mutable_data();
    summed[r] = shapes[n + r].size() != space.size();
    first_total[r] = totals;
    if (summed[r]) totals += shapes[n + r].size();
  }

  const Index inner = loops.inner(), runs = space.size() == 0 ? 0 : loops.runs();
  // Of results that are streamed a long run's first piece, which may be empty, reaches to where packets are aligned.
  constexpr Index lanes = cpu::stream_alignment / static_cast<Index>(sizeof(T));
  const bool streams = space.size() * static_cast<Index>(sizeof(T)) >= cpu::streamed_bytes() && inner >= 64 * lanes;
  const auto head = [&](Index run) { return streams ? (lanes - run * inner % lanes) % lanes : 0; };
  const Index pieces = streams + divide_up(inner, chunk_length), tasks = runs * pieces;
  const Index grain = std::max<Index>(1, 32768 / std::max<Index>(1, std::min(inner, chunk_length)));
  ThreadPool& pool = ThreadPool::instance();
  constexpr Index few_totals = 2048;  // more of them are dear, for each part has its own
  const bool few_parts = totals * pool.size() > few_totals;
  const int parts = few_parts ? pool.parts_for(tasks, grain) : pool.small_parts_for(tasks, grain);

  std::array<double, 256> few{};
  Tensor<double> many;
  double* scratch = few.data();
  if (totals * parts > static_cast<Index>(few.size())) {
    MemoryTag tag("workspace");
    many = Tensor<double>(Shape{totals * parts}, 0.0);
    scratch = many.mutable_data();
  }

  pool.split(tasks, parts, [&](int part, Index first_task, Index end_task) {
    cpu::Chunk<T> chunk;
    chunk.inputs = n, chunk.results = m;
    for (std::size_t k = 0; k < n; ++k) chunk.dense[k] = loops.inner_stride(k) != 0;
    for (std::size_t r = 0; r < m; ++r)
      chunk.put[r] = !results[r].tensor      ? Put::skip
                     : !summed[r]            ? (results[r].accumulate ? Put::accumulate : Put::assign)
                     : loops.inner_stride(n + r) ? Put::sum_each
                                                 : Put::sum;
    for (Index task = first_task; task < end_task; ++task) {
      const Index run = task / pieces, piece = task % pieces - streams;
      const Index start = piece < 0 ? 0 : head(run) + piece * chunk_length;
      chunk.count = piece < 0 ? head(run) : std::clamp<Index>(inner - start, 0, chunk_length);
      for (std::size_t k = 0; k < n; ++k)
        chunk.input[k] = inputs[k].data() + loops.offset(k, run) + (chunk.dense[k] ? start : 0);
      for (std::size_t r = 0; r < m; ++r) {
        if (chunk.put[r] == Put::skip) continue;
        const Index at = loops.offset(n + r, run) + (loops.inner_stride(n + r) ? start : 0);
        if (summed[r])
          chunk.total[r] = scratch + part * totals + first_total[r] + at;
        else
          chunk.output[r] = output[r] + at;
        // A first piece may be longer than a program's narrow packets, and does not begin where they are aligned.
        if (streams && !summed[r] && !results[r].accumulate) chunk.put[r] = piece < 0 ? Put::assign : Put::stream;
      }
      kernel.run(kernel.self, chunk);
    }
    if (streams) cpu::end_stream();
  });

  for (std::size_t r = 0; r < m; ++r) {
    if (!summed[r]) continue;
    for (Index i = 0; i < shapes[n + r].size(); ++i) {
      double total = results[r].accumulate ? static_cast<double>(output[r][i]) : 0.0;
      for (int part = 0; part < parts; ++part) total += scratch[part * totals + first_total[r] + i];
      output[r][i] = static_cast<T>(total);
    }
  }
}

}  // namespace settle
