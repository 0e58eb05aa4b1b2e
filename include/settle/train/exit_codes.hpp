#pragma once
#include <chrono>
#include <cstdio>
#include <exception>
#include <thread>

#include "settle/data/data_set.hpp"
#include "settle/distributed/group.hpp"
#include "settle/io/config.hpp"

namespace settle::inline v0_2 {

/// A loss or a gradient that is not finite.
class Diverged : public Error {
 public:
  using Error::Error;
};

/// How a program ends.
enum class ExitCode : int {
  done = 0,
  failure = 1,    ///< anything that is not below
  usage = 2,      ///< the command line or the configuration
  data = 3,       ///< a file of the data set is missing, damaged or inconsistent
  diverged = 4,   ///< a loss or a gradient was not finite; the last healthy checkpoint is kept
  preempted = 75  ///< SIGINT or SIGTERM: all is saved, and --resume goes on (EX_TEMPFAIL of sysexits.h)
};

/// Runs a program's body, which gives an ExitCode; an exception's text goes to stderr, and its kind is the code. What
/// happened on another rank is told there.
template <class Body>
int run_program(const Body& body) {
  const auto tell = [](const std::exception& error, ExitCode code) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(code);
  };
  try {
    return static_cast<int>(body());
  } catch (const distributed::RemoteError&) {
    // The rank where it happened tells it, and its code is that of the first process to end.
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    return static_cast<int>(ExitCode::failure);
  } catch (const UsageError& error) {
    return tell(error, ExitCode::usage);
  } catch (const DataError& error) {
    return tell(error, ExitCode::data);
  } catch (const Diverged& error) {
    return tell(error, ExitCode::diverged);
  } catch (const std::exception& error) {
    return tell(error, ExitCode::failure);
  }
}

}  // namespace settle
