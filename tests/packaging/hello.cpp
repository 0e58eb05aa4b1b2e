#include "hello.hpp"

#include <cmath>
#include <cstdio>

#include "settle/settle.hpp"

bool hello() {
  using namespace settle;
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{1, 1}, 1.0));
  const auto step = [](const Var<double>& z, const Var<double>& drive) { return 0.5 * z + drive; };
  const auto solution = fixed_point::solve(step, {}, Var<double>(Tensor<double>(Shape{1, 1}, 0.0)), x);
  const double z = solution.z.item(), slope = grad(solution.z, {x}).front().item();
  std::printf("settle %s: z = %.4f, dz/dx = %.4f\n", version, z, slope);
  return std::abs(z - 2) < 1e-4 && std::abs(slope - 2) < 1e-4;
}
