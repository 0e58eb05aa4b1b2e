#pragma once
#include <cstdint>
#include <optional>
#include <variant>

// The choices that fixed_point::solve takes, as small values.
namespace settle::inline v0_2::fixed_point {

// --- how the state is iterated ---------------------------------------------------------------------------------------

/// z <- damping z + (1 - damping) f(z), 0 <= damping < 1.
struct Plain {
  double damping = 0;
};

/// Anderson acceleration, type II: z <- the combination of the last `depth` + 1 iterates and residuals whose residual
/// is least, by a Gram matrix of unit columns, so that nothing depends on the residual's size. Holds 2 depth + 4
/// states.
struct Anderson {
  int depth = 5;
  double ridge = 1e-10;  ///< added to the Gram matrix's diagonal, which is 1
  double mixing = 1;     ///< the share of the residual that is added, 0 < mixing <= 1
  double safeguard =
      100;  ///< a residual this much above the best one undoes the step: f of the best iterate, memory cleared
};

/// Broyden's good method with limited memory: the inverse Jacobian of f(z) - z as -I plus `rank` outer products, the
/// oldest dropped first. Holds 2 rank + 5 states.
struct Broyden {
  int rank = 20;
  double safeguard = 100;  ///< as Anderson's
};

using Forward = std::variant<Plain, Anderson, Broyden>;

// --- when the iteration stops ----------------------------------------------------------------------------------------

/// Exactly `count` >= 1 applications of the step, the last of them on the tape: the released code's "timesteps"
/// (paper 1.1). `rtol` judges the verdict only.
struct Steps {
  int count = 20;
  double rtol = 1e-3;
};

/// Stops a sample when |f(z) - z| <= atol + rtol |f(z)|, never judged on the damped step. For |f(z)| at least a
/// millionth of the first step's |f(z)| + |f(z) - z| is taken, so that a fixed point at 0 is reached with an atol of 0
/// too. A sample that is done is frozen, and left out of the batch when fewer than half remain (where the
/// step does not mix samples).
struct Residual {
  double rtol = 1e-4;
  double atol = 0;
  int max_steps = 100;      ///< applications of the step before the recorded one
  int patience = 50;        ///< stalled when the best residual has not fallen by 1 % in so many steps
  double divergence = 1e4;  ///< diverged when the residual exceeds the best one by this factor
  bool compact = true;
};

using Stop = std::variant<Steps, Residual>;

// --- how the adjoint system g = b + Jᵀ g is solved -------------------------------------------------------------------
// Stop rules are relative to |b|, so the gradient is homogeneous in the loss. A product is one v -> Jᵀ v.

/// g = sum of (Jᵀ)^k b until a term is at most rtol |b|. Converges where the spectral radius of J is below 1. Where it
/// does not within `max_products`, the last of them checks the sum and gives its last term.
struct Neumann {
  int max_products = 100;
  double rtol = 1e-5;
};

/// b and `count` further terms of the series; 0 is the one-step gradient (JFB).
struct Terms {
  int count = 0;
};

/// Terms with their number as a type.
template <int K>
inline constexpr Terms terms{K};

/// Restarted GMRES: right for any regular I - J. Holds `restart` + 3 states.
struct Gmres {
  int restart = 30;
  int max_products = 120;
  double rtol = 1e-6;
};

/// BiCGSTAB: for any regular I - J, though it may break down; holds 8 states.
struct BiCgStab {
  int max_products = 200;
  double rtol = 1e-6;
};

/// Conjugate gradients on the normal equations, (A Aᵀ + eta I) with A = I - Jᵀ (Liao et al. 2018 with eta = 1e-5).
/// Counts the products with J, by forward differentiation, too; never breaks down, but squares the condition.
struct NormalCg {
  int max_products = 400;
  double rtol = 1e-6;
  double eta = 0;
};

/// Anderson acceleration of g <- b + Jᵀ g.
struct AdjointAnderson {
  Anderson solver;
  int max_products = 100;
  double rtol = 1e-6;
};

/// The gradient of `steps` damped steps z <- damping z + (1 - damping) f(z) taken at the fixed point (Geng et al.
/// 2021).
struct Phantom {
  int steps = 5;
  double damping = 0.5;
};

/// The exact gradient of the iteration from z0 (plain, a fixed number of steps): back-propagation through time that
/// keeps about 2 sqrt(steps) states and computes the others again.
struct Checkpointed {};

/// A matrix of all products, eliminated with pivoting: for tests, states of at most 4096 numbers.
struct Dense {};

/// Neumann until the ratio of its terms predicts more than `then.restart` further products, then GMRES from where it
/// got to.
struct Auto {
  Neumann first{.max_products = 100, .rtol = 1e-6};
  Gmres then{};
  /// A sample whose state has not settled is solved no further than to `worth` times |f(z) - z| / |f(z)| of its state,
  /// if that is above the tolerances. What the state lacks changes the loss (loss_error_estimate) and the gradient by
  /// its residual, amplified by (I - J)⁻¹; what the adjoint lacks changes the gradient by its own, amplified alike. So
  /// with 0.1 the gradient is as good as with any number of products, but for a tenth of the error that it has anyway.
  /// 0: the adjoint is solved to its own tolerances.
  double worth = 0;
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

using Adjoint = std::variant<Auto, Neumann, Terms, Gmres, BiCgStab, NormalCg, AdjointAnderson, Phantom, Checkpointed,
                             Dense, ReleasedNeumann>;

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

/// How the gradient of the LCP is made: both give the same numbers.
enum class Route {
  second_order_tape,    ///< the product 1ᵀ J is recorded and differentiated
  forward_over_reverse  ///< 1ᵀ J u with u_j = (2 / M) max(0, r_j - lambda) held constant is (paper 1.9)
};

/// The Lipschitz coefficient penalty (paper 1.9): with rᵀ = 1ᵀ ∂f(z)/∂z, the mean (Pathfinder code) or sum (COCO code)
/// over j of max(0, r_j - lambda)², and of max(0, -r_j - lambda)² too when two-sided.
struct Lcp {
  double lambda = 0.9;
  Reduction reduction = Reduction::mean;
  bool two_sided = false;
  Blocks blocks = Blocks::full;
  Route route = Route::second_order_tape;
};

/// An unbiased estimate of |J|² (Frobenius), by `probes` random vectors: the mean over them of |Jᵀ v|², divided by the
/// number of elements for Reduction::mean. Give another seed at each step.
struct Hutchinson {
  int probes = 1;
  bool rademacher = true;  ///< signs; else standard normal
  std::uint64_t seed = 0;
  Reduction reduction = Reduction::mean;
};

/// The mean over samples of max(0, |Jᵀ v| - target)² for a unit v that `products` power iterations turned towards the
/// dominant directions, from where that of the last backward pass got to if there is a warm start: then a thousandth of
/// it is random, so that nothing stays unseen. It sees the spectral radius.
struct SpectralHinge {
  double target = 0.9;
  int products = 8;
  std::uint64_t seed = 0;
};

/// The mean over samples of |f(z) - z|² / |f(z)|², with z held constant: what still moves, rotations included, to which
/// column sums of J are blind. It costs no product with J, and says nothing about J where the state rests.
struct Movement {};

using Penalty = std::variant<NoPenalty, Lcp, Hutchinson, SpectralHinge, Movement>;

// --- what happens when a solve fails ---------------------------------------------------------------------------------

enum class OnFail {
  throw_error,  ///< Error with the verdict and the residuals
  report,       ///< go on; the report says so. A diverged adjoint falls back on b, the one-step gradient
  drop_sample,  ///< a failed sample gets no gradient and, where its state is not finite, keeps z0; they are counted
  unroll        ///< a sample's failed adjoint is replaced by the gradient of as many plain steps, as Checkpointed
};

/// Probes for what the adjoint's right-hand side hardly excites: after each adjoint solve `products` products with Jᵀ,
/// and at most as many with J, on vectors that are random, the same for every sample and every step. The report's error
/// estimates are then the residual times what the probes found that (I - J)⁻¹ may amplify by, in place of what the
/// solver saw:
///  - the inverse of the distance from 1 at which an eigenvalue of J can lie unseen. The probe's Arnoldi polynomial p
///    has |p(lambda)| times the vector's share in lambda's direction at most its own norm; a share below 1 / (800
///    sqrt(n)) of n numbers is left out, a chance of 1 in 1000. For normal J that is all, and it is infinite where the
///    products did not suffice to tell an eigenvalue from 1: n of them always do, and about 11 / sqrt(2 (1 - rho))
///    where eigenvalues are spread evenly up to rho;
///  - the largest amplification of any vector in the probe's Krylov space, and in a second one of J that starts from
///    that vector: right for non-normal J, from below.
/// So an estimate with Certify is at least half of the true error for normal J, with that chance, and where the probes'
/// spaces hold what is amplified most, as with a Jordan block of at most `products` numbers. It is no bound otherwise.
/// Holds `products` + 1 states.
struct Certify {
  int products = 60;
  std::uint64_t seed = 0;
};

/// Everything that fixed_point::solve may be told.
struct Options {
  Forward forward = Plain{};
  Stop stop = Steps{};
  Adjoint adjoint = Auto{};
  AdjointState adjoint_state = AdjointState::full;
  Penalty penalty = NoPenalty{};
  OnFail on_fail = OnFail::throw_error;
  std::optional<Certify> certify{};  ///< error estimates by probes, at the price of their products
  /// A known bound on |J| below 1, 0 if there is none: it makes error estimates bounds, up to the rounding inside a
  /// product.
  double lipschitz = 0;
  /// Spend one more product on the adjoint's true residual. Without it there are no error estimates, and Report::ok()
  /// is false after a backward pass: nothing tells how far the gradient is off.
  bool check_adjoint = true;
};

}  // namespace settle::fixed_point
