#include "core/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "core/checked.h"
#include "core/fail.h"

namespace slidesparse {
namespace {

// From here on transparent huge pages pay: fewer TLB misses while streaming weights.
constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

void Buffer::Free::operator()(std::byte* pointer) const {
  std::free(pointer);
}

Buffer::Buffer(std::size_t bytes) : size_(bytes) {
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
  const auto total = static_cast<std::size_t>(
      round_up(static_cast<std::int64_t>(bytes + kSlack), static_cast<std::int64_t>(kAlignment)));
  void* pointer = nullptr;
  if (total < bytes || ::posix_memalign(&pointer, alignment, total) != 0) {
    ErrorFacts facts;
    facts.needed_bytes = static_cast<std::int64_t>(bytes);
    fail_with(std::move(facts), ErrorKind::kIo, "out of host memory: {} bytes were asked for", bytes);
  }
  if (alignment == kHugePage) ::madvise(pointer, total, MADV_HUGEPAGE);
  data_.reset(static_cast<std::byte*>(pointer));
}

Arena::Arena(std::size_t bytes) : buffer_(bytes), memory_(buffer_.data()), size_(bytes) {}

Arena::Arena(void* memory, std::size_t bytes)
    : memory_(static_cast<std::byte*>(memory)), size_(bytes), alignment_(256), borrowed_(true) {}

void Arena::reserve(std::size_t bytes) {
  if (bytes <= size_) return;
  require(used_ == 0 && !borrowed_, "an arena of {} bytes cannot grow to {}: {}", size_, bytes,
          borrowed_ ? "its memory is somebody else's" : fmt::format("{} are in use", used_));
  buffer_ = Buffer();
  buffer_ = Buffer(bytes);
  memory_ = buffer_.data();
  size_ = bytes;
}

void* Arena::allocate(std::size_t bytes) {
  const std::size_t rounded = (bytes + alignment_ - 1) / alignment_ * alignment_;
  if (used_ == 0 && rounded > size_) reserve(rounded);
  require(rounded <= size_ - used_, "arena of {} bytes: {} in use, {} more asked for", size_, used_, rounded);
  void* result = memory_ + used_;
  used_ += rounded;
  peak_ = std::max(peak_, used_);
  return result;
}

}  // namespace slidesparse
