#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/samples.h"
#include "kernels/cuda/quantize.h"

namespace slidesparse {

// "plain", "norm" (RMSNorm with residual add) or "silu".
std::string_view producer_name(cuda::Producer producer);

struct QuantBenchCase {
  cuda::Producer producer = cuda::Producer::kNone;
  DType dtype = DType::kF8E4M3;
  int lift = 0;  // N of the lift, 0: none
  bool gather = false;
  std::int64_t m = 0;
  std::int64_t k = 0;
};

struct QuantBenchOptions {
  std::vector<QuantBenchCase> cases;
  int rounds = 15;               // windows of each, taking turns
  double window_seconds = 1e-3;  // of one measurement, at least
  std::uint64_t seed = 1;
  std::function<void(const std::string&)> on_progress;  // told what is measured next; may be empty
};

struct QuantBenchRow {
  QuantBenchCase problem;
  std::int64_t bytes = 0;  // read once and written once: activations, update, residual, codes, scales
  Spread seconds;          // of one call
  // Of a device-to-device copy that moves as many bytes, half in and half out: the library's or a kernel of
  // 16-byte accesses, whichever is faster.
  Spread copy_seconds;
  double empty_seconds = 0;  // of a kernel that does nothing, in the same turns: median
  double bytes_per_second = 0;
  double share_of_copy = 0;        // copy_seconds / seconds, medians
  double share_of_asymptotic = 0;  // bytes_per_second / QuantBenchResult::copy_rate
  std::int64_t rotated_bytes = 0;  // all copies of inputs and outputs, which calls go through in turn
  bool beyond_cache =
      false;  // rotated_bytes > 2x the L2: every call reads memory. False for small problems only
};

struct QuantBenchResult {
  double copy_rate = 0;  // bytes a second, in and out counted, of the faster copy when it moves 1 GiB
  std::vector<QuantBenchRow> rows;
};

// Times quantize() on the current card inside CUDA graphs, each call on the next copy of inputs and outputs.
// Throws kUnsupported without a card.
QuantBenchResult bench_quant(const QuantBenchOptions& options);

}  // namespace slidesparse
