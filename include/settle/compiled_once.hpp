#pragma once
#include "settle/core/macros_off.hpp"
#include "settle/settle.hpp"

/// For programs of several files: what is heavy to compile and does not depend on the user's own types (convolution
/// kernels, matrix products, arithmetic, the pullback, the fixed-point solvers, losses and penalties, the library's
/// cells and nets), compiled once. What is not listed below is compiled in each file that uses it. Include this
/// header in place of settle.hpp, and in exactly one file write `#define SETTLE_COMPILE_HERE` before it. A program of
/// one file gains nothing by it.
#ifdef SETTLE_COMPILE_HERE
#define SETTLE_COMPILED_ONCE template
#else
#define SETTLE_COMPILED_ONCE extern template
#endif

// What is compiled for this file's processor. In the programs that use libsettle it is not even declared: there all
// of it is reached through Backend<Cpu> and interpreted().
#ifdef SETTLE_COMPILED
#define SETTLE_COMPILED_ONCE_HERE(T)
#else
#define SETTLE_COMPILED_ONCE_HERE(T)                                                                                   \
  namespace cpu::inline SETTLE_INSTRUCTION_SET {                                                                       \
  SETTLE_COMPILED_ONCE void conv_forward<T>(const ConvGeometry&, const T*, const T*, T*, ConvAlgorithm,                \
                                            std::shared_ptr<void>*);                                                   \
  SETTLE_COMPILED_ONCE void conv_input_grad<T>(const ConvGeometry&, const T*, const T*, T*, ConvAlgorithm,             \
                                               std::shared_ptr<void>*, bool);                                          \
  SETTLE_COMPILED_ONCE void conv_weight_grad<T>(const ConvGeometry&, const T*, const T*, T*, ConvAlgorithm);           \
  SETTLE_COMPILED_ONCE void matmul<T>(const MatmulGeometry&, const T*, const T*, T*);                                  \
  SETTLE_COMPILED_ONCE class Interpreter<T>;                                                                           \
  SETTLE_COMPILED_ONCE class LinearKernel<T>;                                                                          \
  namespace detail {                                                                                                   \
  SETTLE_COMPILED_ONCE void fft_convolve<T>(const ConvGeometry&, int, const T*, const T*, bool, T*, bool,              \
                                            std::shared_ptr<void>*);                                                   \
  SETTLE_COMPILED_ONCE void fft_weight_grad<32, T>(const ConvGeometry&, const T*, const T*, T*);                       \
  SETTLE_COMPILED_ONCE void fft_weight_grad<48, T>(const ConvGeometry&, const T*, const T*, T*);                       \
  SETTLE_COMPILED_ONCE void fft_weight_grad<64, T>(const ConvGeometry&, const T*, const T*, T*);                       \
  }                                                                                                                    \
  SETTLE_COMPILED_ONCE class TileTransform<32, T>;                                                                     \
  SETTLE_COMPILED_ONCE class TileTransform<48, T>;                                                                     \
  SETTLE_COMPILED_ONCE class TileTransform<64, T>;                                                                     \
  }
#endif

#define SETTLE_COMPILED_ONCE_FOR(T)                                                                                    \
  SETTLE_COMPILED_ONCE void Backend<Cpu>::matmul<T>(const cpu::MatmulGeometry&, const T*, const T*, T*);               \
  SETTLE_COMPILED_ONCE void Backend<Cpu>::conv_forward<T>(const cpu::ConvGeometry&, const T*, const T*, T*,            \
                                                          ConvAlgorithm, std::shared_ptr<void>*);                      \
  SETTLE_COMPILED_ONCE void Backend<Cpu>::conv_input_grad<T>(const cpu::ConvGeometry&, const T*, const T*, T*,         \
                                                             ConvAlgorithm, std::shared_ptr<void>*);                   \
  SETTLE_COMPILED_ONCE void Backend<Cpu>::add_conv_input_grad<T>(const cpu::ConvGeometry&, const T*, const T*, T*,     \
                                                                 ConvAlgorithm, std::shared_ptr<void>*);               \
  SETTLE_COMPILED_ONCE void Backend<Cpu>::conv_weight_grad<T>(const cpu::ConvGeometry&, const T*, const T*, T*,        \
                                                              ConvAlgorithm);                                          \
  SETTLE_COMPILED_ONCE const char* Backend<Cpu>::instruction_set<T>();                                                 \
  SETTLE_COMPILED_ONCE InterpretedKernel<T> interpreted<T>(const expr::Program&);                                      \
  SETTLE_COMPILED_ONCE void evaluate<T>(const PointwiseKernel<T, Cpu>&, const Shape&, std::span<const Tensor<T>>,      \
                                        std::span<const PointwiseResult<T, Cpu>>);                                     \
  SETTLE_COMPILED_ONCE class Tape<T, Cpu>;                                                                             \
  SETTLE_COMPILED_ONCE class Pullback<T, Cpu>;                                                                         \
  namespace detail {                                                                                                   \
  SETTLE_COMPILED_ONCE std::vector<Var<T>> pointwise<T, Cpu>(const PointwiseFunction<T, Cpu>&, const Shape&,           \
                                                             const std::vector<Var<T>>&, const std::vector<Shape>&,    \
                                                             const std::vector<bool>&, const std::vector<Tensor<T>>&); \
  SETTLE_COMPILED_ONCE Var<T> move_over(const Shape&, const Var<T>&, const Shape&);                                    \
  }                                                                                                                    \
  SETTLE_COMPILED_ONCE Var<T> operator+(const Var<T>&, const Var<T>&);                                                 \
  SETTLE_COMPILED_ONCE Var<T> operator-(const Var<T>&, const Var<T>&);                                                 \
  SETTLE_COMPILED_ONCE Var<T> operator*(const Var<T>&, const Var<T>&);                                                 \
  SETTLE_COMPILED_ONCE Var<T> operator/(const Var<T>&, const Var<T>&);                                                 \
  SETTLE_COMPILED_ONCE Var<T> operator-(const Var<T>&);                                                                \
  SETTLE_COMPILED_ONCE Var<T> operator+(const Var<T>&, double);                                                        \
  SETTLE_COMPILED_ONCE Var<T> operator*(const Var<T>&, double);                                                        \
  SETTLE_COMPILED_ONCE Var<T> conv(const Var<T>&, const Var<T>&, const ConvOptions&);                                  \
  SETTLE_COMPILED_ONCE Var<T> matmul(const Var<T>&, const Var<T>&, const MatmulOptions&);                              \
  SETTLE_COMPILED_ONCE Var<T> max_pool(const Var<T>&, const PoolOptions&);                                             \
  SETTLE_COMPILED_ONCE Var<T> average_pool(const Var<T>&, const PoolOptions&);                                         \
  SETTLE_COMPILED_ONCE Var<T> resize(const Var<T>&, std::array<Index, 2>, Interpolation);                              \
  SETTLE_COMPILED_ONCE Var<T> transpose(const Var<T>&, const std::vector<int>&);                                       \
  SETTLE_COMPILED_ONCE Var<T> slice(const Var<T>&, const Window&);                                                     \
  SETTLE_COMPILED_ONCE Var<T> concat(const std::vector<Var<T>>&, int);                                                 \
  SETTLE_COMPILED_ONCE Var<T> sum(const Var<T>&, Axes);                                                                \
  SETTLE_COMPILED_ONCE Var<T> mean(const Var<T>&, Axes);                                                               \
  SETTLE_COMPILED_ONCE const PointwiseFunction<T, Cpu>& PointwiseFunction<T, Cpu>::of<detail::AdamUpdate, 14>();       \
  SETTLE_COMPILED_ONCE BatchStatistics<T, Cpu> batch_statistics(const Var<T>&);                                        \
  SETTLE_COMPILED_ONCE struct BatchNorm<T>;                                                                            \
  SETTLE_COMPILED_ONCE struct RunningBatchNorm<T>;                                                                     \
  SETTLE_COMPILED_ONCE struct SquaringStem<T>;                                                                         \
  SETTLE_COMPILED_ONCE struct FeedForwardNet<T>;                                                                       \
  SETTLE_COMPILED_ONCE struct HgruCell<T>;                                                                             \
  SETTLE_COMPILED_ONCE struct ConvLstmCell<T>;                                                                         \
  SETTLE_COMPILED_ONCE Var<T> focal_loss(const Var<T>&, const Tensor<T>&, double);                                     \
  SETTLE_COMPILED_ONCE Var<T> cross_entropy(const Var<T>&, const Tensor<T>&);                                          \
  SETTLE_COMPILED_ONCE Var<T> penalised(const Var<T>&, const Var<T>&, double);                                         \
  SETTLE_COMPILED_ONCE Var<T> gated(const Var<T>&, const Var<T>&, double);                                             \
  namespace fixed_point::detail {                                                                                      \
  SETTLE_COMPILED_ONCE FlatSolution<T, Cpu> solve_flat(const FlatProblem<T, Cpu>&, const Options&);                    \
  SETTLE_COMPILED_ONCE PenaltyTerm<T, Cpu> lcp_of(const Vars<T, Cpu>&, const Vars<T, Cpu>&, const Lcp&);               \
  SETTLE_COMPILED_ONCE Var<T> hutchinson_of(const Vars<T, Cpu>&, const Vars<T, Cpu>&, const Hutchinson&);              \
  SETTLE_COMPILED_ONCE Var<T> spectral_hinge_of(const Vars<T, Cpu>&, const Vars<T, Cpu>&, const SpectralHinge&, Index, \
                                                Values<T, Cpu>&);                                                      \
  }

namespace settle {
SETTLE_COMPILED_ONCE_HERE(float)
SETTLE_COMPILED_ONCE_HERE(double)
SETTLE_COMPILED_ONCE_FOR(float)
SETTLE_COMPILED_ONCE_FOR(double)
}  // namespace settle

#undef SETTLE_COMPILED_ONCE_HERE
#undef SETTLE_COMPILED_ONCE_FOR
#undef SETTLE_COMPILED_ONCE
#include "settle/core/macros_on.hpp"
