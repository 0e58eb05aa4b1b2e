#pragma once
#include "settle/cpu/packet.hpp"

/// Before a loop of constant length, at most 32: no loop is left, so that an array indexed by its counter can live in
/// registers.
#ifdef __clang__
#define SETTLE_UNROLL _Pragma("unroll")
#else
#define SETTLE_UNROLL _Pragma("GCC unroll 32")
#endif

namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET {

/// The number of packets that the processor's registers hold.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int packet_registers = 32;
#else
inline constexpr int packet_registers = 16;
#endif

/// The packet itself, held in a register: GCC would rather load it again for each of its uses.
template <IsPacket V>
SETTLE_INLINE V held(V v) {
#if defined(__x86_64__) || defined(__i386__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

}  // namespace settle::cpu
