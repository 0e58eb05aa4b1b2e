#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace settle::inline v0_2 {

/// Philox4x32-10 (Salmon, Moraes, Dror, Shaw; SC 2011): four 32-bit random words for a 128-bit counter and a 64-bit
/// key.
constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

/// A stream of random numbers, named by a seed and a stream number (an image's index, a parameter's number). Streams
/// are independent, and the n-th number of a stream is a pure function of (seed, stream, n): no thread count can change
/// it.
class Random {
 public:
  explicit constexpr Random(std::uint64_t seed, std::uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  /// A word, uniform over 32 bits.
  constexpr std::uint32_t bits() {
    if (used_ == 4) {
      words_ = philox({low(position_), high(position_), low(stream_), high(stream_)}, {low(seed_), high(seed_)});
      ++position_;
      used_ = 0;
    }
    return words_[used_++];
  }

  constexpr std::uint64_t seed() const { return seed_; }
  constexpr std::uint64_t stream() const { return stream_; }
  /// How many words were drawn.
  constexpr std::uint64_t words() const { return 4 * position_ + used_ - 4; }
  /// Passes over words: a uniform number takes 2 of them, a normal one 4.
  constexpr void skip(std::uint64_t words_ahead) {
    const std::uint64_t at = words() + words_ahead;
    position_ = at / 4, used_ = 4;
    for (std::uint64_t k = 0; k < at % 4; ++k) bits();
  }

  /// Uniform in [0, 1), with 53 random bits.
  constexpr double uniform() {
    const std::uint64_t a = bits() >> 5, b = bits() >> 6;
    return (static_cast<double>(a) * 67108864.0 + static_cast<double>(b)) / 9007199254740992.0;
  }

  /// Uniform in [low, high).
  constexpr double uniform(double low, double high) { return low + (high - low) * uniform(); }

  /// A whole number, uniform in [0, count); count > 0. Unbiased to 2^-53.
  constexpr std::int64_t below(std::int64_t count) {
    return static_cast<std::int64_t>(uniform() * static_cast<double>(count));
  }

  /// Standard normal (Box-Muller).
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

 private:
  static constexpr std::uint32_t low(std::uint64_t x) { return static_cast<std::uint32_t>(x); }
  static constexpr std::uint32_t high(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }

  std::uint64_t seed_, stream_, position_ = 0;
  std::array<std::uint32_t, 4> words_{};
  unsigned used_ = 4;
};

}  // namespace settle
