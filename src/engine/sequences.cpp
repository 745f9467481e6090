#include "engine/sequences.h"

#include <numeric>

#include "core/fail.h"

namespace slidesparse {

void StepBuilder::clear() {
  tokens_.clear();
  positions_.clear();
  cu_seqlens_.assign(1, 0);
  context_lengths_.clear();
  block_tables_.clear();
  wanted_rows_.clear();
}

void StepBuilder::add(std::span<const std::int32_t> tokens, std::int64_t start,
                      std::span<const std::int32_t> table) {
  require(static_cast<std::int64_t>(table.size()) <= max_blocks_, "a block table of {} pages, {} at most",
          table.size(), max_blocks_);
  const auto count = static_cast<std::int64_t>(tokens.size());
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  for (std::int64_t i = 0; i < count; ++i) positions_.push_back(static_cast<std::int32_t>(start + i));
  cu_seqlens_.push_back(static_cast<std::int32_t>(tokens_.size()));
  context_lengths_.push_back(static_cast<std::int32_t>(start + count));
  block_tables_.insert(block_tables_.end(), table.begin(), table.end());
  block_tables_.resize(static_cast<std::size_t>(sequences() * max_blocks_), 0);
}

void StepBuilder::want(std::int64_t begin, std::int64_t end) {
  const std::int32_t first = cu_seqlens_[cu_seqlens_.size() - 2];
  for (std::int64_t i = begin; i < end; ++i) wanted_rows_.push_back(first + static_cast<std::int32_t>(i));
}

void StepBuilder::want_last() {
  wanted_rows_.push_back(cu_seqlens_.back() - 1);
}

Batch StepBuilder::batch() const {
  return {tokens_, positions_, cu_seqlens_, context_lengths_, block_tables_, max_blocks_, wanted_rows_};
}

std::vector<std::int32_t> consecutive_pages(std::int64_t first, std::int64_t count) {
  std::vector<std::int32_t> pages(static_cast<std::size_t>(count));
  std::iota(pages.begin(), pages.end(), static_cast<std::int32_t>(first));
  return pages;
}

}  // namespace slidesparse
