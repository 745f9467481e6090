// What is left of CUDA in a build without it: the answer why.
#include "core/cuda/memory.h"
#include "core/cuda/status.h"

namespace slidesparse {

const CudaStatus& cuda_status() {
  static const CudaStatus kStatus{
      false, false, "this build has no CUDA code: no nvcc was found when it was configured", 0, 0, {}};
  return kStatus;
}

std::int64_t free_device_memory() {
  return 0;
}

DeviceMemoryUse device_memory_use() {
  return {};
}

void set_device_memory_limit(std::int64_t) {}
void set_device_memory_guard(bool) {}

}  // namespace slidesparse
