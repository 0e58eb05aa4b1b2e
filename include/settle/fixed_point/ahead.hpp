#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "settle/fixed_point/vectors.hpp"

// Steps of an iteration that a device repeats by itself, while the processor reads what the steps before them showed.
namespace settle::inline v0_2::fixed_point::detail {

/// Writes what a step shows to the device's memory: one measure after the other.
template <class T, class D>
class Measures {
 public:
  explicit Measures(double* there) : next_(there) {}

  void norms(const Values<T, D>& a, Index systems) { add(false, a, a, systems); }
  void distances(const Values<T, D>& a, const Values<T, D>& b, Index systems) { add(true, a, b, systems); }

 private:
  void add(bool squares, const Values<T, D>& a, const Values<T, D>& b, Index systems) {
    for (std::size_t p = 0; p < a.size(); ++p, next_ += systems)
      Backend<D>::sum_products(a[p].size(), systems, squares, a[p].data(), b[p].data(), next_);
  }
  double* next_;
};

/// Copies values of equal shapes to where pointers say.
template <class T, class D>
void copy_values(const Values<T, D>& from, const std::vector<T*>& to) {
  for (std::size_t p = 0; p < from.size(); ++p)
    if (from[p].size() > 0 && from[p].data() != to[p]) D::copy(to[p], from[p].data(), from[p].bytes());
}

/// Values that are written where they are, shared or not.
template <class T, class D>
struct Fixed {
  explicit Fixed(const Values<T, D>& like) {
    for (const auto& part : like) values.emplace_back(part.shape()), at.push_back(values.back().mutable_data());
  }
  Values<T, D> values;
  std::vector<T*> at;
};

/// Moves a state on by at most `limit` steps, as many as whole chunks hold, and returns true; on a device that does not
/// repeat work, for a state so large that it gains nothing by that, or where ranks have to agree between two steps, by
/// none. `step(state, measures)` makes a step
/// and shows some measures of it, each of values of `parts` parts, `systems[m]` being the numbers of measure m; all it
/// makes once and keeps it has made before. `take_in(measured)` is told them as lists, step by step, and may end the
/// run by returning false: then the state is the one before that step and false is returned. A step whose measures over-
/// or underflow ends the run too: it is left to the caller, who measures such values scaled. A chunk's measures are
/// read when the next one has been started, whose work is then for nothing; what is measured and the states are the
/// same bits as without chunks.
template <class T, class D, class Step, class TakeIn>
bool run_ahead([[maybe_unused]] Values<T, D>& state, [[maybe_unused]] Index parts,
               [[maybe_unused]] const std::vector<Index>& systems, [[maybe_unused]] int limit,
               [[maybe_unused]] const Step& step, [[maybe_unused]] const TakeIn& take_in) {
  if constexpr (requires { typename Backend<D>::Repeated; }) {
    constexpr int chunk = 4;  // a solve of 20 steps is to have some; a step that is for nothing costs as any other
    const int chunks = limit / chunk;
    if (OverRanks::current() || chunks == 0 || bytes_of(state) == 0 || !Backend<D>::repeats(bytes_of(state))) return true;

    Index shown = 0;  // numbers of a step
    for (const Index n : systems) shown += parts * n;
    Tensor<double, D> numbers(Shape{chunk, shown});
    double* const there = numbers.mutable_data();
    const Fixed<T, D> now(state);
    copy_values(state, now.at);
    state.clear();
    typename Backend<D>::Repeated repeat([&] {
      Values<T, D> z = now.values;
      for (int k = 0; k < chunk; ++k) {
        Measures<T, D> measures(there + k * shown);
        step(z, measures);
      }
      copy_values(z, now.at);
    });
    const std::array starts{Fixed<T, D>(now.values), Fixed<T, D>(now.values)};  // of a chunk and of the next
    using Arriving = typename Backend<D>::Arriving;
    std::array<Arriving, 2> arriving{Arriving(chunk * shown), Arriving(chunk * shown)};

    for (int read = 0, started = 0; read < chunks; ++read) {
      for (; started < chunks && started <= read + 1; ++started) {
        const auto at = static_cast<std::size_t>(started % 2);
        copy_values(now.values, starts[at].at);
        repeat();
        arriving[at].start(there);
      }
      const auto at = static_cast<std::size_t>(read % 2);
      std::span<const double> arrived = arriving[at].wait();
      for (int k = 0; k < chunk; ++k) {
        std::vector<Numbers> measured;
        bool lost = false;
        for (const Index n : systems) {
          Numbers& total = measured.emplace_back(static_cast<std::size_t>(n), 0.0);
          for (Index p = 0; p < parts; ++p) {
            for (std::size_t s = 0; s < total.size(); ++s) total[s] += arrived[s];
            arrived = arrived.subspan(total.size());
          }
          lost = lost || std::any_of(total.begin(), total.end(), is_lost<T>);
          total = square_roots(std::move(total));
        }
        if (!lost && take_in(std::move(measured))) continue;
        state = starts[at].values;
        Measures<T, D> ignored(there);
        for (; k > 0; --k) step(state, ignored);
        return lost;
      }
    }
    state = now.values;
  }
  return true;
}

}  // namespace settle::fixed_point::detail
