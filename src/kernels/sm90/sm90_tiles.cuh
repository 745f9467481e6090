#pragma once

#include <cstdint>

#include "kernels/sm90/sm90_variant.h"

// Which tiles there are and in which order a grid of clusters works on them. Computed on the host once,
// walked on the card: cluster c takes tiles c, c + clusters, ...
namespace slidesparse::sm90 {

// A panel of `panel` tiles of tokens goes through all channels before the next one begins. Within it the
// tokens run fastest, so clusters that run together share a few rows of weights and the panel's activations.
struct TileOrder {
  int groups = 0;       // of channels: tiles of all blocks of a cluster
  int token_tiles = 0;  // of all tokens
  int panel = 1;

  __host__ __device__ int tiles() const { return groups * token_tiles; }
};

struct Tile {
  int group = 0;
  int token_tile = 0;
};

__host__ __device__ inline Tile tile_at(const TileOrder& order, int number) {
  const int of_panel = order.panel * order.groups;
  const int panel = number / of_panel;
  const int rest = number - panel * of_panel;
  const int first = panel * order.panel;
  const int here = order.token_tiles - first < order.panel ? order.token_tiles - first : order.panel;
  return {rest / here, first + rest % here};
}

}  // namespace slidesparse::sm90
