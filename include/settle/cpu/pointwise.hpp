#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "settle/core/tensor.hpp"
#include "settle/core/threads.hpp"
#include "settle/cpu/chunk.hpp"
#include "settle/cpu/interpreter.hpp"
#include "settle/cpu/unroll.hpp"
#include "settle/expr/linear_form.hpp"

// How a pointwise program runs on the CPU: the iteration space is cut in chunks of contiguous elements, and for each chunk
// all results are computed packet by packet in one loop. Results of a smaller shape than the space are summed on the fly.
namespace settle::cpu {

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
  /// dependent operations, and the processor does not look as far ahead as the next packet's.
  template <int packets>
  using Values = std::array<std::array<Packet<T>, packets>, size>;
  static constexpr int at_once = std::none_of(code.begin(), code.end(), [](const expr::Instruction& i) {
    return i.operation >= expr::Operation::exp && i.operation <= expr::Operation::cos;
  }) ? 1 : packet_registers / (results == 1 ? 8 : 16);  // what several results share fills the registers

  using Inputs = std::array<const T*, inputs>;

  template <std::size_t I, int packets>
  static SETTLE_INLINE void step(Values<packets>& v, const Inputs& input) {
    constexpr expr::Instruction i = code[I];
    constexpr auto at = [](int k) { return static_cast<std::size_t>(k < 0 ? 0 : k); };
    SETTLE_UNROLL for (std::size_t p = 0; p < packets; ++p) {
      if constexpr (i.operation == expr::Operation::input)
        v[I][p] = load(input[i.input_number()] + p * packet_size<T>);
      else
        v[I][p] = evaluate<i.operation, T>(v[at(i.a)][p], v[at(i.b)][p], v[at(i.c)][p], i.literal);
    }
  }

  /// Computes the instructions that exactly the results in `mask` need (several results: more than one bit).
  template <std::uint32_t mask, int packets>
  static SETTLE_INLINE void steps(Values<packets>& v, const Inputs& input) {
    [&]<std::size_t... I>(std::index_sequence<I...>) __attribute__((always_inline)) {
      (
          [&]() __attribute__((always_inline)) {
            constexpr bool shared = (use[I] & (use[I] - 1)) != 0;
            if constexpr (mask == 0 ? shared : use[I] == mask) step<I, packets>(v, input);
          }(),
          ...);
    }
    (std::make_index_sequence<size>{});
  }

  /// Evaluates some packets; `put_result(r, packets)` receives the results that are wanted.
  template <int packets, class PutResult>
  static SETTLE_INLINE void evaluate_packets(const Inputs& input, const Put* put, PutResult&& put_result) {
    Values<packets> v;
    steps<0, packets>(v, input);
    [&]<std::size_t... R>(std::index_sequence<R...>) __attribute__((always_inline)) {
      (
          [&]() __attribute__((always_inline)) {
            if (put[R] == Put::skip) return;
            steps<1u << R, packets>(v, input);
            put_result(std::integral_constant<std::size_t, R>{}, v[static_cast<std::size_t>(result[R])]);
          }(),
          ...);
    }
    (std::make_index_sequence<results>{});
  }

  static void run(const void*, const Chunk<T>& chunk) {
    constexpr int width = packet_size<T>, stride = at_once * width;
    std::array<std::array<Packet<T>, at_once>, inputs> same;  // an input that does not vary, as packets
    Inputs input;
    std::array<Index, inputs> step;
    for (std::size_t k = 0; k < inputs; ++k) {
      if (!chunk.dense[k]) same[k].fill(splat<T>(*chunk.input[k]));
      input[k] = chunk.dense[k] ? chunk.input[k] : reinterpret_cast<const T*>(&same[k]);
      step[k] = chunk.dense[k] ? stride : 0;
    }
    std::array<Packet<T>, results> total{};
    const auto add_totals = [&] {
      for (std::size_t r = 0; r < results; ++r)
        if (chunk.put[r] == Put::sum) *chunk.total[r] += static_cast<double>(sum(total[r])), total[r] = Packet<T>{};
    };
    constexpr Index run_length = 64 * width;  // sums within a run are in T, across runs in double
    Index at = 0;
    while (at + stride <= chunk.count) {
      const Index end = std::min(chunk.count, at + run_length);
      for (; at + stride <= end; at += stride) {
        evaluate_packets<at_once>(
            input, chunk.put.data(), [&](auto r, const auto& values) __attribute__((always_inline)) {
              T* const to = chunk.output[r] ? chunk.output[r] + at : nullptr;
              switch (chunk.put[r]) {
                case Put::assign:
                  SETTLE_UNROLL for (std::size_t p = 0; p < at_once; ++p) store(to + p * width, values[p]);
                  fetch(to + ahead * width, stride);
                  break;
                case Put::accumulate:
                  SETTLE_UNROLL for (std::size_t p = 0; p < at_once; ++p)
                      store(to + p * width, load(to + p * width) + values[p]);
                  fetch(to + ahead * width, stride);
                  break;
                case Put::sum:
                  SETTLE_UNROLL for (std::size_t p = 0; p < at_once; ++p) total[r] += values[p];
                  break;
                case Put::sum_each:
                  SETTLE_UNROLL for (std::size_t p = 0; p < at_once; ++p)
                    for (int l = 0; l < width; ++l)
                      chunk.total[r][at + static_cast<Index>(p) * width + l] += static_cast<double>(values[p][l]);
                  break;
                case Put::skip: break;
              }
            });
        for (std::size_t k = 0; k < inputs; ++k) {
          input[k] += step[k];
          if (step[k] != 0) fetch(input[k] + ahead * width, stride);
        }
      }
      add_totals();
    }
    while (at < chunk.count) {
      const int rest = static_cast<int>(std::min<Index>(width, chunk.count - at));
      std::array<Packet<T>, inputs> last;
      Inputs partial;
      for (std::size_t k = 0; k < inputs; ++k) {
        last[k] = chunk.dense[k] ? load_partial(input[k], rest) : same[k][0];
        partial[k] = reinterpret_cast<const T*>(&last[k]);
        if (chunk.dense[k]) input[k] += rest;
      }
      evaluate_packets<1>(partial, chunk.put.data(), [&](auto r, const auto& values) __attribute__((always_inline)) {
        const Packet<T> value = values[0];
        switch (chunk.put[r]) {
          case Put::assign: store_partial(chunk.output[r] + at, value, rest); break;
          case Put::accumulate:
            store_partial(chunk.output[r] + at, load_partial(chunk.output[r] + at, rest) + value, rest);
            break;
          case Put::sum: total[r] += keep_first(value, rest); break;
          case Put::sum_each:
            for (int l = 0; l < rest; ++l) chunk.total[r][at + l] += static_cast<double>(value[l]);
            break;
          case Put::skip: break;
        }
      });
      at += rest;
    }
    add_totals();
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
      Term term{t.result, {t.cotangent}, 1, static_cast<T>(t.literal), false};
      if (t.factor >= 0) term.operand[static_cast<std::size_t>(term.operands++)] = m + t.factor;
      if (t.input >= 0) term.operand[static_cast<std::size_t>(term.operands++)] = inputs + t.input;
      term.first = terms_.empty() || terms_.back().result != term.result;
      terms_.push_back(term);
    }
  }

  static void run(const void* self, const Chunk<T>& chunk) {
    constexpr Index block = 64 * packet_size<T>;  // sums within a block are in T, across blocks in double
    for (Index at = 0; at < chunk.count; at += block)
      for (const Term& term : static_cast<const LinearKernel*>(self)->terms_)
        add(term, chunk, at, std::min(block, chunk.count - at));
  }

 private:
  struct Term {
    int result;
    std::array<int, 3> operand;
    int operands;
    T literal;
    bool first;  ///< of its result
  };

  static void add(const Term& term, const Chunk<T>& chunk, Index at, Index count) {
    T scale = term.literal;
    std::array<const T*, 3> dense{};
    int vectors = 0;
    for (int k = 0; k < term.operands; ++k) {
      const auto input = static_cast<std::size_t>(term.operand[static_cast<std::size_t>(k)]);
      if (chunk.dense[input])
        dense[static_cast<std::size_t>(vectors++)] = chunk.input[input] + at;
      else
        scale *= *chunk.input[input];
    }
    const auto r = static_cast<std::size_t>(term.result);
    if (vectors == 3)
      put<3>(dense, scale, chunk, r, term.first, at, count);
    else if (vectors == 2)
      put<2>(dense, scale, chunk, r, term.first, at, count);
    else if (vectors == 1)
      put<1>(dense, scale, chunk, r, term.first, at, count);
    else
      put<0>(dense, scale, chunk, r, term.first, at, count);
  }

  template <int vectors>
  static void put([[maybe_unused]] const std::array<const T*, 3>& dense, T scale, const Chunk<T>& chunk, std::size_t r,
                  bool first, Index at, Index count) {
    constexpr int width = packet_size<T>;
    const Packet<T> factor = splat(scale);
    const auto each = [&](auto&& use) __attribute__((always_inline)) {
      Index i = 0;
      for (; i + width <= count; i += width) {
        Packet<T> value = factor;
        SETTLE_UNROLL for (int v = 0; v < vectors; ++v) {
          const T* const at = dense[static_cast<std::size_t>(v)] + i;
          value *= load(at);
          fetch(at + ahead * width, width);
        }
        use(i, value, width);
      }
      if (i < count) {
        const int rest = static_cast<int>(count - i);
        Packet<T> value = factor;
        SETTLE_UNROLL for (int v = 0; v < vectors; ++v) value *=
            load_partial(dense[static_cast<std::size_t>(v)] + i, rest);
        use(i, keep_first(value, rest), rest);
      }
    };
    const Put kind = chunk.put[r] == Put::assign && !first ? Put::accumulate : chunk.put[r];
    T* const out = chunk.output[r] ? chunk.output[r] + at : nullptr;
    switch (kind) {
      case Put::skip: break;
      case Put::assign:
        each([&](Index i, Packet<T> value, int n) {
          n == width ? store(out + i, value) : store_partial(out + i, value, n);
          fetch(out + i + ahead * width, width);
        });
        break;
      case Put::accumulate:
        each([&](Index i, Packet<T> value, int n) {
          n == width ? store(out + i, load(out + i) + value)
                     : store_partial(out + i, load_partial(out + i, n) + value, n);
          fetch(out + i + ahead * width, width);
        });
        break;
      case Put::sum: {
        Packet<T> total{};
        each([&](Index, Packet<T> value, int) { total += value; });
        *chunk.total[r] += static_cast<double>(cpu::sum(total));
        break;
      }
      case Put::sum_each:
        each([&](Index i, Packet<T> value, int n) {
          for (int l = 0; l < n; ++l) chunk.total[r][at + i + l] += static_cast<double>(value[l]);
        });
        break;
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

namespace settle {

template <class T, class Device>
class PointwiseFunction;

/// What evaluates a pointwise function.
template <class T, class Device>
struct PointwiseKernel;

/// On the CPU: one chunk after the other.
template <class T>
struct PointwiseKernel<T, Cpu> {
  void (*run)(const void*, const cpu::Chunk<T>&);
  const void* self;
};

/// A pointwise function with its kernel, and the function that is its gradient; one object per lambda and order.
/// The value and the first gradient are compiled; higher orders are derived on first use and interpreted. Programs that
/// define SETTLE_INTERPRETED_MAPS (in all their files, for quick debug builds) have all orders interpreted.
template <class T>
class PointwiseFunction<T, Cpu> {
 public:
  using Run = decltype(PointwiseKernel<T, Cpu>::run);

  /// Whether repeated gradients are faster as products with local derivatives that are kept.
  static constexpr bool keeps_derivatives = true;

  /// The function of a captureless lambda of N symbolic numbers.
  template <class F, int N>
  static const PointwiseFunction& of() {
#ifdef SETTLE_INTERPRETED_MAPS
    static const PointwiseFunction function(expr::trace<F, N>(), nullptr, nullptr);
#else
    static const PointwiseFunction function(cpu::Traced<F, N>::program.thaw(),
                                            &cpu::Compiled<T, cpu::Lowered<F, N>>::run,
                                            &cpu::Compiled<T, cpu::LoweredGradient<F, N>>::run);
#endif
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

  PointwiseKernel<T, Cpu> kernel() const { return {run_, interpreter_.get()}; }

 private:
  PointwiseFunction(expr::Program program, Run run, Run gradient_run)
      : program_(std::move(program)), run_(run), gradient_run_(gradient_run) {
    if (!run_) {
      interpreter_ = std::make_unique<cpu::Interpreter<T>>(expr::lower(program_));
      run_ = &cpu::Interpreter<T>::run;
    }
  }

  expr::Program program_;
  Run run_, gradient_run_;
  std::unique_ptr<cpu::Interpreter<T>> interpreter_;
  mutable std::once_flag gradient_made_;
  mutable std::unique_ptr<const PointwiseFunction> gradient_;
};

/// One result of a pointwise evaluation: the shape it is summed to, and whether to add to what the tensor holds. A null
/// tensor is not wanted.
template <class T, class Device>
struct PointwiseResult {
  Tensor<T, Device>* tensor = nullptr;
  bool accumulate = false;
};

namespace cpu {

/// The iteration space with axes merged where every operand allows, innermost last.
struct Space {
  int axes = 1;
  std::array<Index, Shape::max_rank + 1> extent{1};
  std::array<std::array<Index, Shape::max_rank + 1>, 2 * expr::max_operands> stride;  ///< of the operands that there are

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
      if (!(values[i] <= best)) best = best != best ? best : values[i];
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
  require(n <= expr::max_operands && m <= expr::max_operands, "map", "a gradient of this order has ", n, " inputs and ", m,
          " results, more than ", expr::max_operands, "; split the map into two");
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
  const Index pieces = (inner + chunk_length - 1) / chunk_length, tasks = runs * pieces;
  const Index grain = std::max<Index>(1, 32768 / std::max<Index>(1, std::min(inner, chunk_length)));
  ThreadPool& pool = ThreadPool::instance();
  const int parts = pool.parts_for(tasks, grain);

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
    for (std::size_t k = 0; k < n; ++k) chunk.dense[k] = loops.inner_stride(k) != 0;
    for (std::size_t r = 0; r < m; ++r)
      chunk.put[r] = !results[r].tensor      ? Put::skip
                     : !summed[r]            ? (results[r].accumulate ? Put::accumulate : Put::assign)
                     : loops.inner_stride(n + r) ? Put::sum_each
                                                 : Put::sum;
    for (Index task = first_task; task < end_task; ++task) {
      const Index run = task / pieces, start = task % pieces * chunk_length;
      chunk.count = std::min(chunk_length, inner - start);
      for (std::size_t k = 0; k < n; ++k)
        chunk.input[k] = inputs[k].data() + loops.offset(k, run) + (chunk.dense[k] ? start : 0);
      for (std::size_t r = 0; r < m; ++r) {
        if (chunk.put[r] == Put::skip) continue;
        const Index at = loops.offset(n + r, run) + (loops.inner_stride(n + r) ? start : 0);
        if (summed[r])
          chunk.total[r] = scratch + part * totals + first_total[r] + at;
        else
          chunk.output[r] = output[r] + at;
      }
      kernel.run(kernel.self, chunk);
    }
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
