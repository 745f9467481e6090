#include "sweep/plan_progress.h"

#include <fmt/core.h>

#include <algorithm>

namespace slidesparse {
namespace {

// Cells with the same one are compared with each other.
std::string peers(const Cell& cell, const Changes& changes) {
  return fmt::format("{} {} {} {} {} {}", phase_name(cell.phase), cell.model, cell.dtype, cell.m.value_or(0),
                     cell.memory_limit.value_or(0), unlike_words(changes));
}

}  // namespace

PlanProgress::PlanProgress(const SweepPlan& plan, bool card) : rules_{plan.attempts, card}, estimator_(card) {
  for (Cell& cell : plan_cells(plan)) {
    cells_.emplace_back();
    cells_.back().cell = std::move(cell);
  }
}

void PlanProgress::recall(const SweepJournal& journal, std::int64_t machine, bool any_version,
                          bool retry_failed) {
  const auto attempts = journal.attempts(machine, any_version);
  for (CellState& state : cells_) {
    state.id = journal.find_cell(state.cell).value_or(0);
    const auto found = attempts.find(state.id);
    if (found == attempts.end()) continue;
    for (const PastAttempt& past : found->second) {
      state.past.push_back(past.outcome);
      if (past.outcome != Class::kOk) continue;
      state.measured = true;
      estimator_.learn(state.cell, past.seconds);
      if (past.figure) note_figure(state.cell, *past.figure, past.changes);
    }
    if (retry_failed && !state.measured) state.past.clear();
  }
}

void PlanProgress::note(CellState& state, const CellResult& result, const Changes& changes) {
  state.past.push_back(result.outcome);
  if (result.outcome != Class::kOk) return;
  state.measured = true;
  estimator_.learn(state.cell, result.seconds);
  const auto figure = std::ranges::find(result.measurements, "tokens_per_second", &Measurement::name);
  if (figure != result.measurements.end()) note_figure(state.cell, figure->value, changes);
}

bool PlanProgress::more_after_misfit(const CellState& state) const {
  std::vector<Class> past = state.past;
  past.push_back(Class::kDoesNotFit);
  return next_step(state.cell, past, rules_).open;
}

SweepTotals PlanProgress::totals() const {
  SweepTotals totals;
  totals.cells = static_cast<std::int64_t>(cells_.size());
  for (const CellState& state : cells_) {
    if (state.measured) {
      ++totals.measured;
    } else if (next(state).open) {
      ++totals.open;
      totals.seconds_left += estimate(state);
    } else {
      ++totals.given_up;
    }
  }
  return totals;
}

std::string PlanProgress::ratio_words(const Cell& cell, double figure, const Changes& changes) const {
  const auto found = best_dense_.find(peers(cell, changes));
  if (cell.pattern == "dense" || found == best_dense_.end()) return {};
  return fmt::format(", {:.3f} x dense", figure / found->second);
}

void PlanProgress::note_figure(const Cell& cell, double figure, const Changes& changes) {
  if (cell.pattern != "dense") return;
  double& best = best_dense_[peers(cell, changes)];
  best = std::max(best, figure);
}

}  // namespace slidesparse
