#include "core/cuda/nvml.h"

#include <unistd.h>

#include <algorithm>
#include <array>

#include "core/shared_library.h"

namespace slidesparse {
namespace {

// The parts of nvml.h that are used; the library keeps its binary interface.
using Device = void*;
constexpr int kSuccess = 0;
constexpr int kClockSm = 1;
constexpr int kTemperatureGpu = 0;
constexpr unsigned long long kSoftwarePowerCap = 0x4;
// Hardware slowdown, software and hardware thermal slowdown, power brake.
constexpr unsigned long long kThrottled = 0x8 | 0x20 | 0x40 | 0x80;

struct ProcessInfo {  // nvmlProcessInfo_t
  unsigned pid;
  unsigned long long used_memory;
  unsigned gpu_instance;
  unsigned compute_instance;
};

struct Nvml {
  SharedLibrary library{"", {"libnvidia-ml.so.1"}};
  int (*clock)(Device, int, unsigned*) = nullptr;
  int (*power)(Device, unsigned*) = nullptr;
  int (*temperature)(Device, int, unsigned*) = nullptr;
  int (*reasons)(Device, unsigned long long*) = nullptr;
  int (*processes)(Device, unsigned*, ProcessInfo*) = nullptr;
  Device device = nullptr;

  Nvml() {
    const auto get = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(library.symbol(name));
    };
    int (*init)() = nullptr;
    int (*handle)(unsigned, Device*) = nullptr;
    get(init, "nvmlInit_v2");
    get(handle, "nvmlDeviceGetHandleByIndex_v2");
    if (init == nullptr || handle == nullptr || init() != kSuccess || handle(0, &device) != kSuccess) {
      device = nullptr;
      return;
    }
    get(clock, "nvmlDeviceGetClockInfo");
    get(power, "nvmlDeviceGetPowerUsage");
    get(temperature, "nvmlDeviceGetTemperature");
    get(reasons, "nvmlDeviceGetCurrentClocksThrottleReasons");
    get(processes, "nvmlDeviceGetComputeRunningProcesses_v3");
  }
};

}  // namespace

CardState read_card_state() {
  static const Nvml kNvml;
  CardState state;
  if (kNvml.device == nullptr) return state;
  state.known = true;
  unsigned value = 0;
  if (kNvml.clock != nullptr && kNvml.clock(kNvml.device, kClockSm, &value) == kSuccess)
    state.sm_clock_mhz = static_cast<int>(value);
  if (kNvml.power != nullptr && kNvml.power(kNvml.device, &value) == kSuccess)
    state.power_watts = static_cast<int>(value / 1000);
  if (kNvml.temperature != nullptr && kNvml.temperature(kNvml.device, kTemperatureGpu, &value) == kSuccess)
    state.temperature_celsius = static_cast<int>(value);
  unsigned long long reasons = 0;
  if (kNvml.reasons != nullptr && kNvml.reasons(kNvml.device, &reasons) == kSuccess) {
    state.power_capped = (reasons & kSoftwarePowerCap) != 0;
    state.throttled = (reasons & kThrottled) != 0;
  }
  std::array<ProcessInfo, 64> found{};
  unsigned count = found.size();
  if (kNvml.processes != nullptr && kNvml.processes(kNvml.device, &count, found.data()) == kSuccess) {
    const auto end = found.begin() + std::min<unsigned>(count, found.size());
    state.other_processes =
        static_cast<int>(std::count_if(found.begin(), end, [](const ProcessInfo& process) {
          return process.pid != static_cast<unsigned>(::getpid());
        }));
  }
  return state;
}

CardState worse_of(const CardState& a, const CardState& b) {
  if (!a.known) return b;
  if (!b.known) return a;
  CardState worse;
  worse.known = true;
  worse.sm_clock_mhz = std::min(a.sm_clock_mhz, b.sm_clock_mhz);
  worse.power_watts = std::max(a.power_watts, b.power_watts);
  worse.temperature_celsius = std::max(a.temperature_celsius, b.temperature_celsius);
  worse.other_processes = std::max(a.other_processes, b.other_processes);
  worse.power_capped = a.power_capped || b.power_capped;
  worse.throttled = a.throttled || b.throttled;
  return worse;
}

}  // namespace slidesparse
