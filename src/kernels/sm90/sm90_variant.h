#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "kernels/sm90/sm90_fragments.h"
#include "slidesparse/core/dtype.h"

// Hopper's kernels of ours as values. All of them compute D^T = W X^T: the tile's rows are output channels,
// its columns tokens.
namespace slidesparse::sm90 {

// One problem as a kernel sees it. Device pointers.
struct Product {
  std::int64_t channels = 0;              // multiple of 8
  std::int64_t tokens = 0;                // at least 1
  Schedule schedule;                      // K
  const std::uint8_t* weights = nullptr;  // [ceil(channels / 64), schedule.block_bytes()]
  const void* x = nullptr;                // [tokens, schedule.lanes()], lanes in the schedule's order
  const float* w_scale = nullptr;         // [channels, padded to 64]; not read with BF16
  const float* x_scale = nullptr;         // [tokens]; not read with BF16
  const float* bias = nullptr;            // [channels, padded to 64] or null
  void* out = nullptr;                    // out_dtype [tokens, channels], row stride ldout
  DType out_dtype = DType::kBF16;         // or kF32, which variants that split K can write
  std::int64_t ldout = 0;                 // multiple of 8
  int multiprocessors = 0;
  int splits = 1;  // variants that split K: into so many parts, 1 .. 8
  int panel = 0;  // tiles of tokens that are worked on before the next channels: their activations stay in L2
};

struct Resources {
  int registers = 0;     // of a thread when it starts
  int local_bytes = 0;   // spills, of a thread
  int shared_bytes = 0;  // of a block
};

// One compiled kernel. Functions return a cudaError_t.
struct Variant {
  DType dtype = DType::kF8E4M3;
  int tile_channels = 0;
  int tile_tokens = 0;
  int stages = 0;           // of 128 bytes of X's rows in shared memory
  int cluster = 1;          // blocks along the channels that share their tokens' tile
  bool dense_pairs = true;  // runs schedules that have stages of two dense steps
  int split_blocks =
      0;  // where K can be split (Product::splits): blocks that a multiprocessor holds; 0: cannot
  int (*prepare)() = nullptr;  // once for every device before run
  int (*resources)(Resources*) = nullptr;
  int (*run)(const Product&, void* stream) = nullptr;  // neither allocates nor waits
};

// "128x256 3 stages cluster 2": channels x tokens of a block's tile.
std::string variant_name(const Variant& variant);
// All of them.
std::span<const Variant> variants();

}  // namespace slidesparse::sm90
