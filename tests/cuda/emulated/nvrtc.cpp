// Stands in for NVRTC in the tests: the processor's compiler makes a shared library of the kernels, which
// cuda_runtime.cpp runs. The code is the library's size and its bytes.
#include <nvrtc.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <regex>
#include <string>

struct _nvrtcProgram {
  std::string source, log, code;
};

namespace {

/// CUDA's words, without a header of the system's: these are read for each of some hundred programs.
const char* const words = R"cpp(
#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(threads)
extern "C" emulated::State emulated_state;
emulated::State emulated_state;
#define threadIdx emulated_state.thread
#define blockIdx emulated_state.block
#define blockDim emulated_state.block_size
#define gridDim emulated_state.grid_size
inline void __syncthreads() { emulated_state.barrier(); }
#define FUNCTION(name) \
  inline float name(float x) { return __builtin_##name##f(x); } \
  inline double name(double x) { return __builtin_##name(x); }
FUNCTION(exp) FUNCTION(log) FUNCTION(log1p) FUNCTION(expm1) FUNCTION(sqrt)
FUNCTION(tanh) FUNCTION(erf) FUNCTION(erfc) FUNCTION(sin) FUNCTION(cos) FUNCTION(rint)
inline float abs(float x) { return __builtin_fabsf(x); }
inline double abs(double x) { return __builtin_fabs(x); }
inline float rsqrt(float x) { return 1 / sqrt(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float pow(float x, float y) { return __builtin_powf(x, y); }
inline double pow(double x, double y) { return __builtin_pow(x, y); }
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  __builtin_memcpy(&bits, &x, sizeof(x));
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}
template <int... I> struct Numbers {};
template <int n, int... I> struct Count : Count<n - 1, n - 1, I...> {};
template <int... I> struct Count<0, I...> { typedef Numbers<I...> type; };
template <class... A, int... I> void call(void (*f)(A...), void** arguments, Numbers<I...>) {
  f(*(A*)arguments[I]...);
}
template <class... A> void call(void (*f)(A...), void** arguments) {
  call(f, arguments, typename Count<sizeof...(A)>::type());
}
template <auto f> struct Sizes;
template <class... A, void (*f)(A...)> struct Sizes<f> {
  static constexpr unsigned long of[] = {sizeof(A)..., 0};
};
)cpp";

std::string text_of(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

nvrtcResult give(const std::string& text, char* out) {
  std::memcpy(out, text.data(), text.size());
  return NVRTC_SUCCESS;
}

}  // namespace

extern "C" {

nvrtcResult nvrtcVersion(int* major, int* minor) {
  *major = 0, *minor = 2;
  return NVRTC_SUCCESS;
}

const char* nvrtcGetErrorString(nvrtcResult) { return "the processor's compiler refused a kernel"; }

nvrtcResult nvrtcCreateProgram(nvrtcProgram* program, const char* source, const char*, int, const char* const*,
                               const char* const*) {
  *program = new _nvrtcProgram{source, {}, {}};
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcDestroyProgram(nvrtcProgram* program) {
  delete *program;
  *program = nullptr;
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int, const char* const*) {
  char folder[] = "/tmp/emulated_nvrtc_XXXXXX";
  if (!mkdtemp(folder)) return NVRTC_ERROR_COMPILATION;
  const std::string base = std::string(folder) + "/kernel";
  {
    std::ofstream file(base + ".cpp");
    file << text_of(EMULATED_KERNEL_HEADER) << words << program->source;
    const std::regex entry("extern \"C\" __global__ void (?:__launch_bounds__\\(\\d+\\) )?(\\w+)\\(");
    for (std::sregex_iterator at(program->source.begin(), program->source.end(), entry), end; at != end; ++at) {
      const std::string name = (*at)[1], home = "of_" + name;
      const bool at_home = program->source.find("namespace " + home + " {") != std::string::npos;
      const std::string address = '&' + (at_home ? home + "::" : "") + name;
      file << "extern \"C\" void emulated_" << name << "(void** arguments) { call(" << address << ", arguments); }\n";
      file << "extern \"C\" const unsigned long* emulated_sizes_of_" << name << "() { return Sizes<" << address
           << ">::of; }\n";
    }
  }
  const std::string command = EMULATED_COMPILER " -std=c++17 -O0 -w -ffp-contract=off -fPIC -shared -Wl,-Bsymbolic " +
                              base + ".cpp -o " + base + ".so > " + base + ".log 2>&1";
  const bool compiled = std::system(command.c_str()) == 0;
  program->log = text_of(base + ".log");
  const std::string library = text_of(base + ".so");
  const std::size_t size = library.size();
  program->code = std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + library;
  for (const char* ending : {".cpp", ".so", ".log"}) std::remove((base + ending).c_str());
  rmdir(folder);
  return compiled ? NVRTC_SUCCESS : NVRTC_ERROR_COMPILATION;
}

nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram program, size_t* size) {
  *size = program->log.size();
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetProgramLog(nvrtcProgram program, char* log) { return give(program->log, log); }
nvrtcResult nvrtcGetCUBINSize(nvrtcProgram program, size_t* size) {
  *size = program->code.size();
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetCUBIN(nvrtcProgram program, char* code) { return give(program->code, code); }
}
