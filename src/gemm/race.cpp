#include "gemm/race.h"

#include <algorithm>
#include <map>
#include <set>

#include "core/fail.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

struct Lane {
  RaceRow row;
  std::unique_ptr<RaceRunner> runner;  // null: out of the race
  std::vector<double> samples;
  std::vector<double> rough;

  double now() const { return summarise(samples).median; }
  void leave() { runner.reset(); }
  void fail_with(const std::string& why) {
    row.check = why;
    samples.clear();
    rough.clear();
    leave();
  }
};

using Lanes = std::vector<Lane>;

// Runs `body`; an error takes the lane out of the race. A request to stop goes on to the caller.
template <typename Body>
void guarded(Lane& lane, RaceTrack& track, const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInterrupted) throw;
    if (!track.healthy()) throw TrackLost(lane.row.entrant, error.what());
    lane.fail_with(error.what());
  }
}

// Everyone once, from another start and in the other direction each round: who runs behind a kernel that
// heats the card up meets a lower clock, and that must not always be the same one.
void round_of(Lanes& lanes, RaceTrack& track, const RaceRules& rules, int round, double window, double rest) {
  if (rules.between) rules.between();
  const std::size_t count = lanes.size();
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t place = round % 2 == 0 ? i : count - 1 - i;
    Lane& lane = lanes[(place + static_cast<std::size_t>(round / 2) * (count / 3 + 1)) % count];
    if (!lane.runner) continue;
    if (rest > 0) track.rest(rest);
    guarded(lane, track, [&] { lane.samples.push_back(lane.runner->time(window)); });
  }
}

// Lanes of one problem that are still in the race, fastest first.
std::vector<Lane*> standing(Lanes& lanes, const std::string& problem) {
  std::vector<Lane*> found;
  for (Lane& lane : lanes) {
    if (lane.runner && lane.row.entrant.desc.to_string() == problem) found.push_back(&lane);
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const Lane* a, const Lane* b) { return a->now() < b->now(); });
  return found;
}

// Drops what is slower than `limit` times the best of its problem, or beyond the first `most`, unless it is
// the first of its kernel and one of `others` such. `rough`: what is known to be good stays all the same.
void drop_slow(Lanes& lanes, const std::vector<std::string>& problems, double limit, int most, int others,
               bool rough) {
  for (const std::string& problem : problems) {
    const std::vector<Lane*> order = standing(lanes, problem);
    std::set<std::string> kernels;
    int left = others;
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (rough && order[i]->row.entrant.known_good) continue;
      const bool first = kernels.insert(order[i]->row.entrant.kernel.name).second;
      if (order[i]->now() > limit * order[0]->now()) {
        order[i]->leave();
      } else if (i >= static_cast<std::size_t>(most)) {
        if (!first || left-- <= 0) order[i]->leave();
      }
    }
  }
}

}  // namespace

std::vector<RaceRow> race(RaceTrack& track, std::vector<RaceEntrant> entrants, const RaceRules& rules) {
  RaceClock unused;
  RaceClock& clock = rules.clock == nullptr ? unused : *rules.clock;
  Lanes lanes;
  std::vector<std::string> problems;
  for (RaceEntrant& entrant : entrants) {
    const std::string problem = entrant.desc.to_string();
    if (std::find(problems.begin(), problems.end(), problem) == problems.end()) problems.push_back(problem);
    Lane& lane = lanes.emplace_back();
    lane.row.entrant = std::move(entrant);
    guarded(lane, track, [&] {
      const Lap lap(clock.preparing);
      lane.runner = track.prepare(lane.row.entrant);
    });
    if (!lane.runner) continue;
    guarded(lane, track, [&] {
      const Lap lap(clock.checking);
      lane.row.check = lane.runner->check();
    });
    if (lane.row.check != "ok") lane.leave();
  }
  for (int round = 0; round < rules.screening; ++round) {
    const Lap lap(clock.screening);
    round_of(lanes, track, rules, round, round == 0 ? 0 : rules.window_seconds, 0);
    const bool last = round + 1 == rules.screening;
    const bool rough = round == 0;
    drop_slow(lanes, problems, rough ? rules.first_limit : rules.later_limit,
              last ? rules.finalists : rules.first_most, rules.other_finalists, rough);
    // A rough time has served; who is left is judged by whole windows.
    for (Lane& lane : lanes) {
      if (rough && lane.runner) lane.rough.swap(lane.samples);
    }
  }
  for (Lane& lane : lanes) {
    if (!lane.runner) continue;
    lane.row.finalist = true;
    lane.samples.clear();
  }
  for (int round = 0; round < rules.rounds; ++round) {
    const Lap lap(clock.finals);
    round_of(lanes, track, rules, round, rules.window_seconds, rules.rest_seconds);
  }
  std::vector<RaceRow> rows;
  for (Lane& lane : lanes) {
    lane.row.seconds = summarise(lane.samples.empty() ? lane.rough : lane.samples);
    rows.push_back(std::move(lane.row));
  }
  return rows;
}

}  // namespace slidesparse
