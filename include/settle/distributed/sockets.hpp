#pragma once
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/distributed/group.hpp"

namespace settle::inline v0_2::distributed {

/// Where the ranks of a group of sockets meet: rank 0 listens there.
struct SocketsOptions {
  int rank = 0, size = 1;
  std::string address = "127.0.0.1";
  int port = 29500;
  std::chrono::duration<double> patience = std::chrono::minutes(5);  ///< for all to have come
};

namespace detail {

/// An open file, closed at the end.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() { close(); }
  void close() {
    if (number_ >= 0) ::close(std::exchange(number_, -1));
  }
  int get() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_;
};

inline int milliseconds_until(Deadline deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<std::int64_t>(left.count() + 1, 0, 60'000));
}

/// The far end of a connection: messages of a heading and its bytes, written and read without blocking.
class Peer {
 public:
  enum class Kind : std::uint32_t { data = 0x53544c31, alarm };

  explicit Peer(Descriptor socket) : socket_(std::move(socket)) {
    ::fcntl(socket_.get(), F_SETFL, ::fcntl(socket_.get(), F_GETFL) | O_NONBLOCK);
    const int on = 1;
    ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }

  int descriptor() const { return socket_.get(); }
  bool open() const { return static_cast<bool>(socket_); }

  /// Whether all was written before the deadline, and before the other end said something: in the middle of a message
  /// that can only be an alarm. Nothing can be sent after a part of a message.
  bool send(Kind kind, ConstBytes bytes, Deadline deadline) {
    if (broken_) return false;
    const Heading heading{kind, 0, bytes.size()};
    broken_ = !(write(std::as_bytes(std::span(&heading, 1)), deadline) && write(bytes, deadline));
    return !broken_;
  }
  /// Tells the other end that nothing more comes.
  void end() {
    broken_ = true;
    if (open()) ::shutdown(socket_.get(), SHUT_WR);
  }
  /// Waits until the other end has read all and closed.
  void drain(Deadline deadline) {
    std::array<std::byte, 4096> unread;
    while (open() && std::chrono::steady_clock::now() < deadline) {
      std::size_t count = 0;
      if (read_some(unread.data(), unread.size(), count)) continue;
      pollfd waiting{socket_.get(), POLLIN, 0};
      if (open()) ::poll(&waiting, 1, milliseconds_until(deadline));
    }
  }

  /// Begins to read the next message, whose bytes go to `into`.
  void expect(Bytes into) { into_ = into, heading_bytes_ = 0, body_bytes_ = 0, arrived_ = false; }
  /// Whether the expected message is here.
  bool arrived() const { return arrived_; }
  /// Reads what there is; returns an alarm's text when that is what came. Closes the connection when the other end did.
  std::optional<std::string> read() {
    while (open() && !arrived_) {
      if (heading_bytes_ < sizeof heading_) {
        if (!read_some(reinterpret_cast<std::byte*>(&heading_) + heading_bytes_, sizeof heading_ - heading_bytes_,
                       heading_bytes_))
          return {};
        if (heading_bytes_ < sizeof heading_) continue;
        const bool alarm = heading_.kind == Kind::alarm && heading_.bytes <= longest_alarm;
        if (alarm)
          text_.resize(static_cast<std::size_t>(heading_.bytes));
        else if (heading_.kind != Kind::data || heading_.bytes != into_.size())
          return "[distributed] a connection brought what is no message of this program";
      }
      const bool alarm = heading_.kind == Kind::alarm;
      const Bytes to = alarm ? std::as_writable_bytes(std::span(text_)) : into_;
      if (body_bytes_ < to.size() && !read_some(to.data() + body_bytes_, to.size() - body_bytes_, body_bytes_)) return {};
      if (body_bytes_ < to.size()) continue;
      if (alarm) return text_;
      arrived_ = true;
    }
    return {};
  }

 private:
  static constexpr std::uint64_t longest_alarm = 1 << 16;
  struct Heading {
    Kind kind;
    std::uint32_t unused;
    std::uint64_t bytes;
  };

  bool write(ConstBytes bytes, Deadline deadline) {
    while (!bytes.empty()) {
      if (!open()) return false;
      const ssize_t n = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n > 0) {
        bytes = bytes.subspan(static_cast<std::size_t>(n));
      } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        pollfd waiting{socket_.get(), POLLOUT | POLLIN, 0};
        if (std::chrono::steady_clock::now() >= deadline) return false;
        ::poll(&waiting, 1, milliseconds_until(deadline));
        if (waiting.revents & POLLIN) return false;
      } else if (n < 0 && errno != EINTR) {
        return false;
      }
    }
    return true;
  }

  /// Reads up to `bytes` bytes, adds their number to `count`; false when there are none now.
  bool read_some(std::byte* to, std::size_t bytes, std::size_t& count) {
    const ssize_t n = ::recv(socket_.get(), to, bytes, 0);
    if (n > 0) {
      count += static_cast<std::size_t>(n);
      return true;
    }
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return false;
    socket_.close();
    return false;
  }

  Descriptor socket_;
  Bytes into_;
  Heading heading_{};
  std::size_t heading_bytes_ = 0, body_bytes_ = 0;
  std::string text_;
  bool arrived_ = false, broken_ = false;
};

/// A star: every rank is connected with rank 0, which hands all messages on. For a few machines, and to bring up other
/// engines. A rank's death is seen at once, as its connection closes.
class SocketsEngine : public Engine {
 public:
  explicit SocketsEngine(const SocketsOptions& options) : options_(options) {
    require(options.size >= 1 && options.rank >= 0 && options.rank < options.size, "distributed", "rank ", options.rank,
            " of ", options.size, " ranks");
    require(options.port > 0 && options.port < 65536, "distributed", "expected a port from 1 to 65535, got ",
            options.port);
    const Deadline deadline =
        std::chrono::steady_clock::now() + std::chrono::duration_cast<Deadline::duration>(options.patience);
    if (options.rank == 0)
      accept_all(deadline);
    else
      connect(deadline);
  }

  /// What was said last is lost when a connection is closed with something unread.
  ~SocketsEngine() override {
    if (!alarm_) return;
    for (Peer& peer : peers_) peer.end();
    const Deadline soon = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    for (Peer& peer : peers_) peer.drain(soon);
  }

  const char* name() const override { return "sockets"; }
  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }

  bool gather(ConstBytes mine, Bytes all, Deadline deadline) override {
    if (!collect(mine, deadline)) return false;
    if (rank() != 0) return receive(all, deadline);
    for (std::size_t r = 0; r < collected_.size(); ++r)
      std::copy(collected_[r].begin(), collected_[r].end(),
                all.begin() + static_cast<std::ptrdiff_t>(r * mine.size()));
    return hand_out([&](std::size_t) { return ConstBytes(all); }, deadline);
  }

  bool exchange(ConstBytes from, Bytes to, Deadline deadline) override {
    if (!collect(from, deadline)) return false;
    if (rank() != 0) return receive(to, deadline);
    const std::size_t part = from.size() / collected_.size();
    std::vector<std::byte> its(from.size());
    const auto fill = [&](std::size_t to_rank, Bytes out) {
      for (std::size_t r = 0; r < collected_.size(); ++r)
        std::copy_n(collected_[r].data() + to_rank * part, part, out.data() + r * part);
    };
    fill(0, to);
    return hand_out(
        [&](std::size_t r) {
          fill(r, its);
          return ConstBytes(its);
        },
        deadline);
  }

  bool broadcast(Bytes what, int root, Deadline deadline) override {
    // Through rank 0, which hears of it from all: whoever is gone is noticed.
    if (!collect(rank() == root ? ConstBytes(what) : ConstBytes{}, deadline,
                 [&](std::size_t r) { return static_cast<int>(r) == root ? what.size() : 0; }))
      return false;
    if (rank() != 0) return receive(what, deadline);
    if (root != 0) std::copy_n(collected_[static_cast<std::size_t>(root)].data(), what.size(), what.data());
    return hand_out([&](std::size_t) { return ConstBytes(what); }, deadline);
  }

  void raise_alarm(const std::string& why) noexcept override {
    if (alarm_) return;
    try {
      alarm_ = why;
      const Deadline soon = std::chrono::steady_clock::now() + std::chrono::seconds(1);
      for (Peer& peer : peers_)
        if (!peer.send(Peer::Kind::alarm, std::as_bytes(std::span(*alarm_)), soon)) peer.end();
    } catch (...) {  // no memory: they see the connection close
      for (Peer& peer : peers_) peer = Peer(Descriptor());
    }
  }
  std::optional<std::string> alarm() override { return alarm_; }
  std::string missing() const override { return missing_; }

 private:
  struct Hello {
    std::uint64_t program = 0x73657474'6c650001;
    std::int32_t rank = 0, size = 0;
  };

  std::string place() const { return options_.address + ":" + std::to_string(options_.port); }

  void accept_all(Deadline deadline) {
    Descriptor listening(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    ::setsockopt(listening.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in here{};
    here.sin_family = AF_INET, here.sin_port = htons(static_cast<std::uint16_t>(options_.port));
    here.sin_addr.s_addr = htonl(INADDR_ANY);
    require(::bind(listening.get(), reinterpret_cast<const sockaddr*>(&here), sizeof here) == 0 &&
                ::listen(listening.get(), 1024) == 0,
            "distributed", "rank 0 cannot listen on port ", options_.port, ": ", std::strerror(errno));
    std::vector<std::optional<Peer>> come(static_cast<std::size_t>(size()));
    int missing = size() - 1;
    while (missing > 0) {
      pollfd waiting{listening.get(), POLLIN, 0};
      const bool one = ::poll(&waiting, 1, milliseconds_until(deadline)) > 0;
      if (!one) {
        std::string who;
        for (std::size_t r = 1; r < come.size(); ++r)
          if (!come[r]) who += (who.empty() ? "rank " : ", rank ") + std::to_string(r);
        require(std::chrono::steady_clock::now() < deadline, "distributed", "rank 0 waited ", options_.patience.count(),
                " s on port ", options_.port, " for ", who);
        continue;
      }
      Peer peer(Descriptor(::accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC)));
      Hello hello;
      if (!peer.open() || !receive_from(peer, std::as_writable_bytes(std::span(&hello, 1)), deadline)) continue;
      if (hello.program != Hello{}.program) continue;  // somebody else's connection
      const auto r = static_cast<std::size_t>(hello.rank);
      require(hello.size == size() && hello.rank > 0 && hello.rank < size() && !come[r], "distributed",
              "rank 0 of ", size(), " was called by rank ", hello.rank, " of ", hello.size);
      come[r] = std::move(peer);
      --missing;
    }
    for (std::size_t r = 1; r < come.size(); ++r) peers_.push_back(std::move(*come[r]));
  }

  void connect(Deadline deadline) {
    addrinfo wanted{}, *found = nullptr;
    wanted.ai_family = AF_INET, wanted.ai_socktype = SOCK_STREAM;
    const int status = ::getaddrinfo(options_.address.c_str(), std::to_string(options_.port).c_str(), &wanted, &found);
    require(status == 0, "distributed", "no address for rank 0 at ", place(), ": ", ::gai_strerror(status));
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);
    Descriptor socket;
    while (!socket) {  // rank 0 may be later
      Descriptor tried(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      if (::connect(tried.get(), addresses->ai_addr, addresses->ai_addrlen) == 0) {
        socket = std::move(tried);
      } else {
        require(std::chrono::steady_clock::now() < deadline, "distributed", "rank ", rank(), " found no rank 0 at ",
                place(), ": ", std::strerror(errno));
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    }
    peers_.emplace_back(std::move(socket));
    Hello hello;
    hello.rank = rank(), hello.size = size();
    require(peers_.front().send(Peer::Kind::data, std::as_bytes(std::span(&hello, 1)), deadline), "distributed",
            "rank 0 at ", place(), " closed the connection");
  }

  /// Reads one message of a peer. False when it does not come.
  static bool receive_from(Peer& peer, Bytes to, Deadline deadline) {
    peer.expect(to);
    while (!peer.arrived()) {
      if (peer.read() || !peer.open() || std::chrono::steady_clock::now() >= deadline) return false;
      if (peer.arrived()) break;
      pollfd waiting{peer.descriptor(), POLLIN, 0};
      ::poll(&waiting, 1, milliseconds_until(deadline));
    }
    return true;
  }

  bool collect(ConstBytes mine, Deadline deadline) {
    return collect(mine, deadline, [&](std::size_t) { return mine.size(); });
  }
  /// Brings every rank's bytes to rank 0.
  template <class SizeOf>
  bool collect(ConstBytes mine, Deadline deadline, const SizeOf& size_of) {
    missing_.clear();
    if (rank() != 0) return peers_.front().send(Peer::Kind::data, mine, deadline) || gone(0);
    collected_.resize(static_cast<std::size_t>(size()));
    collected_[0].assign(mine.begin(), mine.end());
    for (std::size_t r = 1; r < collected_.size(); ++r) {
      collected_[r].resize(size_of(r));
      peers_[r - 1].expect(collected_[r]);
    }
    return wait_for_all(1, deadline);
  }

  bool receive(Bytes to, Deadline deadline) {
    peers_.front().expect(to);
    // Rank 0, which waits as long for all, knows who is missing and tells it.
    return wait_for_all(0, deadline + std::chrono::seconds(1));
  }

  /// Reads from all peers, the first of which is rank `first`, until the expected messages are here.
  bool wait_for_all(int first, Deadline deadline) {
    while (true) {
      std::vector<pollfd> waiting;
      for (std::size_t k = 0; k < peers_.size(); ++k) {
        Peer& peer = peers_[k];
        if (const auto why = peer.read()) {
          raise_alarm(*why);
          return false;
        }
        if (peer.arrived()) continue;
        if (!peer.open()) return gone(static_cast<int>(k) + first);
        waiting.push_back({peer.descriptor(), POLLIN, 0});
      }
      if (waiting.empty()) return true;
      if (std::chrono::steady_clock::now() >= deadline) {
        for (std::size_t k = 0; k < peers_.size(); ++k)
          if (!peers_[k].arrived())
            missing_ += (missing_.empty() ? "rank " : ", rank ") + std::to_string(static_cast<int>(k) + first);
        return false;
      }
      ::poll(waiting.data(), waiting.size(), milliseconds_until(deadline));
    }
  }

  /// Sends each rank its bytes.
  template <class BytesOf>
  bool hand_out(const BytesOf& bytes_of, Deadline deadline) {
    for (std::size_t k = 0; k < peers_.size(); ++k)
      if (!peers_[k].send(Peer::Kind::data, bytes_of(k + 1), deadline)) return gone(static_cast<int>(k) + 1);
    return true;
  }

  /// A rank that does not take part any more: because of an alarm that it told, or without a word, which is an Error.
  bool gone(int who) {
    Peer& peer = peers_[static_cast<std::size_t>(rank() == 0 ? who - 1 : 0)];
    peer.expect({});
    const auto why = peer.read();
    if (why) {
      raise_alarm(*why);
      return false;
    }
    fail("distributed", "rank ", rank(), ": rank ", who, " is gone, its connection has closed");
  }

  SocketsOptions options_;
  std::vector<Peer> peers_;  ///< of rank 0: ranks 1, 2, ...; of others: rank 0
  std::vector<std::vector<std::byte>> collected_;
  std::optional<std::string> alarm_;
  std::string missing_;
};

}  // namespace detail

/// Processes that are connected with rank 0 by TCP. Waits for all to come. Throws Error when they do not, and where the
/// port is taken.
inline Group sockets(const SocketsOptions& options) {
  if (options.size == 1) return Group();
  return Group(std::make_shared<detail::SocketsEngine>(options));
}

}  // namespace settle::distributed
