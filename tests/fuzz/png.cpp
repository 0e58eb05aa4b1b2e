#include "settle/io/png.hpp"

#include "targets.hpp"

void fuzz::png(std::span<const std::uint8_t> bytes) {
  const std::filesystem::path path = file_of(bytes);
  for (const settle::Index channels : {0, 1, 3}) read([&] { settle::read_png(path, channels); });
}
SETTLE_FUZZ_TARGET(png)
