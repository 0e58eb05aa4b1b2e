#include "settle/io/safetensors.hpp"

#include "targets.hpp"

void fuzz::safetensors(std::span<const std::uint8_t> bytes) {
  read([&] {
    const settle::SafetensorsFile file = settle::read_safetensors(file_of(bytes));
    for (const std::string& name : file.names) read([&] { file.get_as<double>(name); });
  });
}
SETTLE_FUZZ_TARGET(safetensors)
