#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace slidesparse {

// Device memory with a name, given back when it goes out of scope. Aligned to 256 bytes. Contents are
// undefined.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // Throws kUnsupported with the bytes wanted, in use, free and the limit when they are not to be had.
  DeviceBuffer(std::int64_t bytes, std::string_view name);
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::int64_t size() const { return size_; }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  std::int64_t size_ = 0;
  std::string name_;
  bool guarded_ = false;
};

// Host memory that the card can read and write at full speed.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(std::int64_t bytes);
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;
  ~PinnedBuffer();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::int64_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::int64_t size_ = 0;
};

// What DeviceBuffers of this process hold.
struct DeviceMemoryUse {
  struct Entry {
    std::string name;
    std::int64_t bytes = 0;
  };
  std::int64_t in_use = 0;
  std::int64_t peak = 0;
  std::int64_t limit = 0;      // 0: the card's own
  std::vector<Entry> by_name;  // summed, largest first
};
DeviceMemoryUse device_memory_use();
void reset_device_memory_peak();
// DeviceBuffers beyond `bytes` in all fail as on a card that small; 0: no limit.
void set_device_memory_limit(std::int64_t bytes);
// DeviceBuffers from now on are guarded (core/cuda/guarded_memory.h), for tests: slow, and 2 MiB each at
// least. So they are from the start where SLIDESPARSE_GUARD_PAGES is set.
void set_device_memory_guard(bool on);

}  // namespace slidesparse
