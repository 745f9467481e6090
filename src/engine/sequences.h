#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/model.h"

namespace slidesparse {

// Builds the Batch of one step: owns the index vectors that Batch looks at, which are reused from step to
// step.
class StepBuilder {
 public:
  // `max_blocks`: entries of every block table.
  explicit StepBuilder(std::int64_t max_blocks) : max_blocks_(max_blocks) { clear(); }

  void clear();
  // Adds a sequence: its new tokens start at position `start`; `table` has at most max_blocks pages.
  void add(std::span<const std::int32_t> tokens, std::int64_t start, std::span<const std::int32_t> table);
  // The rows of the last sequence added whose logits are wanted: its tokens [begin, end).
  void want(std::int64_t begin, std::int64_t end);
  void want_last();

  std::int64_t tokens() const { return static_cast<std::int64_t>(tokens_.size()); }
  std::int64_t sequences() const { return static_cast<std::int64_t>(context_lengths_.size()); }
  std::int64_t wanted() const { return static_cast<std::int64_t>(wanted_rows_.size()); }
  Batch batch() const;

 private:
  std::int64_t max_blocks_;
  std::vector<std::int32_t> tokens_;
  std::vector<std::int32_t> positions_;
  std::vector<std::int32_t> cu_seqlens_;
  std::vector<std::int32_t> context_lengths_;
  std::vector<std::int32_t> block_tables_;
  std::vector<std::int32_t> wanted_rows_;
};

// Pages first, first + 1, ... first + count - 1.
std::vector<std::int32_t> consecutive_pages(std::int64_t first, std::int64_t count);

}  // namespace slidesparse
