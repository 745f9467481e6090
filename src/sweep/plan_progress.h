#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "sweep/estimate.h"
#include "sweep/failure.h"
#include "sweep/journal.h"
#include "sweep/plan.h"
#include "sweep/sweep.h"

namespace slidesparse {

struct CellState {
  Cell cell;
  std::int64_t id = 0;        // in the database
  std::vector<Class> past;    // outcomes that count, oldest first
  bool measured = false;      // one of them is ok
  std::int64_t attempts = 0;  // of this sweep
};

// What the cells of a plan have come to on a machine.
class PlanProgress {
 public:
  PlanProgress(const SweepPlan& plan, bool card);

  std::vector<CellState>& cells() { return cells_; }

  // Takes in what the database has of them, of machines as in SweepJournal::attempts(). `retry_failed`
  // forgets the attempts of cells that have no figure.
  void recall(const SweepJournal& journal, std::int64_t machine, bool any_version, bool retry_failed);
  void note(CellState& state, const CellResult& result, const Changes& changes);

  NextStep next(const CellState& state) const { return next_step(state.cell, state.past, rules_); }
  // Whether what does not fit would be tried again in another way.
  bool more_after_misfit(const CellState& state) const;
  double estimate(const CellState& state) const { return estimator_.seconds(state.cell); }
  SweepTotals totals() const;

  // ", 1.234 x dense" for a cell of `figure` tokens a second, when there is something to compare with: a
  // dense figure with the same changes as far as they matter.
  std::string ratio_words(const Cell& cell, double figure, const Changes& changes) const;

 private:
  void note_figure(const Cell& cell, double figure, const Changes& changes);

  RetryRules rules_;
  Estimator estimator_;
  std::vector<CellState> cells_;
  std::map<std::string, double> best_dense_;  // tokens a second, by what it may be compared with
};

}  // namespace slidesparse
