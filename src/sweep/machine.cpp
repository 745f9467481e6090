#include "sweep/machine.h"

#include <fmt/core.h>
#include <unistd.h>

#include "core/cpu.h"
#include "core/cuda/status.h"
#include "core/parallel.h"
#include "core/version.h"
#include "gemm/describe_machine.h"
#include "gemm/tuning_cache.h"
#include "io/digest.h"
#include "ops/prompt_attention.h"

namespace slidesparse {
namespace {

std::int64_t host_memory_bytes() {
  return static_cast<std::int64_t>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<std::int64_t>(::sysconf(_SC_PAGE_SIZE));
}

}  // namespace

std::string SweepMachine::fingerprint() const {
  std::string text =
      fmt::format("{}\n{}\n{}\n{}\n{}\n{}", device, name, driver, libraries, program_version, commit);
  if (device == "cuda") text += fmt::format("\n{}", memory_bytes);
  return sha256_hex(text);
}

SweepMachine describe_sweep_machine(DeviceKind device, bool limits) {
  const TuningMachine tuning = tuning_machine(device);
  const bool card = device == DeviceKind::kCuda;
  SweepMachine machine;
  machine.device = card ? "cuda" : "cpu";
  machine.name = tuning.device;  // of a CPU with its instruction set and threads
  machine.memory_bytes = card ? cuda_status().devices.front().memory_bytes : host_memory_bytes();
  machine.driver = tuning.driver;
  machine.libraries = tuning.libraries;
  if (card) {
    if (const std::string attention = prompt_attention_library(); !attention.empty())
      machine.libraries += (machine.libraries.empty() ? "" : ", ") + attention;
  }
  machine.processor = cpu_description();
  machine.threads = thread_count();
  machine.program_version = kVersion;
  machine.commit = kCommit;
  machine.details = describe_machine().dump();
  if (limits) machine.limits = measure_limits(device);
  return machine;
}

}  // namespace slidesparse
