#pragma once

#include <cuda_runtime_api.h>

namespace slidesparse {

// A function of the driver, found through the runtime: nothing links against the driver. Null where there is
// none.
template <typename Function>
Function driver_entry(const char* name) {
  constexpr unsigned kVersion = 12000;
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion(name, &found, kVersion, cudaEnableDefault, &result);
  const bool ok = status == cudaSuccess && result == cudaDriverEntryPointSuccess;
  return ok ? reinterpret_cast<Function>(found) : nullptr;
}

}  // namespace slidesparse
