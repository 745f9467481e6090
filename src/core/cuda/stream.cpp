#include "core/cuda/stream.h"

#include <cuda_runtime_api.h>
#include <fmt/core.h>

#include "core/cuda/check.h"

namespace slidesparse {
namespace {

cudaStream_t as_stream(void* handle) {
  return static_cast<cudaStream_t>(handle);
}

cudaEvent_t as_event(void* handle) {
  return static_cast<cudaEvent_t>(handle);
}

void copy(void* to, const void* from, std::int64_t bytes, cudaMemcpyKind kind, void* stream) {
  if (bytes == 0) return;
  cuda_check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), kind, as_stream(stream)),
             "cudaMemcpyAsync", fmt::format("of {} bytes", bytes));
}

}  // namespace

CudaStream::CudaStream() {
  cudaStream_t stream = nullptr;
  cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  handle_ = stream;
}

CudaStream::~CudaStream() {
  if (handle_ != nullptr) cudaStreamDestroy(as_stream(handle_));
}

void CudaStream::synchronize() const {
  cuda_check(cudaStreamSynchronize(as_stream(handle_)), "cudaStreamSynchronize");
}

CudaEvent::CudaEvent() {
  cudaEvent_t event = nullptr;
  cuda_check(cudaEventCreate(&event), "cudaEventCreate");
  handle_ = event;
}

CudaEvent::~CudaEvent() {
  if (handle_ != nullptr) cudaEventDestroy(as_event(handle_));
}

void CudaEvent::record(void* stream) {
  cuda_check(cudaEventRecord(as_event(handle_), as_stream(stream)), "cudaEventRecord");
}

void CudaEvent::synchronize() const {
  cuda_check(cudaEventSynchronize(as_event(handle_)), "cudaEventSynchronize");
}

double CudaEvent::seconds_since(const CudaEvent& start) const {
  float milliseconds = 0;
  cuda_check(cudaEventElapsedTime(&milliseconds, as_event(start.handle_), as_event(handle_)),
             "cudaEventElapsedTime");
  return 1e-3 * milliseconds;
}

CudaGraph::CudaGraph(const CudaStream& stream, const std::function<void()>& work) {
  const cudaStream_t capturing = as_stream(stream.handle());
  cuda_check(cudaStreamBeginCapture(capturing, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    // The stream must leave the capture, or nothing else can use it.
    cudaStreamEndCapture(capturing, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  cuda_check(cudaStreamEndCapture(capturing, &graph), "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  cuda_check(error, "cudaGraphInstantiate");
  executable_ = executable;
}

CudaGraph& CudaGraph::operator=(CudaGraph&& other) noexcept {
  std::swap(executable_, other.executable_);
  return *this;
}

CudaGraph::~CudaGraph() {
  if (executable_ != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(executable_));
}

void CudaGraph::launch(void* stream) const {
  cuda_check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(executable_), as_stream(stream)),
             "cudaGraphLaunch");
}

void copy_to_device(void* device, const void* host, std::int64_t bytes, void* stream) {
  copy(device, host, bytes, cudaMemcpyHostToDevice, stream);
}
void copy_to_host(void* host, const void* device, std::int64_t bytes, void* stream) {
  copy(host, device, bytes, cudaMemcpyDeviceToHost, stream);
}
void copy_on_device(void* to, const void* from, std::int64_t bytes, void* stream) {
  copy(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}
void fill_device(void* device, int byte, std::int64_t bytes, void* stream) {
  if (bytes == 0) return;
  cuda_check(cudaMemsetAsync(device, byte, static_cast<std::size_t>(bytes), as_stream(stream)),
             "cudaMemsetAsync", fmt::format("of {} bytes", bytes));
}

}  // namespace slidesparse
