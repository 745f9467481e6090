#include "gemm/tuner.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <tuple>

#include "core/fail.h"
#include "core/interrupt.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

// Time of one shape and M in units of nothing: a fixed part and what grows with the work.
double cost(const TrackShape& shape, std::int64_t m) {
  return 2e9 + static_cast<double>(shape.n) * static_cast<double>(shape.k) * static_cast<double>(m + 64);
}

std::string key_of(std::string_view backend, const std::string& name, const std::string& config,
                   DType dtype) {
  return fmt::format("{} {} {} {}", backend, name, config, dtype_name(dtype));
}

std::string key_of(const RaceEntrant& entrant) {
  return key_of(entrant.backend->name(), entrant.kernel.name, entrant.kernel.config, entrant.desc.w);
}

TunedKernel to_tuned(const RaceRow& row) {
  const KernelDesc& kernel = row.entrant.kernel;
  TunedKernel tuned;
  tuned.backend = row.entrant.backend->name();
  tuned.name = kernel.name;
  tuned.config = kernel.config;
  tuned.id = kernel.id;
  tuned.sparse = kernel.sparse;
  tuned.two_roundings = kernel.two_roundings;
  tuned.reproducible = kernel.reproducible;
  tuned.finalist = row.finalist;
  if (row.check == "ok") {
    tuned.seconds = row.seconds;
  } else {
    tuned.bad = row.check.empty() ? "not run" : row.check;
  }
  return tuned;
}

// A kernel that took the card's context with it is remembered with these words in front.
constexpr std::string_view kLost = "lost the card: ";
// Above this M, settings that were measured at the last M and were not among so many of their backend there,
// nor among so many of their kernel, are left out (where the last M was at least half of it or this large
// itself): the order of large problems changes little, and their runs are long.
constexpr std::int64_t kLargeM = 2048;
constexpr int kCarriedOver = 6;
constexpr int kCarriedOverOfKernel = 2;
// Above this M only so many, and fewer rounds: one run lasts milliseconds and is its own mean.
constexpr std::int64_t kHugeM = 8192;
constexpr int kHugeRounds = 5;
constexpr int kHugeOtherFinalists = 1;
constexpr int kCarriedOverHuge = 3;
constexpr int kCarriedOverHugeOfKernel = 1;
// Dense kernels measured again on weights with a pattern.
constexpr std::size_t kDenseOnPatterns = 4;
// What a point keeps of its measurements: the fastest, the best of each backend, and failures.
constexpr int kKeptKernels = 10;
constexpr int kKeptFailures = 8;

bool is_measured(const TunedPoint& point) {
  return std::any_of(point.kernels.begin(), point.kernels.end(),
                     [](const TunedKernel& kernel) { return kernel.bad.rfind(kLost, 0) != 0; });
}

// Of kernels in order, what is worth keeping.
std::vector<TunedKernel> worth_keeping(std::vector<TunedKernel> ordered) {
  std::vector<TunedKernel> kept;
  std::set<std::string> backends_seen;
  int timed = 0, failed = 0;
  for (TunedKernel& kernel : ordered) {
    const bool first_of_backend = kernel.bad.empty() && backends_seen.insert(kernel.backend).second;
    const bool keep = kernel.bad.empty() ? timed++ < kKeptKernels || kernel.finalist || first_of_backend
                                         : failed++ < kKeptFailures;
    if (keep) kept.push_back(std::move(kernel));
  }
  return kept;
}

class Tuner {
 public:
  Tuner(const TunerOptions& options, TuningCache& cache, const std::string& path)
      : options_(options), cache_(cache), path_(path), saved_(now_seconds()) {
    options_.rules.clock = &totals_.race;
    options_.rules.between = [] {
      check_interrupt("what was measured is in the cache: the same command goes on from there");
    };
  }

  TunerTotals run() {
    const double start = now_seconds();
    const std::vector<TrackShape> shapes = unique_shapes(options_.shapes);
    double all = 0, done = 0;
    for (const TrackShape& shape : shapes) {
      for (const std::int64_t m : ms_of(shape, options_.ms)) all += cost(shape, m);
    }
    try {
      for (const TrackShape& shape : shapes) {
        std::unique_ptr<RaceTrack> track;  // made when something is to be measured
        best_.clear();
        remember_lost(shape);
        for (const std::int64_t m : ms_of(shape, options_.ms)) {
          if (options_.on_progress) {
            options_.on_progress(
                fmt::format("{} N={} K={} M={}", dtype_name(shape.dtype), shape.n, shape.k, m), done / all);
          }
          tune_one(shape, m, track);
          done += cost(shape, m);
          save(false);
        }
      }
    } catch (...) {
      save(true);
      throw;
    }
    save(true);
    for (const auto& [kind, failure] : failures_)
      totals_.failures.push_back(fmt::format("{}, {} times: {}", kind.first, failure.count, failure.first));
    totals_.seconds = now_seconds() - start;
    return totals_;
  }

 private:
  void tune_one(const TrackShape& shape, std::int64_t m, std::unique_ptr<RaceTrack>& track) {
    check_interrupt("what was measured is in the cache: the same command goes on from there");
    std::vector<Pattern> dense, others;
    for (const Pattern& pattern : patterns_of(shape, options_.patterns))
      (pattern.is_dense() ? dense : others).push_back(pattern);
    tune_patterns(shape, dense, m, track);
    tune_patterns(shape, others, m, track);
  }

  void tune_patterns(const TrackShape& shape, const std::vector<Pattern>& patterns, std::int64_t m,
                     std::unique_ptr<RaceTrack>& track) {
    std::vector<RaceEntrant> entrants;
    std::vector<GemmDesc> problems;
    for (const Pattern& pattern : patterns) {
      const GemmDesc desc = track_desc(shape, pattern, m, {options_.device, 0});
      const TunedPoint* known = cache_.at(TuningProblem::of(desc), m);
      if (!options_.force && known != nullptr && is_measured(*known)) {
        ++totals_.found;
        continue;
      }
      std::vector<RaceEntrant> here = entrants_of(shape, desc);
      if (here.empty()) {
        ++totals_.impossible;
        continue;
      }
      const std::vector<RaceEntrant> all = here;
      carry_over(here);
      if (here.empty()) here = all;  // a problem is never left without figures
      problems.push_back(desc);
      entrants.insert(entrants.end(), here.begin(), here.end());
    }
    if (problems.empty()) return;
    std::vector<RaceRow> rows = set_aside_risky(shape, entrants);
    if (!track) track = make_race_track(shape, options_.device, options_.seed);
    try {
      for (RaceRow& row : race(*track, std::move(entrants), rules_for(m))) rows.push_back(std::move(row));
    } catch (const TrackLost& lost) {
      throw_lost(lost);
    }
    for (const GemmDesc& desc : problems) store(desc, rows);
  }

  // Kernels that took the card with them in an earlier run.
  void remember_lost(const TrackShape& shape) {
    for (const Pattern& pattern : patterns_of(shape, options_.patterns)) {
      const GemmDesc desc = track_desc(shape, pattern, 1, {options_.device, 0});
      const TunedPoints* points = cache_.points(TuningProblem::of(desc));
      if (points == nullptr) continue;
      for (const auto& [m, point] : *points) {
        for (const TunedKernel& kernel : point.kernels) {
          if (kernel.bad.rfind(kLost, 0) == 0)
            bad_[key_of(kernel.backend, kernel.name, kernel.config, shape.dtype)] = kernel.bad;
        }
      }
    }
  }

  [[noreturn]] void throw_lost(const TrackLost& lost) {
    RaceRow row;
    row.entrant = lost.entrant;
    row.check = std::string(kLost) + lost.what();
    const GemmDesc& desc = lost.entrant.desc;
    TunedPoint point;
    if (const TunedPoint* known = cache_.at(TuningProblem::of(desc), desc.m); known != nullptr)
      point = *known;
    point.kernels.push_back(to_tuned(row));
    cache_.put(TuningProblem::of(desc), desc.m, std::move(point));
    if (!path_.empty()) cache_.save(path_);
    fail(ErrorKind::kInternal,
         "{} [{}] on {} took the card's context with it ({}); it is remembered and will not be run again: "
         "give "
         "the same command once more",
         lost.entrant.kernel.name, lost.entrant.kernel.config, desc.to_string(), lost.what());
  }

  // When M is large: drops what was measured at the last M and was not among its backend's best there.
  void carry_over(std::vector<RaceEntrant>& entrants) const {
    if (entrants.empty() || entrants.front().desc.m <= kLargeM) return;
    const std::int64_t m = entrants.front().desc.m;
    const auto found = best_.find(entrants.front().desc.pattern.to_string());
    if (found == best_.end() || found->second.m < std::min(kLargeM, m / 2)) return;
    const int most = m > kHugeM ? kCarriedOverHuge : kCarriedOver;
    const int most_of_kernel = m > kHugeM ? kCarriedOverHugeOfKernel : kCarriedOverOfKernel;
    std::erase_if(entrants, [&](const RaceEntrant& entrant) {
      if (entrant.known_good) return false;
      const auto place = found->second.places.find(key_of(entrant));
      return place != found->second.places.end() && place->second.in_backend >= most &&
             place->second.in_kernel >= most_of_kernel;
    });
  }

  RaceRules rules_for(std::int64_t m) const {
    RaceRules rules = options_.rules;
    if (m > kHugeM) {
      rules.screening = std::min(rules.screening, 2);
      rules.rounds = std::min(rules.rounds, kHugeRounds);
      rules.other_finalists = std::min(rules.other_finalists, kHugeOtherFinalists);
    }
    return rules;
  }

  // Everything worth measuring. On a card, dense kernels do the same work whatever zeros there are: of those
  // only the best at dense weights, once they are known, are measured again on weights with a pattern.
  std::vector<RaceEntrant> entrants_of(const TrackShape& shape, const GemmDesc& desc) {
    const Lap lap(totals_.asking);
    if (options_.device != DeviceKind::kCuda || desc.pattern.is_dense())
      return race_entrants(desc, options_.backends);
    const GemmDesc dense = track_desc(shape, Pattern(), desc.m, desc.device);
    const TunedPoint* known = cache_.at(TuningProblem::of(dense), desc.m);
    if (known == nullptr || !is_measured(*known)) return race_entrants(desc, options_.backends);
    std::vector<RaceEntrant> found = race_entrants(desc, options_.backends, /*sparse_only=*/true);
    std::size_t added = 0;
    for (const TunedKernel& kernel : known->kernels) {
      if (added == kDenseOnPatterns || !kernel.bad.empty() || kernel.sparse) continue;
      auto again = find_kernel(kernel);
      if (!is_allowed(kernel.backend, options_.backends) || !again ||
          !again->first->feasible(desc, again->second).ok)
        continue;
      found.push_back({desc, again->first, std::move(again->second), true});
      ++added;
    }
    return found;
  }

  // Takes out of `entrants` what does not survive in another process; returns their rows.
  std::vector<RaceRow> set_aside_risky(const TrackShape& shape, std::vector<RaceEntrant>& entrants) {
    std::vector<RaceRow> rows;
    std::vector<RaceEntrant> unknown;
    for (const RaceEntrant& entrant : entrants) {
      if (!options_.probe || entrant.backend->name() != "cusparselt") continue;
      if (bad_.count(key_of(entrant)) == 0 && probed_.insert(key_of(entrant)).second)
        unknown.push_back(entrant);
    }
    if (!unknown.empty()) {
      const Lap lap(totals_.probing);
      const std::vector<std::string> reasons = options_.probe(shape, unknown);
      for (std::size_t i = 0; i < unknown.size(); ++i) {
        if (!reasons[i].empty()) bad_[key_of(unknown[i])] = reasons[i];
      }
    }
    std::erase_if(entrants, [&](const RaceEntrant& entrant) {
      const auto found = bad_.find(key_of(entrant));
      if (found == bad_.end()) return false;
      RaceRow row;
      row.entrant = entrant;
      row.check = found->second;
      rows.push_back(std::move(row));
      return true;
    });
    return rows;
  }

  void store(const GemmDesc& desc, const std::vector<RaceRow>& rows) {
    TunedPoint point;
    point.mode = options_.device == DeviceKind::kCpu ? "cpu"
                 : options_.rules.rest_seconds > 0   ? "burst"
                                                     : "sustained";
    for (const RaceRow& row : rows) {
      if (row.entrant.desc.to_string() != desc.to_string()) continue;
      point.kernels.push_back(to_tuned(row));
      ++totals_.kernels;
      if (row.check == "ok") continue;
      ++totals_.failed;
      Failure& failure = failures_[{row.entrant.kernel.name, row.check.substr(0, row.check.find(": token"))}];
      if (failure.count++ == 0) {
        failure.first =
            fmt::format("{}; first [{}] with {}", row.check, row.entrant.kernel.config, desc.to_string());
      }
    }
    std::stable_sort(point.kernels.begin(), point.kernels.end(),
                     [](const TunedKernel& a, const TunedKernel& b) {
                       return std::tuple(!a.bad.empty(), !a.finalist, a.seconds.median) <
                              std::tuple(!b.bad.empty(), !b.finalist, b.seconds.median);
                     });
    Best& best = best_[desc.pattern.to_string()];
    best.m = desc.m;
    // What has been left out stays out.
    constexpr Place kOut{kCarriedOver, kCarriedOverOfKernel};
    for (auto& [key, place] : best.places) place = kOut;
    std::map<std::string, int> of_backend, of_kernel;
    for (const TunedKernel& kernel : point.kernels) {
      const std::string key = key_of(kernel.backend, kernel.name, kernel.config, desc.w);
      best.places[key] =
          kernel.bad.empty() ? Place{of_backend[kernel.backend]++, of_kernel[kernel.name]++} : kOut;
    }
    point.kernels = worth_keeping(std::move(point.kernels));
    cache_.put(TuningProblem::of(desc), desc.m, std::move(point));
    ++totals_.measured;
  }

  void save(bool now) {
    if (path_.empty() || totals_.measured == saved_measured_) return;
    if (!now && now_seconds() - saved_ < options_.save_seconds) return;
    cache_.save(path_);
    saved_ = now_seconds();
    saved_measured_ = totals_.measured;
  }

  // Among those of its backend and among the settings of its kernel; from the limits on: out.
  struct Place {
    int in_backend = 0;
    int in_kernel = 0;
  };
  struct Best {
    std::int64_t m = 0;
    std::map<std::string, Place> places;  // by key_of()
  };

  TunerOptions options_;
  TuningCache& cache_;
  std::string path_;
  TunerTotals totals_;
  std::map<std::string, Best> best_;  // of the shape's last M, by pattern
  struct Failure {
    int count = 0;
    std::string first;
  };
  std::map<std::pair<std::string, std::string>, Failure> failures_;  // by kernel and kind
  std::set<std::string> probed_;                                     // kernels that another process has run
  std::map<std::string, std::string> bad_;                           // those that did not survive it, and why
  double saved_ = 0;
  int saved_measured_ = 0;
};

}  // namespace

std::vector<TrackShape> unique_shapes(const std::vector<TrackShape>& shapes) {
  std::vector<TrackShape> unique;
  std::set<std::tuple<std::int64_t, std::int64_t, DType, bool, DType, bool>> seen;
  for (const TrackShape& shape : shapes) {
    if (seen.emplace(shape.n, shape.k, shape.dtype, shape.bias, shape.out, shape.never_pruned).second)
      unique.push_back(shape);
  }
  return unique;
}

TunerTotals tune(const TunerOptions& options, TuningCache& cache, const std::string& path) {
  require(!options.patterns.empty() && !options.ms.empty(), "tune: no patterns or no M");
  return Tuner(options, cache, path).run();
}

}  // namespace slidesparse
