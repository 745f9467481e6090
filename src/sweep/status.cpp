#include "sweep/status.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <string>
#include <vector>

#include "core/text.h"
#include "sweep/cell.h"
#include "sweep/estimate.h"
#include "sweep/lock.h"
#include "sweep/schema.h"

namespace slidesparse {
namespace {

// Of each cell on each machine the last attempt that has an outcome.
constexpr const char* kLast = R"sql(
  SELECT attempt.cell AS cell, run.machine AS machine, max(attempt.id) AS attempt
  FROM attempt JOIN run ON run.id = attempt.run JOIN outcome ON outcome.attempt = attempt.id
  GROUP BY attempt.cell, run.machine)sql";

std::string words_of(const std::string& key) {
  return cell_words(parse_cell_key(key, "cell"));
}

std::string plans(const SqliteConnection& connection) {
  SqliteStatement select(
      connection,
      fmt::format("SELECT plan.name, machine.name, count(*), "
                  "sum(outcome.class = 'ok'), sum(outcome.class <> 'ok' AND outcome.retry = 0) "
                  "FROM (SELECT DISTINCT plan, machine FROM run) AS pair "
                  "JOIN plan ON plan.id = pair.plan JOIN machine ON machine.id = pair.machine "
                  "JOIN plan_cell ON plan_cell.plan = plan.id "
                  "LEFT JOIN ({}) AS last ON last.cell = plan_cell.cell AND last.machine = pair.machine "
                  "LEFT JOIN outcome ON outcome.attempt = last.attempt "
                  "GROUP BY plan.id, machine.id ORDER BY plan.id, machine.id",
                  kLast));
  std::string text;
  while (select.step()) {
    const std::int64_t cells = select.integer(2), measured = select.integer(3), given_up = select.integer(4);
    text += fmt::format("plan {} on {}: {} cells, {} measured, {} given up, {} open\n",
                        printable(select.text(0), 80), printable(select.text(1), 80), cells, measured,
                        given_up, cells - measured - given_up);
  }
  return text.empty() ? "no plan has been started\n" : text;
}

std::string time_left(const SqliteConnection& connection) {
  SqliteStatement latest(connection,
                         "SELECT run.plan, run.machine, machine.device FROM run JOIN machine ON machine.id = "
                         "run.machine ORDER BY run.id DESC LIMIT 1");
  if (!latest.step()) return {};
  Estimator estimator(latest.text(2) == "cuda");
  const std::string cells = fmt::format(
      "SELECT cell.key, outcome.class, outcome.retry, outcome.seconds FROM plan_cell JOIN cell ON cell.id = "
      "plan_cell.cell LEFT JOIN ({}) AS last ON last.cell = cell.id AND last.machine = ?2 "
      "LEFT JOIN outcome ON outcome.attempt = last.attempt WHERE plan_cell.plan = ?1",
      kLast);
  double seconds = 0;
  for (const bool measured : {true, false}) {
    SqliteStatement select(connection, cells);
    select.bind(1, latest.integer(0)).bind(2, latest.integer(1));
    while (select.step()) {
      const Cell cell = parse_cell_key(select.text(0), "cell");
      const bool done = select.text(1) == "ok";
      if (measured && done) estimator.learn(cell, select.real(3));
      if (!measured && (select.null(1) || select.integer(2) != 0)) seconds += estimator.seconds(cell);
    }
  }
  return fmt::format("time left: about {}\n", duration_words(seconds));
}

std::string running(const SqliteConnection& connection) {
  SqliteStatement select(
      connection,
      "SELECT cell.key, attempt.number, attempt.changed, attempt.worker, "
      "strftime('%s', 'now') - strftime('%s', attempt.started_at) FROM attempt JOIN cell ON "
      "cell.id = attempt.cell WHERE attempt.id NOT IN (SELECT attempt FROM outcome) ORDER BY "
      "attempt.id DESC LIMIT 1");
  if (!select.step()) return {};
  const std::string changed = select.text(2);
  return fmt::format("running: {}, attempt {}{}, worker {}, for {}\n", words_of(select.text(0)),
                     select.integer(1), changed.empty() ? "" : " (" + printable(changed, 80) + ")",
                     select.integer(3), duration_words(static_cast<double>(select.integer(4))));
}

std::string recent(const SqliteConnection& connection) {
  SqliteStatement select(
      connection,
      "SELECT outcome.ended_at, cell.key, outcome.class, outcome.message, measurement.value "
      "FROM outcome JOIN attempt ON attempt.id = outcome.attempt JOIN cell ON cell.id = "
      "attempt.cell LEFT JOIN measurement ON measurement.attempt = attempt.id AND "
      "measurement.name = 'tokens_per_second' ORDER BY outcome.attempt DESC LIMIT 5");
  std::vector<std::string> lines;  // the newest first
  while (select.step()) {
    const std::string message = select.text(3);
    lines.push_back(fmt::format("{} {}: {}{}{}\n", select.text(0), words_of(select.text(1)), select.text(2),
                                select.null(4) ? "" : fmt::format(", {:.5g} tokens/s", select.real(4)),
                                message.empty() ? "" : ": " + printable(message, 200)));
  }
  if (lines.empty()) return {};
  return fmt::format("last:\n{}", fmt::join(lines.rbegin(), lines.rend(), ""));
}

}  // namespace

std::string sweep_status(const std::filesystem::path& database) {
  const SqliteConnection connection(database, SqliteConnection::Mode::kRead);
  check_schema(connection);
  const std::string holder = SweepLock::holder(database);
  std::string text = plans(connection);
  text += holder.empty() ? "no sweep is running\n" : "sweep: " + holder + "\n";
  if (!holder.empty()) text += running(connection);
  return text + time_left(connection) + recent(connection);
}

}  // namespace slidesparse
