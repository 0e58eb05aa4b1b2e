#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <new>
#include <vector>

#include "settle/core/round_up.hpp"

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace settle::inline v0_2 {

/// Memory for large blocks, cut from regions that the system is asked to back with huge pages: walks with long strides,
/// as a transform's, then miss few translations of addresses. Blocks follow each other without gaps, so that a huge
/// page is not held for one of them alone. A released block's pages are the system's to take, its addresses when all of
/// its region is released. On Linux; elsewhere it is operator new.
class LargeBlocks {
 public:
  static constexpr std::size_t least = 64 * 1024;          ///< bytes from which a block is large
  static constexpr std::size_t region = 32 * 1024 * 1024;  ///< bytes asked of the system at a time, if it has them

  LargeBlocks() = default;
  LargeBlocks(const LargeBlocks&) = delete;
  LargeBlocks& operator=(const LargeBlocks&) = delete;

  /// The process-wide instance.
  static LargeBlocks& instance() {
    static LargeBlocks* blocks = new LargeBlocks;  // never destroyed: tensors may outlive any static's order
    return *blocks;
  }

#ifdef __linux__
  /// Unmaps all regions.
  ~LargeBlocks() {
    for (const Region& r : regions_) ::munmap(r.begin, r.size);
  }

  /// A block of `bytes` in whole pages; its contents are undefined. Throws std::bad_alloc.
  void* allocate(std::size_t bytes) {
    if (bytes > std::numeric_limits<std::size_t>::max() / 2) throw std::bad_alloc();
    bytes = in_pages(bytes);
    std::lock_guard lock(mutex_);
    auto at = std::find_if(regions_.begin(), regions_.end(), [&](const Region& r) { return r.size - r.used >= bytes; });
    if (at == regions_.end()) {
      regions_.reserve(regions_.size() + 1);  // may throw, which it must not once there is a region to keep
      Region added = mapped(std::max(bytes, region));
      if (!added.begin) added = mapped(bytes);
      if (!added.begin) throw std::bad_alloc();
      at = regions_.insert(regions_.end(), added);
    }
    char* const block = at->begin + at->used;
    at->used += bytes;
    at->live += bytes;
    return block;
  }

  /// Takes back a block of allocate(bytes).
  void release(void* data, std::size_t bytes) noexcept {
    bytes = in_pages(bytes);
    std::lock_guard lock(mutex_);
    const auto at = std::find_if(regions_.begin(), regions_.end(),
                                 [&](const Region& r) { return r.begin <= data && data < r.begin + r.size; });
    at->live -= bytes;
    if (at->live > 0) {
      ::madvise(data, bytes, MADV_DONTNEED);
    } else {
      ::munmap(at->begin, at->size);
      regions_.erase(at);
    }
  }

 private:
  struct Region {
    char* begin = nullptr;
    std::size_t size = 0;
    std::size_t used = 0;  ///< bytes from the begin on that blocks have had
    std::size_t live = 0;  ///< bytes of blocks that are not released
  };

  static std::size_t in_pages(std::size_t bytes) {
    static const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    return round_up(bytes, page);
  }

  /// A new region of at least `bytes`; none where the system has none.
  static Region mapped(std::size_t bytes) {
    constexpr std::size_t huge_page = 2 * 1024 * 1024;
    bytes = round_up(bytes, huge_page);
    // One huge page more, of which what lies before and behind the aligned bytes goes back.
    void* const all = ::mmap(nullptr, bytes + huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) return {};
    const auto address = reinterpret_cast<std::uintptr_t>(all);
    const std::size_t before = round_up(address, huge_page) - address;
    char* const begin = static_cast<char*>(all) + before;
    if (before > 0) ::munmap(all, before);
    ::munmap(begin + bytes, huge_page - before);
    ::madvise(begin, bytes, MADV_HUGEPAGE);  // may be refused
    return {.begin = begin, .size = bytes};
  }

  std::mutex mutex_;
  std::vector<Region> regions_;
#else
  void* allocate(std::size_t bytes) { return ::operator new(bytes, alignment); }
  void release(void* data, std::size_t) noexcept { ::operator delete(data, alignment); }

 private:
  static constexpr std::align_val_t alignment{64};
#endif
};

}  // namespace settle
