#pragma once

#include <algorithm>
#include <cstdint>

#include "core/checked.h"

namespace slidesparse {

// Tokens cut into `count` tiles of `rows`, the last one of `last` (as they are, not padded).
struct TokenTiles {
  std::int64_t count = 0;
  std::int64_t rows = 0;
  std::int64_t last = 0;
};

// Tiles of nearly equal size, none above `most` (at least one step), all but the last a multiple of `step`.
inline TokenTiles cut_tokens(std::int64_t m, std::int64_t most, std::int64_t step) {
  if (m == 0) return {};
  most = std::max(step, most / step * step);
  TokenTiles tiles;
  tiles.count = ceil_div(m, most);
  tiles.rows = tiles.count == 1 ? m : round_up(ceil_div(m, tiles.count), step);
  tiles.count = ceil_div(m, tiles.rows);
  tiles.last = m - (tiles.count - 1) * tiles.rows;
  return tiles;
}

// Sums that wait for a tail kernel never take more than this, whatever M is.
constexpr std::int64_t kSumsBytes = std::int64_t{256} << 20;

inline TokenTiles tiles_for_sums(std::int64_t m, std::int64_t bytes_per_token, std::int64_t step) {
  return cut_tokens(m, kSumsBytes / bytes_per_token, step);
}

// Tiles in which no offset reaches 2^31 elements: libraries have had 32-bit offsets in some kernels.
inline TokenTiles tiles_below_2_31(std::int64_t m, std::int64_t elements_per_token) {
  return cut_tokens(m, ((std::int64_t{1} << 31) - 1) / elements_per_token, 256);
}

}  // namespace slidesparse
