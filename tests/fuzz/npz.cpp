#include "settle/io/npz.hpp"

#include "targets.hpp"

void fuzz::npz(std::span<const std::uint8_t> bytes) {
  read([&] {
    const settle::NpzFile file(bytes, "input");
    for (const std::string& name : file.names) read([&] { file.array(name).get_as<double>(); });
  });
}
SETTLE_FUZZ_TARGET(npz)
