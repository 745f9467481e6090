#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "core/cuda/check.h"
#include "core/cuda/memory.h"
#include "core/cuda/status.h"
#include "core/cuda/stream.h"

namespace slidesparse {

// A test that needs a card.
class DeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_status().available) GTEST_SKIP() << cuda_status().reason;
  }
};

// Skips the test when the card has less than `bytes` free.
#define SLIDESPARSE_NEED_MEMORY(bytes)                                                                     \
  if (free_device_memory() < (bytes) + (std::int64_t{1} << 30)) {                                          \
    GTEST_SKIP() << (bytes) / (1 << 30) << " GiB wanted, " << free_device_memory() / (1 << 30) << " free"; \
  }

// Host data on the card, `offset` bytes behind an aligned address: exactly as many bytes as there are, so
// that a checker sees every access outside.
template <typename T>
class OnDevice {
 public:
  OnDevice(const std::vector<T>& host, const CudaStream& stream, std::int64_t offset = 0)
      : buffer_(static_cast<std::int64_t>(host.size() * sizeof(T)) + offset, "test"), offset_(offset) {
    copy_to_device(data(), host.data(), static_cast<std::int64_t>(host.size() * sizeof(T)), stream.handle());
    stream.synchronize();
  }
  T* data() { return reinterpret_cast<T*>(buffer_.data() + offset_); }

 private:
  DeviceBuffer buffer_;
  std::int64_t offset_;
};

template <typename T>
std::vector<T> on_host(const T* device, std::int64_t count, const CudaStream& stream) {
  std::vector<T> host(static_cast<std::size_t>(count));
  copy_to_host(host.data(), device, count * static_cast<std::int64_t>(sizeof(T)), stream.handle());
  stream.synchronize();
  return host;
}

// Elements that no kernel may leave by accident: all bits set.
template <typename T>
std::vector<T> poison(std::int64_t count) {
  std::vector<T> host(static_cast<std::size_t>(count));
  if (count > 0) std::memset(host.data(), 0xff, host.size() * sizeof(T));
  return host;
}

// Equal bits, or both NaN: which NaN a processor makes is its own affair.
inline bool same_bf16(std::uint16_t a, std::uint16_t b) {
  const auto is_nan = [](std::uint16_t bits) { return (bits & 0x7fffu) > 0x7f80u; };
  return a == b || (is_nan(a) && is_nan(b));
}

}  // namespace slidesparse
