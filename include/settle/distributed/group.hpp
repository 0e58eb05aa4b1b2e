#pragma once
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/distributed/engine.hpp"

namespace settle::inline v0_2::distributed {

/// What another rank has told all before it gave up.
class RemoteError : public Error {
 public:
  using Error::Error;
};

/// What a group did: for tests and for counting the cost of a step.
struct Traffic {
  std::uint64_t operations = 0;
  std::uint64_t bytes = 0;  ///< given by this rank
};

/// Processes or threads that do the same things in the same order. A value: copies are the same group. It moves bytes
/// and adds nothing. Every operation is one for all ranks, waits for them until its deadline, and throws Error on every
/// rank, with a text that names ranks and operation, when they do not do the same or do not come. After an Error the
/// group is of no use but to be abandoned.
///
/// The first bytes of an operation travel as one block of a fixed size with a heading that tells the operation's number,
/// kind and size; what is longer follows after the headings were compared. So lengths always fit, and ranks that parted
/// hear of it instead of waiting for ever.
class Group {
 public:
  /// Alone: everything is a copy.
  Group() = default;
  explicit Group(std::shared_ptr<Engine> engine) : state_(std::make_shared<State>()) {
    state_->engine = std::move(engine);
  }

  int rank() const { return alone() ? 0 : state_->engine->rank(); }
  int size() const { return alone() ? 1 : state_->engine->size(); }
  bool alone() const { return state_ == nullptr; }

  /// all[r] = what rank r gave, in order, on every rank. Throws Error unless all.size() = size() * mine.size().
  void gather(ConstBytes mine, Bytes all) const {
    require(all.size() == mine.size() * ranks(), "distributed", "gather: expected room for ", mine.size() * ranks(),
            " bytes, got ", all.size());
    if (alone()) return copy(mine, all);
    const Blocks blocks = announce(Kind::gather, mine.size(), mine.first(std::min(mine.size(), Block::room)));
    for (std::size_t r = 0; r < ranks(); ++r) blocks[r].take(all.subspan(r * mine.size(), mine.size()));
    if (mine.size() <= Block::room) return;
    const std::size_t rest = mine.size() - Block::room;
    std::vector<std::byte> rests(rest * ranks());
    await(Kind::gather, rest, [&](Deadline d) { return engine().gather(mine.subspan(Block::room), rests, d); });
    for (std::size_t r = 0; r < ranks(); ++r)
      std::copy_n(rests.data() + r * rest, rest, all.data() + r * mine.size() + Block::room);
  }

  /// to[r] = what rank r had for this one: both are size() equal parts, in the ranks' order.
  void exchange(ConstBytes from, Bytes to) const {
    require(from.size() == to.size() && from.size() % ranks() == 0, "distributed", "exchange: expected two lists of ",
            ranks(), " equal parts, got ", from.size(), " and ", to.size(), " bytes");
    if (alone()) return copy(from, to);
    announce(Kind::exchange, from.size(), {});
    if (!from.empty())
      await(Kind::exchange, from.size(), [&](Deadline d) { return engine().exchange(from, to, d); });
  }

  /// What rank `root` has, on every rank.
  void broadcast(Bytes what, int root = 0) const {
    require(root >= 0 && root < size(), "distributed", "broadcast: rank ", root, " of ", size());
    if (alone()) return;
    const std::size_t head = rank() == root ? std::min(what.size(), Block::room) : 0;
    const Blocks blocks = announce(Kind::broadcast, what.size(), ConstBytes(what).first(head), root);
    blocks[static_cast<std::size_t>(root)].take(what);
    if (what.size() <= Block::room) return;
    await(Kind::broadcast, what.size(), [&](Deadline d) { return engine().broadcast(what.subspan(Block::room), root, d); });
  }

  /// Returns when all ranks have come here.
  void meet() const { gather({}, {}); }

  /// The same for memory of the ranks' devices, without a way through the processor's: where has_devices(). The work that
  /// was asked of the device before is done first. The ranks meet before each, so that what does not fit is an Error, and
  /// all must capture an operation or none; returns when it is done, or, captured, when it is written down: then nothing
  /// is checked when it is launched, which all ranks have to do.
  void gather_on_device(const void* mine, void* all, std::size_t bytes_of_mine) const {
    on_device(Kind::gather, bytes_of_mine, 0,
              [&](DeviceEngine& d, Deadline deadline) { d.gather(mine, all, bytes_of_mine, deadline); });
  }
  void exchange_on_device(const void* from, void* to, std::size_t bytes) const {
    require(bytes % ranks() == 0, "distributed", "exchange: expected ", ranks(), " equal parts, got ", bytes, " bytes");
    on_device(Kind::exchange, bytes, 0,
              [&](DeviceEngine& d, Deadline deadline) { d.exchange(from, to, bytes, deadline); });
  }
  void broadcast_on_device(void* what, std::size_t bytes, int root = 0) const {
    require(root >= 0 && root < size(), "distributed", "broadcast: rank ", root, " of ", size());
    on_device(Kind::broadcast, bytes, root,
              [&](DeviceEngine& d, Deadline deadline) { d.broadcast(what, bytes, root, deadline); });
  }

  /// Whether the ranks' devices are connected.
  bool has_devices() const { return !alone() && state_->devices != nullptr; }
  /// Has the operations on devices done by an engine that connects those of all ranks.
  void connect_devices(std::shared_ptr<DeviceEngine> devices) const {
    require(!alone(), "distributed", "a group of one has no devices to connect");
    state_->devices = std::move(devices);
  }

  /// Makes every operation of all ranks, waiting or later, throw RemoteError, whose text says which rank gave up and
  /// why. Throws nothing.
  void abandon(const std::string& why) const noexcept {
    if (alone()) return;
    try {
      const bool names_rank = why.starts_with("[distributed]") || why.starts_with("rank ");
      engine().raise_alarm(names_rank ? why : "rank " + std::to_string(rank()) + ": " + why);
    } catch (...) {  // no memory for the text
      engine().raise_alarm({});
    }
    if (has_devices()) state_->devices->abandon();
  }

  /// How long an operation waits for the others. The default is 15 minutes: first steps compile kernels.
  void patience(std::chrono::duration<double> seconds) const {
    if (!alone()) state_->patience = std::chrono::duration_cast<std::chrono::steady_clock::duration>(seconds);
  }

  /// What this rank did so far.
  Traffic traffic() const { return alone() ? Traffic{} : state_->traffic; }

  friend bool operator==(const Group& a, const Group& b) { return a.state_ == b.state_; }

 private:
  /// Each is followed by the same on devices, and by that captured.
  enum class Kind : std::uint32_t { gather = 0, exchange = 3, broadcast = 6 };
  static constexpr std::array names{
      "a gather",    "a gather on the devices",    "a captured gather on the devices",
      "an exchange", "an exchange on the devices", "a captured exchange on the devices",
      "a broadcast", "a broadcast on the devices", "a captured broadcast on the devices"};
  static Kind on_devices(Kind kind, bool captured) {
    return static_cast<Kind>(static_cast<std::uint32_t>(kind) + (captured ? 2 : 1));
  }
  static bool is_on_devices(Kind kind) { return static_cast<std::uint32_t>(kind) % 3 != 0; }

  struct Heading {
    std::uint64_t number = 0, bytes = 0;
    Kind kind{};
    std::int32_t root = 0;
    bool operator==(const Heading&) const = default;
  };
  struct Block {
    static constexpr std::size_t room = 512 - sizeof(Heading);
    Heading heading;
    std::array<std::byte, room> head{};

    void take(Bytes to) const { std::copy_n(head.begin(), std::min(to.size(), room), to.begin()); }
  };
  using Blocks = std::vector<Block>;

  struct State {
    std::shared_ptr<Engine> engine;
    std::shared_ptr<DeviceEngine> devices;  ///< null without
    std::uint64_t number = 0;
    Traffic traffic;
    std::chrono::steady_clock::duration patience = std::chrono::minutes(15);
    Blocks blocks;
  };

  Engine& engine() const { return *state_->engine; }
  std::size_t ranks() const { return static_cast<std::size_t>(size()); }

  static void copy(ConstBytes from, Bytes to) {
    std::copy(from.begin(), from.end(), to.begin());
  }

  static std::string text(const Heading& h) {
    return "operation " + std::to_string(h.number) + ", " + names[static_cast<std::size_t>(h.kind)] + " of " +
           std::to_string(h.bytes) + " bytes" + (h.kind >= Kind::broadcast ? " from rank " + std::to_string(h.root) : "");
  }

  /// Sends this operation's heading and first bytes to all, and returns those of all when they are of one operation.
  const Blocks& announce(Kind kind, std::size_t bytes, ConstBytes head, int root = 0) const {
    Block mine{{++state_->number, bytes, kind, root}, {}};
    std::copy(head.begin(), head.end(), mine.head.begin());
    ++state_->traffic.operations;
    state_->traffic.bytes += bytes;
    Blocks& all = state_->blocks;
    all.resize(ranks());
    await(kind, bytes, [&](Deadline d) {
      return engine().gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)), d);
    });
    for (std::size_t r = 0; r < ranks(); ++r)
      if (!(all[r].heading == all[0].heading))
        fail("distributed", "the ranks have parted: rank 0 is at ", text(all[0].heading), ", and rank ", r, " at ",
             text(all[r].heading));
    return all;
  }

  /// Has all ranks meet, starts an operation on their devices, and waits for its end.
  template <class Start>
  void on_device(Kind kind, std::size_t bytes, int root, const Start& start) const {
    require(has_devices(), "distributed", "the ranks' devices are not connected");
    DeviceEngine& devices = *state_->devices;
    const bool captured = devices.captures();
    kind = on_devices(kind, captured);
    announce(kind, bytes, {}, root);
    if (bytes == 0) return;
    await(kind, bytes, [&](Deadline deadline) {
      start(devices, deadline);
      const auto begun = std::chrono::steady_clock::now();
      while (!captured && !devices.done()) {
        const auto now = std::chrono::steady_clock::now();
        if (engine().alarm() || now >= deadline) return false;
        if (now - begun < std::chrono::milliseconds(1))
          std::this_thread::yield();
        else
          std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
      return true;
    });
  }

  /// Lets the engine do its part. Throws Error when it is told an alarm, or when the others do not come.
  template <class Operation>
  void await(Kind kind, std::size_t bytes, const Operation& operation) const {
    if (const auto why = engine().alarm()) throw RemoteError(*why);
    try {
      if (operation(std::chrono::steady_clock::now() + state_->patience)) return;
    } catch (const RemoteError&) {
      throw;
    } catch (const Error& error) {
      const std::string why = (is_on_devices(kind) ? "rank " + std::to_string(rank()) + ": " : "") + error.what() +
                              ", at " + text({state_->number, bytes, kind, 0});
      engine().raise_alarm(why);
      throw Error(why);
    }
    if (const auto why = engine().alarm()) throw RemoteError(*why);
    const std::string missing = is_on_devices(kind) ? "the devices" : engine().missing();
    std::ostringstream why;
    why << "[distributed] rank " << rank() << " waited " << std::chrono::duration<double>(state_->patience).count()
        << " s for " << (missing.empty() ? "the others" : missing) << " at "
        << text({state_->number, bytes, kind, 0});
    engine().raise_alarm(why.str());
    throw Error(why.str());
  }

  std::shared_ptr<State> state_;  ///< null alone
};

/// The text that rank `root` has, on every rank.
inline std::string text_of(std::string mine, const Group& group, int root = 0) {
  std::uint64_t length = mine.size();
  group.broadcast(std::as_writable_bytes(std::span(&length, 1)), root);
  mine.resize(static_cast<std::size_t>(length));
  group.broadcast(std::as_writable_bytes(std::span(mine)), root);
  return mine;
}

}  // namespace settle::distributed
