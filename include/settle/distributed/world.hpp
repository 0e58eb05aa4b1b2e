#pragma once
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <string>

#include "settle/core/error.hpp"
#include "settle/distributed/sockets.hpp"

namespace settle::inline v0_2::distributed {

/// What started this process, and as which of how many.
struct Launch {
  enum class By { alone, mpi, sockets } by = By::alone;
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 1;  ///< on this machine
};

namespace detail {

inline const char* variable(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (const char* value = std::getenv(name); value && *value) return name;
  return nullptr;
}

/// The whole number in the first of the variables that is set, or `otherwise`. Throws Error when it is none.
inline int number_in(std::initializer_list<const char*> names, int otherwise) {
  const char* const name = variable(names);
  if (!name) return otherwise;
  const std::string text = std::getenv(name);
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  require(end != text.c_str() && *end == 0 && value >= 0 && value <= std::numeric_limits<int>::max(), "distributed",
          "the variable ", name, " holds '", text, "', expected a whole number");
  return static_cast<int>(value);
}

}  // namespace detail

/// Reads what mpirun, srun or torchrun tell their processes in the environment. Throws Error where Slurm starts several
/// tasks and says nothing of how they find each other, and where the variables contradict each other.
inline Launch launch() {
  using detail::number_in;
  Launch out;
  out.local_rank = number_in({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "LOCAL_RANK", "SLURM_LOCALID"}, 0);
  out.local_size = number_in({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "LOCAL_WORLD_SIZE"}, 1);
  const int mpi = number_in({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}, 1);
  const int sockets = number_in({"WORLD_SIZE"}, 1);
  if (mpi > 1) {
    out.by = Launch::By::mpi, out.size = mpi;
    out.rank = number_in({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}, 0);
  } else if (sockets > 1) {
    require(detail::variable({"RANK"}) && detail::variable({"MASTER_ADDR"}) && detail::variable({"MASTER_PORT"}),
            "distributed", "WORLD_SIZE is ", sockets, ", and one of RANK, MASTER_ADDR, MASTER_PORT is missing");
    out.by = Launch::By::sockets, out.size = sockets;
    out.rank = number_in({"RANK"}, 0);
  } else {
    const int tasks = number_in({"SLURM_NTASKS"}, 1);
    require(tasks == 1 || !detail::variable({"SLURM_PROCID"}), "distributed", "Slurm started ", tasks,
            " tasks that cannot find each other: use srun --mpi=pmix with a program for MPI, or start one task a machine "
            "and torchrun in it");
  }
  require(out.rank < out.size, "distributed", "rank ", out.rank, " of ", out.size, " ranks");
  return out;
}

/// The group that this process was started in: alone, or connected by sockets as torchrun's variables say. Programs for
/// MPI call mpi_world() of distributed/mpi.hpp, which knows these too. Throws Error under mpirun.
inline Group world() {
  const Launch started = launch();
  require(started.by != Launch::By::mpi, "distributed", "mpirun started ", started.size,
          " processes of a program that was built without MPI: use its _mpi program, or torchrun");
  if (started.by == Launch::By::alone) return Group();
  // On torchrun's own port its agent listens, where it says so.
  const char* const agent = std::getenv("TORCHELASTIC_USE_AGENT_STORE");
  const int further = agent && std::string(agent) == "True" ? 1 : 0;
  return sockets({.rank = started.rank,
                  .size = started.size,
                  .address = std::getenv("MASTER_ADDR"),
                  .port = detail::number_in({"MASTER_PORT"}, 0) + further});
}

}  // namespace settle::distributed
