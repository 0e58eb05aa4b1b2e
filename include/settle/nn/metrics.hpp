#pragma once

#include "settle/autodiff/tape.hpp"

namespace settle::inline v0_2 {

/// Pixels counted by prediction and target, and the scores made of them. Counts of several batches add up.
struct Confusion {
  Index true_positives = 0, false_positives = 0, false_negatives = 0, true_negatives = 0;

  Confusion& operator+=(const Confusion& other) {
    true_positives += other.true_positives, false_positives += other.false_positives;
    false_negatives += other.false_negatives, true_negatives += other.true_negatives;
    return *this;
  }

  /// The share of marked pixels that are right; 0 when none is marked.
  double precision() const { return share(true_positives, false_positives); }
  /// The share of the contour's pixels that are marked; 0 when there are none.
  double recall() const { return share(true_positives, false_negatives); }
  /// The harmonic mean of precision and recall; 0 when nothing is marked and nothing is there.
  double f1() const { return share(2 * true_positives, false_positives + false_negatives); }
  /// Intersection over union of marked and contour pixels; equals F / (2 - F).
  double iou() const { return share(true_positives, false_positives + false_negatives); }
  /// The mean of the shares of contour and background that are predicted right.
  double balanced_accuracy() const { return (recall() + share(true_negatives, false_positives)) / 2; }

 private:
  static double share(Index part, Index rest) {
    return part == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(part + rest);
  }
};

/// Counts a batch: the prediction is the larger of the two logits (N, 2, H, W), the background where they are equal.
/// target (N, H, W) of 0 and 1. Throws Error when the shapes do not fit.
template <Scalar T>
Confusion confusion(const Tensor<T>& logits, const Tensor<T>& target) {
  const Shape& l = logits.shape();
  require(l.rank() == 4 && l[1] == 2, "confusion", "expected logits (N, 2, H, W), got ", l);
  const Shape expected{l[0], l[2], l[3]};
  require(target.shape() == expected, "confusion", "expected a target (N, H, W) = ", expected, ", got ",
          target.shape());
  Confusion out;
  const Index pixels = l[2] * l[3];
  for (Index n = 0; n < l[0]; ++n) {
    const T *background = logits.data() + 2 * n * pixels, *contour = background + pixels,
            *t = target.data() + n * pixels;
    for (Index k = 0; k < pixels; ++k) {
      const bool marked = contour[k] > background[k], there = t[k] != 0;
      ++(marked ? (there ? out.true_positives : out.false_positives)
                : (there ? out.false_negatives : out.true_negatives));
    }
  }
  return out;
}

/// Scores as the paper reports them: the plain mean of every batch's own precision, recall, F1 and balanced accuracy;
/// its IoU is F / (2 - F) of that mean F1.
class BatchMeanScores {
 public:
  void add(const Confusion& batch) {
    precision_ += batch.precision(), recall_ += batch.recall(), f1_ += batch.f1();
    balanced_accuracy_ += batch.balanced_accuracy(), ++batches_;
  }

  double precision() const { return mean(precision_); }
  double recall() const { return mean(recall_); }
  double f1() const { return mean(f1_); }
  double iou() const { return f1() / (2 - f1()); }
  double balanced_accuracy() const { return mean(balanced_accuracy_); }

 private:
  double mean(double total) const { return batches_ == 0 ? 0.0 : total / batches_; }

  double precision_ = 0, recall_ = 0, f1_ = 0, balanced_accuracy_ = 0;
  int batches_ = 0;
};

}  // namespace settle
