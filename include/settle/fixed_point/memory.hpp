#pragma once
#include <algorithm>
#include <memory>
#include <utility>

#include "settle/fixed_point/vectors.hpp"

// What passes from one solve to the next that is warm. Samples are remembered one by one: one that failed leaves what
// was there before it.
namespace settle::inline v0_2::fixed_point::detail {

template <class T, class D>
bool same_shapes(const Values<T, D>& a, const Values<T, D>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const auto& x, const auto& y) { return x.shape() == y.shape(); });
}

/// Of a batch: its adjoint solutions, and the directions that a SpectralHinge's power iteration ended in.
template <class T, class D = Cpu>
struct AdjointMemory {
  Values<T, D> g, direction;
  Numbers settled;  ///< 1 for each system that the last solve gave a start for the next one, 0 for the others
};

/// The memory of some of the samples of a batch.
template <class T, class D = Cpu>
struct Remembered {
  std::shared_ptr<AdjointMemory<T, D>> of_batch;  ///< null without a warm start
  Rows rows{};                                    ///< which samples; all when it is empty
  Index batch = 0;                                ///< how many there are; of no importance when it is of all

  /// What is remembered in the shapes of `like`; nothing where there is none.
  Values<T, D> recall(Values<T, D> AdjointMemory<T, D>::*what, const Values<T, D>& like) const {
    if (!of_batch) return {};
    const Values<T, D>& all = *of_batch.*what;
    if (rows.empty()) return same_shapes(all, like) ? all : Values<T, D>{};
    return same_shapes(all, of_all(like)) ? gather_rows(all, rows) : Values<T, D>{};
  }

  /// Takes in the systems of the mask.
  void keep(Values<T, D> AdjointMemory<T, D>::*what, Values<T, D> value, const Numbers& mask) const {
    if (!of_batch || std::find(mask.begin(), mask.end(), 1.0) == mask.end()) return;
    Values<T, D>& all = *of_batch.*what;
    if (rows.empty() && is_full(mask)) {
      all = std::move(value);
    } else if (rows.empty()) {
      if (!same_shapes(all, value)) all = zeros_like(value);
      mix(all, others(mask), value, mask);
    } else {
      if (const Values<T, D> zeros = of_all(value); !same_shapes(all, zeros)) all = zeros;
      Rows here;
      for (std::size_t s = 0; s < mask.size(); ++s)
        if (mask[s] != 0) here.push_back(static_cast<Index>(s));
      scatter_rows(gather_rows(value, here), select(rows, here), all);
    }
  }

 private:
  /// Zeros for the whole batch.
  Values<T, D> of_all(const Values<T, D>& like) const {
    Values<T, D> out;
    for (const auto& part : like) {
      Shape shape = part.shape();
      shape[0] = batch;
      out.emplace_back(shape, T{0});
    }
    return out;
  }
};

}  // namespace settle::fixed_point::detail
