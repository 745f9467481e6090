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
  double asking = 0;   // of those: libraries for candidates
  double probing = 0;  // other processes
  RaceClock race;      // everything else but reading and writing the cache
};

// Measures every candidate of every problem that `cache` lacks, and writes them to the file `path` (empty:
// nowhere). A run that was stopped goes on where it was. Weights of one shape are made once for all M.
TunerTotals tune(const TunerOptions& options, TuningCache& cache, const std::string& path);

// A tuner stops early for what looks slow; this measures how much that costs. Of the problems of `options`,
// `cells` spread evenly over them (all, when there are fewer) are measured again: every candidate for some
// rounds, then the best of those and the one that choose() takes from `cache` in turn.
struct TunedCell {
  GemmDesc desc;
  std::string chosen, best;   // kernels with their settings
  double chosen_seconds = 0;  // medians of the same interleaved rounds
  double best_seconds = 0;
  double ratio() const { return chosen_seconds / best_seconds; }  // 1: nothing better was found
};
std::vector<TunedCell> verify_tuning(const TunerOptions& options, const TuningCache& cache, int cells);

// The unique ones of `shapes`, in their order.
std::vector<TrackShape> unique_shapes(const std::vector<TrackShape>& shapes);

}  // namespace slidesparse
