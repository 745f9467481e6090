#pragma once

#include <cstdint>
#include <functional>
#include <utility>

namespace slidesparse {

// Work in order on one card. `handle` is a cudaStream_t, as in Context::stream.
class CudaStream {
 public:
  CudaStream();
  CudaStream(CudaStream&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  ~CudaStream();
  void* handle() const { return handle_; }
  // Waits; throws kInternal with the first error of what ran.
  void synchronize() const;

 private:
  void* handle_ = nullptr;
};

// A point in a stream.
class CudaEvent {
 public:
  CudaEvent();
  CudaEvent(CudaEvent&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  ~CudaEvent();
  void record(void* stream);
  void synchronize() const;
  // Seconds from `start` to this one; both must have been reached.
  double seconds_since(const CudaEvent& start) const;

 private:
  void* handle_ = nullptr;
};

// Work recorded once and replayed. Recording throws kInternal when `work` allocates or synchronises.
class CudaGraph {
 public:
  CudaGraph() = default;
  CudaGraph(const CudaStream& stream, const std::function<void()>& work);
  CudaGraph(CudaGraph&& other) noexcept : executable_(std::exchange(other.executable_, nullptr)) {}
  CudaGraph& operator=(CudaGraph&& other) noexcept;
  ~CudaGraph();
  void launch(void* stream) const;

 private:
  void* executable_ = nullptr;
};

// Copies in stream order: host memory should be pinned. `bytes` may be 0.
void copy_to_device(void* device, const void* host, std::int64_t bytes, void* stream);
void copy_to_host(void* host, const void* device, std::int64_t bytes, void* stream);
void copy_on_device(void* to, const void* from, std::int64_t bytes, void* stream);
void fill_device(void* device, int byte, std::int64_t bytes, void* stream);

}  // namespace slidesparse
