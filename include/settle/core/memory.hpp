#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"

#if defined(__SANITIZE_ADDRESS__)
#define SETTLE_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SETTLE_ADDRESS_SANITIZER 1
#endif
#endif
#ifdef SETTLE_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#endif

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace settle {

/// What one tag (or all together) holds now, held at most, and asked of the system.
struct MemoryUse {
  std::size_t current = 0;      ///< bytes in live tensors
  std::size_t peak = 0;         ///< the largest `current` since reset_peak()
  std::size_t allocations = 0;  ///< blocks asked of the system (reused blocks do not count)
};

/// The memory that tensors on the CPU live in. A freed block is kept and reused by the next tensor of about its size,
/// so a loop allocates nothing after its first round; the accounting proves it.
class Memory {
 public:
  /// The block behind one or more tensors. `derived` is whatever an operation keeps beside the values and must lose
  /// when they change (the spectra of a convolution's weights).
  struct Block {
    std::atomic<int> references{0};
    std::size_t bytes = 0;
    std::size_t capacity = 0;
    void* data = nullptr;
    int tag = 0;
    std::shared_ptr<void> derived;
  };

  /// The process-wide instance.
  static Memory& instance() {
    static Memory* memory = new Memory;  // never destroyed: tensors may outlive any static's order
    return *memory;
  }

  /// A block of at least `bytes`, aligned to 64, counted under the calling thread's tag. Contents are undefined.
  Block* allocate(std::size_t bytes) {
    std::lock_guard lock(mutex_);
    const std::size_t capacity = size_class(bytes);
    const int tag = current_tag();
    Block* block = nullptr;
    auto& free = free_[capacity];
    if (!free.empty()) {
      block = free.back();
      free.pop_back();
    } else {
      void* data = ::operator new(capacity, alignment(capacity));
      ask_for_huge_pages(data, capacity);
      block = new Block;
      block->capacity = capacity;
      block->data = data;
      blocks_.emplace_back(block);
      ++total_.allocations;
      ++by_tag_[slot(tag)].allocations;
    }
    block->bytes = bytes;
    block->tag = tag;
    block->references = 1;
    add(total_, bytes);
    add(by_tag_[slot(tag)], bytes);
    unpoison(block);
    return block;
  }

  /// Gives one reference back; the last one makes the block free for reuse.
  void release(Block* block) {
    if (block->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    block->derived.reset();
    std::lock_guard lock(mutex_);
    total_.current -= block->bytes;
    by_tag_[slot(block->tag)].current -= block->bytes;
    poison(block);
    free_[block->capacity].push_back(block);
  }

  /// All tags together.
  MemoryUse use() const {
    std::lock_guard lock(mutex_);
    return total_;
  }

  /// One line per tag that was ever used.
  std::vector<std::pair<std::string, MemoryUse>> use_by_tag() const {
    std::lock_guard lock(mutex_);
    std::vector<std::pair<std::string, MemoryUse>> out;
    for (std::size_t i = 0; i < names_.size(); ++i) out.emplace_back(names_[i], by_tag_[i]);
    return out;
  }

  /// Starts new peaks from what is held now.
  void reset_peak() {
    std::lock_guard lock(mutex_);
    total_.peak = total_.current;
    for (auto& use : by_tag_) use.peak = use.current;
  }

  /// Returns the free blocks to the system.
  void trim() {
    std::lock_guard lock(mutex_);
    for (auto& [capacity, free] : free_) {
      for (Block* block : free) {
        unpoison(block);
        ::operator delete(block->data, alignment(block->capacity));
        block->data = nullptr;
      }
      free.clear();
    }
    std::erase_if(blocks_, [](const auto& block) { return block->data == nullptr; });
  }

  /// The number of a tag's name, made when it is new.
  int tag(const char* name) {
    std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < names_.size(); ++i)
      if (names_[i] == name) return static_cast<int>(i);
    require(names_.size() < by_tag_.size(), "memory", "more than ", by_tag_.size(), " tags, at '", name, "'");
    names_.emplace_back(name);
    return static_cast<int>(names_.size() - 1);
  }

  /// The tag that the calling thread's allocations are counted under.
  static int& current_tag() {
    thread_local int tag = 0;
    return tag;
  }

 private:
  static constexpr std::size_t huge_page = 2 * 1024 * 1024;

  static std::align_val_t alignment(std::size_t capacity) {
    return std::align_val_t{capacity >= huge_page ? huge_page : 64};
  }

  /// Large blocks in few pages: walks with long strides, as a transform's, miss fewer translations of addresses.
  static void ask_for_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t capacity) {
#ifdef __linux__
    if (capacity >= huge_page) ::madvise(data, capacity / huge_page * huge_page, MADV_HUGEPAGE);  // may be refused
#endif
  }

  static std::size_t slot(int tag) { return static_cast<std::size_t>(tag); }

  static std::size_t size_class(std::size_t bytes) {
    std::size_t step = 256;  // an eighth of the size's power of two: at most 12.5 % is lost
    while (step * 16 <= bytes) step *= 2;
    return std::max<std::size_t>(256, (bytes + step - 1) / step * step);
  }

  static void add(MemoryUse& use, std::size_t bytes) {
    use.current += bytes;
    use.peak = std::max(use.peak, use.current);
  }

#ifdef SETTLE_ADDRESS_SANITIZER
  static void poison(Block* block) { ASAN_POISON_MEMORY_REGION(block->data, block->capacity); }
  static void unpoison(Block* block) {
    ASAN_POISON_MEMORY_REGION(block->data, block->capacity);
    ASAN_UNPOISON_MEMORY_REGION(block->data, block->bytes);
  }
#else
  static void poison(Block*) {}
  static void unpoison(Block*) {}
#endif

  mutable std::mutex mutex_;
  MemoryUse total_;
  std::array<MemoryUse, 64> by_tag_{};
  std::vector<std::string> names_{"untagged"};
  std::map<std::size_t, std::vector<Block*>> free_;
  std::vector<std::unique_ptr<Block>> blocks_;
};

/// Counts the allocations of a scope, on this thread, under a name: `MemoryTag tag("state");`.
class MemoryTag {
 public:
  explicit MemoryTag(const char* name) : before_(Memory::current_tag()) {
    Memory::current_tag() = Memory::instance().tag(name);
  }
  ~MemoryTag() { Memory::current_tag() = before_; }
  MemoryTag(const MemoryTag&) = delete;
  MemoryTag& operator=(const MemoryTag&) = delete;

 private:
  int before_;
};

}  // namespace settle
