#include <doctest/doctest.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "engine_contract.hpp"
#include "settle/distributed/all_reduce.hpp"
#include "settle/distributed/threads.hpp"

// Ranks under mpirun, as processes with a time limit: SETTLE_MPI_RANKS is the program mpi_ranks.cpp.

namespace {

namespace fs = std::filesystem;

struct Outcome {
  int status = 0;
  std::vector<std::string> texts;  ///< of each rank; empty where it left none
  double seconds = 0;
};

Outcome run_ranks(int ranks, const std::string& task) {
  const fs::path folder = fs::temp_directory_path() / ("settle_mpi_" + std::to_string(::getpid()) + "_" + task);
  fs::remove_all(folder);
  fs::create_directories(folder);
  const std::string command = "OMPI_MCA_btl_vader_single_copy_mechanism=none timeout 60 " SETTLE_MPIRUN
                              " --allow-run-as-root --oversubscribe --bind-to none -np " +
                              std::to_string(ranks) + " " SETTLE_MPI_RANKS " " + task + " " + folder.string() +
                              " > " + (folder / "log").string() + " 2>&1";
  const auto start = std::chrono::steady_clock::now();
  const int status = std::system(command.c_str());
  Outcome out{WIFEXITED(status) ? WEXITSTATUS(status) : -1, {}, 0};
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (int r = 0; r < ranks; ++r) {
    std::ifstream file(folder / ("rank" + std::to_string(r)), std::ios::binary);
    out.texts.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  std::ifstream log(folder / "log");
  INFO(std::string(std::istreambuf_iterator<char>(log), {}));
  CHECK(out.status != 124);  // the time limit
  fs::remove_all(folder);
  return out;
}

}  // namespace

TEST_CASE("MPI: gather, exchange and broadcast keep the engines' contract") {
  for (const int ranks : {2, 3, 4}) {
    const Outcome out = run_ranks(ranks, "contract");
    CHECK(out.status == 0);
    for (const auto& text : out.texts) CHECK(text == "ok " + std::to_string(ranks));
  }
}

TEST_CASE("MPI: sums have the bits of those over threads, on every rank") {
  std::string expected;
  settle::distributed::on_threads(3, [&](const settle::distributed::Group& g) {
    auto numbers = terms_of_rank(g.rank(), 200001);
    settle::distributed::sum_over_ranks(std::span(numbers), g);
    if (g.rank() == 0) expected.assign(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float));
  });
  const Outcome out = run_ranks(3, "sums");
  CHECK(out.status == 0);
  for (const auto& text : out.texts) CHECK((text == expected));
}

TEST_CASE("MPI: an error on one rank, a rank that is late and ranks that part are told on all ranks") {
  Outcome out = run_ranks(3, "throw");
  CHECK(out.status == 3);
  CHECK(out.seconds < 20);
  CHECK(out.texts == std::vector<std::string>{"rank 2: [step] diverged", "rank 2: [step] diverged", "[step] diverged"});
  out = run_ranks(2, "parted");
  CHECK(out.status == 3);
  for (const auto& text : out.texts) CHECK(text.find("[distributed] the ranks have parted: rank 0 is at") == 0);
  out = run_ranks(2, "late");
  CHECK(out.status == 3);
  CHECK(out.texts[0].find("[distributed] rank 0 waited 0.3 s for rank 1 at operation 2, a gather of 0 bytes") == 0);
}
