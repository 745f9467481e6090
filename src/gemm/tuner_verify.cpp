#include <algorithm>
#include <map>
#include <set>

#include "core/fail.h"
#include "core/interrupt.h"
#include "gemm/tuner.h"

namespace slidesparse {
namespace {

constexpr int kRoundsOfAll = 3;
constexpr int kRoundsOfBest = 15;
constexpr std::size_t kBest = 4;

std::string label(const RaceEntrant& entrant) {
  return entrant.kernel.config.empty() ? entrant.kernel.name
                                       : fmt::format("{} [{}]", entrant.kernel.name, entrant.kernel.config);
}

bool is_same(const RaceEntrant& a, const RaceEntrant& b) {
  return a.backend == b.backend && label(a) == label(b);
}

RaceRules flat_rules(const RaceRules& rules, int rounds) {
  RaceRules flat = rules;
  flat.screening = 0;  // nobody is dropped
  flat.rounds = rounds;
  flat.between = [] { check_interrupt("the comparison is lost; what was tuned is in the cache"); };
  return flat;
}

// Those that ran, fastest first.
std::vector<RaceRow> in_order(std::vector<RaceRow> rows) {
  std::erase_if(rows, [](const RaceRow& row) { return row.check != "ok" || row.seconds.median <= 0; });
  std::stable_sort(rows.begin(), rows.end(),
                   [](const RaceRow& a, const RaceRow& b) { return a.seconds.median < b.seconds.median; });
  return rows;
}

class Verifier {
 public:
  Verifier(const TunerOptions& options, const TuningCache& cache) : options_(options), cache_(cache) {}

  void verify(RaceTrack& track, const TrackShape& shape, const GemmDesc& desc) {
    RaceEntrant chosen;
    try {
      const Choice choice = choose(desc, options_.backends, &cache_);
      chosen = {desc, choice.backend, choice.kernel};
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUnsupported) throw;
      return;  // a problem that nothing can run
    }
    std::vector<RaceEntrant> all = race_entrants(desc, options_.backends);
    drop_risky(shape, all);
    std::vector<RaceRow> rows =
        in_order(race(track, std::move(all), flat_rules(options_.rules, kRoundsOfAll)));
    std::vector<RaceEntrant> finalists{chosen};
    for (const RaceRow& row : rows) {
      if (finalists.size() <= kBest && !is_same(row.entrant, chosen)) finalists.push_back(row.entrant);
    }
    rows = in_order(race(track, std::move(finalists), flat_rules(options_.rules, kRoundsOfBest)));
    TunedCell cell;
    cell.desc = desc;
    cell.chosen = label(chosen);
    for (const RaceRow& row : rows) {
      if (is_same(row.entrant, chosen)) cell.chosen_seconds = row.seconds.median;
    }
    require(cell.chosen_seconds > 0, "{}: {} was chosen and does not run", desc.to_string(), cell.chosen);
    cell.best = label(rows.front().entrant);
    cell.best_seconds = rows.front().seconds.median;
    cells_.push_back(std::move(cell));
  }

  std::vector<TunedCell> take() { return std::move(cells_); }

 private:
  // What brought another process down, asked once for each kernel.
  void drop_risky(const TrackShape& shape, std::vector<RaceEntrant>& entrants) {
    if (!options_.probe) return;
    std::vector<RaceEntrant> unknown;
    for (const RaceEntrant& entrant : entrants) {
      if (entrant.backend->name() == "cusparselt" && bad_.emplace(key(entrant), false).second)
        unknown.push_back(entrant);
    }
    if (!unknown.empty()) {
      const std::vector<std::string> reasons = options_.probe(shape, unknown);
      for (std::size_t i = 0; i < unknown.size(); ++i) bad_[key(unknown[i])] = !reasons[i].empty();
    }
    std::erase_if(entrants, [&](const RaceEntrant& entrant) {
      const auto found = bad_.find(key(entrant));
      return found != bad_.end() && found->second;
    });
  }

  static std::string key(const RaceEntrant& entrant) {
    return fmt::format("{} {}", label(entrant), dtype_name(entrant.desc.w));
  }

  const TunerOptions& options_;
  const TuningCache& cache_;
  std::map<std::string, bool> bad_;
  std::vector<TunedCell> cells_;
};

}  // namespace

std::vector<TunedCell> verify_tuning(const TunerOptions& options, const TuningCache& cache, int cells) {
  require(cells > 0, "a comparison of no cells");
  struct Problem {
    std::size_t shape = 0;
    GemmDesc desc;
  };
  const std::vector<TrackShape> shapes = unique_shapes(options.shapes);
  std::vector<Problem> problems;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    for (const Pattern& pattern : patterns_of(shapes[i], options.patterns)) {
      for (const std::int64_t m : ms_of(shapes[i], options.ms))
        problems.push_back({i, track_desc(shapes[i], pattern, m, {options.device, 0})});
    }
  }
  Verifier verifier(options, cache);
  std::unique_ptr<RaceTrack> track;
  std::size_t of_shape = shapes.size();
  const auto all = static_cast<double>(problems.size());
  const auto count = std::min(problems.size(), static_cast<std::size_t>(cells));
  for (std::size_t i = 0; i < count; ++i) {
    // Evenly: the middle of the i-th of `count` parts.
    const auto at =
        static_cast<std::size_t>((static_cast<double>(i) + .5) * all / static_cast<double>(count));
    const Problem& problem = problems[at];
    if (problem.shape != of_shape) {
      track.reset();  // its memory first
      track = make_race_track(shapes[problem.shape], options.device, options.seed);
      of_shape = problem.shape;
    }
    if (options.on_progress)
      options.on_progress(problem.desc.to_string(), static_cast<double>(i) / static_cast<double>(count));
    verifier.verify(*track, shapes[problem.shape], problem.desc);
  }
  return verifier.take();
}

}  // namespace slidesparse
