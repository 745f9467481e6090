#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace slidesparse {

// Host memory aligned for vector loads and readable kSlack bytes past its end, so that kernels may load whole
// vectors at a tail. Contents are undefined.
class Buffer {
 public:
  static constexpr std::size_t kAlignment = 64;
  static constexpr std::size_t kSlack = 64;

  Buffer() = default;
  explicit Buffer(std::size_t bytes);

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_.get());
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* pointer) const;
  };
  std::unique_ptr<std::byte[], Free> data_;
  std::size_t size_ = 0;
};

// Scratch memory handed out and taken back in stack order. It grows on demand when it is empty, so a run that
// has seen its largest step does not allocate any more.
class Arena {
 public:
  explicit Arena(std::size_t bytes = 0);
  // Hands out memory that somebody else owns, on whichever device it is; does not grow.
  Arena(void* memory, std::size_t bytes);

  // Bytes aligned to Buffer::kAlignment, or to 256 in somebody else's memory, as GPU libraries ask; throws
  // kInternal when the arena is too small and in use.
  void* allocate(std::size_t bytes);
  template <typename T>
  T* allocate(std::int64_t count) {
    return static_cast<T*>(allocate(static_cast<std::size_t>(count) * sizeof(T)));
  }
  std::size_t used() const { return used_; }
  std::size_t peak() const { return peak_; }
  // Makes sure that `bytes` are there; only while nothing is in use.
  void reserve(std::size_t bytes);

  // Gives back everything taken since its construction.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), mark_(arena.used_) {}
    ~Scope() { arena_.used_ = mark_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    std::size_t mark_;
  };

 private:
  Buffer buffer_;
  std::byte* memory_ = nullptr;
  std::size_t size_ = 0;
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
  std::size_t alignment_ = Buffer::kAlignment;
  bool borrowed_ = false;
};

}  // namespace slidesparse
