#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/samples.h"
#include "gemm/backend.h"
#include "slidesparse/core/error.h"

namespace slidesparse {

// A kernel with a problem that it could run, M included.
struct RaceEntrant {
  GemmDesc desc;
  const Backend* backend = nullptr;
  KernelDesc kernel;
  bool known_good = false;  // among the best of a problem like this one: not dropped for a rough time
};

// An entrant made ready: weights prepared, memory there.
class RaceRunner {
 public:
  virtual ~RaceRunner() = default;
  // "ok", or the first sampled output that is wrong. Throws Error when it cannot run.
  virtual std::string check() = 0;
  // Runs long enough to be timed (roughly, for 0) and at least `at_least` seconds, over inputs that no cache
  // holds; seconds of one run with everything that belongs to it. Throws Error.
  virtual double time(double at_least) = 0;
};

// Where a race is run: a card or the processor.
class RaceTrack {
 public:
  virtual ~RaceTrack() = default;
  // Throws Error with the reason when `entrant` cannot be made ready.
  virtual std::unique_ptr<RaceRunner> prepare(const RaceEntrant& entrant) = 0;
  // Lets the machine rest, so that a short run meets a cool one.
  virtual void rest(double seconds) = 0;
  // False when nothing runs any more, because a kernel took the card's context with it.
  virtual bool healthy() { return true; }
};

// Thrown by race() when the track is not healthy any more: the process has to be started again.
class TrackLost : public Error {
 public:
  TrackLost(const RaceEntrant& by, const std::string& why) : Error(ErrorKind::kInternal, why), entrant(by) {}
  RaceEntrant entrant;
};

// Where the time of races goes, in seconds.
struct RaceClock {
  double preparing = 0;  // weights, plans, inputs
  double checking = 0;
  double screening = 0;
  double finals = 0;
};

// Adds the seconds of its life to `total`.
class Lap {
 public:
  explicit Lap(double& total) : total_(total), start_(now_seconds()) {}
  ~Lap() { total_ += now_seconds() - start_; }
  Lap(const Lap&) = delete;
  Lap& operator=(const Lap&) = delete;

 private:
  double& total_;
  double start_;
};

struct RaceRules {
  double window_seconds = 0.5e-3;  // one timing of one entrant; in the first round as short as can be
  double first_limit = 1.3;  // after the first round: slower than this many times the best of its problem
  int first_most = 12;       // and not among the best so many of it: dropped
  double later_limit = 1.1;  // the same after each further round up to `screening`
  int screening = 3;         // rounds in which entrants are dropped
  int finalists = 3;         // of each problem, that go on; settings of one kernel differ little, so
  int other_finalists = 3;  // up to so many more do that are the first of their kernel and within later_limit
  int rounds = 7;           // of finalists, interleaved; their figures come from these
  // In the last rounds each window follows this rest: a card that has cooled down runs faster than one at its
  // power limit. 0: sustained.
  double rest_seconds = 0;
  std::function<void()> between;  // called between rounds: may throw to stop
  RaceClock* clock = nullptr;     // added to, when given
};

// "burst": this rest before each window, which is this long.
constexpr double kBurstRestSeconds = 60e-3;
constexpr double kBurstWindowSeconds = 4e-3;

struct RaceRow {
  RaceEntrant entrant;
  std::string check;      // "ok", or why there is no figure
  bool finalist = false;  // false: dropped early; its figure is from the first rounds
  Spread seconds;         // all zero unless check is "ok"
};

// Times entrants against each other, round by round, so that a drift of the machine meets all alike; those of
// one problem (equal descs) compete. Each is checked before it is timed; what throws or is wrong is reported
// and dropped. Rows stand in the order of `entrants`.
std::vector<RaceRow> race(RaceTrack& track, std::vector<RaceEntrant> entrants, const RaceRules& rules);

}  // namespace slidesparse
