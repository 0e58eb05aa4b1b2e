#pragma once
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "settle/core/error.hpp"
#include "settle/core/shape.hpp"
#include "settle/train/figures.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// The cyclic redundancy check CRC-32C (Castagnoli): of the text "123456789" it is 0xE3069283.
constexpr std::uint32_t crc32c(std::string_view bytes) {
  constexpr auto table = [] {
    std::array<std::uint32_t, 256> out{};
    for (std::uint32_t k = 0; k < 256; ++k) {
      std::uint32_t c = k;
      for (int bit = 0; bit < 8; ++bit) c = (c & 1u) != 0 ? c >> 1 ^ 0x82F63B78u : c >> 1;
      out[k] = c;
    }
    return out;
  }();
  std::uint32_t crc = 0xFFFFFFFFu;
  for (const char byte : bytes) crc = table[(crc ^ static_cast<unsigned char>(byte)) & 255u] ^ crc >> 8;
  return crc ^ 0xFFFFFFFFu;
}

/// Numbers as Protocol Buffers write them. Source: the format's description, protobuf.dev/programming-guides/encoding.
inline std::string little_endian(std::uint64_t value, int bytes) {
  std::string out;
  for (int k = 0; k < bytes; ++k) out += static_cast<char>(value >> 8 * k & 255);
  return out;
}
inline std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 128; value >>= 7) out += static_cast<char>(value % 128 + 128);
  return out += static_cast<char>(value);
}
inline std::string length_delimited(int field, std::string_view bytes) {
  return varint(static_cast<std::uint64_t>(field) * 8 + 2) + varint(bytes.size()) + std::string(bytes);
}

}  // namespace detail

/// A file of scalars that TensorBoard shows: a sequence of TFRecords, each with the masked CRC-32C of its length and of
/// its bytes, which hold a protocol buffer `Event` with a `Summary` of `simple_value`s. TensorBoard looks for files
/// with "tfevents" in their name.
class TensorBoardWriter {
 public:
  /// Starts a new file at a time in seconds since 1970. Throws Error where it cannot be written.
  TensorBoardWriter(std::filesystem::path path, double time) : path_(std::move(path)) {
    file_.reset(std::fopen(path_.c_str(), "wbe"));
    check(file_ != nullptr);
    event(detail::length_delimited(3, "brain.Event:2"), time);
  }

  /// Adds the figures of a step, each under its name.
  void add(Index step, double time, const Figures& figures) {
    std::string summary;
    for (const auto& [name, value] : figures) {
      const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(value));
      summary +=
          detail::length_delimited(1, detail::length_delimited(1, name) + '\x15' + detail::little_endian(bits, 4));
    }
    event('\x10' + detail::varint(static_cast<std::uint64_t>(step)) + detail::length_delimited(5, summary), time);
  }

  /// Shows what was added to whoever reads the file.
  void flush() { check(std::fflush(file_.get()) == 0); }

 private:
  void event(const std::string& fields, double time) {
    const std::string event = '\x09' + detail::little_endian(std::bit_cast<std::uint64_t>(time), 8) + fields;
    const std::string length = detail::little_endian(event.size(), 8);
    const std::string record = length + masked_crc(length) + event + masked_crc(event);
    check(std::fwrite(record.data(), 1, record.size(), file_.get()) == record.size());
  }

  /// Masked, as the bytes may themselves hold a check sum.
  static std::string masked_crc(std::string_view bytes) {
    return detail::little_endian(std::rotr(detail::crc32c(bytes), 15) + 0xA282EAD8u, 4);
  }

  void check(bool good) const {
    if (!good) fail("tensorboard", path_.string(), ": cannot be written: ", std::strerror(errno));
  }

  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace settle
