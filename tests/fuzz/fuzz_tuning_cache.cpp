// The file of measured kernels, and what is read out of it.
#include <utility>

#include "fuzz.h"
#include "gemm/tuning_cache.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace slidesparse;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const TuningMachine here{"card", "13.0", "library 1", "0.1.0"};
  fuzz::accepts([&] {
    TuningCache cache = TuningCache::parse(text, "fuzz", here);
    // What was accepted can be written, and reads as the same.
    const std::string written = cache.to_json();
    TuningCache again = TuningCache::parse(written, "again", here);
    fuzz::hold(again.to_json() == written && again.size() == cache.size() && again.stale() == cache.stale());
    TuningCache both(here);
    both.merge(cache);
    both.merge(again);
    fuzz::hold(both.to_json() == written);
    fuzz::hold(both.drop_stale() == cache.stale() && both.stale() == 0);
    for (const std::int64_t m : {std::int64_t{1}, std::int64_t{100}, std::int64_t{1} << 40}) {
      TuningProblem problem;
      problem.n = 8;
      problem.k = 16;
      const TunedPoints* points = cache.points(problem);
      if (points == nullptr) continue;
      // Fastest first, those that were stopped early behind the others.
      std::pair<bool, double> last{false, 0};
      for (const TimedKernel& kernel : rank_measured(*points, m, [](const TunedKernel&) { return true; })) {
        const std::pair<bool, double> place{!kernel.kernel->finalist, kernel.seconds};
        fuzz::hold(place >= last && kernel.kernel->bad.empty());
        last = place;
      }
    }
  });
  return 0;
}
