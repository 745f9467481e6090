#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "slidesparse/core/dtype.h"

// The kernels of the cutlass backend, free of CUTLASS's own headers. All of them compute D^T = W X^T: the
// tile's rows are output channels and its columns are tokens, so that a handful of tokens needs a narrow tile
// and no padding to 64 rows.
namespace slidesparse::cutlass_gemm {

// How one tile is worked on.
enum class Schedule : std::uint8_t {
  kPingpong,     // two warp groups on two tiles: one multiplies while the other writes
  kCooperative,  // two warp groups on one tile
  kStreamK,      // the same, and tiles are cut along K where that fills the card
};

// One problem as a kernel sees it. Device pointers, sizes in elements.
struct Problem {
  std::int64_t channels = 0;
  std::int64_t tokens = 0;
  std::int64_t k = 0;              // multiple of 16
  const void* w = nullptr;         // [channels, k], row stride k
  const void* x = nullptr;         // [tokens, k], row stride ldx
  std::int64_t ldx = 0;            // multiple of 16
  const float* w_scale = nullptr;  // [channels]
  const float* x_scale = nullptr;  // [tokens]
  const float* bias = nullptr;     // [channels] or null
  void* out = nullptr;             // BF16 [tokens, channels], row stride ldout
  std::int64_t ldout = 0;          // multiple of 8
  int multiprocessors = 0;
  int swizzle = 1;  // how many tiles wide the band is in which tiles are visited: 1, 2, 4, 8
  int splits = 1;   // kStreamK: cuts of every tile along K; 1: stream-K decides, 0: none
};

struct Resources {
  int registers = 0;
  int local_bytes = 0;  // spills, per thread
  int shared_bytes = 0;
  int stages = 0;
};

// One compiled kernel. Functions return a cudaError_t where they return int.
struct Variant {
  DType dtype = DType::kI8;
  int tile_channels = 0;
  int tile_tokens = 0;
  int tile_k = 0;
  int cluster_channels = 1;
  Schedule schedule = Schedule::kPingpong;
  // Whether CUTLASS accepts the sizes and strides; pointers are not looked at.
  bool (*can_implement)(const Problem&) = nullptr;
  // Scratch memory for partial sums, 0 for most.
  std::int64_t (*workspace_bytes)(const Problem&) = nullptr;
  // Once for every device before run.
  int (*prepare)() = nullptr;
  int (*resources)(Resources*) = nullptr;
  // Neither allocates nor waits. `workspace` is aligned to 256 bytes.
  int (*run)(const Problem&, void* workspace, void* stream) = nullptr;
};

// "128x64x128 1x1 stream-k": channels x tokens x K of a tile, cluster, schedule.
std::string variant_name(const Variant& variant);

// All of them, FP8 and INT8, by rising tile; empty in a build without CUTLASS.
std::span<const Variant> variants();

// CUTLASS's, "4.2.0"; empty in a build without it.
std::string version();

}  // namespace slidesparse::cutlass_gemm
