// Stands in for cuDNN on the memory of the CPU: descriptors keep what is set, and an execution finds the operation, its
// tensors and their addresses through them, as cuDNN must, and computes it by plain loops. It proposes three engines
// for a convolution in float32, of which only the last is deterministic and computes in float32, and refuses float64
// and dilations.
#include <cudnn_graph.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "stream.hpp"

struct cudnnContext {
  cudaStream_t stream = nullptr;
  std::atomic<int> users = 0;
};
extern "C" int fake_overlaps;

namespace {

struct Node;
using Nodes = std::vector<std::shared_ptr<Node>>;

/// What a descriptor describes; it stays while others describe something by it.
struct Node {
  int type = 0;
  bool finished = false;
  std::map<int, std::vector<char>> values;
  std::map<int, Nodes> nodes;
  std::int64_t engine = 0;

  template <class T>
  std::vector<T> get(int name) const {
    const auto& bytes = values.at(name);
    std::vector<T> out(bytes.size() / sizeof(T));
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }
  const Node& node(int name) const { return *nodes.at(name).at(0); }
  bool has(std::initializer_list<int> names) const {
    return std::all_of(names.begin(), names.end(), [&](int name) { return values.count(name) || nodes.count(name); });
  }
};

struct Descriptor {
  std::shared_ptr<Node> node;
};

const std::shared_ptr<Node>& node_of(cudnnBackendDescriptor_t descriptor) {
  return static_cast<Descriptor*>(descriptor)->node;
}

std::size_t size_of(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_DOUBLE:
    case CUDNN_TYPE_VOID_PTR:
      return 8;
    case CUDNN_TYPE_CHAR:
      return 1;
    default:
      return 4;
  }
}

/// A call's use of a handle, which no other thread may use meanwhile.
class Use {
 public:
  explicit Use(cudnnHandle_t handle) : handle_(handle) {
    if (handle_->users++ > 0) ++fake_overlaps;
  }
  ~Use() { --handle_->users; }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

 private:
  cudnnHandle_t handle_;
};

constexpr std::int64_t workspace_bytes = 100, engines = 3;

/// The names of an operation's tensors and convolution.
struct Names {
  int x, w, y, convolution, alpha, beta;
};

Names names_of(int operation) {
  switch (operation) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
    default:
      return {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};
  }
}

/// Whether the attributes are there that the manual requires.
bool complete(const Node& n) {
  switch (n.type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
      return n.has({CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_ATTR_TENSOR_STRIDES,
                    CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT});
    case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR:
      return n.has({CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_ATTR_CONVOLUTION_CONV_MODE,
                    CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES,
                    CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS,
                    CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS});
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR: {
      const Names names = names_of(n.type);
      return n.has({names.x, names.w, names.y, names.convolution, names.alpha, names.beta});
    }
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
      return n.has({CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_ATTR_OPERATIONGRAPH_OPS});
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
      return n.has({CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_ATTR_ENGINEHEUR_MODE});
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
      return n.has({CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG});
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
      return n.has({CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                    CUDNN_ATTR_VARIANT_PACK_WORKSPACE});
    default:
      return false;
  }
}

const Node& operation_of(const Node& graph) { return graph.node(CUDNN_ATTR_OPERATIONGRAPH_OPS); }

/// Whether there are engines for a graph.
bool served(const Node& graph) {
  const Node& operation = operation_of(graph);
  const Names names = names_of(operation.type);
  const auto dilations = operation.node(names.convolution).get<std::int64_t>(CUDNN_ATTR_CONVOLUTION_DILATIONS);
  return dilations == std::vector<std::int64_t>{1, 1} &&
         operation.node(names.x).get<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE).at(0) == CUDNN_DATA_FLOAT;
}

/// A tensor of four axes and where it is.
struct Array {
  std::vector<std::int64_t> shape, strides;
  float* data;

  Array(const Node& tensor, const Node& pack)
      : shape(tensor.get<std::int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS)),
        strides(tensor.get<std::int64_t>(CUDNN_ATTR_TENSOR_STRIDES)) {
    const auto id = tensor.get<std::int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID).at(0);
    const auto ids = pack.get<std::int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    const auto at = std::find(ids.begin(), ids.end(), id) - ids.begin();
    data = pack.get<float*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS).at(static_cast<std::size_t>(at));
  }
  float& operator()(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) const {
    return data[a * strides[0] + b * strides[1] + c * strides[2] + d * strides[3]];
  }
  template <class F>
  void each(const F& f) const {
    for (std::int64_t a = 0; a < shape[0]; ++a)
      for (std::int64_t b = 0; b < shape[1]; ++b)
        for (std::int64_t c = 0; c < shape[2]; ++c)
          for (std::int64_t d = 0; d < shape[3]; ++d) f(a, b, c, d);
  }
};

void convolve(const Node& operation, const Node& pack) {
  const Names names = names_of(operation.type);
  const Array x(operation.node(names.x), pack), w(operation.node(names.w), pack), y(operation.node(names.y), pack);
  const Node& convolution = operation.node(names.convolution);
  const auto stride = convolution.get<std::int64_t>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
  const auto padding = convolution.get<std::int64_t>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS);
  const float alpha = operation.get<float>(names.alpha).at(0), beta = operation.get<float>(names.beta).at(0);
  const Array& result = operation.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR         ? y
                        : operation.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR ? x
                                                                                                         : w;
  result.each([&](auto... at) { result(at...) = beta == 0 ? 0 : beta * result(at...); });
  const std::int64_t groups = x.shape[1] / w.shape[1], outputs = y.shape[1] / groups;
  y.each([&](std::int64_t n, std::int64_t o, std::int64_t p, std::int64_t q) {
    for (std::int64_t c = 0; c < w.shape[1]; ++c)
      for (std::int64_t a = 0; a < w.shape[2]; ++a)
        for (std::int64_t b = 0; b < w.shape[3]; ++b) {
          const std::int64_t row = p * stride[0] + a - padding[0], column = q * stride[1] + b - padding[1];
          if (row < 0 || row >= x.shape[2] || column < 0 || column >= x.shape[3]) continue;
          float &of_x = x(n, o / outputs * w.shape[1] + c, row, column), &of_w = w(o, c, a, b), &of_y = y(n, o, p, q);
          if (&result == &y) of_y += alpha * of_x * of_w;
          if (&result == &x) of_x += alpha * of_y * of_w;
          if (&result == &w) of_w += alpha * of_x * of_y;
        }
  });
}

}  // namespace

extern "C" {
int fake_executions = 0, fake_searches = 0, fake_descriptors = 0, fake_engine = -1;
int fake_overlaps = 0;  // calls that used a handle while another thread did

size_t CUDNNWINAPI cudnnGetVersion() { return CUDNN_VERSION; }
const char* CUDNNWINAPI cudnnGetErrorString(cudnnStatus_t) { return "a status of the stand-in"; }
void CUDNNWINAPI cudnnGetLastErrorString(char* message, size_t size) {
  if (size > 0) message[0] = '\0';
}

cudnnStatus_t CUDNNWINAPI cudnnCreate(cudnnHandle_t* handle) {
  *handle = new cudnnContext;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t CUDNNWINAPI cudnnDestroy(cudnnHandle_t handle) {
  delete handle;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t CUDNNWINAPI cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  const Use use(handle);
  handle->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t CUDNNWINAPI cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                                       cudnnBackendDescriptor_t* descriptor) {
  auto node = std::make_shared<Node>();
  node->type = type;
  *descriptor = new Descriptor{node};
  ++fake_descriptors;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t CUDNNWINAPI cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  delete static_cast<Descriptor*>(descriptor);
  --fake_descriptors;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t CUDNNWINAPI cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                                   cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                                   int64_t count, const void* values) {
  Node& node = *node_of(descriptor);
  if (node.finished) return CUDNN_STATUS_BAD_PARAM;
  if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
    Nodes nodes;
    for (std::int64_t k = 0; k < count; ++k) {
      nodes.push_back(node_of(static_cast<const cudnnBackendDescriptor_t*>(values)[k]));
      if (!nodes.back()->finished) return CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED;
    }
    node.nodes[name] = nodes;
  } else {
    const char* const bytes = static_cast<const char*>(values);
    node.values[name].assign(bytes, bytes + static_cast<std::size_t>(count) * size_of(type));
  }
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t CUDNNWINAPI cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  Node& node = *node_of(descriptor);
  if (!complete(node)) return CUDNN_STATUS_BAD_PARAM;
  if (node.type == CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR) {
    ++fake_searches;
    const Use use(
        node.node(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH).get<cudnnHandle_t>(CUDNN_ATTR_OPERATIONGRAPH_HANDLE).at(0));
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (!served(node.node(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH))) return CUDNN_STATUS_NOT_SUPPORTED;
  }
  node.finished = true;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t CUDNNWINAPI cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor,
                                                   cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t,
                                                   int64_t room, int64_t* count, void* values) {
  const Node& node = *node_of(descriptor);
  if (!node.finished) return CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED;
  const auto give_nodes = [&](const Nodes& given) {
    *count = static_cast<std::int64_t>(given.size());
    for (std::int64_t k = 0; k < std::min(room, *count); ++k)
      static_cast<Descriptor*>(static_cast<cudnnBackendDescriptor_t*>(values)[k])->node =
          given[static_cast<std::size_t>(k)];
    return CUDNN_STATUS_SUCCESS;
  };
  const auto give = [&]<class T>(const std::vector<T>& given) {
    *count = static_cast<std::int64_t>(given.size());
    std::copy_n(given.begin(), std::min(room, *count), static_cast<T*>(values));
    return CUDNN_STATUS_SUCCESS;
  };
  switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS: {
      Nodes settings;
      for (std::int64_t k = 0; k < engines; ++k) {
        auto engine = std::make_shared<Node>(), setting = std::make_shared<Node>();
        engine->type = CUDNN_BACKEND_ENGINE_DESCRIPTOR, setting->type = CUDNN_BACKEND_ENGINECFG_DESCRIPTOR;
        engine->finished = setting->finished = true;
        engine->engine = k;
        engine->nodes[CUDNN_ATTR_ENGINE_OPERATION_GRAPH] = node.nodes.at(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
        setting->nodes[CUDNN_ATTR_ENGINECFG_ENGINE] = {engine};
        settings.push_back(setting);
      }
      return give_nodes(settings);
    }
    case CUDNN_ATTR_ENGINECFG_ENGINE:
      return give_nodes(node.nodes.at(CUDNN_ATTR_ENGINECFG_ENGINE));
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
      if (node.engine == 0) return give(std::vector{CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC});
      return give(node.engine == 1 ? std::vector{CUDNN_NUMERICAL_NOTE_TENSOR_CORE}
                                   : std::vector<cudnnBackendNumericalNote_t>{});
    case CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE:
      return give(std::vector<cudnnBackendBehaviorNote_t>{});
    case CUDNN_ATTR_ENGINE_GLOBAL_INDEX:
      return give(std::vector{node.engine});
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
      return give(std::vector{workspace_bytes});
    default:
      return CUDNN_STATUS_NOT_SUPPORTED;
  }
}

cudnnStatus_t CUDNNWINAPI cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                              cudnnBackendDescriptor_t pack) {
  const Node& p = *node_of(plan);
  const std::shared_ptr<Node> kept = node_of(pack);
  const Node& v = *kept;
  if (!handle || !p.finished || !v.finished) return CUDNN_STATUS_BAD_PARAM;
  const auto workspace = v.get<char*>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE).at(0);
  const std::shared_ptr<Node>& engine =
      p.node(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG).nodes.at(CUDNN_ATTR_ENGINECFG_ENGINE).at(0);
  if (!workspace) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  const Use use(handle);
  emulated::ask(handle->stream, [workspace, engine, kept] {
    std::memset(workspace, 0, workspace_bytes);
    convolve(operation_of(engine->node(CUDNN_ATTR_ENGINE_OPERATION_GRAPH)), *kept);
  });
  ++fake_executions, fake_engine = static_cast<int>(engine->engine);
  return CUDNN_STATUS_SUCCESS;
}
}
