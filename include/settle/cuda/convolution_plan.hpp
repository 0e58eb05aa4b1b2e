#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/tensor.hpp"
#include "settle/cpu/convolution/geometry.hpp"
#include "settle/cuda/library.hpp"

// Convolutions by cuDNN: which of its engines computes one, and its execution. All that the library asks of cuDNN goes
// through this file, by the graph interface of its backend.
namespace settle::inline v0_2::cuda {

/// The three products of a convolution: y, and the derivatives of <dy, conv(x, w)> by x and by w.
enum class ConvProduct { convolution, input_gradient, weight_gradient };

struct PlanOptions {
  Index workspace_limit = Index{512} << 20;  ///< bytes
  bool tf32 = false;                         ///< whether float32 may be rounded to 10 bits before it is multiplied
  bool deterministic = true;                 ///< whether two runs must give the same bits
};

/// Throws Error with cuDNN's words unless a call succeeded.
inline void check(const Cudnn& cudnn, cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  std::array<char, 1024> said{};
  cudnn.cudnnGetLastErrorString(said.data(), said.size());
  fail("cudnn", "could not ", what, ": ", cudnn.cudnnGetErrorString(status), said[0] ? ": " : "", said.data());
}

/// A descriptor of cuDNN's backend, with its attributes.
class Descriptor {
 public:
  Descriptor(const Cudnn& cudnn, cudnnBackendDescriptorType_t type) : cudnn_(&cudnn) {
    check(cudnn.cudnnBackendCreateDescriptor(type, &raw_), "create a descriptor");
  }
  Descriptor(Descriptor&& other) noexcept : cudnn_(other.cudnn_), raw_(std::exchange(other.raw_, nullptr)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(cudnn_, other.cudnn_), std::swap(raw_, other.raw_);
    return *this;
  }
  ~Descriptor() {
    if (raw_) cudnn_->cudnnBackendDestroyDescriptor(raw_);
  }

  cudnnBackendDescriptor_t raw() const { return raw_; }

  template <class T>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const std::vector<T>& values) {
    check(cudnn_->cudnnBackendSetAttribute(raw_, name, type, static_cast<std::int64_t>(values.size()), values.data()),
          "set an attribute");
  }
  void set(cudnnBackendAttributeName_t name, const std::vector<std::int64_t>& values) {
    set(name, CUDNN_TYPE_INT64, values);
  }
  void set(cudnnBackendAttributeName_t name, const Descriptor& value) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, std::vector{value.raw()});
  }

  /// Whether cuDNN accepts the attributes.
  bool try_finalize() { return cudnn_->cudnnBackendFinalize(raw_) == CUDNN_STATUS_SUCCESS; }
  void finalize() { check(cudnn_->cudnnBackendFinalize(raw_), "finish a descriptor"); }

  /// An attribute's values, at most `room` of them.
  template <class T>
  std::vector<T> get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::size_t room) const {
    std::vector<T> out(room);
    std::int64_t count = 0;
    check(cudnn_->cudnnBackendGetAttribute(raw_, name, type, static_cast<std::int64_t>(room), &count, out.data()),
          "read an attribute");
    out.resize(std::min(room, static_cast<std::size_t>(count)));
    return out;
  }
  /// The number of values that an attribute has.
  std::int64_t count(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type) const {
    std::int64_t out = 0;
    check(cudnn_->cudnnBackendGetAttribute(raw_, name, type, 0, &out, nullptr), "count an attribute");
    return out;
  }

 private:
  void check(cudnnStatus_t status, const char* what) const { cuda::check(*cudnn_, status, what); }

  const Cudnn* cudnn_;
  cudnnBackendDescriptor_t raw_ = nullptr;
};

/// A device as cuDNN describes one: plans for it can be asked for without it, but not executed.
inline Descriptor device_of_description(const Cudnn& cudnn, const std::string& json) {
  Descriptor device(cudnn, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  device.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, std::vector<char>(json.begin(), json.end()));
  device.finalize();
  return device;
}

/// cuDNN on the current device, working in one stream. Throws Error when cuDNN is not there or finds no device.
class CudnnHandle {
 public:
  /// The library must outlive this.
  CudnnHandle(const Cudnn& cudnn, cudaStream_t stream) : cudnn_(cudnn), handle_(make(cudnn), cudnn.cudnnDestroy) {
    work_in(stream);
  }
  void work_in(cudaStream_t stream) { check(cudnn_, cudnn_.cudnnSetStream(handle_.get(), stream), "set the stream"); }
  cudnnHandle_t raw() const { return handle_.get(); }

 private:
  static cudnnHandle_t make(const Cudnn& cudnn) {
    require(cudnn.library.usable(), "cudnn", cudnn.library.reason());
    cudnnHandle_t handle = nullptr;
    check(cudnn, cudnn.cudnnCreate(&handle), "make a handle");
    return handle;
  }

  const Cudnn& cudnn_;
  std::unique_ptr<std::remove_pointer_t<cudnnHandle_t>, decltype(Cudnn::cudnnDestroy)> handle_;
};

/// What plans are for: the device of a handle, or one that is only described.
class PlanDevice {
 public:
  PlanDevice(const CudnnHandle& handle) : handle_(handle.raw()) {}
  PlanDevice(const Descriptor& description) : description_(&description) {}

  /// Tells a descriptor by whichever of these attributes is its own.
  void tell(Descriptor& to, std::optional<cudnnBackendAttributeName_t> handle,
            std::optional<cudnnBackendAttributeName_t> description) const {
    if (handle_ && handle) to.set(*handle, CUDNN_TYPE_HANDLE, std::vector{handle_});
    if (description_ && description) to.set(*description, *description_);
  }

 private:
  cudnnHandle_t handle_ = nullptr;
  const Descriptor* description_ = nullptr;
};

/// An engine with its settings, ready for execution.
struct ConvPlan {
  Descriptor plan;
  Index workspace = 0;  ///< bytes
  std::int64_t engine = 0;
};

namespace detail {

template <class T>
constexpr cudnnDataType_t cudnn_type() {
  return std::is_same_v<T, float> ? CUDNN_DATA_FLOAT : CUDNN_DATA_DOUBLE;
}

/// A contiguous tensor (N, C, H, W).
template <class T>
Descriptor tensor(const Cudnn& cudnn, std::int64_t id, const std::vector<std::int64_t>& shape) {
  Descriptor out(cudnn, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  std::vector<std::int64_t> strides(4, 1);
  for (std::size_t a = 3; a-- > 0;) strides[a] = strides[a + 1] * shape[a + 1];
  out.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, std::vector{cudnn_type<T>()});
  out.set(CUDNN_ATTR_TENSOR_DIMENSIONS, shape);
  out.set(CUDNN_ATTR_TENSOR_STRIDES, strides);
  out.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, {id});
  out.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, {16});
  out.finalize();
  return out;
}

template <class T>
Descriptor convolution(const Cudnn& cudnn, const cpu::ConvGeometry& g) {
  Descriptor out(cudnn, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  out.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, {2});
  out.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, std::vector{cudnn_type<T>()});
  out.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, std::vector{CUDNN_CROSS_CORRELATION});
  out.set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, {g.pad_h, g.pad_w});
  out.set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, {g.pad_h, g.pad_w});
  out.set(CUDNN_ATTR_CONVOLUTION_DILATIONS, {g.dilation_h, g.dilation_w});
  out.set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, {g.stride_h, g.stride_w});
  out.finalize();
  return out;
}

/// The names that the three products' attributes have.
struct ProductNames {
  cudnnBackendDescriptorType_t operation;
  cudnnBackendAttributeName_t x, w, y, convolution, alpha, beta;
};

inline ProductNames names_of(ConvProduct product) {
  switch (product) {
    case ConvProduct::convolution:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
    case ConvProduct::input_gradient:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
    case ConvProduct::weight_gradient:
      break;
  }
  return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};
}

/// The tensors' names in a plan.
enum : std::int64_t { id_of_x = 1, id_of_w = 2, id_of_y = 3 };

template <class T>
Descriptor operation_graph(const Cudnn& cudnn, const PlanDevice& device, const cpu::ConvGeometry& g,
                           ConvProduct product) {
  const Descriptor x = tensor<T>(cudnn, id_of_x, {g.batch, g.in_channels, g.in_height, g.in_width});
  const Descriptor w =
      tensor<T>(cudnn, id_of_w, {g.out_channels, g.in_channels / g.groups, g.kernel_height, g.kernel_width});
  const Descriptor y = tensor<T>(cudnn, id_of_y, {g.batch, g.out_channels, g.out_height(), g.out_width()});
  const Descriptor shape = convolution<T>(cudnn, g);
  const ProductNames names = names_of(product);
  Descriptor operation(cudnn, names.operation);
  operation.set(names.x, x), operation.set(names.w, w), operation.set(names.y, y);
  operation.set(names.convolution, shape);
  const auto scalar_type = std::is_same_v<T, float> ? CUDNN_TYPE_FLOAT : CUDNN_TYPE_DOUBLE;
  operation.set(names.alpha, scalar_type, std::vector<T>{1});
  operation.set(names.beta, scalar_type, std::vector<T>{0});
  operation.finalize();
  Descriptor graph(cudnn, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operation);
  device.tell(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, std::nullopt);
  graph.finalize();
  return graph;
}

/// Whether an engine computes as the options ask. One that is compiled at run time cannot be finished without a driver
/// and starts late.
inline bool suits(const Descriptor& engine, const PlanOptions& options) {
  for (const auto note :
       engine.get<cudnnBackendNumericalNote_t>(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, 32)) {
    if (note == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC && options.deterministic) return false;
    if ((note == CUDNN_NUMERICAL_NOTE_TENSOR_CORE || note == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS) && !options.tf32)
      return false;
    if (note == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION) return false;
  }
  for (const auto note :
       engine.get<cudnnBackendBehaviorNote_t>(CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE, 32))
    if (note == CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION) return false;
  return true;
}

/// The plans that cuDNN proposes, best first, until one suits; adds it to `found`.
inline void search(const Cudnn& cudnn, const PlanDevice& device, const Descriptor& graph, cudnnBackendHeurMode_t mode,
                   const PlanOptions& options, std::vector<ConvPlan>& found) {
  Descriptor proposals(cudnn, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  proposals.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  proposals.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, std::vector{mode});
  device.tell(proposals, std::nullopt, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP);
  if (!proposals.try_finalize()) return;
  const std::int64_t count = proposals.count(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR);
  std::vector<Descriptor> settings;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (std::int64_t k = 0; k < count; ++k) {
    settings.emplace_back(cudnn, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    raw.push_back(settings.back().raw());
  }
  std::int64_t filled = 0;
  if (cudnn.cudnnBackendGetAttribute(proposals.raw(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                     count, &filled, raw.data()) != CUDNN_STATUS_SUCCESS)
    return;
  for (std::int64_t k = 0; k < filled && found.empty(); ++k) {
    const Descriptor& setting = settings[static_cast<std::size_t>(k)];
    const Descriptor engine(cudnn, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    cudnnBackendDescriptor_t raw_engine = engine.raw();
    std::int64_t one = 0;
    if (cudnn.cudnnBackendGetAttribute(setting.raw(), CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                       &one, &raw_engine) != CUDNN_STATUS_SUCCESS ||
        !suits(engine, options))
      continue;
    Descriptor plan(cudnn, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, setting);
    device.tell(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP);
    if (!plan.try_finalize()) continue;
    const Index workspace = plan.get<std::int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1).at(0);
    if (workspace > options.workspace_limit) continue;
    const auto number = engine.get<std::int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1).at(0);
    found.push_back({std::move(plan), workspace, number});
  }
}

}  // namespace detail

/// The plan for a product of a convolution of contiguous tensors, in T, that cuDNN thinks fastest among those which the
/// options allow. Throws Error when cuDNN has none, or refuses to say.
template <Scalar T>
ConvPlan plan_convolution(const Cudnn& cudnn, const PlanDevice& device, const cpu::ConvGeometry& geometry,
                          ConvProduct product, const PlanOptions& options = {}) {
  const Descriptor graph = detail::operation_graph<T>(cudnn, device, geometry, product);
  std::vector<ConvPlan> found;
  for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
    if (found.empty()) detail::search(cudnn, device, graph, mode, options, found);
  require(!found.empty(), "conv", "cuDNN has no plan for a ", geometry.kernel_height, " x ", geometry.kernel_width,
          " convolution of ", geometry.in_channels, " to ", geometry.out_channels, " channels in ", scalar_name<T>());
  return std::move(found.front());
}

/// What an execution is told: where x, w and y are, one of which it writes, and the plan's workspace.
inline Descriptor variant_pack(const Cudnn& cudnn, const void* x, const void* w, const void* y, void* workspace) {
  Descriptor pack(cudnn, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, {detail::id_of_x, detail::id_of_w, detail::id_of_y});
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, std::vector{x, w, y});
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, std::vector{workspace});
  pack.finalize();
  return pack;
}

/// Starts a plan in the handle's stream; the arguments are variant_pack's. Throws Error when cuDNN refuses.
inline void execute(const Cudnn& cudnn, const CudnnHandle& handle, const ConvPlan& plan, const void* x, const void* w,
                    const void* y, void* workspace) {
  const Descriptor pack = variant_pack(cudnn, x, w, y, workspace);
  check(cudnn, cudnn.cudnnBackendExecute(handle.raw(), plan.plan.raw(), pack.raw()), "start a convolution");
}

/// The plans for one device with one set of options, each made when it is first asked for.
class ConvPlans {
 public:
  /// The library and the device must outlive this.
  ConvPlans(const Cudnn& cudnn, const PlanDevice& device, const PlanOptions& options = {})
      : cudnn_(cudnn), device_(device), options_(options) {}

  /// The plan for a product in T, or null where cuDNN has none.
  template <Scalar T>
  const ConvPlan* find(const cpu::ConvGeometry& geometry, ConvProduct product) {
    std::lock_guard lock(mutex_);
    const auto [at, is_new] = plans_.try_emplace({std::is_same_v<T, float>, product, geometry});
    if (is_new) {
      try {
        at->second = plan_convolution<T>(cudnn_, device_, geometry, product, options_);
      } catch (const Error&) {  // a refusal is an answer, too: it is not asked again
      }
    }
    return at->second ? &*at->second : nullptr;
  }

 private:
  const Cudnn& cudnn_;
  PlanDevice device_;
  PlanOptions options_;
  std::mutex mutex_;
  std::map<std::tuple<bool, ConvProduct, cpu::ConvGeometry>, std::optional<ConvPlan>> plans_;
};

}  // namespace settle::cuda
