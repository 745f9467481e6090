#pragma once

#include <cstdint>

namespace slidesparse {

enum class DeviceKind : std::uint8_t { kCpu, kCuda };

// Where memory lives and work runs.
struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

class Arena;

// What every operation is given: the device it runs on, the stream it is ordered in (null on the CPU), and
// scratch memory that the caller owns. Operations take scratch from the arena and give it back before they
// return, so one arena serves a whole forward pass.
struct Context {
  Device device;
  void* stream = nullptr;
  Arena* arena = nullptr;
};

}  // namespace slidesparse
