#pragma once
// The only header that includes mpi.h: for programs that are linked with MPI. Its old C++ interface is left out, which
// would have to be linked too.
#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1
#endif
#ifndef MPICH_SKIP_MPICXX
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/distributed/group.hpp"
#include "settle/distributed/world.hpp"

namespace settle::inline v0_2::distributed {

namespace detail {

inline void check_mpi(int status, const char* call) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(status, text, &length);
  fail("distributed", call, ": ", std::string(text, static_cast<std::size_t>(length)));
}

/// All processes that mpirun started. MPI's own waiting cannot be interrupted, so operations are begun without blocking
/// and looked after here, beside alarms.
class MpiEngine : public Engine {
 public:
  MpiEngine() {
    int provided = 0, initialised = 0;
    check_mpi(MPI_Initialized(&initialised), "MPI_Initialized");
    if (!initialised) check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
    ours_ = !initialised;
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &data_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &alarms_), "MPI_Comm_dup");
    MPI_Comm_set_errhandler(data_, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(alarms_, MPI_ERRORS_RETURN);
    check_mpi(MPI_Comm_rank(data_, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(data_, &size_), "MPI_Comm_size");
  }
  /// After an alarm MPI is left as it is, since ending it would wait for ranks that do not come: the process then ends by
  /// leave().
  ~MpiEngine() override {
    if (alarm_) return;
    MPI_Comm_free(&data_);
    MPI_Comm_free(&alarms_);
    if (ours_) MPI_Finalize();
  }

  const char* name() const override { return "MPI"; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  bool gather(ConstBytes mine, Bytes all, Deadline deadline) override {
    const int n = count(mine.size());
    return complete(deadline, "MPI_Iallgather", [&](MPI_Request* request) {
      return MPI_Iallgather(mine.data(), n, MPI_BYTE, all.data(), n, MPI_BYTE, data_, request);
    });
  }
  bool exchange(ConstBytes from, Bytes to, Deadline deadline) override {
    const int n = count(from.size() / static_cast<std::size_t>(size_));
    return complete(deadline, "MPI_Ialltoall", [&](MPI_Request* request) {
      return MPI_Ialltoall(from.data(), n, MPI_BYTE, to.data(), n, MPI_BYTE, data_, request);
    });
  }
  bool broadcast(Bytes what, int root, Deadline deadline) override {
    const int n = count(what.size());
    return complete(deadline, "MPI_Ibcast", [&](MPI_Request* request) {
      return MPI_Ibcast(what.data(), n, MPI_BYTE, root, data_, request);
    });
  }

  void raise_alarm(const std::string& why) noexcept override {
    if (alarm_) return;
    try {
      alarm_ = why;
      sent_.resize(static_cast<std::size_t>(size_), MPI_REQUEST_NULL);
      for (int r = 0; r < size_; ++r)
        if (r != rank_)
          MPI_Isend(alarm_->data(), static_cast<int>(std::min<std::size_t>(alarm_->size(), INT_MAX)), MPI_BYTE, r, tag_alarm, alarms_,
                    &sent_[static_cast<std::size_t>(r)]);
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
      int done = 0;
      while (!done && std::chrono::steady_clock::now() < end)
        MPI_Testall(size_, sent_.data(), &done, MPI_STATUSES_IGNORE);
    } catch (...) {  // no memory for the text: the others see the deadline
    }
  }

  std::string missing() const override { return missing_; }

  std::optional<std::string> alarm() override {
    if (alarm_) return alarm_;
    answer_roll_calls();
    int there = 0;
    MPI_Status status;
    check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, tag_alarm, alarms_, &there, &status), "MPI_Iprobe");
    if (!there) return {};
    int length = 0;
    check_mpi(MPI_Get_count(&status, MPI_BYTE, &length), "MPI_Get_count");
    std::string why(static_cast<std::size_t>(length), ' ');
    check_mpi(MPI_Recv(why.data(), length, MPI_BYTE, status.MPI_SOURCE, tag_alarm, alarms_, MPI_STATUS_IGNORE), "MPI_Recv");
    alarm_ = why;
    return alarm_;
  }

 private:
  static int count(std::size_t bytes) {
    require(bytes <= INT_MAX, "distributed", "MPI carries at most ", INT_MAX, " bytes in one message, got ", bytes);
    return static_cast<int>(bytes);
  }

  /// Begins an operation and waits for it: at first by asking again and again, then by giving the processor away, as
  /// there may be more ranks than processors.
  template <class Begin>
  bool complete(Deadline deadline, const char* call, const Begin& begin) {
    using namespace std::chrono;
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(begin(&request), call);
    const auto start = steady_clock::now();
    while (true) {
      int done = 0;
      check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), call);
      if (done) return true;
      const auto now = steady_clock::now();
      if (now - start < microseconds(20)) continue;
      if (alarm()) return false;
      if (now >= deadline) {
        call_the_roll();
        return false;
      }
      if (now - start < milliseconds(1))
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(microseconds(50));
    }
  }

  enum Tag { tag_alarm, tag_question, tag_answer };

  /// Takes in a message without bytes; false where there is none.
  bool take(int source, Tag tag, int& from) {
    int there = 0;
    MPI_Status status;
    check_mpi(MPI_Iprobe(source, tag, alarms_, &there, &status), "MPI_Iprobe");
    if (!there) return false;
    from = status.MPI_SOURCE;
    check_mpi(MPI_Recv(nullptr, 0, MPI_BYTE, from, tag, alarms_, MPI_STATUS_IGNORE), "MPI_Recv");
    return true;
  }
  /// Sends a message without bytes, which nobody waits for.
  void say(int to, Tag tag) {
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Isend(nullptr, 0, MPI_BYTE, to, tag, alarms_, &request);
    if (request != MPI_REQUEST_NULL) MPI_Request_free(&request);
  }
  /// Whoever waits as well says that it is here.
  void answer_roll_calls() {
    for (int from = 0; take(MPI_ANY_SOURCE, tag_question, from);) say(from, tag_answer);
  }
  /// Finds out who is not here: whoever waits in an operation answers, and whoever works, or does not live, does not.
  void call_the_roll() {
    using namespace std::chrono;
    std::vector<bool> here(static_cast<std::size_t>(size_), false);
    here[static_cast<std::size_t>(rank_)] = true;
    for (int r = 0; r < size_; ++r)
      if (r != rank_) say(r, tag_question);
    const auto end = steady_clock::now() + milliseconds(500);
    while (steady_clock::now() < end && !std::all_of(here.begin(), here.end(), [](bool h) { return h; })) {
      if (alarm()) return;  // another rank was first
      for (int from = 0; take(MPI_ANY_SOURCE, tag_answer, from);) here[static_cast<std::size_t>(from)] = true;
      std::this_thread::sleep_for(microseconds(200));
    }
    missing_.clear();
    for (std::size_t r = 0; r < here.size(); ++r)
      if (!here[r]) missing_ += (missing_.empty() ? "rank " : ", rank ") + std::to_string(r);
  }

  MPI_Comm data_ = MPI_COMM_NULL, alarms_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  bool ours_ = false;
  std::optional<std::string> alarm_;
  std::vector<MPI_Request> sent_;
  std::string missing_;
};

}  // namespace detail

/// The group that this process was started in: by mpirun or srun --mpi, by torchrun, or alone, where MPI is not touched.
/// Throws Error where mpirun is another MPI's than the program's.
inline Group mpi_world() {
  const Launch started = launch();
  if (started.by != Launch::By::mpi) return world();
  const auto engine = std::make_shared<detail::MpiEngine>();
  require(engine->size() == started.size, "distributed", "mpirun started ", started.size,
          " processes, and the program's MPI sees ", engine->size(), ": they are of two kinds of MPI");
  return Group(engine);
}

/// Ends a process of a group that was abandoned with a status, and all others with it, without waiting for any.
[[noreturn]] inline void leave(int status) {
  int initialised = 0;
  MPI_Initialized(&initialised);
  if (initialised) MPI_Abort(MPI_COMM_WORLD, status);
  std::_Exit(status);
}

}  // namespace settle::distributed
