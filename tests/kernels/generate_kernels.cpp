// Writes all kernel texts: as one C++ file for the emulator, with a table of their names, and as they are, for nvcc.
#include <fstream>
#include <string>

#include "cases.hpp"

namespace {

/// Without one of the barriers of its sum: what the thread sanitizer must find.
settle::kernels::Kernel kernel_with_a_race() {
  const std::string prelude = settle::kernels::prelude, barrier = "__syncthreads();";
  const auto from = prelude.find("template <class Combine, class T> __device__ inline T combine_row");
  std::string text = prelude.substr(from);
  text.erase(text.rfind(barrier), barrier.size());
  return settle::kernels::for_scalar<float>("race", text + R"cuda(
extern "C" __global__ void $(const float* x, float* y) {
  __shared__ float shared[256];
  const float sum = combine_row<Sum>(x[threadIdx.x], shared);
  if (threadIdx.x == 0) *y = sum;
}
)cuda",
                                            {});
}

}  // namespace

int main(int, char** arguments) {
  auto all = kernel_cases::all_kernels();
  std::ofstream texts(arguments[2]);
  texts << settle::kernels::source(all);
  texts.close();
  all.push_back(kernel_with_a_race());
  std::ofstream file(arguments[1]);
  file << "#include \"kernels/emulator.hpp\"\n" << settle::kernels::source(all);
  file << "\nnamespace {\nconstexpr emulator::Function functions[] = {\n";
  for (const auto& kernel : all)
    file << "    {\"" << kernel.name << "\", &emulator::Call<&of_" << kernel.name << "::" << kernel.name
         << ">::call},\n";
  file << "};\n}  // namespace\n\n"
          "const emulator::Function* emulator::find(const char* name) {\n"
          "  for (const Function& function : functions)\n"
          "    if (std::strcmp(function.name, name) == 0) return &function;\n"
          "  return nullptr;\n"
          "}\n";
  file.close();
  return file.good() && texts.good() ? 0 : 1;
}
