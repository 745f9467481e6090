#include "engine/block_manager.h"

#include <algorithm>
#include <limits>

#include "core/checked.h"
#include "core/fail.h"

namespace slidesparse {

BlockManager::BlockManager(std::int64_t pages, std::int64_t page_size) : page_size_(page_size) {
  if (pages < 1 || pages > std::numeric_limits<std::int32_t>::max() || page_size < 1 ||
      !checked_mul(pages, page_size)) {
    fail(ErrorKind::kUsage, "{} pages of {} tokens: 1 to {} pages of at least 1 token are needed", pages,
         page_size, std::numeric_limits<std::int32_t>::max());
  }
  taken_.resize(static_cast<std::size_t>(pages), false);
  free_.resize(taken_.size());
  // Page 0 lies on top.
  for (std::int64_t i = 0; i < pages; ++i) {
    free_[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(pages - 1 - i);
  }
}

bool BlockManager::grow(BlockTable& table, std::int64_t tokens) {
  const std::int64_t missing = pages_for(tokens) - static_cast<std::int64_t>(table.size());
  if (missing > free()) return false;
  for (std::int64_t i = 0; i < missing; ++i) {
    const std::int32_t page = free_.back();
    table.push_back(page);
    free_.pop_back();
    taken_[static_cast<std::size_t>(page)] = true;
  }
  peak_ = std::max(peak_, used());
  return true;
}

void BlockManager::release(BlockTable& table) {
  while (!table.empty()) {
    const std::int32_t page = table.back();
    require(page >= 0 && page < pages() && taken_[static_cast<std::size_t>(page)],
            "page {} of {} is given back, but nobody owns it", page, pages());
    taken_[static_cast<std::size_t>(page)] = false;
    free_.push_back(page);
    table.pop_back();
  }
}

}  // namespace slidesparse
