#pragma once
#include <type_traits>
#include <utility>

#include "settle/cpu/unroll.hpp"

// Squares of packets: what stands in a packet's lanes and in the same lane of several packets changes places.
namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET::detail {

/// The lanes of a block of 16 bytes, within which a processor exchanges faster.
template <class T>
inline constexpr int block_lanes = 16 / static_cast<int>(sizeof(T));

/// One round of a transposition: of each two rows whose numbers differ in the given bit, lane i of the first becomes
/// element first(i) of the two rows' lanes one after the other, and of the second element second(i).
template <int bit, class V, int count, class First, class Second, int lanes = packet_size<Lane<V>>>
SETTLE_INLINE void exchange(V (&rows)[count], First first, Second second) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    SETTLE_UNROLL for (int r = 0; r < count; ++r) {
      if (r & bit) continue;
      const V a = rows[r], b = rows[r | bit];
      rows[r] = __builtin_shufflevector(a, b, first(i)...);
      rows[r | bit] = __builtin_shufflevector(a, b, second(i)...);
    }
  }
  (std::make_integer_sequence<int, lanes>{});
}

/// A round by blocks: of two rows' blocks the first row gets the even ones, the second the odd ones.
template <int bit, class V, int count>
SETTLE_INLINE void exchange_blocks(V (&rows)[count]) {
  constexpr int block = block_lanes<Lane<V>>;
  const auto even = [](int i) { return i / block * 2 * block + i % block; };
  exchange<bit>(rows, even, [even](int i) { return even(i) + block; });
}

/// Exchanges positions and lanes of a square of packets: blocks are transposed first, then moved as wholes. Of packets
/// with twice as many lanes, two squares side by side are transposed, and their blocks alternate: one more round with
/// another two separates them.
template <class V, int side>
SETTLE_INLINE void transpose(V (&rows)[side]) {
  constexpr int lanes = packet_size<Lane<V>>, block = block_lanes<Lane<V>>;
  const auto interleave = [&]<int bit>(std::integral_constant<int, bit>) __attribute__((always_inline)) {
    exchange<bit>(
        rows, [](int i) { return i / block * block + i % block / 2 + i % 2 * lanes; },
        [](int i) { return i / block * block + i % block / 2 + i % 2 * lanes + block / 2; });
  };
  if constexpr (block == 4) interleave(std::integral_constant<int, 2>{});
  interleave(std::integral_constant<int, 1>{});
  if constexpr (side > block) exchange_blocks<block>(rows);
  if constexpr (side > 2 * block) exchange_blocks<2 * block>(rows);
}

}  // namespace settle::cpu::detail
