#include "core/cuda/memory.h"

#include <cuda_runtime_api.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>

#include "core/cuda/check.h"
#include "core/cuda/guarded_memory.h"
#include "core/cuda/status.h"
#include "core/fail.h"

namespace slidesparse {
namespace {

// Who holds what. One per process, as a card's memory is.
struct Ledger {
  std::mutex mutex;
  std::map<std::string, std::int64_t, std::less<>> by_name;
  std::int64_t in_use = 0;
  std::int64_t peak = 0;
  std::int64_t limit = 0;
  bool guard = std::getenv("SLIDESPARSE_GUARD_PAGES") != nullptr;
};

Ledger& ledger() {
  // Never destroyed: buffers in static storage may outlive it otherwise.
  static auto* const kLedger = new Ledger;
  return *kLedger;
}

void add(Ledger& book, const std::string& name, std::int64_t bytes) {
  book.by_name[name] += bytes;
  book.in_use += bytes;
  book.peak = std::max(book.peak, book.in_use);
}

void take_off(const std::string& name, std::int64_t bytes) {
  Ledger& book = ledger();
  const std::scoped_lock lock(book.mutex);
  const auto entry = book.by_name.find(name);
  entry->second -= bytes;
  if (entry->second == 0) book.by_name.erase(entry);
  book.in_use -= bytes;
}

ErrorFacts refusal(const Ledger& book, std::int64_t needed, std::int64_t free) {
  ErrorFacts facts;
  facts.needed_bytes = needed;
  facts.free_bytes = free;
  facts.holders.assign(book.by_name.begin(), book.by_name.end());
  return facts;
}

std::string limit_words(const Ledger& book) {
  return book.limit == 0 ? std::string() : fmt::format(", limit {}", book.limit);
}

}  // namespace

DeviceBuffer::DeviceBuffer(std::int64_t bytes, std::string_view name) : size_(bytes), name_(name) {
  require(bytes >= 0, "device buffer \"{}\" of {} bytes", name, bytes);
  if (bytes == 0) return;
  Ledger& book = ledger();
  const std::scoped_lock lock(book.mutex);
  if (book.limit != 0 && bytes > book.limit - book.in_use) {
    fail_with(refusal(book, bytes, book.limit - book.in_use), ErrorKind::kUnsupported,
              "device memory for \"{}\": {} bytes wanted, {} in use, limit {}; raise the limit or use less",
              name, bytes, book.in_use, book.limit);
  }
  void* pointer = nullptr;
  guarded_ = book.guard;
  const auto error = static_cast<cudaError_t>(
      guarded_ ? guarded_allocate(bytes, &pointer) : cudaMalloc(&pointer, static_cast<std::size_t>(bytes)));
  if (error != cudaSuccess) {
    cudaGetLastError();
    if (error == cudaErrorMemoryAllocation) {
      const std::int64_t free = free_device_memory();
      fail_with(refusal(book, bytes, free), ErrorKind::kUnsupported,
                "device memory for \"{}\": {} bytes wanted, {} free, {} in use here{}", name, bytes, free,
                book.in_use, limit_words(book));
    }
    cuda_check(error, guarded_ ? "guarded allocation" : "cudaMalloc",
               fmt::format("of {} bytes for \"{}\"", bytes, name));
  }
  data_ = static_cast<std::byte*>(pointer);
  add(book, name_, bytes);
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      name_(std::move(other.name_)),
      guarded_(other.guarded_) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(name_, other.name_);
  std::swap(guarded_, other.guarded_);
  return *this;
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ == nullptr) return;
  if (guarded_) {
    guarded_free(data_);
  } else {
    cudaFree(data_);
  }
  take_off(name_, size_);
}

PinnedBuffer::PinnedBuffer(std::int64_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  void* pointer = nullptr;
  cuda_check(cudaMallocHost(&pointer, static_cast<std::size_t>(bytes)), "cudaMallocHost",
             fmt::format("of {} bytes", bytes));
  data_ = static_cast<std::byte*>(pointer);
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

DeviceMemoryUse device_memory_use() {
  Ledger& book = ledger();
  const std::scoped_lock lock(book.mutex);
  DeviceMemoryUse use{book.in_use, book.peak, book.limit, {}};
  for (const auto& [name, bytes] : book.by_name) use.by_name.push_back({name, bytes});
  std::stable_sort(use.by_name.begin(), use.by_name.end(),
                   [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  return use;
}

void reset_device_memory_peak() {
  Ledger& book = ledger();
  const std::scoped_lock lock(book.mutex);
  book.peak = book.in_use;
}

void set_device_memory_limit(std::int64_t bytes) {
  Ledger& book = ledger();
  const std::scoped_lock lock(book.mutex);
  book.limit = bytes;
}

void set_device_memory_guard(bool on) {
  Ledger& book = ledger();
  const std::scoped_lock lock(book.mutex);
  book.guard = on;
}

}  // namespace slidesparse
