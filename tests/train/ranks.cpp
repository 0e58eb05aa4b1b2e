// Training over ranks: as threads, as processes connected by sockets, and as those that mpirun starts.
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <limits>
#include <mutex>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "child_program.hpp"
#include "distributed/free_port.hpp"
#include "errors.hpp"
#include "settle/distributed/shards.hpp"
#include "settle/nn/batch_norm.hpp"
#include "settle/nn/conv_layer.hpp"
#include "settle/nn/losses.hpp"
#include "settle/train/trainer.hpp"
#include "temporary_folder.hpp"

using namespace settle;
using namespace settle::distributed;
namespace fs = std::filesystem;

namespace {

/// A convolution with batch norm, and a buffer that counts the batches.
struct Net {
  using V = Var<double>;
  V weight = Tensor<double>(Shape{2, 1, 3, 3}, {0.1, 0.2, -0.1, 0.3, 0.5, 0.1, 0., 0.2, 0.1, 0.3, 0., 0.1, 0.2, -0.3,
                                                0.1, 0.1, 0., 0.4});
  BatchNorm<double> bn = BatchNorm<double>::initial(2, 1, 0, 1e-3);
  V batches = Tensor<double>(Shape{}, 0.0);

  V operator()(const V& x) const { return bn(conv_same(x, weight)); }
  void parameters(auto&& visit) { visit("weight", weight), visit_part("bn", bn, visit); }
  void buffers(auto&& visit) { visit("batches", batches); }
};

/// Noise, and whether it is above a half; one image may not be finite.
struct Noise {
  Index count = 30, poisoned = -1;

  Index size() const { return count; }
  Sample sample(Index i) const {
    Random random(9, static_cast<std::uint64_t>(i));
    Sample out{uniform<float>({1, 6, 6}, 0, 1, random), Tensor<float>({6, 6}), {}};
    for (Index k = 0; k < 36; ++k) out.target.mutable_data()[k] = out.image.data()[k] > 0.5f ? 1.f : 0.f;
    if (i == poisoned) out.image.mutable_data()[0] = std::numeric_limits<float>::quiet_NaN();
    return out;
  }
};

const auto loss = [](Net& model, const BatchOf<double>& batch) {
  model.batches = stop_gradient(model.batches) + 1.0;
  return cross_entropy(model(Var<double>(batch.image)), batch.target);
};

TrainerOptions options_of(Index steps) {
  TrainerOptions out;
  out.batch = 8, out.steps = steps, out.optimiser.rate = 0.05, out.validate_every = 4, out.checkpoint_every = 5;
  out.clip = 1, out.ema = 0.9, out.schedule.kind = "cosine";
  return out;
}

/// One rank's training.
template <class Prepare>
TrainingEnd train(const TrainerOptions& options, const fs::path& folder, const Group& ranks, const Prepare& prepare,
                  const Noise& data = {}) {
  Net net;
  if (ranks.rank() > 0) net.weight = 2.0 * net.weight;  // not what rank 0 starts from
  const auto own = ranks.rank() == 0 ? std::make_shared<RunFolder>(folder) : nullptr;
  Trainer<Net, double> trainer(net, options, own, true, ranks);
  trainer.show_progress = false;
  trainer.compare_every = 2;
  trainer.validate = [](const Net& n) { return Figures{{"score", -std::abs(n.weight.value().data()[0])}}; };
  prepare(trainer);
  return trainer.train(DataSet(data), loss);
}
TrainingEnd train(const TrainerOptions& options, const fs::path& folder, const Group& ranks = {}) {
  return train(options, folder, ranks, [](auto&) {});
}

/// The bits of every tensor in a checkpoint.
template <class T = double>
std::map<std::string, std::vector<T>> last(const fs::path& folder) {
  const auto file = read_safetensors(folder / "checkpoints" / "last.safetensors");
  std::map<std::string, std::vector<T>> out;
  for (const auto& name : file.names) {
    const auto tensor = file.get_as<T>(name);
    out[name].assign(tensor.values().begin(), tensor.values().end());
  }
  return out;
}

std::vector<double> losses(const fs::path& folder) {
  std::vector<double> out;
  std::ifstream file(folder / "metrics.jsonl");
  for (std::string line; std::getline(file, line);)
    if (const Json read = Json::parse(line, nullptr, false); read.is_object() && read.contains("loss"))
      out.push_back(read["loss"].get<double>());
  return out;
}

void check_near(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
  REQUIRE(a.size() == b.size());
  for (std::size_t k = 0; k < a.size(); ++k) CHECK(std::abs(a[k] - b[k]) <= tolerance * std::max(1.0, std::abs(b[k])));
}

}  // namespace

TEST_CASE("a training on 1, 2 and 3 ranks is the same, checkpoints and all") {
  const TemporaryFolder place;
  TrainerOptions options = options_of(12);
  SUBCASE("batch by batch") {}
  SUBCASE("batches accumulated") { options.accumulate = 2; }
  CHECK(train(options, place.path() / "1") == TrainingEnd::budget);
  for (const int ranks : {2, 3}) {
    const fs::path folder = place.path() / std::to_string(ranks);
    on_threads(ranks, [&](const Group& g) { train(options, folder, g); });
    check_near(losses(folder), losses(place.path() / "1"), 1e-11);
    const auto one = last(place.path() / "1"), several = last(folder);
    REQUIRE(one.size() == several.size());
    for (const auto& [name, values] : one) check_near(several.at(name), values, 1e-10);
  }
}

TEST_CASE("four shards have the same bits on 1, 2 and 4 processes, and go on from one to another") {
  const TemporaryFolder place;
  const auto on_processes = [&](int processes, Index steps, const fs::path& folder) {
    on_threads(processes, [&](const Group& p) {
      on_shards(p, 4, [&](const Group& g) {
        require(g.size() == 4, "test", "shards");
        train(options_of(steps), folder, g, [](auto&) {});
      });
    });
    return last(folder);
  };
  const auto wanted = on_processes(1, 12, place.path() / "1");
  CHECK(on_processes(2, 12, place.path() / "2") == wanted);
  CHECK(on_processes(4, 12, place.path() / "4") == wanted);
  TrainerOptions options = options_of(12);
  const auto up_to = [&](int processes, Index step) {
    on_threads(processes, [&](const Group& p) {
      on_shards(p, 4, [&](const Group& g) {
        train(options, place.path() / "on", g, [&](auto& trainer) {
          trainer.stop_asked = [&trainer, step] { return trainer.step() + 1 >= step; };
        });
      });
    });
  };
  up_to(1, 4), up_to(4, 9), up_to(2, 100);
  CHECK(last(place.path() / "on") == wanted);
  CHECK(losses(place.path() / "on") == losses(place.path() / "1"));
}

TEST_CASE("each image comes once an epoch, for any number of ranks, and for another one after a stop") {
  for (const Index count : {Index{8}, Index{13}, Index{30}})
    for (const Index batch : {Index{4}, Index{7}})
      for (const int ranks : {1, 2, 3, 4}) {
        const auto epoch = [&](Index first, Index batches, int of) {
          std::multiset<std::vector<float>> out;
          for (int r = 0; r < of; ++r) {
            Loader<> loader(DataSet(Noise{.count = count}),
                            {.batch = batch, .shard = r, .shards = of}, first);
            for (Index k = 0; k < batches; ++k) {
              const Batch b = loader.next();
              for (Index n = 0; n < b.image.shape(0); ++n)
                out.emplace(b.image.data() + n * 36, b.image.data() + (n + 1) * 36);
            }
          }
          return out;
        };
        // So many epochs as make whole batches.
        const Index batches = std::lcm(count, batch) / batch, turns = batches * batch / count;
        auto got = epoch(0, batches / 2, ranks);
        got.merge(epoch(batches / 2, batches - batches / 2, ranks == 4 ? 1 : ranks + 1));
        std::map<std::vector<float>, Index> times;
        for (const auto& image : got) ++times[image];
        CHECK(times.size() == static_cast<std::size_t>(count));
        for (const auto& [image, n] : times) CHECK(n == turns);
      }
}

TEST_CASE("a stop asked for on one rank stops all after the same step") {
  const TemporaryFolder place;
  std::mutex mutex;
  std::vector<std::pair<TrainingEnd, Index>> ends;
  on_threads(3, [&](const Group& g) {
    Index step = 0;
    const TrainingEnd end = train(options_of(50), place.path() / "run", g, [&](auto& trainer) {
      trainer.stop_asked = [&, rank = g.rank()] {
        step = trainer.step();
        return rank == 2 && step == 6;
      };
    });
    const std::lock_guard lock(mutex);
    ends.emplace_back(end, step);
  });
  REQUIRE(ends.size() == 3);
  for (const auto& [end, step] : ends) CHECK((end == TrainingEnd::preempted && step == ends[0].second));
  CHECK(losses(place.path() / "run").size() == 7);
}

TEST_CASE("an error on one rank reaches all with its text; a loss that is not finite is Diverged on all") {
  const TemporaryFolder place;
  const auto texts_of = [&](const auto& prepare, const Noise& data) {
    std::vector<std::string> texts(3);
    try {
      on_threads(3, [&](const Group& g) {
        try {
          train(options_of(9), place.path() / "run", g, [&](auto& trainer) { prepare(trainer, g.rank()); }, data);
        } catch (const std::exception& error) {
          texts[static_cast<std::size_t>(g.rank())] = error.what();
          throw;
        }
      });
    } catch (const std::exception&) {
    }
    return texts;
  };
  auto texts = texts_of(
      [](auto& trainer, int rank) {
        if (rank == 1)
          trainer.transforms = {[](Sample&, Random&) { throw DataError("[data] image 7: cut off"); }};
      },
      {});
  CHECK(texts == std::vector<std::string>{"rank 1: [data] image 7: cut off", "[data] image 7: cut off",
                                          "rank 1: [data] image 7: cut off"});
  texts = texts_of(
      [](auto& trainer, int rank) {
        if (rank == 0) trainer.validate = [](const Net&) -> Figures { fail("validation", "out of luck"); };
      },
      {});
  CHECK(texts[0] == "[validation] out of luck");
  CHECK(texts[2] == "rank 0: [validation] out of luck");
  texts = texts_of([](auto&, int) {}, Noise{.poisoned = 3});
  for (const std::string& text : texts) CHECK(contains(text, "not finite"));
}

TEST_CASE("options that differ between ranks, weights that part and too small a batch are errors on all") {
  const TemporaryFolder place;
  const auto text_of_all = [&](const auto& f) { return error_of([&] { on_threads(2, f); }); };
  CHECK(contains(text_of_all([&](const Group& g) {
                   TrainerOptions options = options_of(4);
                   options.clip = g.rank() + 1;
                   train(options, place.path() / "a", g);
                 }),
                 "expected the same options and threads on all ranks, got on rank 1"));
  CHECK(contains(text_of_all([&](const Group& g) {
                   TrainerOptions options = options_of(9);
                   options.ema = 0;
                   train(options, place.path() / "b", g, [&](auto& trainer) {
                     if (g.rank() == 1)
                       trainer.validate = [](const Net& n) {
                         const_cast<Tensor<double>&>(n.bn.bias.value()).mutable_data()[0] += 1e-9;
                         return Figures{{"score", 1.0}};
                       };
                   });
                 }),
                 "the weights of rank 1 are not those of rank 0"));
  CHECK(contains(text_of_all([&](const Group& g) {
                   TrainerOptions options = options_of(4);
                   options.batch = 1;
                   train(options, place.path() / "c", g);
                 }),
                 "train.batch: expected at least a sample for each of the 2 ranks, got 1"));
}

TEST_CASE("as replicas, ranks send nothing within a step") {
  const TemporaryFolder place;
  TrainerOptions options = options_of(3);
  std::mutex mutex;
  std::vector<std::uint64_t> sent;
  for (const bool together : {false, true}) {
    options.together = together;
    on_threads(2, [&](const Group& g) {
      std::uint64_t before = 0;
      train(options, place.path() / (together ? "t" : "r"), g, [&](auto& trainer) {
        trainer.compare_every = 1000, trainer.validate = nullptr;
        trainer.stop_asked = [&, first = true]() mutable {
          if (first && g.rank() == 0) {
            const std::lock_guard lock(mutex);
            before = g.traffic().operations;
            first = false;
          }
          return false;
        };
      });
      const std::lock_guard lock(mutex);
      if (g.rank() == 0) sent.push_back(g.traffic().operations - before);
    });
  }
  REQUIRE(sent.size() == 2);
  // Three steps and the last check: a number each; a gradient for each step; batch norm's two a step, one in the check.
  CHECK(sent[0] == 4 + 3);
  CHECK(sent[1] == 4 + 3 + 3 * 2);
}

// --- processes -----------------------------------------------------------------------------------

namespace {

const fs::path programs = fs::path(SETTLE_PROGRAMS).parent_path() / "tests";

bool built(const fs::path& program) {
  if (too_slow_for_training()) return false;
  if (fs::exists(program)) return true;
  MESSAGE("SKIP: " << program.string() << " is not built");
  return false;
}

/// A small training of a second or two.
const std::vector<std::string> small{"model.orientations=2", "data.size=16",       "data.window=96", "data.count=40",
                                     "data.validation=0",    "data.held_out=0",    "machine.threads=1",
                                     "train.batch=6",        "algorithm.steps=4",  "algorithm.products=3",
                                     "data.contour_length=2", "data.distractors=0", "train.deadline=5"};

/// The seconds in which ranks learn of a dead one at once, and of a silent one after the deadline. The slack is for a
/// machine of two processors on which other tests run: without a deadline of its own a training waits ten minutes.
constexpr double deadline = 5, slack = 15;

std::vector<std::string> with(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// The ranks of a training as processes, connected by sockets as torchrun's variables say.
struct Processes {
  Processes(int ranks, const fs::path& where, const std::vector<std::string>& arguments) : folder(where) {
    fs::create_directories(folder);
    const int port = free_port();
    for (int r = 0; r < ranks; ++r) {
      std::vector<std::string> words{"RANK=" + std::to_string(r), "WORLD_SIZE=" + std::to_string(ranks),
                                     "MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + std::to_string(port),
                                     (programs / "ranks_training").string(), folder.string()};
      list.push_back(std::make_unique<ChildProgram>("/usr/bin/env", with(std::move(words), arguments),
                                                    folder / ("said" + std::to_string(r))));
    }
  }
  std::string end(int rank) const { return bytes_of(folder / ("end" + std::to_string(rank))); }

  fs::path folder;
  std::vector<std::unique_ptr<ChildProgram>> list;
};

/// Waits until a training has taken some steps.
void wait_for_steps(const fs::path& run, Index steps) {
  for (int k = 0; k < 3000 && static_cast<Index>(losses(run).size()) < steps; ++k)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  REQUIRE(static_cast<Index>(losses(run).size()) >= steps);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// How often something is to be tried: more when SETTLE_TEST_KILLS says so.
int repetitions() {
  const char* const asked = std::getenv("SETTLE_TEST_KILLS");
  return asked ? std::max(1, std::atoi(asked)) : 1;
}

}  // namespace

TEST_CASE("an hGRU's training in double on processes: the losses of one rank's to 1e-8 over 20 steps") {
  if (!built(programs / "ranks_training")) return;
  const TemporaryFolder place;
  const std::vector<std::string> config{"train.steps=20", "machine.threads=1", "data.count=64", "data.validation=0"};
  for (const int ranks : {1, 2}) {
    Processes processes(ranks, place.path() / std::to_string(ranks), config);
    for (auto& process : processes.list) CHECK(process->wait() == 0);
  }
  const auto one = losses(place.path() / "1" / "run"), two = losses(place.path() / "2" / "run");
  CHECK(one.size() == 20);
  check_near(two, one, 1e-8);
}

TEST_CASE("killed and stopped ranks: the others end with who and what, and the training goes on to the same weights") {
  if (!built(programs / "ranks_training")) return;
  const TemporaryFolder place;
  const auto config = with(small, {"train.steps=80", "train.checkpoint_every=10"});
  {
    Processes whole(3, place.path() / "whole", config);
    for (auto& process : whole.list) REQUIRE(process->wait() == 0);
  }
  const auto wanted = last(place.path() / "whole" / "run");
  std::mt19937 random(static_cast<unsigned>(repetitions()));
  for (int turn = 0; turn < 2 * repetitions(); ++turn) {
    const int number = turn % 2 == 0 ? SIGKILL : SIGSTOP, victim = static_cast<int>(random() % 3);
    const fs::path folder = place.path() / std::to_string(turn);
    CAPTURE(number);
    CAPTURE(victim);
    {
      Processes processes(3, folder, config);
      wait_for_steps(folder / "run", 1 + random() % 20);
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
      processes.list[static_cast<std::size_t>(victim)]->signal(number);
      const auto start = std::chrono::steady_clock::now();
      bool named = false;
      for (int r = 0; r < 3; ++r) {
        if (r == victim) continue;
        CHECK(processes.list[static_cast<std::size_t>(r)]->wait() == 1);
        const std::string text = processes.end(r);
        CHECK_MESSAGE(contains(text, "rank " + std::to_string(victim)), text);
        named = named || contains(text, "at operation ");
      }
      CHECK(named);
      CHECK(seconds_since(start) < (number == SIGKILL ? slack : deadline + slack));
    }
    Processes again(3, folder, config);
    for (auto& process : again.list) CHECK(process->wait() == 0);
    CHECK(last(folder / "run") == wanted);
  }
}

TEST_CASE("SIGTERM to one rank: all save the same step and end well, and go on with another number of ranks") {
  if (!built(programs / "ranks_training")) return;
  const TemporaryFolder place;
  const auto config = with(small, {"train.steps=400", "train.checkpoint_every=2", "machine.shards=2"});
  {
    Processes processes(2, place.path(), config);
    wait_for_steps(place.path() / "run", 3);
    processes.list[1]->signal(SIGTERM);
    CHECK(processes.list[0]->wait() == 75);
    CHECK(processes.list[1]->wait() == 0);
    CHECK(processes.end(0) == "preempted");
  }
  const std::size_t taken = losses(place.path() / "run").size();
  CHECK(taken < 400);
  Processes alone(1, place.path(), with(config, {"train.steps=" + std::to_string(taken + 5)}));
  CHECK(alone.list[0]->wait() == 0);
  CHECK(losses(place.path() / "run").size() == taken + 5);
}

TEST_CASE("a cable is pulled: both ends end within the deadline") {
  if (!built(programs / "ranks_training")) return;
  const std::string space = "settle" + std::to_string(::getpid());
  const auto shell = [](const std::string& command) { return std::system((command + " > /dev/null 2>&1").c_str()); };
  const auto clean = [&] {
    shell("ip netns del " + space + "a");
    shell("ip netns del " + space + "b");
  };
  const std::string a = "ip netns exec " + space + "a ", b = "ip netns exec " + space + "b ";
  if (shell("ip netns add " + space + "a && ip netns add " + space + "b && ip link add va netns " + space +
            "a type veth peer name vb netns " + space + "b && " + a + "ip addr add 10.99.0.1/24 dev va && " + b +
            "ip addr add 10.99.0.2/24 dev vb && " + a + "ip link set va up && " + b + "ip link set vb up") != 0) {
    clean();
    MESSAGE("SKIP: no network namespaces here (ip netns add)");
    return;
  }
  for (const char* const cut : {"ip link set va down", "tc qdisc add dev va root netem loss 100%"}) {
    const TemporaryFolder place;
    std::vector<std::unique_ptr<ChildProgram>> ranks;
    for (int r = 0; r < 2; ++r) {
      std::vector<std::string> words{"ip", "netns", "exec", space + (r == 0 ? "a" : "b"), "/usr/bin/env",
                                     "RANK=" + std::to_string(r), "WORLD_SIZE=2", "MASTER_ADDR=10.99.0.1",
                                     "MASTER_PORT=29555", (programs / "ranks_training").string(), place.path().string()};
      ranks.push_back(std::make_unique<ChildProgram>("/usr/bin/env", with(words, with(small, {"train.steps=4000"})),
                                                     place.path() / ("said" + std::to_string(r))));
    }
    wait_for_steps(place.path() / "run", 3);
    if (shell(a + cut) != 0) {
      MESSAGE("SKIP: " << std::string(cut) << " is not possible here");
      continue;
    }
    const auto start = std::chrono::steady_clock::now();
    for (int r = 0; r < 2; ++r) {
      CHECK(ranks[static_cast<std::size_t>(r)]->wait() == 1);
      const std::string text = bytes_of(place.path() / ("end" + std::to_string(r)));
      CHECK_MESSAGE(contains(text, "rank " + std::to_string(1 - r)), text);
    }
    CHECK(seconds_since(start) < deadline + slack);
    shell(a + "tc qdisc del dev va root");
    shell(a + "ip link set va up");
  }
  clean();
}

#ifdef SETTLE_MPIRUN
namespace {

/// Starts mpirun; the ranks' own processes are in FOLDER/pid<rank>.
std::unique_ptr<ChildProgram> mpirun(int ranks, const fs::path& program, const fs::path& folder,
                                     const std::vector<std::string>& arguments) {
  fs::create_directories(folder);
  std::vector<std::string> words{"OMPI_MCA_btl_vader_single_copy_mechanism=none", SETTLE_MPIRUN, "--allow-run-as-root",
                                 "--oversubscribe", "--bind-to", "none", "-np", std::to_string(ranks), program.string()};
  return std::make_unique<ChildProgram>("/usr/bin/env", with(std::move(words), arguments), folder / "said");
}

}  // namespace

TEST_CASE("MPI: the losses of one rank's to 1e-8, and a killed and a stopped rank") {
  const fs::path program = programs / "ranks_training_mpi";
  if (!built(program)) return;
  const TemporaryFolder place;
  const auto config = with(small, {"train.steps=30", "train.checkpoint_every=5"});
  for (const int ranks : {1, 3}) {
    const fs::path folder = place.path() / std::to_string(ranks);
    CHECK(mpirun(ranks, program, folder, with({folder.string()}, config))->wait() == 0);
    check_near(losses(folder / "run"), losses(place.path() / "1" / "run"), 1e-8);
  }
  const auto wanted = last(place.path() / "3" / "run");
  for (const int number : {SIGKILL, SIGSTOP}) {
    const fs::path folder = place.path() / ("signal" + std::to_string(number));
    {
      const auto run = mpirun(3, program, folder, with({folder.string()}, config));
      wait_for_steps(folder / "run", 5);
      const auto start = std::chrono::steady_clock::now();
      ::kill(static_cast<pid_t>(std::stol(bytes_of(folder / "pid1"))), number);
      CHECK(run->wait() != 0);
      CHECK(seconds_since(start) < deadline + slack);
      if (number == SIGSTOP)
        CHECK_MESSAGE(contains(bytes_of(folder / "end0"), "for rank 1 at operation "), bytes_of(folder / "end0"));
      else
        CHECK_MESSAGE(contains(run->output(), "rank 1"), run->output());
    }
    CHECK(mpirun(3, program, folder, with({folder.string()}, config))->wait() == 0);
    CHECK(last(folder / "run") == wanted);
  }
}

TEST_CASE("MPI: four ranks have the losses of one to 1e-8 in double, in the shipped trainings") {
  const fs::path program = programs / "ranks_training_mpi";
  if (!built(program)) return;
  // The last part of quickstart's training settles: other steps, solver and penalty.
  for (const std::string config : {"pathfinder_small.json", "quickstart.json"}) {
    CAPTURE(config);
    const TemporaryFolder place;
    for (const int ranks : {1, 4}) {
      const fs::path folder = place.path() / std::to_string(ranks);
      const auto process = mpirun(ranks, program, folder, {folder.string(), config, "train.steps=20", "data.count=64",
                                                           "data.validation=0", "machine.threads=1"});
      const int status = process->wait();
      CHECK_MESSAGE(status == 0, process->output());
    }
    const auto one = losses(place.path() / "1" / "run");
    CHECK(one.size() == 20);
    check_near(losses(place.path() / "4" / "run"), one, 1e-8);
  }
}

TEST_CASE("MPI: settle_train_mpi trains as settle_train does, and four shards have the same bits on 1, 2 and 4 processes") {
  const fs::path program = fs::path(SETTLE_PROGRAMS) / "settle_train_mpi";
  if (!built(program)) return;
  const TemporaryFolder place;
  std::vector<std::map<std::string, std::vector<float>>> weights;
  const auto train_on = [&](int ranks, const std::string& run, const std::vector<std::string>& options) {
    std::vector<std::string> arguments{SETTLE_SOURCE_DIR "/examples/configs/pathfinder_small.json", "--resume", "--output",
                                       (place.path() / run).string()};
    for (const std::string& option : with(small, options)) arguments.push_back("--set"), arguments.push_back(option);
    const auto process = mpirun(ranks, program, place.path(), arguments);
    const int status = process->wait();
    CHECK_MESSAGE(status == 0, process->output());
    return last<float>(place.path() / run);
  };
  const std::vector<std::string> steps{"train.steps=12",         "data.validation=5", "train.validate_every=6",
                                       "schedule.kind=constant", "data.held_out=3"};
  train_on(1, "a", steps), train_on(2, "b", steps);
  check_near(losses(place.path() / "b"), losses(place.path() / "a"), 1e-3);
  const auto sharded = with(steps, {"machine.shards=4"});
  const auto wanted = train_on(1, "s1", sharded);
  CHECK(train_on(2, "s2", sharded) == wanted);
  CHECK(train_on(4, "s4", sharded) == wanted);
  for (const auto& [ranks, end] : std::vector<std::pair<int, int>>{{1, 4}, {4, 8}, {2, 12}})
    train_on(ranks, "on", with(sharded, {"train.steps=" + std::to_string(end)}));
  CHECK(last<float>(place.path() / "on") == wanted);
}
#else
TEST_CASE("MPI: training") { MESSAGE("SKIP: built without MPI"); }
#endif
