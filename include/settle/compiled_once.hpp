#pragma once
#include "settle/core/macros_off.hpp"
#include "settle/settle.hpp"

/// For programs of several files: what is heavy to compile and does not depend on the user's own types (convolution
/// kernels, matrix products, arithmetic, the pullback, the fixed-point solvers, losses and penalties, the library's
/// cells and nets), compiled once. What is not listed below is compiled in each file that uses it. Include this
/// header in place of settle.hpp, and in exactly one file write `#define SETTLE_COMPILE_HERE` before it; or, in two
/// files that are compiled side by side, SETTLE_COMPILE_FLOAT_HERE and SETTLE_COMPILE_DOUBLE_HERE, of which a program
/// needs those of its numbers. A program of one file gains nothing by it.
#ifdef SETTLE_COMPILE_HERE
#define SETTLE_COMPILE_FLOAT_HERE
#define SETTLE_COMPILE_DOUBLE_HERE
#endif

// What is compiled for this file's processor. In the programs that use libsettle it is not even declared: there all
// of it is reached through Backend<Cpu> and interpreted().
#ifdef SETTLE_COMPILED
#define SETTLE_COMPILED_ONCE_HERE(T, TEMPLATE)
#else
#define SETTLE_COMPILED_ONCE_HERE(T, TEMPLATE)                                                                         \
  namespace cpu::inline SETTLE_INSTRUCTION_SET {                                                                       \
  TEMPLATE void conv_forward<T>(const ConvGeometry&, const T*, const T*, T*, ConvAlgorithm, std::shared_ptr<void>*);   \
  TEMPLATE void conv_input_grad<T>(const ConvGeometry&, const T*, const T*, T*, ConvAlgorithm, std::shared_ptr<void>*, \
                                   bool);                                                                              \
  TEMPLATE void conv_weight_grad<T>(const ConvGeometry&, const T*, const T*, T*, ConvAlgorithm);                       \
  TEMPLATE void matmul<T>(const MatmulGeometry&, const T*, const T*, T*);                                              \
  TEMPLATE class Interpreter<T>;                                                                                       \
  TEMPLATE class LinearKernel<T>;                                                                                      \
  namespace detail {                                                                                                   \
  TEMPLATE void fft_convolve<T>(const ConvGeometry&, int, const T*, const T*, bool, T*, bool, std::shared_ptr<void>*); \
  TEMPLATE void fft_weight_grad<32, T>(const ConvGeometry&, const T*, const T*, T*);                                   \
  TEMPLATE void fft_weight_grad<48, T>(const ConvGeometry&, const T*, const T*, T*);                                   \
  TEMPLATE void fft_weight_grad<64, T>(const ConvGeometry&, const T*, const T*, T*);                                   \
  }                                                                                                                    \
  TEMPLATE class TileTransform<32, T>;                                                                                 \
  TEMPLATE class TileTransform<48, T>;                                                                                 \
  TEMPLATE class TileTransform<64, T>;                                                                                 \
  }
#endif

#define SETTLE_COMPILED_ONCE_FOR(T, TEMPLATE)                                                                         \
  TEMPLATE void Backend<Cpu>::matmul<T>(const cpu::MatmulGeometry&, const T*, const T*, T*);                          \
  TEMPLATE void Backend<Cpu>::conv_forward<T>(const cpu::ConvGeometry&, const T*, const T*, T*, ConvAlgorithm,        \
                                              std::shared_ptr<void>*);                                                \
  TEMPLATE void Backend<Cpu>::conv_input_grad<T>(const cpu::ConvGeometry&, const T*, const T*, T*, ConvAlgorithm,     \
                                                 std::shared_ptr<void>*);                                             \
  TEMPLATE void Backend<Cpu>::add_conv_input_grad<T>(const cpu::ConvGeometry&, const T*, const T*, T*, ConvAlgorithm, \
                                                     std::shared_ptr<void>*);                                         \
  TEMPLATE void Backend<Cpu>::conv_weight_grad<T>(const cpu::ConvGeometry&, const T*, const T*, T*, ConvAlgorithm);   \
  TEMPLATE const char* Backend<Cpu>::instruction_set<T>();                                                            \
  TEMPLATE InterpretedKernel<T> interpreted<T>(const expr::Program&);                                                 \
  TEMPLATE void evaluate<T>(const PointwiseKernel<T, Cpu>&, const Shape&, std::span<const Tensor<T>>,                 \
                            std::span<const PointwiseResult<T, Cpu>>);                                                \
  TEMPLATE class Tape<T, Cpu>;                                                                                        \
  TEMPLATE class Pullback<T, Cpu>;                                                                                    \
  namespace detail {                                                                                                  \
  TEMPLATE std::vector<Var<T>> pointwise<T, Cpu>(const PointwiseFunction<T, Cpu>&, const Shape&,                      \
                                                 const std::vector<Var<T>>&, const std::vector<Shape>&,               \
                                                 const std::vector<bool>&, const std::vector<Tensor<T>>&);            \
  TEMPLATE Var<T> move_over(const Shape&, const Var<T>&, const Shape&);                                               \
  }                                                                                                                   \
  TEMPLATE Var<T> operator+(const Var<T>&, const Var<T>&);                                                            \
  TEMPLATE Var<T> operator-(const Var<T>&, const Var<T>&);                                                            \
  TEMPLATE Var<T> operator*(const Var<T>&, const Var<T>&);                                                            \
  TEMPLATE Var<T> operator/(const Var<T>&, const Var<T>&);                                                            \
  TEMPLATE Var<T> operator-(const Var<T>&);                                                                           \
  TEMPLATE Var<T> operator+(const Var<T>&, double);                                                                   \
  TEMPLATE Var<T> operator*(const Var<T>&, double);                                                                   \
  TEMPLATE Var<T> conv(const Var<T>&, const Var<T>&, const ConvOptions&);                                             \
  TEMPLATE Var<T> matmul(const Var<T>&, const Var<T>&, const MatmulOptions&);                                         \
  TEMPLATE Var<T> max_pool(const Var<T>&, const PoolOptions&);                                                        \
  TEMPLATE Var<T> average_pool(const Var<T>&, const PoolOptions&);                                                    \
  TEMPLATE Var<T> resize(const Var<T>&, std::array<Index, 2>, Interpolation);                                         \
  TEMPLATE Var<T> transpose(const Var<T>&, const std::vector<int>&);                                                  \
  TEMPLATE Var<T> slice(const Var<T>&, const Window&);                                                                \
  TEMPLATE Var<T> concat(const std::vector<Var<T>>&, int);                                                            \
  TEMPLATE Var<T> sum(const Var<T>&, Axes);                                                                           \
  TEMPLATE Var<T> mean(const Var<T>&, Axes);                                                                          \
  TEMPLATE const PointwiseFunction<T, Cpu>& PointwiseFunction<T, Cpu>::of<detail::AdamUpdate, 14>();                  \
  TEMPLATE BatchStatistics<T, Cpu> batch_statistics(const Var<T>&);                                                   \
  TEMPLATE struct BatchNorm<T>;                                                                                       \
  TEMPLATE struct RunningBatchNorm<T>;                                                                                \
  TEMPLATE struct SquaringStem<T>;                                                                                    \
  TEMPLATE struct FeedForwardNet<T>;                                                                                  \
  TEMPLATE struct HgruCell<T>;                                                                                        \
  TEMPLATE struct ConvLstmCell<T>;                                                                                    \
  TEMPLATE Var<T> focal_loss(const Var<T>&, const Tensor<T>&, double);                                                \
  TEMPLATE Var<T> cross_entropy(const Var<T>&, const Tensor<T>&);                                                     \
  TEMPLATE Var<T> penalised(const Var<T>&, const Var<T>&, double);                                                    \
  TEMPLATE Var<T> gated(const Var<T>&, const Var<T>&, double);                                                        \
  namespace fixed_point::detail {                                                                                     \
  TEMPLATE FlatSolution<T, Cpu> solve_flat(const FlatProblem<T, Cpu>&, const Options&);                               \
  TEMPLATE PenaltyTerm<T, Cpu> lcp_of(const Vars<T, Cpu>&, const Vars<T, Cpu>&, const Lcp&);                          \
  TEMPLATE Var<T> hutchinson_of(const Vars<T, Cpu>&, const Vars<T, Cpu>&, const Hutchinson&);                         \
  TEMPLATE Var<T> spectral_hinge_of(const Vars<T, Cpu>&, const Vars<T, Cpu>&, const SpectralHinge&, Index,            \
                                    Values<T, Cpu>&);                                                                 \
  }

namespace settle::inline v0_2 {
#ifdef SETTLE_COMPILE_FLOAT_HERE
SETTLE_COMPILED_ONCE_HERE(float, template)
SETTLE_COMPILED_ONCE_FOR(float, template)
#else
SETTLE_COMPILED_ONCE_HERE(float, extern template)
SETTLE_COMPILED_ONCE_FOR(float, extern template)
#endif
#ifdef SETTLE_COMPILE_DOUBLE_HERE
SETTLE_COMPILED_ONCE_HERE(double, template)
SETTLE_COMPILED_ONCE_FOR(double, template)
#else
SETTLE_COMPILED_ONCE_HERE(double, extern template)
SETTLE_COMPILED_ONCE_FOR(double, extern template)
#endif
}  // namespace settle

#undef SETTLE_COMPILED_ONCE_HERE
#undef SETTLE_COMPILED_ONCE_FOR
#include "settle/core/macros_on.hpp"
