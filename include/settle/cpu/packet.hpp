#pragma once
#include <concepts>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "settle/cpu/instruction_set.hpp"

/// A function of packets must vanish in its caller: a call would pass every packet through memory.
#define SETTLE_INLINE __attribute__((always_inline)) inline

namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET {

#define SETTLE_TEXT(name) #name
#define SETTLE_TEXT_OF(name) SETTLE_TEXT(name)
/// The instructions that the compiler may use in this translation unit.
inline constexpr const char* instruction_set_name = SETTLE_TEXT_OF(SETTLE_INSTRUCTION_SET);
#undef SETTLE_TEXT_OF
#undef SETTLE_TEXT

/// The bytes of the widest vector that the compiler may use for this translation unit.
#if defined(__AVX512F__)
inline constexpr int packet_bytes = 64;
#elif defined(__AVX__)
inline constexpr int packet_bytes = 32;
#else
inline constexpr int packet_bytes = 16;
#endif

namespace detail {

template <class T>
struct PacketOf {
  typedef T Type __attribute__((vector_size(packet_bytes)));
  typedef T InMemory __attribute__((vector_size(packet_bytes), aligned(alignof(T)), may_alias));
  using Mask = decltype(Type{} < Type{});
};

template <int count, class T>
SETTLE_INLINE T sum_pairwise(const T* p) {
  if constexpr (count == 1)
    return *p;
  else
    return sum_pairwise<count / 2>(p) + sum_pairwise<count / 2>(p + count / 2);
}

}  // namespace detail

/// As many numbers as one instruction of the processor takes: float or double. Written with the compiler's own vectors,
/// so + - * / and comparisons act lane by lane on every processor.
template <class T>
using Packet = typename detail::PacketOf<T>::Type;

/// What a comparison of packets gives: integers of the lane's width, -1 where it holds and 0 elsewhere.
template <class T>
using Mask = typename detail::PacketOf<T>::Mask;

/// The number of lanes in a packet.
template <class T>
inline constexpr int packet_size = packet_bytes / static_cast<int>(sizeof(T));

template <class V>
concept IsPacket = std::same_as<V, Packet<float>> || std::same_as<V, Packet<double>>;

/// The type of one lane of a packet or of a mask.
template <class V>
using Lane = std::remove_cvref_t<decltype(std::declval<V&>()[0])>;

/// The packet with lanes p[0] ... p[packet_size-1]; p needs no alignment.
template <class T>
SETTLE_INLINE Packet<T> load(const T* p) {
  return *reinterpret_cast<const typename detail::PacketOf<T>::InMemory*>(p);
}

/// Writes all lanes to p[0] ... p[packet_size-1]; p needs no alignment.
template <class T>
SETTLE_INLINE void store(T* p, Packet<T> v) {
  *reinterpret_cast<typename detail::PacketOf<T>::InMemory*>(p) = v;
}

/// Writes all lanes to p[0] ... p[packet_size-1], p aligned to a packet, past the caches where the processor can: what
/// was there need not be read. Other threads see it after end_stream() and what usually orders threads. (g++'s
/// sanitizers do not watch such writes; clang++'s do.)
template <class T>
SETTLE_INLINE void stream(T* p, Packet<T> v) {
#if defined(__clang__)
  __builtin_nontemporal_store(v, reinterpret_cast<Packet<T>*>(p));
#elif defined(__AVX512F__)
  __builtin_ia32_movntps512(reinterpret_cast<float*>(p), reinterpret_cast<Packet<float>>(v));
#elif defined(__AVX__)
  __builtin_ia32_movntps256(reinterpret_cast<float*>(p), reinterpret_cast<Packet<float>>(v));
#elif defined(__SSE__)
  __builtin_ia32_movntps(reinterpret_cast<float*>(p), reinterpret_cast<Packet<float>>(v));
#else
  store(p, v);
#endif
}
inline void end_stream() {
#if defined(__SSE__)
  __builtin_ia32_sfence();
#endif
}

/// Asks for the memory of `count` numbers that are to be read or written soon. It goes to the second-level cache: the
/// first one's few buffers for misses would be full, and asking to write holds them longer than asking to read.
template <class T>
SETTLE_INLINE void fetch(const T* data, int count) {
  constexpr int line = 64 / sizeof(T);
  for (int i = 0; i < count; i += line) __builtin_prefetch(data + i, 0, 2);
}

/// Asks for a line of memory that stands in the second-level cache and is to be read very soon.
template <class T>
SETTLE_INLINE void fetch_near(const T* data) {
  __builtin_prefetch(data, 0, 3);
}

/// The larger of two numbers; NaN if one of them is.
template <class T>
SETTLE_INLINE T larger(T a, T b) {
  return b > a || b != b ? b : a;
}

/// The packet with `value` in every lane.
template <class T>
SETTLE_INLINE Packet<T> splat(T value) {
  return value - Packet<T>{};  // not a sum: -0 + 0 is +0
}

/// Writes the first n lanes to p[0] ... p[n-1], 0 <= n <= packet_size.
template <class T>
SETTLE_INLINE void store_partial(T* p, Packet<T> v, int n) {
  T lanes[packet_size<T>];
  store(lanes, v);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}

/// The sum of all lanes, pairwise: neighbours, then neighbouring pairs, and so on.
template <IsPacket V>
SETTLE_INLINE Lane<V> sum(V v) {
  Lane<V> lanes[packet_size<Lane<V>>];
  store(lanes, v);
  return detail::sum_pairwise<packet_size<Lane<V>>>(lanes);
}

/// mask ? a : b in each lane.
template <IsPacket V>
SETTLE_INLINE V select(Mask<Lane<V>> mask, V a, V b) {
  return mask ? a : b;
}

/// c != 0 ? a : b in each lane; NaN counts as nonzero.
template <IsPacket V>
SETTLE_INLINE V select_nonzero(V c, V a, V b) {
  return c != V{} ? a : b;
}

/// 1 where the mask holds, 0 elsewhere, as in mask_to_number<float>(a < b).
template <class T>
SETTLE_INLINE Packet<T> mask_to_number(Mask<T> mask) {
  return select(mask, splat(T(1)), Packet<T>{});
}

/// Whether the mask holds in any lane.
template <class M>
  requires(sizeof(M) == packet_bytes)
SETTLE_INLINE bool any(M mask) {
  std::uint64_t words[packet_bytes / 8];
  std::memcpy(words, &mask, sizeof(M));
  std::uint64_t all = 0;
  for (const std::uint64_t word : words) all |= word;
  return all != 0;
}

/// a * b + c, rounded once where the processor can.
template <IsPacket V>
SETTLE_INLINE V fma(V a, V b, V c) {
  return a * b + c;
}

}  // namespace settle::cpu
