#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine_contract.hpp"
#include "settle/distributed/all_reduce.hpp"
#include "settle/distributed/mpi.hpp"

// What mpi.cpp starts under mpirun: `mpi_ranks TASK FOLDER`. Each rank leaves what it found in a file.

using namespace settle;
using namespace settle::distributed;

namespace {

void say(const std::string& folder, const Group& group, const std::string& text) {
  std::ofstream(folder + "/rank" + std::to_string(group.rank())) << text;
}

void run(const std::string& task, const std::string& folder, const Group& group) {
  if (task == "contract") {
    for (const std::size_t bytes : {0u, 1u, 488u, 489u, 513u, 100003u}) check_engine(group, bytes, 5);
    for (std::uint64_t k = 0; k < 200; ++k) check_engine(group, (k * 37) % 700, k);
    say(folder, group, "ok " + std::to_string(group.size()));
  } else if (task == "sums") {
    auto numbers = terms_of_rank(group.rank(), 200001);
    sum_over_ranks(std::span(numbers), group);
    say(folder, group, std::string(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float)));
  } else if (task == "throw") {
    group.meet();
    if (group.rank() == group.size() - 1) fail("step", "diverged");
    group.meet();
  } else if (task == "late") {
    group.meet();  // on a machine with much to do ranks may begin far from each other
    group.patience(std::chrono::milliseconds(300));
    if (group.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(3));
    group.meet();
  } else if (task == "parted") {
    std::vector<std::byte> mine(group.rank() == 0 ? 8 : 9), all(mine.size() * static_cast<std::size_t>(group.size()));
    group.gather(mine, all);
  }
}

}  // namespace

int main(int, char** words) {
  Group group;
  try {
    group = mpi_world();
    run(words[1], words[2], group);
  } catch (const std::exception& error) {
    group.abandon(error.what());
    say(words[2], group, error.what());
    // The launcher ends all as soon as one leaves: here each is to tell its text first.
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    leave(3);
  }
  return 0;
}
