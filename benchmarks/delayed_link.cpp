#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

// `delayed_link MILLISECONDS COMMAND...` runs a shell's command while two network namespaces, settle_a (10.98.0.1) and
// settle_b (10.98.0.2), are joined by a link on which every packet takes that long: what `tc netem delay` does, for
// kernels without it. Needs root and /dev/net/tun. Ends with the command's status.

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void give_up(const char* what) {
  std::fprintf(stderr, "delayed_link: %s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

int shell(const std::string& command) { return std::system(command.c_str()); }

/// One end of the link: a TUN device in a namespace of its own. Packets that the system sends come out of the file.
struct End {
  std::string space;
  int file = -1;

  End(std::string name, const std::string& address) : space(std::move(name)) {
    shell("ip netns del " + space + " 2> /dev/null");
    if (shell("ip netns add " + space) != 0) std::exit(1);
    const int inside = ::open(("/run/netns/" + space).c_str(), O_RDONLY | O_CLOEXEC);
    if (inside < 0 || ::setns(inside, CLONE_NEWNET) != 0) give_up("setns");
    file = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    ifreq request{};
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    std::strcpy(request.ifr_name, "delayed");
    if (file < 0 || ::ioctl(file, TUNSETIFF, &request) != 0) give_up("/dev/net/tun");
    if (shell("ip link set lo up && ip addr add " + address + "/24 dev delayed && ip link set dev delayed mtu 9000 up") != 0)
      std::exit(1);
    ::close(inside);
  }
  ~End() { shell("ip netns del " + space); }
  End(const End&) = delete;
  End& operator=(const End&) = delete;
};

struct Packet {
  Clock::time_point due;
  std::vector<char> bytes;
};

/// Carries packets between the ends until `done` can be read.
void carry(const End& a, const End& b, Clock::duration delay, int done) {
  ::prctl(PR_SET_TIMERSLACK, 1000);  // nanoseconds; else waits of a tenth of a millisecond are half as long again
  const std::array<int, 2> from{a.file, b.file}, to{b.file, a.file};
  std::array<std::deque<Packet>, 2> under_way;
  std::vector<char> buffer(1 << 16);
  for (;;) {
    std::optional<Clock::time_point> next;
    for (std::size_t way = 0; way < 2; ++way) {
      for (; !under_way[way].empty() && under_way[way].front().due <= Clock::now(); under_way[way].pop_front()) {
        const std::vector<char>& bytes = under_way[way].front().bytes;
        if (::write(to[way], bytes.data(), bytes.size()) < 0) break;  // its device is full: later
      }
      if (!under_way[way].empty() && (!next || under_way[way].front().due < *next)) next = under_way[way].front().due;
    }
    timespec wait{};
    if (next) {
      const auto left = std::max<Clock::rep>(0, (*next - Clock::now()).count());
      wait = {static_cast<time_t>(left / 1'000'000'000), static_cast<long>(left % 1'000'000'000)};
    }
    std::array<pollfd, 3> files{{{from[0], POLLIN, 0}, {from[1], POLLIN, 0}, {done, POLLIN, 0}}};
    ::ppoll(files.data(), files.size(), next ? &wait : nullptr, nullptr);
    if (files[2].revents != 0) return;
    for (std::size_t way = 0; way < 2; ++way)
      for (ssize_t n; (n = ::read(from[way], buffer.data(), buffer.size())) > 0;)
        under_way[way].push_back({Clock::now() + delay, {buffer.begin(), buffer.begin() + n}});
  }
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) {
    std::fprintf(stderr, "usage: delayed_link MILLISECONDS COMMAND...\n");
    return 2;
  }
  const auto delay = std::chrono::nanoseconds(static_cast<long long>(1e6 * std::atof(words[1])));
  std::string command;
  for (int k = 2; k < count; ++k) command += std::string(words[k]) + ' ';
  int status = 0;
  {
    const End a("settle_a", "10.98.0.1"), b("settle_b", "10.98.0.2");
    std::array<int, 2> pipe{};
    if (::pipe2(pipe.data(), O_CLOEXEC) != 0) give_up("pipe");
    const pid_t child = ::fork();
    if (child < 0) give_up("fork");
    if (child == 0) {
      status = shell(command);
      const ssize_t told = ::write(pipe[1], &status, sizeof status);
      ::_exit(told == sizeof status ? 0 : 1);
    }
    carry(a, b, delay, pipe[0]);
    if (::read(pipe[0], &status, sizeof status) != sizeof status) status = 1;
  }
  return status == 0 ? 0 : 1;
}
