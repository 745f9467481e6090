#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gemm/race.h"

namespace slidesparse {

// One linear layer's shape, for every pattern and M.
struct TrackShape {
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType dtype = DType::kI8;
  bool bias = false;
};

// The problem of `shape` with weights of `pattern` (packed, or dense).
GemmDesc track_desc(const TrackShape& shape, Pattern pattern, std::int64_t m, Device device);

// A track that makes random weights of `shape` once for each pattern and each backend's form, and keeps them
// for all M. On a card, inputs are BF16 activations and every run quantises (and lifts) them first; on the
// CPU they are quantised already, because there all kernels read the same.
// Weights rotate over more than twice the last-level cache when M is small.
std::unique_ptr<RaceTrack> make_race_track(const TrackShape& shape, DeviceKind kind, std::uint64_t seed);

// Everything worth measuring for one problem: candidates() of every backend of its device that `allowed`
// names (empty: all but reference).
std::vector<RaceEntrant> race_entrants(const GemmDesc& desc, std::span<const std::string> allowed);

// Up to this many tokens memory decides, so weights must not come from a cache.
constexpr std::int64_t kStreamingTokens = 64;
constexpr int kSampledOutputs = 16;

#ifdef SLIDESPARSE_HAVE_CUDA
std::unique_ptr<RaceTrack> make_cuda_race_track(const TrackShape& shape, std::uint64_t seed);
#endif

}  // namespace slidesparse
