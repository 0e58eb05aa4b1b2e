#pragma once
#include <algorithm>
#include <cstddef>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace settle {

/// Memory for large blocks, cut from regions that the system is asked to back with huge pages: walks with long strides,
/// as a transform's, then miss few translations of addresses. Blocks follow each other without gaps, so no huge page is
/// held for a part of it. The pages of a released block go back to the system, its addresses to later blocks; regions
/// stay. On Linux; elsewhere it is operator new.
class LargeBlocks {
 public:
  static constexpr std::size_t least = 64 * 1024;          ///< bytes of a block
  static constexpr std::size_t region = 32 * 1024 * 1024;  ///< bytes asked of the system at a time, at least
  static constexpr std::size_t page = 4096;                ///< a block's alignment

  /// The process-wide instance.
  static LargeBlocks& instance() {
    static LargeBlocks* blocks = new LargeBlocks;  // never destroyed: tensors may outlive any static's order
    return *blocks;
  }

#ifdef __linux__
  /// A block of `bytes` in whole pages; its contents are undefined. Throws std::bad_alloc.
  void* allocate(std::size_t bytes) {
    bytes = round_up(bytes, page);
    std::lock_guard lock(mutex_);
    auto found = std::find_if(free_.begin(), free_.end(), [&](const auto& range) { return range.second >= bytes; });
    if (found == free_.end()) found = map_region(std::max(bytes, region));
    const auto [begin, size] = *found;
    free_.erase(found);
    if (size > bytes) free_.emplace(begin + bytes, size - bytes);
    return begin;
  }

  /// Takes back a block of allocate(bytes).
  void release(void* data, std::size_t bytes) {
    bytes = round_up(bytes, page);
    ::madvise(data, bytes, MADV_DONTNEED);
    std::lock_guard lock(mutex_);
    add_free(static_cast<char*>(data), bytes);
  }

 private:
  using Ranges = std::map<char*, std::size_t>;

  static std::size_t round_up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

  /// Asks the system for a free range of at least `bytes`.
  Ranges::iterator map_region(std::size_t bytes) {
    constexpr std::size_t huge_page = 2 * 1024 * 1024;
    bytes = round_up(bytes, huge_page);
    std::size_t mapped = bytes + huge_page;  // what lies around the aligned part is never touched
    void* begin = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (begin == MAP_FAILED) throw std::bad_alloc();
    std::align(huge_page, bytes, begin, mapped);
    ::madvise(begin, bytes, MADV_HUGEPAGE);  // may be refused
    return add_free(static_cast<char*>(begin), bytes);
  }

  /// Makes a range free, one with what is free beside it.
  Ranges::iterator add_free(char* begin, std::size_t bytes) {
    auto next = free_.lower_bound(begin);
    if (next != free_.end() && next->first == begin + bytes) {
      bytes += next->second;
      next = free_.erase(next);
    }
    if (next != free_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == begin) {
        before->second += bytes;
        return before;
      }
    }
    return free_.emplace_hint(next, begin, bytes);
  }

  std::mutex mutex_;
  Ranges free_;  ///< bytes from an address on
#else
  void* allocate(std::size_t bytes) { return ::operator new(bytes, std::align_val_t{page}); }
  void release(void* data, std::size_t) { ::operator delete(data, std::align_val_t{page}); }
#endif
};

}  // namespace settle
