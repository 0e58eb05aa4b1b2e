// Stands in for the CUDA run-time library in the tests: one device, whose memory is the processor's and whose kernels
// are what nvrtc.cpp makes of their texts. A block's threads run one after the other, each until it ends or
// comes to a barrier; what is asked of a stream is done at once, or captured as closures, which a graph's launch calls.
// A test may set which errors and devices it answers.
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <setjmp.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "kernel.hpp"
#include "stream.hpp"

extern "C" {
int fake_error = 0, fake_devices = 1, fake_driver = CUDART_VERSION;
int fake_launches = 0;  // of kernels that were run
int fake_graph_launches = 0;
int fake_first_place = 0;   // of its devices on the bus
int fake_late_uploads = 0;  // copies from the processor's memory wait for the next use of the stream
size_t fake_memory = SIZE_MAX, fake_memory_held = 0;  // what the device has, and what the pool holds of it
unsigned fake_blocks = 0, fake_threads = 0;
}

namespace {

/// The bytes of each block of memory.
std::unordered_map<void*, std::size_t>& sizes() {
  static auto& all = *new std::unordered_map<void*, std::size_t>;
  return all;
}

/// The sizes of the blocks that were released: the pool holds them for requests of the same size. It can give back what
/// it knows to be released, which it learns when the stream is waited for.
std::unordered_multiset<std::size_t> released, known_released;

cudaError_t answer() { return static_cast<cudaError_t>(fake_error); }

/// The calling thread's.
int& current_device() {
  thread_local int device = 0;
  return device;
}

/// The copies from the processor's memory that the stream has not come to, and the number of those that it has.
struct Upload {
  void* to;
  const void* from;
  std::size_t bytes;
};
std::vector<Upload> uploads;
std::size_t uploads_done = 0;

/// The number of copies that were asked for before it, in a stream.
struct Event {
  std::size_t copies;
  int device;
  cudaStream_t stream = nullptr;
};

void catch_up() {
  for (const Upload& upload : uploads) std::memcpy(upload.to, upload.from, upload.bytes);
  uploads_done += uploads.size();
  uploads.clear();
}

/// A program on the device: a shared library.
struct Loaded {
  void* library = nullptr;
  emulated::State* state = nullptr;
};

struct Kernel {
  Loaded* program;
  void (*call)(void**);
  std::vector<std::size_t> argument_sizes;
};

/// A thread of the processor that runs some of the block's threads, one after the other. It is started by its context
/// and left and entered by jumps, which, unlike swapcontext, make no call of the system.
struct Fiber {
  jmp_buf place;
  std::vector<char> stack = std::vector<char>(256 * 1024);
  emulated::Position thread;
  bool started = false;
  bool waits = false;  ///< at a barrier
};

/// The launch that is running.
struct Launch {
  const Kernel* kernel = nullptr;
  void** arguments = nullptr;
  unsigned threads = 0, next = 0;
  jmp_buf scheduler;
  std::vector<std::unique_ptr<Fiber>> free, waiting;
  Fiber* running = nullptr;
};
Launch* launch = nullptr;

/// The C library's own: the address sanitizer's takes a jump to another stack for an end of this one's use.
void jump(jmp_buf place) {
  static const auto own = reinterpret_cast<void (*)(jmp_buf, int)>(dlsym(dlopen("libc.so.6", RTLD_LAZY), "_longjmp"));
  own(place, 1);
}

void leave(Fiber& fiber, bool waits) {
  fiber.waits = waits;
  if (_setjmp(fiber.place) == 0) jump(launch->scheduler);
}

/// What a fiber runs: never ends.
void run_threads() {
  for (;;) {
    while (launch->next < launch->threads) {
      emulated::State& state = *launch->kernel->program->state;
      const unsigned t = launch->next++;
      state.thread = {t % state.block_size.x, t / state.block_size.x};
      launch->kernel->call(launch->arguments);
    }
    leave(*launch->running, false);
  }
}

void wait_at_barrier() {
  Fiber& fiber = *launch->running;
  emulated::State& state = *launch->kernel->program->state;
  fiber.thread = state.thread;
  leave(fiber, true);
  state.thread = fiber.thread;
}

/// Runs a fiber until it waits or has no more threads to run; returns whether it waits.
bool resume(Launch& l, Fiber& fiber) {
  l.running = &fiber;
  if (_setjmp(l.scheduler) != 0) return l.running->waits;
  if (fiber.started) jump(fiber.place);
  fiber.started = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.data();
  context.uc_stack.ss_size = fiber.stack.size();
  makecontext(&context, run_threads, 0);
  setcontext(&context);
  return false;
}

void run_block(Launch& l) {
  l.next = 0;
  while (l.next < l.threads) {
    if (l.free.empty()) l.free.push_back(std::make_unique<Fiber>());
    std::unique_ptr<Fiber> fiber = std::move(l.free.back());
    l.free.pop_back();
    const bool waits = resume(l, *fiber);
    (waits ? l.waiting : l.free).push_back(std::move(fiber));
  }
  while (!l.waiting.empty()) {
    std::vector<std::unique_ptr<Fiber>> at_barrier = std::move(l.waiting);
    l.waiting.clear();
    for (auto& fiber : at_barrier) {
      const bool waits = resume(l, *fiber);
      (waits ? l.waiting : l.free).push_back(std::move(fiber));
    }
  }
}

void run(const Kernel& kernel, dim3 grid, dim3 block, void** arguments) {
  ++fake_launches, fake_blocks = grid.y, fake_threads = block.x;
  static Launch running;
  running.kernel = &kernel;
  running.arguments = arguments;
  running.threads = block.x * block.y;
  launch = &running;
  emulated::State& state = *kernel.program->state;
  state.grid_size = {grid.x, grid.y}, state.block_size = {block.x, block.y};
  for (unsigned b = 0; b < grid.x * grid.y; ++b) {
    state.block = {b % grid.x, b / grid.x};
    run_block(running);
  }
}

}  // namespace

extern "C" {

cudaError_t CUDARTAPI cudaGetDeviceCount(int* count) {
  if (fake_error == 0) *count = fake_devices;
  return answer();
}

cudaError_t CUDARTAPI cudaDriverGetVersion(int* version) {
  *version = fake_driver;
  return cudaSuccess;
}

const char* CUDARTAPI cudaGetErrorName(cudaError_t) { return "cudaErrorOfTheTest"; }
const char* CUDARTAPI cudaGetErrorString(cudaError_t) { return "an error of the test"; }

cudaError_t CUDARTAPI cudaGetDevice(int* device) {
  *device = current_device();
  return answer();
}

cudaError_t CUDARTAPI cudaSetDevice(int device) {
  if (device < 0 || device >= fake_devices) return cudaErrorInvalidDevice;
  current_device() = device;
  return answer();
}

cudaError_t CUDARTAPI cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : 1;
  return cudaSuccess;
}

cudaError_t CUDARTAPI cudaDeviceGetPCIBusId(char* place, int length, int device) {
  const char* const rank = std::getenv("LOCAL_RANK");  // each process that a launcher has started has other devices
  const int number = fake_first_place + 16 * (rank ? std::atoi(rank) : 0) + device;
  std::snprintf(place, static_cast<std::size_t>(length), "0000:%02x:00.0", static_cast<unsigned>(number));
  return answer();
}

cudaError_t CUDARTAPI cudaDeviceSynchronize() { return answer(); }

cudaError_t CUDARTAPI cudaMallocManaged(void** memory, size_t bytes, unsigned) {
  return cudaMallocAsync(memory, bytes, nullptr);
}

cudaError_t CUDARTAPI cudaFree(void* memory) { return cudaFreeAsync(memory, nullptr); }

cudaError_t CUDARTAPI cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = reinterpret_cast<cudaStream_t>(new emulated::Stream{nullptr, current_device()});  // for good
  return answer();
}
cudaError_t CUDARTAPI cudaStreamSynchronize(cudaStream_t stream) {
  if (emulated::captured_by(stream)) return cudaErrorStreamCaptureUnsupported;
  emulated::finish(stream);
  catch_up();
  known_released.merge(released);
  return answer();
}

cudaError_t CUDARTAPI cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || emulated::captured_by(stream)) return cudaErrorIllegalState;
  reinterpret_cast<emulated::Stream*>(stream)->captured = new emulated::Works;
  return answer();
}
cudaError_t CUDARTAPI cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  emulated::Works* const works = emulated::captured_by(stream);
  if (!works) return cudaErrorIllegalState;
  reinterpret_cast<emulated::Stream*>(stream)->captured = nullptr;
  *graph = reinterpret_cast<cudaGraph_t>(works);
  return answer();
}
cudaError_t CUDARTAPI cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = emulated::captured_by(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return answer();
}
cudaError_t CUDARTAPI cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new emulated::Works(*reinterpret_cast<emulated::Works*>(graph)));
  return answer();
}
cudaError_t CUDARTAPI cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<emulated::Works*>(graph);
  return cudaSuccess;
}
cudaError_t CUDARTAPI cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<emulated::Works*>(executable);
  return cudaSuccess;
}
cudaError_t CUDARTAPI cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (emulated::captured_by(stream)) return cudaErrorStreamCaptureUnsupported;
  ++fake_graph_launches;
  emulated::finish(stream);
  for (const auto& work : *reinterpret_cast<emulated::Works*>(executable)) work();
  return answer();
}

cudaError_t CUDARTAPI cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return answer();
}
cudaError_t CUDARTAPI cudaFreeHost(void* memory) {
  std::free(memory);
  return answer();
}

cudaError_t CUDARTAPI cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Event{0, current_device()});
  return answer();
}
cudaError_t CUDARTAPI cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}
cudaError_t CUDARTAPI cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (reinterpret_cast<Event*>(event)->device != emulated::device_of(stream)) return cudaErrorInvalidResourceHandle;
  reinterpret_cast<Event*>(event)->copies = uploads_done + uploads.size();
  reinterpret_cast<Event*>(event)->stream = stream;
  return answer();
}
cudaError_t CUDARTAPI cudaEventQuery(cudaEvent_t event) {
  const Event& e = *reinterpret_cast<Event*>(event);
  return e.copies <= uploads_done && emulated::is_idle(e.stream) ? answer() : cudaErrorNotReady;
}
cudaError_t CUDARTAPI cudaEventSynchronize(cudaEvent_t event) {
  emulated::finish(reinterpret_cast<Event*>(event)->stream);
  catch_up();
  return answer();
}

cudaError_t CUDARTAPI cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t CUDARTAPI cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t CUDARTAPI cudaMemPoolTrimTo(cudaMemPool_t, size_t) {
  for (const std::size_t bytes : known_released) fake_memory_held -= bytes;
  known_released.clear();
  return answer();
}

cudaError_t CUDARTAPI cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream) {
  if (emulated::captured_by(stream)) return cudaErrorStreamCaptureUnsupported;
  const auto reused = [bytes](auto& kept) {
    const auto at = kept.find(bytes);
    return at != kept.end() && (kept.erase(at), true);
  };
  if (!reused(released) && !reused(known_released)) {
    if (bytes > fake_memory - fake_memory_held) return cudaErrorMemoryAllocation;
    fake_memory_held += bytes;
  }
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  sizes()[*memory] = bytes;
  std::memset(*memory, 0xff, bytes);  // not-a-number: what is read must have been written
  return answer();
}

cudaError_t CUDARTAPI cudaFreeAsync(void* memory, cudaStream_t stream) {
  emulated::finish(stream);
  catch_up();
  released.insert(sizes()[memory]);
  sizes().erase(memory);
  std::free(memory);
  return answer();
}

cudaError_t CUDARTAPI cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                      cudaStream_t stream) {
  if (emulated::captured_by(stream) && kind != cudaMemcpyDeviceToDevice) return cudaErrorStreamCaptureUnsupported;
  if (fake_error != 0) return answer();
  if (fake_late_uploads && kind == cudaMemcpyHostToDevice) {
    emulated::finish(stream);
    uploads.push_back({to, from, bytes});
  } else {
    emulated::ask(stream, [=] {
      catch_up();
      std::memcpy(to, from, bytes);
    });
  }
  return cudaSuccess;
}

cudaError_t CUDARTAPI cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  if (fake_error == 0)
    emulated::ask(stream, [=] {
      catch_up();
      std::memset(memory, value, bytes);
    });
  return answer();
}

cudaError_t CUDARTAPI cudaLibraryLoadData(cudaLibrary_t* library, const void* code, cudaJitOption*, void**, unsigned,
                                          cudaLibraryOption*, void**, unsigned) {
  if (fake_error != 0) return answer();
  std::size_t size = 0;
  std::memcpy(&size, code, sizeof(size));
  char path[] = "/tmp/emulated_kernels_XXXXXX";
  const int file = mkstemp(path);
  if (file < 0 || write(file, static_cast<const char*>(code) + sizeof(size), size) != static_cast<ssize_t>(size))
    return cudaErrorInvalidSource;
  auto loaded = std::make_unique<Loaded>();
  loaded->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  close(file), unlink(path);
  if (!loaded->library) return cudaErrorInvalidKernelImage;
  loaded->state = static_cast<emulated::State*>(dlsym(loaded->library, "emulated_state"));
  loaded->state->barrier = &wait_at_barrier;
  *library = reinterpret_cast<cudaLibrary_t>(loaded.release());
  return cudaSuccess;
}

cudaError_t CUDARTAPI cudaLibraryUnload(cudaLibrary_t library) {
  std::unique_ptr<Loaded> loaded(reinterpret_cast<Loaded*>(library));
  if (loaded) dlclose(loaded->library);
  return cudaSuccess;
}

cudaError_t CUDARTAPI cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t library, const char* name) {
  auto* const loaded = reinterpret_cast<Loaded*>(library);
  void* const call = dlsym(loaded->library, (std::string("emulated_") + name).c_str());
  void* const sizes = dlsym(loaded->library, (std::string("emulated_sizes_of_") + name).c_str());
  if (!call || !sizes) return cudaErrorSymbolNotFound;
  Kernel found{loaded, reinterpret_cast<void (*)(void**)>(call), {}};
  for (const auto* size = reinterpret_cast<const unsigned long* (*)()>(sizes)(); *size != 0; ++size)
    found.argument_sizes.push_back(*size);
  static std::vector<std::unique_ptr<Kernel>> kernels;
  kernels.push_back(std::make_unique<Kernel>(std::move(found)));
  *kernel = reinterpret_cast<cudaKernel_t>(kernels.back().get());
  return cudaSuccess;
}

cudaError_t CUDARTAPI cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  if (fake_error != 0) return answer();
  if (emulated::device_of(config->stream) != current_device()) return cudaErrorInvalidResourceHandle;
  const dim3 grid = config->gridDim, block = config->blockDim;
  if (grid.x * grid.y * block.x * block.y == 0 || grid.y > 65535 || block.x * block.y > 1024)
    return cudaErrorInvalidConfiguration;
  const auto& kernel = *static_cast<const Kernel*>(function);
  std::vector<std::vector<char>> values;  // the arguments' may be gone when a captured launch is run
  for (std::size_t k = 0; k < kernel.argument_sizes.size(); ++k) {
    const auto* const value = static_cast<const char*>(arguments[k]);
    values.emplace_back(value, value + kernel.argument_sizes[k]);
  }
  emulated::ask(config->stream, [&kernel, grid, block, values = std::move(values)]() mutable {
    std::vector<void*> addresses;
    for (auto& value : values) addresses.push_back(value.data());
    catch_up();
    run(kernel, grid, block, addresses.data());
  });
  return cudaSuccess;
}
}
