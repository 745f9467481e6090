#include "core/cuda/status.h"

#include <cuda_runtime_api.h>
#include <fmt/core.h>

namespace slidesparse {
namespace {

// The words of an error, which is also forgotten: a later launch must not find it.
std::string words(cudaError_t error) {
  cudaGetLastError();
  return fmt::format("{} ({})", cudaGetErrorName(error), cudaGetErrorString(error));
}

CudaDeviceInfo describe(int index) {
  CudaDeviceInfo info;
  info.index = index;
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) return info;
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
  info.l2_bytes = properties.l2CacheSize;
  return info;
}

CudaStatus read_status() {
  CudaStatus status;
  status.built = true;
  cudaRuntimeGetVersion(&status.runtime_version);
  cudaDriverGetVersion(&status.driver_version);
  if (status.driver_version == 0) {
    status.reason = "no NVIDIA driver on this machine";
    return status;
  }
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    status.reason = words(error);
    return status;
  }
  for (int i = 0; i < count; ++i) status.devices.push_back(describe(i));
  if (count == 0) {
    status.reason = "no NVIDIA card on this machine";
  } else if (status.devices.front().major < 8) {
    status.reason =
        fmt::format("{} has compute capability {}.{}, 8.0 or newer is needed", status.devices.front().name,
                    status.devices.front().major, status.devices.front().minor);
  } else {
    status.available = true;
  }
  return status;
}

}  // namespace

const CudaStatus& cuda_status() {
  static const CudaStatus kStatus = read_status();
  return kStatus;
}

std::int64_t free_device_memory() {
  std::size_t free = 0, total = 0;
  if (!cuda_status().available || cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
  return static_cast<std::int64_t>(free);
}

}  // namespace slidesparse
