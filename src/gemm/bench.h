#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/samples.h"
#include "gemm/backend.h"
#include "gemm/machine_limits.h"

namespace slidesparse {

struct GemmShape {
  std::string name;  // "qkv", or "4608x3584"
  std::int64_t n = 0;
  std::int64_t k = 0;
};

struct GemmBenchOptions {
  std::vector<GemmShape> shapes;
  std::vector<DType> dtypes{DType::kI8};
  std::vector<Pattern> patterns{
      Pattern(),
      Pattern::of_half_group(4)};  // dense is measured in any case: it is what the others are compared with
  std::vector<std::int64_t> ms{1, 512};
  std::vector<std::string> backends;  // empty: what choose() takes
  bool every_kernel = false;          // all that can run, not only the chosen ones
  std::uint64_t seed = 1;
  double min_seconds = 0.5;                             // for each row
  std::function<void(const std::string&)> on_progress;  // told what is measured next; may be empty
};

// One measured kernel. Figures are zero when check is not "ok".
struct GemmBenchRow {
  std::string shape;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t m = 0;
  DType dtype = DType::kI8;
  Pattern pattern;
  Layout layout = Layout::kDense;
  std::string backend;
  std::string kernel;
  std::string check;  // "ok" or what was wrong
  Spread seconds;
  double ops_per_second = 0;      // 2 M N K / median: as if dense
  std::int64_t weight_bytes = 0;  // that one run reads
  double bytes_per_second = 0;    // weight_bytes / median
  double share_of_limit = 0;      // max(bytes / bandwidth, 2 M N K / peak) / median
  double dense_ratio = 0;         // median of the fastest dense row of the same shape, M and dtype / median
  double sparse_share = 0;        // of the FLOPs: 1 for packed kernels, 0 for dense ones
};

struct GemmBenchResult {
  MachineLimits limits;  // measured in the same run
  std::vector<GemmBenchRow> rows;
};

// Random weights (as stored: values and codes) and activations. All kernels of one shape, dtype and M take
// turns, each run on the next of several copies of weights, which together exceed the last-level cache twice
// when M is small: decode reads memory. Every kernel's output is compared with the reference on sampled
// channels and tokens first.
GemmBenchResult bench_gemm(const GemmBenchOptions& options);

}  // namespace slidesparse
