#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "settle/core/cpu.hpp"
#include "settle/core/error.hpp"
#include "settle/core/fork.hpp"
#include "settle/core/round_up.hpp"
#include "settle/core/scoped_value.hpp"

namespace settle::inline v0_2 {

/// What one tag (or all together) holds now, held at most, and asked of the system.
struct MemoryUse {
  std::size_t current = 0;      ///< bytes in live tensors
  std::size_t peak = 0;         ///< the largest `current` since reset_peak()
  std::size_t allocations = 0;  ///< blocks asked of the system (reused blocks do not count)
};

/// The names that allocations are counted under, the same for all devices: a number each.
class MemoryTags {
 public:
  static constexpr std::size_t most = 64;

  /// The process-wide list.
  static MemoryTags& instance() {
    static MemoryTags* tags = new MemoryTags;  // never destroyed, as the memory that counts by them
    return *tags;
  }

  /// The number of a name, made when it is new.
  std::size_t number(const char* name) {
    std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < names_.size(); ++i)
      if (names_[i] == name) return i;
    require(names_.size() < most, "memory", "more than ", most, " tags, at '", name, "'");
    names_.emplace_back(name);
    return names_.size() - 1;
  }

  std::vector<std::string> names() const {
    std::lock_guard lock(mutex_);
    return names_;
  }

  /// The tag that the calling thread's allocations are counted under.
  static std::size_t& current() {
    thread_local std::size_t tag = 0;
    return tag;
  }

 private:
  mutable ForkSafeMutex mutex_;
  std::vector<std::string> names_{"untagged"};
};

/// The memory that a device's tensors live in. A freed block is kept and reused by the next tensor of about its size,
/// so a loop allocates nothing after its first round; the accounting proves it. Where sizes change, the blocks that were
/// free for longest go back to the system before all blocks take twice what tensors have held at most.
template <class Device>
class MemoryOf {
 public:
  class Reserve;

  /// The block behind one or more tensors. What is kept beside the values is lost when they change: `derived` by an
  /// operation on them (the spectra of a convolution's weights), `byproduct` by the one that made them.
  struct Block {
    std::atomic<int> references{0};
    std::size_t bytes = 0;
    std::size_t capacity = 0;
    void* data = nullptr;
    std::size_t tag = 0;
    std::uint64_t freed = 0;  ///< when it became free: later ones have larger numbers
    std::shared_ptr<void> derived, byproduct;
    Reserve* home = nullptr;  ///< where it is kept when it is free, if not with the others
    std::shared_ptr<const void> owner;  ///< of memory that is not ours: it is neither written nor reused
  };

  /// Blocks set aside for work that is repeated at the same addresses: what a thread allocates while it works from a
  /// reserve returns there, and is counted as in use until the reserve is gone.
  class Reserve {
   public:
    Reserve() = default;
    ~Reserve() { instance().dissolve(*this); }
    Reserve(const Reserve&) = delete;
    Reserve& operator=(const Reserve&) = delete;

    /// Has the calling thread's allocations come from the reserve.
    class Use {
     public:
      explicit Use(Reserve& reserve) : scope_(current(), &reserve) {}

     private:
      ScopedValue<Reserve*> scope_;
    };

   private:
    friend class MemoryOf;
    static Reserve*& current() {
      thread_local Reserve* reserve = nullptr;
      return reserve;
    }
    std::map<std::size_t, std::vector<Block*>> free_;
  };

  /// The process-wide instance.
  static MemoryOf& instance() {
    static MemoryOf* memory = new MemoryOf;  // never destroyed: tensors may outlive any static's order
    return *memory;
  }

  /// A block of at least `bytes`, aligned to 64, counted under the calling thread's tag. Contents are undefined. Throws
  /// Error where the device has not so much.
  Block* allocate(std::size_t bytes) {
    std::lock_guard lock(mutex_);
    const std::size_t capacity = size_class(bytes);
    const std::size_t tag = MemoryTags::current();
    Reserve* const home = Reserve::current();
    Block* block = home ? taken_from(home->free_[capacity]) : nullptr;
    if (block)
      subtract(*block);
    else
      block = taken_from(free_[capacity]);
    if (!block) {
      if (!home) give_back_beyond(2 * std::max(most_, total_.current + bytes), capacity);
      void* data = nullptr;
      try {
        data = asked_of_device(bytes, capacity);
      } catch (...) {  // what is kept for other sizes may be enough
        give_back();
        data = asked_of_device(bytes, capacity);
      }
      block = new Block;
      block->capacity = capacity;
      block->data = data;
      blocks_.emplace_back(block);
      capacity_ += capacity;
      ++total_.allocations;
      ++by_tag_[tag].allocations;
    }
    block->home = home;
    block->bytes = bytes;
    block->tag = tag;
    block->references = 1;
    add(total_, bytes);
    most_ = std::max(most_, total_.current);
    add(by_tag_[tag], bytes);
    Device::guard(block->data, capacity, bytes);
    return block;
  }

  /// A block over memory that has an owner elsewhere, who is held until the block's last reference is given back. It is
  /// not counted: nothing was allocated for it.
  Block* borrow(const void* data, std::size_t bytes, std::shared_ptr<const void> owner) {
    auto block = std::make_unique<Block>();
    block->references = 1;
    block->bytes = block->capacity = bytes;
    block->data = const_cast<void*>(data);  // tensors copy it before they write
    block->owner = std::move(owner);
    std::lock_guard lock(mutex_);
    borrowed_.insert(block.get());
    return block.release();
  }

  /// Gives one reference back; the last one makes the block free for reuse.
  void release(Block* block) {
    if (block->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    block->derived.reset(), block->byproduct.reset();
    if (block->owner) {
      {
        std::lock_guard lock(mutex_);
        borrowed_.erase(block);
      }
      delete block;  // without the lock: the owner may have tensors of its own
      return;
    }
    std::lock_guard lock(mutex_);
    if (!block->home) subtract(*block);
    Device::guard(block->data, block->capacity, 0);
    block->freed = ++frees_;
    (block->home ? block->home->free_ : free_)[block->capacity].push_back(block);
  }

  /// All tags together.
  MemoryUse use() const {
    std::lock_guard lock(mutex_);
    return total_;
  }

  /// One line per tag that was ever used.
  std::vector<std::pair<std::string, MemoryUse>> use_by_tag() const {
    const std::vector<std::string> names = MemoryTags::instance().names();
    std::lock_guard lock(mutex_);
    std::vector<std::pair<std::string, MemoryUse>> out;
    for (std::size_t i = 0; i < names.size(); ++i) out.emplace_back(names[i], by_tag_[i]);
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
    give_back();
    most_ = total_.current;
  }

  /// How many tensors share each block, by the address of its values: of all blocks that tensors live in now.
  std::map<const void*, int> references() const {
    std::lock_guard lock(mutex_);
    std::map<const void*, int> out;
    for (const auto& block : blocks_)
      if (const int count = block->references; count > 0) out[block->data] = count;
    for (const Block* block : borrowed_) out[block->data] += block->references;
    return out;
  }

  /// The bytes of all blocks, those of tensors and those that are free.
  std::size_t held() const {
    std::lock_guard lock(mutex_);
    return capacity_;
  }

 private:
  void give_back() { give_back_beyond(0, 0); }

  /// Returns free blocks to the system, those that were free for longest first, until all blocks and `more` bytes are no
  /// more than `most`.
  void give_back_beyond(std::size_t most, std::size_t more) {
    if (capacity_ + more <= most) return;
    std::vector<Block*> all;
    for (const auto& [capacity, free] : free_) all.insert(all.end(), free.begin(), free.end());
    std::sort(all.begin(), all.end(), [](const Block* a, const Block* b) { return a->freed < b->freed; });
    std::uint64_t last = 0;  // of those that go
    for (Block* block : all) {
      if (capacity_ + more <= most) break;
      last = block->freed;
      capacity_ -= block->capacity;
      Device::guard(block->data, block->capacity, block->capacity);
      Device::release(block->data, block->capacity);
      block->data = nullptr;
    }
    for (auto& [capacity, free] : free_) std::erase_if(free, [&](const Block* block) { return block->freed <= last; });
    std::erase_if(blocks_, [](const auto& block) { return block->data == nullptr; });
    if constexpr (requires { Device::trim(); }) Device::trim();
  }

  static void* asked_of_device(std::size_t bytes, std::size_t capacity) {
    return with_memory("memory", bytes, [&] { return Device::allocate(capacity); });
  }

  static std::size_t size_class(std::size_t bytes) {
    std::size_t step = 256;  // an eighth of the size's power of two: at most 12.5 % is lost
    while (step * 16 <= bytes) step *= 2;
    return std::max<std::size_t>(256, round_up(bytes, step));
  }

  static Block* taken_from(std::vector<Block*>& free) {
    if (free.empty()) return nullptr;
    Block* const block = free.back();
    free.pop_back();
    return block;
  }

  /// What the reserve's blocks held is no longer set aside.
  void dissolve(Reserve& reserve) {
    std::lock_guard lock(mutex_);
    for (const auto& block : blocks_)
      if (block->home == &reserve) block->home = nullptr;
    for (auto& [capacity, free] : reserve.free_) {
      for (const Block* block : free) subtract(*block);
      auto& all = free_[capacity];
      all.insert(all.end(), free.begin(), free.end());
    }
  }

  static void add(MemoryUse& use, std::size_t bytes) {
    use.current += bytes;
    use.peak = std::max(use.peak, use.current);
  }
  void subtract(const Block& block) {
    total_.current -= block.bytes;
    by_tag_[block.tag].current -= block.bytes;
  }

  mutable ForkSafeMutex mutex_;
  MemoryUse total_;
  std::array<MemoryUse, MemoryTags::most> by_tag_{};
  std::size_t most_ = 0;      ///< bytes in live tensors at most since the last trim
  std::size_t capacity_ = 0;  ///< bytes of all blocks
  std::uint64_t frees_ = 0;
  std::map<std::size_t, std::vector<Block*>> free_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::set<Block*> borrowed_;
};

/// The processor's.
using Memory = MemoryOf<Cpu>;

/// Counts the allocations of a scope, on this thread and on all devices, under a name: `MemoryTag tag("state");`.
class MemoryTag {
 public:
  explicit MemoryTag(const char* name) : scope_(MemoryTags::current(), MemoryTags::instance().number(name)) {}

 private:
  ScopedValue<std::size_t> scope_;
};

}  // namespace settle
