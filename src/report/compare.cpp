#include "report/compare.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "report/environment.h"
#include "report/numbers.h"

namespace slidesparse {
namespace {

std::string number(std::size_t value) {
  return format_count(static_cast<std::int64_t>(value));
}

// Less is better for these.
bool is_cost(const ReportCell& cell) {
  return cell.phase == "eval" || cell.phase == "convert" || cell.phase == "tune";
}

ReportTable pairs_table(const ReportView& view, const Results& there,
                        const std::vector<ComparedCell>& pairs) {
  const Words& words = view.words;
  ReportTable table;
  table.header = {words("column.cell"), words("column.here"), words("column.there"),
                  words("column.ratio_there"), words("column.changed")};
  for (const ComparedCell& pair : pairs) {
    const ReportCell& cell = view.results.cells[pair.here];
    const Figure& here = *cell.figure(main_figure(cell.phase));
    const Figure& other = *there.cells[pair.there].figure(main_figure(cell.phase));
    const bool better = (pair.ratio.value > 1) != is_cost(cell);
    table.rows.push_back({name_cell(cell, view.words),
                          {format_figure(here), format_spread(here)},
                          {format_figure(other), format_spread(other)},
                          {fmt::format("{:.3f}×", pair.ratio.value)},
                          {!pair.ratio.spread ? words("changed.unknown")
                           : !pair.changed    ? words("changed.no")
                           : better           ? words("changed.better")
                                              : words("changed.worse"),
                           "",
                           !pair.changed ? Tone::kQuiet
                           : better      ? Tone::kGood
                                         : Tone::kBad}});
  }
  return table;
}

ReportTable states_table(const ReportView& view, const std::vector<std::size_t>& cells,
                         const std::string& caption) {
  ReportTable table;
  table.caption = caption;
  table.header = {view.words("column.cell"), view.words("column.state")};
  table.text_columns = 2;
  for (const std::size_t i : cells) {
    const ReportCell& cell = view.results.cells[i];
    table.rows.push_back({name_cell(cell, view.words), {state_name(cell.state, view.words)}});
  }
  return table;
}

}  // namespace

Comparison compare_results(const Results& here, const Results& there) {
  std::unordered_map<std::string, std::size_t> places;
  for (std::size_t i = 0; i < there.cells.size(); ++i) places[there.cells[i].key] = i;
  Comparison comparison;
  std::size_t met = 0;
  for (std::size_t i = 0; i < here.cells.size(); ++i) {
    const ReportCell& cell = here.cells[i];
    const auto found = places.find(cell.key);
    if (found == places.end()) {
      ++comparison.only_here;
      continue;
    }
    ++met;
    const Figure* mine = cell.figure(main_figure(cell.phase));
    const Figure* other = there.cells[found->second].figure(main_figure(cell.phase));
    const bool alike = unlike_words(cell.changes) == unlike_words(there.cells[found->second].changes);
    if (mine != nullptr && other != nullptr && !alike) {
      comparison.unlike.push_back(i);
    } else if (mine != nullptr && other != nullptr && other->value > 0) {
      ComparedCell pair{i, found->second, ratio_of(*mine, *other), false};
      pair.changed = pair.ratio.spread && verdict(pair.ratio) != Verdict::kWithinSpread;
      comparison.both.push_back(pair);
    } else if (mine != nullptr) {
      comparison.gained.push_back(i);
    } else if (other != nullptr) {
      comparison.lost.push_back(i);
    }
  }
  comparison.only_there = there.cells.size() - met;
  return comparison;
}

std::vector<Block> comparison_blocks(const ReportView& view, const Results& there,
                                     const Comparison& comparison) {
  const Words& words = view.words;
  std::vector<ComparedCell> changed;
  std::ranges::copy_if(comparison.both, std::back_inserter(changed), &ComparedCell::changed);
  // Largest change first; equal ones stay in the order of the plan.
  std::ranges::stable_sort(changed, std::ranges::greater{},
                           [](const ComparedCell& pair) { return std::abs(std::log(pair.ratio.value)); });
  std::vector<Block> blocks;
  blocks.emplace_back(BulletList{
      {words("compare.machines", machine_versions(view.results, words), machine_versions(there, words)),
       words("compare.both", number(comparison.both.size()), number(changed.size())),
       words("compare.gained", number(comparison.gained.size()), number(comparison.lost.size())),
       words("compare.unlike", number(comparison.unlike.size())),
       words("compare.only", number(comparison.only_here), number(comparison.only_there))}});
  if (!changed.empty()) {
    blocks.emplace_back(pairs_table(view, there, changed));
    std::get<ReportTable>(blocks.back()).caption = words("compare.changed.caption");
  }
  if (!comparison.lost.empty())
    blocks.emplace_back(states_table(view, comparison.lost, words("compare.lost.caption")));
  if (!comparison.both.empty()) {
    ReportTable table = pairs_table(view, there, comparison.both);
    table.caption = words("compare.all.caption");
    table.folded = true;
    blocks.emplace_back(std::move(table));
  }
  return blocks;
}

}  // namespace slidesparse
