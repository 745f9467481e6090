#include "core/cpu.h"
#include "core/cuda/status.h"
#include "core/fail.h"
#include "core/parallel.h"
#include "core/version.h"
#include "gemm/backend.h"
#include "gemm/tuning_cache.h"

namespace slidesparse {

TuningMachine tuning_machine(DeviceKind kind) {
  TuningMachine machine;
  machine.program = kVersion;
  if (kind == DeviceKind::kCuda && cuda_status().available) {
    const CudaStatus& status = cuda_status();
    machine.device = status.devices.front().name;
    machine.driver = fmt::format("{}.{}", status.driver_version / 1000, status.driver_version % 1000 / 10);
  } else {
    machine.device =
        fmt::format("{}, {}, {} threads", cpu_description(), isa_name(active_isa()), thread_count());
  }
  for (const Backend* backend : backends()) {
    if (backend->device() != kind || !backend->available().ok || backend->version().empty()) continue;
    machine.libraries +=
        fmt::format("{}{} {}", machine.libraries.empty() ? "" : ", ", backend->name(), backend->version());
  }
  return machine;
}

}  // namespace slidesparse
