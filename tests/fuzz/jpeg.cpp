#include "settle/io/jpeg.hpp"

#include "targets.hpp"

void fuzz::jpeg(std::span<const std::uint8_t> bytes) {
  const std::filesystem::path path = file_of(bytes);
  for (const settle::Index channels : {0, 1, 3}) read([&] { settle::read_jpeg(path, channels); });
}
SETTLE_FUZZ_TARGET(jpeg)
