#include "gemm/describe_machine.h"

#include "core/cpu.h"
#include "core/cuda/status.h"
#include "core/parallel.h"
#include "gemm/backend.h"

namespace slidesparse {
namespace {

// The card, or null where there is none.
nlohmann::ordered_json describe_card() {
  const CudaStatus& cuda = cuda_status();
  if (!cuda.available) return nullptr;
  const CudaDeviceInfo& card = cuda.devices.front();
  nlohmann::ordered_json json{{"name", card.name},
                              {"compute_capability", card.compute_capability()},
                              {"multiprocessors", card.multiprocessors},
                              {"memory_bytes", card.memory_bytes},
                              {"driver", cuda.driver_version},
                              {"runtime", cuda.runtime_version}};
  for (const Backend* backend : backends()) {
    if (backend->device() == DeviceKind::kCuda && backend->available().ok && !backend->version().empty())
      json["libraries"][std::string(backend->name())] = backend->version();
  }
  return json;
}

}  // namespace

nlohmann::ordered_json describe_machine() {
  return {{"processor", cpu_description()},
          {"isa", isa_name(active_isa())},
          {"amx", has_amx()},
          {"threads", thread_count()},
          {"gpu", describe_card()}};
}

}  // namespace slidesparse
