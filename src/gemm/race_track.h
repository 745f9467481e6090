#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gemm/layer_weights.h"
#include "gemm/race.h"

namespace slidesparse {

// One linear layer's shape, for every pattern and M.
struct TrackShape {
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType dtype = DType::kI8;
  bool bias = false;
  std::shared_ptr<const StoredLayer> stored{};  // real weights, of one pattern; others are random
  Layout layout = Layout::kPacked;              // of random ones with a pattern: packed or split
  DType out = DType::kBF16;                     // or F32
  bool never_pruned = false;                    // dense whatever patterns others have: the way to the logits
  std::int64_t most_m = 0;                      // never more tokens than these; 0: any number
};

// Those of `patterns` that weights of `shape` come in: all of them, or dense alone.
std::vector<Pattern> patterns_of(const TrackShape& shape, const std::vector<Pattern>& patterns);
// The M at which `shape` runs in steps of `ms` tokens: ascending, each once.
std::vector<std::int64_t> ms_of(const TrackShape& shape, const std::vector<std::int64_t>& ms);

// The problem of `shape` with weights of `pattern`: in the shape's layout, dense, or as they are stored.
GemmDesc track_desc(const TrackShape& shape, Pattern pattern, std::int64_t m, Device device);

// Whether the weights of this pattern are the stored ones.
bool has_stored(const TrackShape& shape, Pattern pattern);
// The weights of track_desc(shape, ...): stored ones where they have its pattern, random ones otherwise.
LayerWeights track_weights(const TrackShape& shape, const GemmDesc& desc, std::uint64_t seed,
                           std::int64_t copies);

// What of a layer is timed on a card: everything from BF16 activations to BF16 outputs, or what follows the
// quantisation. On the CPU inputs are quantised in either case, because there all kernels read the same.
enum class TimedPart : std::uint8_t { kWhole, kProduct };

// A track that makes weights of `shape` once for each pattern and each form, and keeps them for all M.
// Weights rotate over more than twice the last-level cache when M is small.
std::unique_ptr<RaceTrack> make_race_track(const TrackShape& shape, DeviceKind kind, std::uint64_t seed,
                                           TimedPart part = TimedPart::kWhole);

// Everything worth measuring for one problem: candidates() of every backend of its device that `allowed`
// names (empty: all but reference). With `sparse_only`, of those backends that have kernels which use zeros.
std::vector<RaceEntrant> race_entrants(const GemmDesc& desc, std::span<const std::string> allowed,
                                       bool sparse_only = false);

// Up to this many tokens memory decides, so weights must not come from a cache.
constexpr std::int64_t kStreamingTokens = 64;
constexpr int kSampledOutputs = 16;

#ifdef SLIDESPARSE_HAVE_CUDA
std::unique_ptr<RaceTrack> make_cuda_race_track(const TrackShape& shape, std::uint64_t seed, TimedPart part);
#endif

}  // namespace slidesparse
