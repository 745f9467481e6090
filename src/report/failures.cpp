#include "report/failures.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "report/numbers.h"

namespace slidesparse {
namespace {

constexpr std::size_t kFoldedFrom = 25;  // rows
constexpr std::size_t kShownEvents = 50;

std::string bytes_text(const std::optional<std::int64_t>& bytes) {
  return bytes ? format_bytes(static_cast<double>(*bytes)) : "–";
}

// {"weights": 123, ...} as "weights 123 B, ..."; other text as it is.
std::string holders_text(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return text;
  std::string result;
  for (const auto& [name, bytes] : json.items()) {
    if (!bytes.is_number()) return text;
    result += fmt::format("{}{} {}", result.empty() ? "" : ", ", name, format_bytes(bytes.get<double>()));
  }
  return result;
}

// Message and what the system or a library said.
std::string facts(const AttemptOutcome& outcome, const Words& words) {
  std::string text = outcome.message;
  const auto add = [&text](const std::string& fact) { text += (text.empty() ? "" : "; ") + fact; };
  if (!outcome.library.empty() || outcome.library_code)
    add(fmt::format("{}{}", outcome.library,
                    outcome.library_code ? fmt::format(" {}", *outcome.library_code) : ""));
  if (outcome.signal) add(words("fact.signal", *outcome.signal));
  if (outcome.exit_status) add(words("fact.exit", *outcome.exit_status));
  return text;
}

ReportTable failed_cells(const ReportView& view, const std::string& state) {
  const Words& words = view.words;
  std::vector<const ReportCell*> cells;
  for (const ReportCell& cell : view.results.cells) {
    if (cell.state == state) cells.push_back(&cell);
  }
  const auto any = [&](auto member) {
    return std::ranges::any_of(cells,
                               [&](const ReportCell* cell) { return cell->last && member(*cell->last); });
  };
  const bool bytes = any([](const AttemptOutcome& o) { return o.needed_bytes || o.free_bytes; });
  const bool holders = any([](const AttemptOutcome& o) { return !o.holders.empty(); });
  const bool largest = any([](const AttemptOutcome& o) { return o.largest_m.has_value(); });
  ReportTable table;
  table.caption = words("failures.caption", state_name(state, words));
  table.header = {words("column.cell"), words("column.reason")};
  table.text_columns = 2;
  if (holders) {
    table.header.push_back(words("column.holders"));
    ++table.text_columns;
  }
  if (bytes) {
    table.header.push_back(words("column.needed"));
    table.header.push_back(words("column.free"));
  }
  if (largest) table.header.push_back(words("column.largest_m"));
  table.header.push_back(words("column.attempts"));
  for (const ReportCell* cell : cells) {
    const AttemptOutcome outcome = cell->last.value_or(AttemptOutcome{});
    std::vector<TableCell> row{name_cell(*cell, words), {facts(outcome, words)}};
    if (holders) row.push_back({holders_text(outcome.holders)});
    if (bytes) {
      row.push_back({bytes_text(outcome.needed_bytes)});
      row.push_back({bytes_text(outcome.free_bytes)});
    }
    if (largest) row.push_back({outcome.largest_m ? format_count(*outcome.largest_m) : "–"});
    row.push_back({format_count(cell->attempts)});
    table.rows.push_back(std::move(row));
  }
  table.folded = table.rows.size() > kFoldedFrom;
  return table;
}

// Nothing is known of these but their names: one row a variant, with its M.
ReportTable waiting_cells(const ReportView& view, const std::string& state) {
  const Words& words = view.words;
  ReportTable table;
  table.caption = words("failures.caption", state_name(state, words));
  table.header = {words("column.cell"), "M", words("column.cells")};
  table.text_columns = 2;
  for (const Section& section : view.sections) {
    std::map<std::string, std::pair<std::string, std::int64_t>> rows;
    std::vector<std::string> order;
    for (const std::size_t i : section.cells) {
      const ReportCell& cell = view.results.cells[i];
      if (cell.state != state) continue;
      const std::string name = variant_name(cell, words);
      const auto [row, first] = rows.try_emplace(name);
      if (first) order.push_back(name);
      if (cell.m) row->second.first += fmt::format("{}{}", row->second.first.empty() ? "" : ", ", *cell.m);
      ++row->second.second;
    }
    for (const std::string& name : order) {
      const auto& [ms, cells] = rows.at(name);
      table.rows.push_back({{name}, {ms.empty() ? "–" : ms}, {format_count(cells)}});
    }
  }
  table.folded = table.rows.size() > kFoldedFrom;
  return table;
}

}  // namespace

std::vector<Block> failure_blocks(const ReportView& view) {
  const Words& words = view.words;
  const Count count = count_cells(view.results);
  std::vector<Block> blocks;
  std::vector<std::string> states = known_states();
  for (const auto& [state, cells] : count.states) {
    if (std::ranges::find(states, state) == states.end()) states.push_back(state);
  }
  for (const std::string& state : states) {
    const std::int64_t cells = count.of(state);
    if (state == "ok" || cells == 0) continue;
    const auto attempts = view.results.outcomes.find(state);
    std::string text =
        words("failures.count", state_name(state, words), format_count(cells), format_count(count.all));
    if (attempts != view.results.outcomes.end() && attempts->second != cells)
      text += words("failures.attempts", format_count(attempts->second));
    if (words.has("advice." + state)) text += words("join.sentence") + words("advice." + state);
    blocks.emplace_back(Paragraph{text});
    blocks.emplace_back(state == "not_run" || state == "unfinished" || state == "interrupted"
                            ? waiting_cells(view, state)
                            : failed_cells(view, state));
  }
  return blocks;
}

std::vector<Block> warning_blocks(const ReportView& view) {
  const Words& words = view.words;
  std::vector<Block> blocks;
  if (!view.results.failed_checks.empty()) {
    ReportTable table;
    table.caption =
        words("checks.caption", format_count(static_cast<std::int64_t>(view.results.failed_checks.size())),
              format_count(view.results.checks));
    table.header = {words("column.cell"), words("column.check"), words("column.reason")};
    table.text_columns = 3;
    for (const FailedCheck& check : view.results.failed_checks)
      table.rows.push_back({name_cell(view.results.cells[check.cell], words), {check.name}, {check.message}});
    table.folded = table.rows.size() > kFoldedFrom;
    blocks.emplace_back(std::move(table));
  }
  const auto& events = view.results.events;
  if (!events.empty()) {
    ReportTable table;
    const std::size_t shown = std::min(events.size(), kShownEvents);
    table.caption = words("events.caption", format_count(static_cast<std::int64_t>(events.size())),
                          format_count(static_cast<std::int64_t>(shown)));
    table.header = {words("column.time"), words("column.level"), words("column.event")};
    table.text_columns = 3;
    for (std::size_t i = events.size() - shown; i < events.size(); ++i)
      table.rows.push_back({{events[i].at}, {events[i].level}, {events[i].text}});
    table.folded = table.rows.size() > kFoldedFrom;
    blocks.emplace_back(std::move(table));
  }
  return blocks;
}

}  // namespace slidesparse
