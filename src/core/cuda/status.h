#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace slidesparse {

// One card as the CUDA runtime describes it.
struct CudaDeviceInfo {
  int index = 0;
  std::string name;
  int major = 0;  // compute capability
  int minor = 0;
  int multiprocessors = 0;
  std::int64_t memory_bytes = 0;
  std::int64_t l2_bytes = 0;
  int compute_capability() const { return major * 10 + minor; }
};

// What CUDA can do here. Asking never throws and never needs a driver: a missing one is a reason.
struct CudaStatus {
  bool built = false;      // this build has CUDA code
  bool available = false;  // and there is a card that it can run on
  std::string reason;      // why not, otherwise empty
  int driver_version = 0;  // 13000 for 13.0; 0 without a driver
  int runtime_version = 0;
  std::vector<CudaDeviceInfo> devices;
};

// Read once, at the first call.
const CudaStatus& cuda_status();

// Bytes free on the current card now; 0 without one. Creates the CUDA context.
std::int64_t free_device_memory();

}  // namespace slidesparse
