#include "core/cuda/guarded_memory.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <map>
#include <mutex>

#include "core/cuda/driver_entry.h"

namespace slidesparse {
namespace {

constexpr std::size_t kAlignment = 256;

struct Driver {
  PFN_cuMemGetAllocationGranularity_v10020 granularity =
      driver_entry<PFN_cuMemGetAllocationGranularity_v10020>("cuMemGetAllocationGranularity");
  PFN_cuMemAddressReserve_v10020 reserve =
      driver_entry<PFN_cuMemAddressReserve_v10020>("cuMemAddressReserve");
  PFN_cuMemAddressFree_v10020 release_addresses =
      driver_entry<PFN_cuMemAddressFree_v10020>("cuMemAddressFree");
  PFN_cuMemCreate_v10020 create = driver_entry<PFN_cuMemCreate_v10020>("cuMemCreate");
  PFN_cuMemRelease_v10020 release = driver_entry<PFN_cuMemRelease_v10020>("cuMemRelease");
  PFN_cuMemMap_v10020 map = driver_entry<PFN_cuMemMap_v10020>("cuMemMap");
  PFN_cuMemUnmap_v10020 unmap = driver_entry<PFN_cuMemUnmap_v10020>("cuMemUnmap");
  PFN_cuMemSetAccess_v10020 set_access = driver_entry<PFN_cuMemSetAccess_v10020>("cuMemSetAccess");

  bool complete() const {
    return granularity != nullptr && reserve != nullptr && release_addresses != nullptr &&
           create != nullptr && release != nullptr && map != nullptr && unmap != nullptr &&
           set_access != nullptr;
  }
};

const Driver& the_driver() {
  static const Driver kDriver;
  return kDriver;
}

struct Mapping {
  CUdeviceptr base = 0;
  std::size_t mapped = 0;
  std::size_t reserved = 0;
};

struct Mappings {
  std::mutex mutex;
  std::map<void*, Mapping> by_pointer;
};

Mappings& mappings() {
  // Never destroyed: buffers in static storage may outlive it otherwise.
  static auto* const kMappings = new Mappings;
  return *kMappings;
}

int error_of(CUresult result) {
  if (result == CUDA_SUCCESS) return cudaSuccess;
  return result == CUDA_ERROR_OUT_OF_MEMORY ? cudaErrorMemoryAllocation : cudaErrorUnknown;
}

CUresult map_pages(const Driver& driver, const CUmemAllocationProp& kind, const Mapping& mapping) {
  CUmemGenericAllocationHandle pages = 0;
  if (const CUresult result = driver.create(&pages, mapping.mapped, &kind, 0); result != CUDA_SUCCESS)
    return result;
  CUresult result = driver.map(mapping.base, mapping.mapped, 0, pages, 0);
  driver.release(pages);  // the mapping keeps them
  if (result != CUDA_SUCCESS) return result;
  const CUmemAccessDesc access{kind.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  result = driver.set_access(mapping.base, mapping.mapped, &access, 1);
  if (result != CUDA_SUCCESS) driver.unmap(mapping.base, mapping.mapped);
  return result;
}

}  // namespace

int guarded_allocate(std::int64_t bytes, void** pointer) {
  const Driver& driver = the_driver();
  if (!driver.complete()) return cudaErrorNotSupported;
  CUmemAllocationProp kind{};
  kind.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  kind.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  if (const cudaError_t status = cudaGetDevice(&kind.location.id); status != cudaSuccess) return status;
  if (const cudaError_t status = cudaFree(nullptr); status != cudaSuccess)
    return status;  // makes the context
  std::size_t page = 0;
  if (const int status = error_of(driver.granularity(&page, &kind, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
      status != cudaSuccess) {
    return status;
  }
  const auto size = (static_cast<std::size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
  Mapping mapping;
  mapping.mapped = (size + page - 1) / page * page;
  mapping.reserved = mapping.mapped + page;
  if (const int status = error_of(driver.reserve(&mapping.base, mapping.reserved, 0, 0, 0));
      status != cudaSuccess) {
    return status;
  }
  if (const int status = error_of(map_pages(driver, kind, mapping)); status != cudaSuccess) {
    driver.release_addresses(mapping.base, mapping.reserved);
    return status;
  }
  *pointer = reinterpret_cast<void*>(mapping.base + mapping.mapped - size);
  const std::scoped_lock lock(mappings().mutex);
  mappings().by_pointer[*pointer] = mapping;
  return cudaSuccess;
}

int guarded_free(void* pointer) {
  Mapping mapping;
  {
    const std::scoped_lock lock(mappings().mutex);
    const auto found = mappings().by_pointer.find(pointer);
    if (found == mappings().by_pointer.end()) return cudaErrorInvalidValue;
    mapping = found->second;
    mappings().by_pointer.erase(found);
  }
  const cudaError_t waited = cudaDeviceSynchronize();
  const CUresult unmapped = the_driver().unmap(mapping.base, mapping.mapped);
  const CUresult released = the_driver().release_addresses(mapping.base, mapping.reserved);
  if (waited != cudaSuccess) return waited;
  return error_of(unmapped != CUDA_SUCCESS ? unmapped : released);
}

}  // namespace slidesparse
