#pragma once

#include <functional>
#include <string>
#include <vector>

#include "gemm/race_track.h"
#include "gemm/tuning_cache.h"

namespace slidesparse {

struct TunerOptions {
  std::vector<TrackShape> shapes;  // equal ones are tuned once
  std::vector<Pattern> patterns;
  std::vector<std::int64_t> ms;
  std::vector<std::string> backends;  // empty: all of the device but reference
  DeviceKind device = DeviceKind::kCpu;
  bool force = false;  // measure again what the cache has
  std::uint64_t seed = 1;
  RaceRules rules;
  double save_seconds = 2;  // the file is written at most this often, and at the end whatever happens

  // Called before each shape and M with how much is done, as a share of the estimated work.
  std::function<void(const std::string& what, double done)> on_progress;
  // Runs risky kernels once in another process: the reasons why they must not run here, by index of the
  // entrants given; empty: fine. May be empty itself: all are trusted.
  std::function<std::vector<std::string>(const TrackShape&, const std::vector<RaceEntrant>&)> probe;
};

struct TunerTotals {
  int measured = 0;    // problems (shape, pattern, M) measured now
  int found = 0;       // that the cache had
  int kernels = 0;     // timed
  int failed = 0;      // that threw or were wrong
  int impossible = 0;  // problems that nothing can run
  std::vector<std::string>
      failures;  // one line for each kernel and kind: "KERNEL, 27 times: WHY, first with ..."
  double seconds = 0;
};

// Measures every candidate of every problem that `cache` lacks, and writes them to the file `path` (empty:
// nowhere). A run that was stopped goes on where it was. Weights of one shape are made once for all M.
TunerTotals tune(const TunerOptions& options, TuningCache& cache, const std::string& path);

// The unique ones of `shapes`, in their order.
std::vector<TrackShape> unique_shapes(const std::vector<TrackShape>& shapes);

}  // namespace slidesparse
