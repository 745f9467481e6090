#pragma once

#include <cstdint>
#include <string>

#include "core/device.h"
#include "gemm/machine_limits.h"

namespace slidesparse {

// A row of the table `machine`: what figures belong to.
struct SweepMachine {
  std::string device;  // "cuda" or "cpu"
  std::string name;    // of the card, or of the processor with its instruction set and threads
  std::int64_t memory_bytes = 0;
  std::string driver;
  std::string libraries;
  std::string processor;
  std::int64_t threads = 0;
  std::string program_version;
  std::string commit;
  std::string details;   // JSON, as `bench` writes its "machine"
  MachineLimits limits;  // zero unless they were measured; not in the table

  // The digest of what figures depend on: device, name, driver, libraries, version and commit, and a card's
  // memory. Machines that agree in it are of the same kind.
  std::string fingerprint() const;
};

// Of this machine; `limits`: and measure those, a second or two. May create a CUDA context: for a worker
// process, so that whoever plans memory does not meet its own.
SweepMachine describe_sweep_machine(DeviceKind device, bool limits);

}  // namespace slidesparse
