#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/cuda/nvml.h"
#include "core/samples.h"
#include "gemm/backend.h"
#include "gemm/machine_limits.h"
#include "gemm/race_track.h"
#include "gemm/tuning_cache.h"
#include "gemm/weight_forms.h"

namespace slidesparse {

struct GemmShape {
  std::string name;  // "qkv", or "4608x3584"
  std::int64_t n = 0;
  std::int64_t k = 0;
  bool bias = false;
  std::shared_ptr<const StoredLayer> stored{};  // a directory's own weights; null: random ones
  Layout layout = Layout::kPacked;              // of random ones with a pattern: packed or split
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
  DeviceKind device = DeviceKind::kCpu;
  // On a card: what is known already; problems that it lacks are tuned first, for this run alone.
  const TuningCache* cache = nullptr;
  // Tries risky kernels in another process, as TunerOptions::probe.
  std::function<std::vector<std::string>(const TrackShape&, const std::vector<RaceEntrant>&)> probe;
  WeightPolicy weights = WeightPolicy::kFastest;  // which forms of each layer the kernels may read
  TimedPart part = TimedPart::kWhole;
  double rest_seconds = 0;  // on a card, before each timing: "burst" (RaceRules); 0: "sustained"
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
  bool own_weights = false;  // a directory's; otherwise random ones
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
  std::string mode;               // "sustained" or "burst" on a card, "cpu"
  bool two_roundings = false;
  bool chosen = false;              // where a problem has several rows: the one that choose() takes
  std::string reason;               // why this kernel: choose()
  std::string runner_up;            // where measurements decided
  double runner_up_seconds = 0;     // as measured when it was tuned
  std::vector<std::string> others;  // why not the others
  CardState card;                   // while it was timed
};

// The forms that one layer's weights are kept in for all M of the run.
struct KeptWeights {
  std::string shape;
  DType dtype = DType::kI8;
  Pattern pattern;
  std::string backend;  // empty: of all
  std::vector<KeptForm> forms;
};

struct GemmBenchResult {
  MachineLimits limits;  // measured in the same run
  std::vector<GemmBenchRow> rows;
  std::vector<KeptWeights> weights;
  std::vector<std::string> warnings;  // the card was throttled, or busy with somebody else's work
};

// Random weights (as stored: values and codes), or a directory's own, and random activations. All kernels of
// one shape, dtype and M take turns, each run on the next of several copies of weights, which together exceed
// the last-level cache twice when M is small: decode reads memory. Every kernel's output is compared with the
// reference on sampled channels and tokens first. On a card a run is quantise (and lift), GEMM and tail, each
// row is the fastest kernel by choose() (of every backend, when every_kernel is set), and rows named
// ".../sum" add up the shapes: of each backend, and "best", the fastest backend of each shape, where there
// are several.
GemmBenchResult bench_gemm(const GemmBenchOptions& options);

// The second way, on either device: what is chosen by measurement runs as a race (gemm/race.h).
GemmBenchResult bench_gemm_chosen(const GemmBenchOptions& options);
// Adds the sums over shapes described above; does nothing for fewer than two shapes.
void add_sums(std::vector<GemmBenchRow>& rows);

}  // namespace slidesparse
