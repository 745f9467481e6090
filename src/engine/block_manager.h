#pragma once

#include <cstdint>
#include <vector>

namespace slidesparse {

// The pages of one sequence in the order of its positions: entry i is the page of its tokens
// [i * page_size, (i + 1) * page_size).
using BlockTable = std::vector<std::int32_t>;

// Which pages of a paged KV cache are free. It knows numbers only, not the memory behind them. A page costs
// O(1) to take and to give back.
class BlockManager {
 public:
  // `pages` of `page_size` tokens, all free. Throws kUsage for fewer than one page or token, more pages than
  // a block table can number (2^31 - 1), and pages * page_size beyond 63 bits.
  BlockManager(std::int64_t pages, std::int64_t page_size);

  std::int64_t pages() const { return static_cast<std::int64_t>(taken_.size()); }
  std::int64_t page_size() const { return page_size_; }  // tokens
  std::int64_t free() const { return static_cast<std::int64_t>(free_.size()); }
  std::int64_t used() const { return pages() - free(); }
  std::int64_t peak() const { return peak_; }  // the most pages used at once so far
  // Pages that `tokens` >= 0 tokens take.
  std::int64_t pages_for(std::int64_t tokens) const { return (tokens + page_size_ - 1) / page_size_; }

  // Adds free pages to `table` until it holds `tokens` tokens; a table that does already is left alone.
  // False when there are too few free ones: then nothing has changed.
  bool grow(BlockTable& table, std::int64_t tokens);
  // Gives all pages of `table` back and empties it. Throws kInternal for a page that nobody owns.
  void release(BlockTable& table);

 private:
  std::int64_t page_size_;
  std::vector<std::int32_t> free_;  // a stack: the page given back last is the likeliest to be in a cache
  std::vector<bool> taken_;         // [pages]
  std::int64_t peak_ = 0;
};

}  // namespace slidesparse
