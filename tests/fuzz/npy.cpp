#include "settle/io/npy.hpp"

#include "targets.hpp"

void fuzz::npy(std::span<const std::uint8_t> bytes) {
  read([&] {
    const settle::NpyArray array({bytes.begin(), bytes.end()}, "input");
    read([&] { array.get_as<double>(); });
    read([&] { array.get<float>(); });
    read([&] { array.strings(); });
  });
}
SETTLE_FUZZ_TARGET(npy)
