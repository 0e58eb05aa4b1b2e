#pragma once
#include <array>
#include <cstdint>

#include "settle/core/shape.hpp"
#include "settle/cpu/packet_math.hpp"
#include "settle/expr/program.hpp"

// What all ways to run a pointwise program on the CPU share: the pieces of work, and the operations on packets.
namespace settle::cpu {

/// What a chunk does with one result.
enum class Put : std::uint8_t { skip, assign, accumulate, sum, sum_each };

/// One contiguous piece of work for one program.
template <class T>
struct Chunk {
  Index count = 0;
  std::array<const T*, expr::max_operands> input{};  ///< first element
  std::array<bool, expr::max_operands> dense{};      ///< one element per position, or one for the whole chunk
  std::array<Put, expr::max_operands> put{};
  std::array<T*, expr::max_operands> output{};     ///< for assign, accumulate
  std::array<double*, expr::max_operands> total{};  ///< for sum (one), sum_each (one per position)
};

/// How many packets ahead of its use the memory of a long loop is asked for.
inline constexpr Index ahead = 64;

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
  else if constexpr (operation == Op::tanh) return tanh(a);
  else if constexpr (operation == Op::erf) return erf(a);
  else if constexpr (operation == Op::sin) return sin(a);
  else if constexpr (operation == Op::cos) return cos(a);
  else if constexpr (operation == Op::minimum) return minimum(a, b);
  else if constexpr (operation == Op::maximum) return maximum(a, b);
  else if constexpr (operation == Op::less) return mask_to_number<T>(a < b);
  else if constexpr (operation == Op::less_equal) return mask_to_number<T>(a <= b);
  else if constexpr (operation == Op::equal) return mask_to_number<T>(a == b);
  else if constexpr (operation == Op::select) return select_nonzero(a, b, c);
  else return a;  // input: a copy; sigmoid, softplus: never reached, lowering removes them
}

}  // namespace settle::cpu
