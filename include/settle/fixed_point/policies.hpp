#pragma once
#include <variant>

// The choices that fixed_point::solve takes, as small values.
namespace settle::fixed_point {

// --- how the state is iterated ---------------------------------------------------------------------------------------

/// z <- damping z + (1 - damping) f(z), 0 <= damping < 1.
struct Plain {
  double damping = 0;
};

using Forward = std::variant<Plain>;

// --- when the iteration stops ----------------------------------------------------------------------------------------

/// Exactly `count` >= 1 applications of the step, the last of them on the tape: the released code's "timesteps"
/// (paper 1.1). `rtol` judges the verdict only.
struct Steps {
  int count = 20;
  double rtol = 1e-3;
};

/// Stops when |f(z) - z| <= atol + rtol |f(z)|, never judged on the damped step. Applies the step at most `max_steps`
/// times.
struct Residual {
  double rtol = 1e-4;
  double atol = 0;
  int max_steps = 100;
  int patience = 50;        ///< stalled when the best residual has not fallen by 1 % in so many steps
  double divergence = 1e4;  ///< diverged when the residual exceeds the best one by this factor
};

using Stop = std::variant<Steps, Residual>;

// --- how the adjoint system g = b + Jᵀ g is solved -------------------------------------------------------------------

/// g = sum of (Jᵀ)^k b until a term is at most rtol |g|: at most `max_products` products with Jᵀ.
struct Neumann {
  int max_products = 50;
  double rtol = 1e-5;
};

/// What the released code does at a term that it rejects.
enum class Rejected {
  end,       ///< the series ends there (Pathfinder code)
  continue_  ///< all products are computed, and g as it was at the last rejection is returned (COCO code)
};

/// The released code's series, for reproduction (paper 1.8): at most `terms` terms are added; a term v_k is rejected
/// when |g + v_k| > 1, |v_k| > |v_(k-1)| or |v_k| < 1e-9, with norms over the whole batch. The bound of 1 is absolute,
/// so the result depends on the loss's scale.
struct ReleasedNeumann {
  int terms = 15;
  Rejected rejected = Rejected::end;
};

using Adjoint = std::variant<Neumann, ReleasedNeumann>;

/// Which parts of a state of several tensors the adjoint system couples.
enum class AdjointState {
  full,       ///< all of them
  first_part  ///< the first alone, the others are differentiated through the last step only: the released convLSTM
              ///< (paper 1.3)
};

// --- what keeps the step contractive ---------------------------------------------------------------------------------

struct NoPenalty {};

enum class Reduction { mean, sum };

/// Which parts of a state of several tensors a penalty takes for the Jacobian's rows.
enum class Blocks {
  full,     ///< r sums over all of the next state
  diagonal  ///< each part against itself, the parts' penalties added: the released convLSTM (paper 1.3)
};

/// The Lipschitz coefficient penalty (paper 1.9): with rᵀ = 1ᵀ ∂f(z)/∂z, the mean (Pathfinder code) or sum (COCO code)
/// over j of max(0, r_j - lambda)², and of max(0, -r_j - lambda)² too when two-sided.
struct Lcp {
  double lambda = 0.9;
  Reduction reduction = Reduction::mean;
  bool two_sided = false;
  Blocks blocks = Blocks::full;
};

using Penalty = std::variant<NoPenalty, Lcp>;

// --- what happens when a solve fails ---------------------------------------------------------------------------------

enum class OnFail {
  throw_error,  ///< Error with the verdict and the residuals
  report        ///< go on; the report says so
};

/// Everything that fixed_point::solve may be told. The defaults are the released settings, but for the adjoint's stop
/// rule.
struct Options {
  Forward forward = Plain{};
  Stop stop = Steps{};
  Adjoint adjoint = Neumann{};
  AdjointState adjoint_state = AdjointState::full;
  Penalty penalty = NoPenalty{};
  OnFail on_fail = OnFail::throw_error;
};

}  // namespace settle::fixed_point
