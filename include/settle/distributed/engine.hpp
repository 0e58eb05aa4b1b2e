#pragma once
#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>

namespace settle::inline v0_2::distributed {

using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;
using Deadline = std::chrono::steady_clock::time_point;

/// What moves bytes between ranks. It adds nothing, orders nothing and checks nothing: Group does, the same for every
/// engine. All ranks call the same operations in the same order with the same sizes. An operation waits for the others
/// and returns whether they came before the deadline; it throws Error at once when the engine knows that they cannot
/// come (a connection that closed), and returns false when a rank has raised the alarm.
class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  virtual ~Engine() = default;

  virtual const char* name() const = 0;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// all[r] = what rank r gave, in order: all.size() = size() * mine.size().
  virtual bool gather(ConstBytes mine, Bytes all, Deadline deadline) = 0;
  /// to[r] = what rank r had for this one, from[r] = what this one has for rank r: equal parts.
  virtual bool exchange(ConstBytes from, Bytes to, Deadline deadline) = 0;
  /// What `root` has, on every rank.
  virtual bool broadcast(Bytes what, int root, Deadline deadline) = 0;

  /// Tells all ranks why this one does not go on. Returns at once, and throws nothing.
  virtual void raise_alarm(const std::string& why) noexcept = 0;
  /// The first alarm that was heard.
  virtual std::optional<std::string> alarm() = 0;
  /// After a deadline: ranks that did not come, where the engine knows, as in "rank 3".
  virtual std::string missing() const { return {}; }
};

/// What moves memory of the ranks' devices, one device a rank, in the order of each device's own work. As Engine it
/// adds, orders and checks nothing: Group does. An operation returns once it has been started, and throws Error when it
/// cannot be before the deadline; done() tells its end.
class DeviceEngine {
 public:
  DeviceEngine() = default;
  DeviceEngine(const DeviceEngine&) = delete;
  DeviceEngine& operator=(const DeviceEngine&) = delete;
  virtual ~DeviceEngine() = default;

  virtual const char* name() const = 0;
  /// Whether what the calling thread asks of its device is written down, to be done later.
  virtual bool captures() const = 0;

  virtual void gather(const void* mine, void* all, std::size_t bytes_of_mine, Deadline deadline) = 0;
  virtual void exchange(const void* from, void* to, std::size_t bytes, Deadline deadline) = 0;
  virtual void broadcast(void* what, std::size_t bytes, int root, Deadline deadline) = 0;

  /// Whether all that was started is done. Throws Error when the engine knows that it never will be.
  virtual bool done() = 0;
  /// The ranks do not go on together. Throws nothing.
  virtual void abandon() noexcept = 0;
};

}  // namespace settle::distributed
