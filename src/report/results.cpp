#include "report/results.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "sweep/schema.h"
#include "sweep/sqlite.h"

namespace slidesparse {
namespace {

using Indices = std::unordered_map<std::int64_t, std::size_t>;  // id of a row -> place in a vector

std::optional<std::int64_t> maybe_integer(const SqliteStatement& row, int column) {
  if (row.null(column)) return {};
  return row.integer(column);
}

std::optional<double> maybe_real(const SqliteStatement& row, int column) {
  if (row.null(column)) return {};
  return row.real(column);
}

Figure figure_of(const SqliteStatement& row, int column) {
  return {row.text(column), row.real(column + 1), maybe_real(row, column + 2), maybe_real(row, column + 3),
          row.integer(column + 4)};
}

Indices load_machines(const SqliteConnection& database, Results& results) {
  Indices machines;
  SqliteStatement row(database,
                      "SELECT id, fingerprint, device, name, driver, libraries, processor, program_version, "
                      "commit_id, details, memory_bytes, threads FROM machine ORDER BY id");
  while (row.step()) {
    machines[row.integer(0)] = results.machines.size();
    results.machines.push_back({row.text(1), row.text(2), row.text(3), row.text(4), row.text(5), row.text(6),
                                row.text(7), row.text(8), row.text(9), row.integer(10), row.integer(11)});
  }
  return machines;
}

void find_comparable(bool any_version, Results& results) {
  const auto& machines = results.machines;
  for (std::size_t i = 0; i < machines.size(); ++i) {
    std::size_t first = i;
    for (std::size_t j = 0; any_version && first == i && j < i; ++j) {
      const bool same =
          machines[j].device == machines[i].device && machines[j].name == machines[i].name &&
          (machines[i].device != "cuda" || machines[j].memory_bytes == machines[i].memory_bytes);
      if (same) first = j;
    }
    results.comparable.push_back(first);
  }
}

void load_runs(const SqliteConnection& database, const Indices& machines, Results& results) {
  SqliteStatement plan(database, "SELECT name FROM plan ORDER BY id");
  while (plan.step()) results.plans.push_back(plan.text(0));
  SqliteStatement row(database,
                      "SELECT plan.name, started_at, ended_at, command, reason, machine, "
                      "(SELECT count(*) FROM attempt WHERE run = run.id), "
                      "(SELECT count(*) FROM attempt JOIN outcome ON outcome.attempt = attempt.id "
                      " WHERE run = run.id AND class = 'ok') "
                      "FROM run JOIN plan ON plan.id = run.plan LEFT JOIN run_end ON run_end.run = run.id "
                      "ORDER BY run.id");
  while (row.step()) {
    results.runs.push_back({row.text(0), row.text(1), row.text(2), row.text(3), row.text(4),
                            machines.at(row.integer(5)), row.integer(6), row.integer(7)});
  }
}

Indices load_cells(const SqliteConnection& database, Results& results) {
  Indices cells;
  SqliteStatement row(
      database,
      "SELECT id, key, phase, model, dtype, backend, pattern, layout, m, memory_limit, options "
      "FROM cell LEFT JOIN (SELECT cell, min(plan * 10000000 + position) AS place FROM plan_cell GROUP BY "
      "cell) "
      "ON cell = cell.id ORDER BY place IS NULL, place, id");
  while (row.step()) {
    cells[row.integer(0)] = results.cells.size();
    ReportCell& cell = results.cells.emplace_back();
    cell.key = row.text(1);
    cell.phase = row.text(2);
    cell.model = row.text(3);
    cell.dtype = row.text(4);
    cell.backend = row.text(5);
    cell.pattern = row.text(6);
    cell.layout = row.text(7);
    cell.m = maybe_integer(row, 8);
    cell.memory_limit = maybe_integer(row, 9);
    cell.options = row.text(10);
    cell.state = "not_run";
  }
  return cells;
}

AttemptOutcome outcome_of(const SqliteStatement& row, int column) {
  AttemptOutcome outcome;
  outcome.kind = row.text(column);
  outcome.message = row.text(column + 1);
  outcome.needed_bytes = maybe_integer(row, column + 2);
  outcome.free_bytes = maybe_integer(row, column + 3);
  outcome.largest_m = maybe_integer(row, column + 4);
  outcome.library_code = maybe_integer(row, column + 5);
  outcome.exit_status = maybe_integer(row, column + 6);
  outcome.signal = maybe_integer(row, column + 7);
  outcome.library = row.text(column + 8);
  outcome.holders = row.text(column + 9);
  outcome.log = row.text(column + 10);
  outcome.seconds = row.real(column + 11);
  return outcome;
}

// Fills state, attempts, last and machine; returns which attempt is the figure of which cell.
Indices load_attempts(const SqliteConnection& database, const Indices& cells, const Indices& machines,
                      Results& results) {
  Indices measured;
  std::vector<std::optional<std::int64_t>> good(results.cells.size());
  SqliteStatement row(
      database,
      "SELECT attempt.cell, attempt.id, run.machine, class, message, needed_bytes, free_bytes, "
      "largest_m, library_code, exit_status, signal, library, holders, log, seconds, changed "
      "FROM attempt JOIN run ON run.id = attempt.run "
      "LEFT JOIN outcome ON outcome.attempt = attempt.id ORDER BY attempt.cell, attempt.number");
  while (row.step()) {
    const std::size_t index = cells.at(row.integer(0));
    ReportCell& cell = results.cells[index];
    ++cell.attempts;
    ++results.attempts;
    if (row.null(3)) {
      ++results.outcomes["unfinished"];
      if (!cell.last) cell.state = "unfinished";
      continue;
    }
    cell.last = outcome_of(row, 3);
    ++results.outcomes[cell.last->kind];
    if (cell.last->kind == "ok") {
      good[index] = row.integer(1);
      cell.machine = machines.at(row.integer(2));
      cell.changes = parse_changes(row.text(15));
      cell.changes.alone = false;  // after an interruption, too: a report is the same with and without
    }
    cell.state = good[index] ? "ok" : cell.last->kind;
  }
  for (std::size_t i = 0; i < good.size(); ++i) {
    if (good[i]) measured[*good[i]] = i;
  }
  return measured;
}

void load_figures(const SqliteConnection& database, const Indices& measured, Results& results) {
  SqliteStatement row(database,
                      "SELECT attempt, name, unit, value, low, high, samples FROM measurement ORDER BY id");
  while (row.step()) {
    const auto cell = measured.find(row.integer(0));
    if (cell != measured.end()) results.cells[cell->second].figures[row.text(1)] = figure_of(row, 2);
  }
  SqliteStatement word(database, "SELECT attempt, name, value FROM attribute");
  while (word.step()) {
    const auto cell = measured.find(word.integer(0));
    if (cell != measured.end()) results.cells[cell->second].attributes[word.text(1)] = word.text(2);
  }
}

// Later rows of a machine replace earlier ones: the last good attempt stays.
void load_by_machine(const SqliteConnection& database, const Indices& cells, const Indices& machines,
                     Results& results) {
  SqliteStatement row(
      database,
      "SELECT attempt.cell, run.machine, name, unit, value, low, high, samples, changed "
      "FROM attempt JOIN run ON run.id = attempt.run "
      "JOIN outcome ON outcome.attempt = attempt.id AND class = 'ok' "
      "JOIN measurement ON measurement.attempt = attempt.id ORDER BY attempt.cell, attempt.number");
  while (row.step()) {
    ReportCell& cell = results.cells[cells.at(row.integer(0))];
    if (row.text(2) == main_figure(cell.phase))
      cell.by_machine[results.comparable.at(machines.at(row.integer(1)))] = {
          figure_of(row, 3), unlike_words(parse_changes(row.text(8)))};
  }
}

void load_notes(const SqliteConnection& database, const Indices& cells, Results& results) {
  SqliteStatement count(database, "SELECT count(*) FROM \"check\"");
  if (count.step()) results.checks = count.integer(0);
  SqliteStatement check(database,
                        "SELECT attempt.cell, name, message FROM \"check\" "
                        "JOIN attempt ON attempt.id = attempt WHERE NOT passed ORDER BY \"check\".id");
  while (check.step())
    results.failed_checks.push_back({cells.at(check.integer(0)), check.text(1), check.text(2)});
  SqliteStatement event(database,
                        "SELECT at, level, text FROM event WHERE level IN ('warning', 'error') ORDER BY id");
  while (event.step()) results.events.push_back({event.text(0), event.text(1), event.text(2)});
}

}  // namespace

const Figure* ReportCell::figure(const std::string& name) const {
  const auto found = figures.find(name);
  return found == figures.end() ? nullptr : &found->second;
}

const char* main_figure(const std::string& phase) {
  if (phase == "prefill" || phase == "decode") return "tokens_per_second";
  if (phase == "gemm") return "flops";
  if (phase == "eval") return "perplexity";
  return "seconds";
}

Results load_results(const std::filesystem::path& file, bool any_version) {
  SqliteConnection database(file, SqliteConnection::Mode::kRead);
  database.execute("BEGIN");  // all queries see the same rows, whatever a sweep adds meanwhile
  check_schema(database);
  Results results;
  const Indices machines = load_machines(database, results);
  find_comparable(any_version, results);
  load_runs(database, machines, results);
  const Indices cells = load_cells(database, results);
  const Indices measured = load_attempts(database, cells, machines, results);
  load_figures(database, measured, results);
  load_by_machine(database, cells, machines, results);
  load_notes(database, cells, results);
  return results;
}

}  // namespace slidesparse
