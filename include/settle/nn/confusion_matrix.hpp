#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "settle/distributed/sums.hpp"
#include "settle/nn/metrics.hpp"

namespace settle::inline v0_2 {

/// Pixels counted by their true class and the predicted one. Counts of several batches add up.
class ConfusionMatrix {
 public:
  explicit ConfusionMatrix(Index classes) : classes_(classes) {
    require(classes >= 2, "confusion", "expected at least 2 classes, got ", classes);
    counts_.assign(static_cast<std::size_t>(classes * classes), 0);
  }

  Index classes() const { return classes_; }
  Index count(Index truth, Index predicted) const {
    return counts_[static_cast<std::size_t>(truth * classes_ + predicted)];
  }

  /// Counts a batch: the prediction is the class of the largest logit, the first where several are equal. logits
  /// (N, K, H, W), target (N, H, W) of class numbers, ignore (N, H, W), 1 where a pixel does not count, or none. Throws
  /// Error when they do not fit.
  template <Scalar T>
  void add(const Tensor<T>& logits, const Tensor<T>& target, const Tensor<T>& ignore = {}) {
    const Shape& l = logits.shape();
    require(l.rank() == 4 && l[1] == classes_, "confusion", "expected logits (N, ", classes_, ", H, W), got ", l);
    const Shape mask{l[0], l[2], l[3]};
    require(target.shape() == mask, "confusion", "expected a target (N, H, W) = ", mask, ", got ", target.shape());
    require(ignore.size() == 0 || ignore.shape() == mask, "confusion", "expected an ignore mask (N, H, W) = ", mask,
            ", got ", ignore.shape());
    const Index pixels = l[2] * l[3];
    for (Index k = 0; k < target.size(); ++k) {
      if (ignore.size() > 0 && ignore.data()[k] != 0) continue;
      const T* logit = logits.data() + k / pixels * classes_ * pixels + k % pixels;
      Index predicted = 0;
      for (Index c = 1; c < classes_; ++c)
        if (logit[c * pixels] > logit[predicted * pixels]) predicted = c;
      const auto truth = static_cast<Index>(target.data()[k]);
      require(truth >= 0 && truth < classes_, "confusion", "expected targets below ", classes_, ", got ", truth);
      ++counts_[static_cast<std::size_t>(truth * classes_ + predicted)];
    }
  }

  /// Adds up what the ranks of a group have counted, on all of them.
  void sum_over(const distributed::Group& ranks) { distributed::sum_over_ranks(std::span(counts_), ranks); }

  /// One class against all others.
  Confusion of(Index which) const {
    Confusion out;
    for (Index truth = 0; truth < classes_; ++truth)
      for (Index predicted = 0; predicted < classes_; ++predicted) {
        const Index n = count(truth, predicted);
        if (truth == which)
          (predicted == which ? out.true_positives : out.false_negatives) += n;
        else
          (predicted == which ? out.false_positives : out.true_negatives) += n;
      }
    return out;
  }

  /// The mean of score(of(k)) over all classes k; of two classes, the score of class 1 alone.
  template <class Score>
  double mean(const Score& score) const {
    if (classes_ == 2) return score(of(1));
    double total = 0;
    for (Index k = 0; k < classes_; ++k) total += score(of(k));
    return total / static_cast<double>(classes_);
  }

  double f1() const {
    return mean([](const Confusion& c) { return c.f1(); });
  }
  double iou() const {
    return mean([](const Confusion& c) { return c.iou(); });
  }
  double precision() const {
    return mean([](const Confusion& c) { return c.precision(); });
  }
  double recall() const {
    return mean([](const Confusion& c) { return c.recall(); });
  }

  /// The share of pixels that are predicted right; 0 when there are none.
  double accuracy() const {
    Index right = 0, all = 0;
    for (Index truth = 0; truth < classes_; ++truth)
      for (Index predicted = 0; predicted < classes_; ++predicted) {
        all += count(truth, predicted);
        if (truth == predicted) right += count(truth, predicted);
      }
    return all == 0 ? 0.0 : static_cast<double>(right) / static_cast<double>(all);
  }

 private:
  Index classes_;
  std::vector<Index> counts_;
};

}  // namespace settle
