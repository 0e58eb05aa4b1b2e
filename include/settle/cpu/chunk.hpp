#pragma once
#include <algorithm>
#include <array>
#include <cstdint>

#include "settle/core/shape.hpp"
#include "settle/cpu/packet_math.hpp"
#include "settle/cpu/unroll.hpp"
#include "settle/expr/program.hpp"

// What all ways to run a pointwise program on the CPU share: the pieces of work, what becomes of their results, how the
// last elements of a piece are done, and the operations on packets.
namespace settle::inline v0_2::cpu {

/// What a chunk does with one result. To stream is to assign past the caches: the chunk's first element is then aligned
/// to stream_alignment bytes.
enum class Put : std::uint8_t { skip, assign, accumulate, sum, sum_each, stream };

/// One contiguous piece of work for one program.
template <class T>
struct Chunk {
  Index count = 0;
  std::size_t inputs = 0, results = 0;
  std::array<const T*, expr::max_operands> input{};  ///< first element
  std::array<bool, expr::max_operands> dense{};      ///< one element per position, or one for the whole chunk
  std::array<Put, expr::max_operands> put{};
  std::array<T*, expr::max_operands> output{};      ///< for assign, accumulate, stream
  std::array<double*, expr::max_operands> total{};  ///< for sum (one), sum_each (one per position)
};

/// What runs a program on a chunk.
template <class T>
using Run = void (*)(const void* self, const Chunk<T>& chunk);

/// Enough for the widest packets.
inline constexpr Index stream_alignment = 64;

inline namespace SETTLE_INSTRUCTION_SET {

/// How many packets ahead of its use the memory of a long loop is asked for.
inline constexpr Index packets_ahead = 64;

/// The most packets that a program is evaluated for at a time: as many as a function takes in registers.
inline constexpr std::size_t most_packets = 8;

/// Not inlined: a rare case that every map has.
template <class T>
__attribute__((noinline)) void add_each(const T* from, Index count, double* to) {
  for (Index i = 0; i < count; ++i) to[i] += static_cast<double>(from[i]);
}

/// What becomes of packets of result r, the first of which is element `at` of the chunk. A sum is kept in `total`.
template <std::size_t packets, class T>
SETTLE_INLINE void put_packets(Put put, const Chunk<T>& chunk, std::size_t r, Index at,
                               const std::array<Packet<T>, packets>& values, Packet<T>& total) {
  constexpr int width = packet_size<T>, stride = packets * width;
  switch (put) {
    case Put::skip: break;
    case Put::assign: {
      T* const to = chunk.output[r] + at;
      SETTLE_UNROLL for (std::size_t p = 0; p < packets; ++p) store(to + p * width, values[p]);
      fetch(to + packets_ahead * width, stride);
      break;
    }
    case Put::accumulate: {
      T* const to = chunk.output[r] + at;
      SETTLE_UNROLL for (std::size_t p = 0; p < packets; ++p) store(to + p * width, load(to + p * width) + values[p]);
      fetch(to + packets_ahead * width, stride);
      break;
    }
    case Put::sum:
      SETTLE_UNROLL for (std::size_t p = 0; p < packets; ++p) total += values[p];
      break;
    case Put::sum_each: {
      T each[stride];
      SETTLE_UNROLL for (std::size_t p = 0; p < packets; ++p) store(each + p * width, values[p]);
      add_each(each, stride, chunk.total[r] + at);
      break;
    }
    case Put::stream:
      SETTLE_UNROLL for (std::size_t p = 0; p < packets; ++p) stream(chunk.output[r] + at + p * width, values[p]);
      break;
  }
}

/// Runs a program that is evaluated for `stride` elements at a time on a chunk's last ones, from `at` on, which are
/// fewer: they are copied between zeros.
template <class T>
void run_rest(Run<T> run, const void* self, const Chunk<T>& chunk, Index at, Index stride) {
  const Index rest = chunk.count - at;
  T values[2 * expr::max_operands][most_packets * packet_size<T>];
  Chunk<T> padded = chunk;
  padded.count = stride;
  for (std::size_t k = 0; k < chunk.inputs; ++k) {
    if (!chunk.dense[k]) continue;
    std::fill(std::copy_n(chunk.input[k] + at, rest, values[k]), values[k] + stride, T(0));
    padded.input[k] = values[k];
  }
  for (std::size_t r = 0; r < chunk.results; ++r) {
    if (chunk.put[r] == Put::skip) continue;
    padded.put[r] = Put::assign;
    padded.output[r] = values[chunk.inputs + r];
  }
  run(self, padded);
  for (std::size_t r = 0; r < chunk.results; ++r) {
    const T* const from = values[chunk.inputs + r];
    switch (chunk.put[r]) {
      case Put::skip: break;
      case Put::assign:
      case Put::stream: std::copy_n(from, rest, chunk.output[r] + at); break;
      case Put::accumulate:
        for (Index i = 0; i < rest; ++i) chunk.output[r][at + i] += from[i];
        break;
      case Put::sum:
        for (Index i = 0; i < rest; ++i) *chunk.total[r] += static_cast<double>(from[i]);
        break;
      case Put::sum_each: add_each(from, rest, chunk.total[r] + at); break;
    }
  }
}

/// One operation on packets.
template <expr::Operation operation, class T>
SETTLE_INLINE Packet<T> evaluate(Packet<T> a, [[maybe_unused]] Packet<T> b, [[maybe_unused]] Packet<T> c,
                                 [[maybe_unused]] double literal) {
  using Op = expr::Operation;
  if constexpr (operation == Op::constant) return splat<T>(static_cast<T>(literal));
  else if constexpr (operation == Op::add) return a + b;
  else if constexpr (operation == Op::subtract) return a - b;
  else if constexpr (operation == Op::multiply) return a * b;
  else if constexpr (operation == Op::divide) return a / b;
  else if constexpr (operation == Op::negate) return -a;
  else if constexpr (operation == Op::exp) return exp(a);
  else if constexpr (operation == Op::log) return log(a);
  else if constexpr (operation == Op::log1p) return log1p(a);
  else if constexpr (operation == Op::expm1) return expm1(a);
  else if constexpr (operation == Op::exp_minus_abs) return exp_minus_abs(a);
  else if constexpr (operation == Op::log1p_of_unit) return log1p_of_unit(a);
  else if constexpr (operation == Op::sqrt) return sqrt(a);
  else if constexpr (operation == Op::rsqrt) return rsqrt(a);
  else if constexpr (operation == Op::power) return pow(a, static_cast<T>(literal));
  else if constexpr (operation == Op::abs) return abs(a);
  else if constexpr (operation == Op::round) return round(a);
  else if constexpr (operation == Op::tanh) return tanh(a);
  else if constexpr (operation == Op::erf) return erf(a);
  else if constexpr (operation == Op::normal_cdf) return normal_cdf(a);
  else if constexpr (operation == Op::sin) return sin(a);
  else if constexpr (operation == Op::cos) return cos(a);
  else if constexpr (operation == Op::minimum) return minimum(a, b);
  else if constexpr (operation == Op::maximum) return maximum(a, b);
  else if constexpr (operation == Op::less) return mask_to_number<T>(a < b);
  else if constexpr (operation == Op::less_equal) return mask_to_number<T>(a <= b);
  else if constexpr (operation == Op::equal) return mask_to_number<T>(a == b);
  else if constexpr (operation == Op::select) return select_nonzero(a, b, c);
  else return a;  // input: a copy; what lowering removes is never reached
}

}  // namespace SETTLE_INSTRUCTION_SET
}  // namespace settle::cpu
