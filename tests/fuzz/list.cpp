#include "settle/data/pathfinder_folder.hpp"

#include "targets.hpp"

void fuzz::list(std::span<const std::uint8_t> bytes) {
  read([&] {
    const std::filesystem::path path = file_of(bytes);
    const settle::PathfinderFolder folder(path.parent_path(), path, 8);
    for (settle::Index i = 0; i < folder.size(); ++i) read([&] { folder.sample(i); });
  });
}
SETTLE_FUZZ_TARGET(list)
