#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "settle/nn/losses.hpp"
#include "settle/nn/released_models.hpp"
#include "settle/optim/adam.hpp"

// The memory of a training whose images change their size.

using namespace settle;

namespace {

class Trainer {
 public:
  /// One step on images of a size; returns the blocks that it asked the system for.
  std::size_t step(Index batch, Index size) {
    const auto before = Memory::instance().use().allocations;
    Tape<float> tape;
    const auto taped = on_tape(net_, tape);
    const auto result = run(taped, Var<float>(Tensor<float>(Shape{batch, 1, size, size}, 0.5f)),
                            Rbp{{.stop = fixed_point::Steps{.count = 3},
                                 .adjoint = fixed_point::Neumann{.max_products = 3, .rtol = 0},
                                 .on_fail = fixed_point::OnFail::report}});
    const auto loss = focal_loss(result.logits, Tensor<float>(Shape{batch, size, size}, 0.0f));
    adam_.step(net_, grad(loss, parameters<Var<float>>(taped)));
    return Memory::instance().use().allocations - before;
  }

 private:
  HgruNet<float> net_ = hgru_net<float>({.kernel = 5, .orientations = 3});
  Adam<float> adam_;
};

}  // namespace

TEST_CASE("images of changing sizes hold no more than twice the memory of the largest alone") {
  Trainer training;
  Memory::instance().trim();
  const std::size_t others = Memory::instance().held();
  training.step(2, 96);
  training.step(2, 96);
  const std::size_t largest = Memory::instance().held() - others;
  Random random(3);
  std::size_t most = 0;
  for (int k = 0; k < 30; ++k) {
    training.step(1 + random.below(2), 48 + random.below(49));
    most = std::max(most, Memory::instance().held() - others);
  }
  for (Index size = 96; size > 40; size -= 4) {
    training.step(2, size);
    most = std::max(most, Memory::instance().held() - others);
  }
  CHECK(static_cast<double>(most) <= 2.0 * static_cast<double>(largest));
  MESSAGE("the largest alone: ", largest, " bytes, all sizes: ", most);
}

TEST_CASE("a size that stays, and two that take turns, ask the system for nothing after their first steps") {
  Trainer training;
  Memory::instance().trim();
  for (int k = 0; k < 2; ++k) training.step(1, 80);
  for (int k = 0; k < 3; ++k) CHECK(training.step(1, 80) == 0);
  for (int k = 0; k < 3; ++k) training.step(1, 50), training.step(1, 80);
  for (int k = 0; k < 3; ++k) {
    CHECK(training.step(1, 50) == 0);
    CHECK(training.step(1, 80) == 0);
  }
}

TEST_CASE("blocks that were free for longest go first, and tensors stay as they are") {
  Memory::instance().trim();
  const std::size_t start = Memory::instance().held();
  constexpr Index mega = 1 << 18;  // a MB of floats
  const Tensor<float> kept(Shape{8 * mega}, 1.0f);
  for (Index k = 1; k <= 40; ++k) const Tensor<float> t(Shape{mega + 32768 * k}, 2.0f);
  CHECK(Memory::instance().held() - start <= (2 * (8 + 6) << 20));
  const auto before = Memory::instance().use().allocations;
  { const Tensor<float> again(Shape{mega + 32768 * 40}); }
  CHECK(Memory::instance().use().allocations == before);  // the newest is there
  { const Tensor<float> again(Shape{mega + 32768}); }
  CHECK(Memory::instance().use().allocations == before + 1);  // the oldest is not
  CHECK(std::all_of(kept.data(), kept.data() + kept.size(), [](float v) { return v == 1.0f; }));
}
