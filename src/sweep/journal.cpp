#include "sweep/journal.h"

#include <algorithm>

#include "core/fail.h"
#include "io/digest.h"
#include "sweep/schema.h"

namespace slidesparse {
namespace {

std::optional<std::int64_t> widen(const std::optional<int>& value) {
  return value ? std::optional<std::int64_t>(*value) : std::nullopt;
}

std::optional<std::string_view> text_or_null(const std::string& text) {
  return text.empty() ? std::nullopt : std::optional<std::string_view>(text);
}

// The id of the row of `table` whose `column` is `value`.
std::optional<std::int64_t> find(const SqliteConnection& connection, const char* table, const char* column,
                                 std::string_view value) {
  SqliteStatement statement(connection, fmt::format("SELECT id FROM {} WHERE {} = ?", table, column));
  statement.bind(1, value);
  return statement.step() ? std::optional(statement.integer(0)) : std::nullopt;
}

// Machines that count as `?1`: a card of the same name with another memory is another card, as in a report.
std::string same_kind(bool any_version) {
  return any_version ? "SELECT other.id FROM machine AS other, machine AS mine WHERE mine.id = ?1 AND "
                       "other.device = mine.device AND other.name = mine.name AND "
                       "(mine.device <> 'cuda' OR other.memory_bytes = mine.memory_bytes)"
                     : "SELECT ?1";
}

}  // namespace

SweepJournal::SweepJournal(const std::filesystem::path& database, SqliteConnection::Mode mode)
    : connection_(database, mode) {
  if (mode == SqliteConnection::Mode::kWrite) {
    migrate_schema(connection_);
  } else {
    check_schema(connection_);
  }
}

std::optional<std::int64_t> SweepJournal::find_machine(const SweepMachine& machine) const {
  return find(connection_, "machine", "fingerprint", machine.fingerprint());
}

std::optional<std::int64_t> SweepJournal::find_cell(const Cell& cell) const {
  return find(connection_, "cell", "key", cell_key(cell));
}

std::int64_t SweepJournal::machine(const SweepMachine& machine) {
  SqliteTransaction transaction(connection_);
  if (const auto found = find_machine(machine)) return *found;
  SqliteStatement insert(connection_,
                         "INSERT INTO machine(fingerprint, device, name, memory_bytes, driver, libraries, "
                         "processor, threads, program_version, commit_id, details) "
                         "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
  insert.bind(1, machine.fingerprint())
      .bind(2, machine.device)
      .bind(3, machine.name)
      .bind(4, machine.memory_bytes)
      .bind(5, machine.driver)
      .bind(6, machine.libraries)
      .bind(7, machine.processor)
      .bind(8, machine.threads)
      .bind(9, machine.program_version)
      .bind(10, machine.commit)
      .bind(11, machine.details)
      .run();
  const std::int64_t id = connection_.last_id();
  transaction.commit();
  return id;
}

std::int64_t SweepJournal::plan(const std::string& name, const std::string& text,
                                const std::vector<Cell>& cells) {
  SqliteTransaction transaction(connection_);
  const std::string digest = sha256_hex(text);
  if (const auto found = find(connection_, "plan", "digest", digest)) return *found;
  SqliteStatement insert(connection_, "INSERT INTO plan(digest, name, text, added_at) VALUES (?, ?, ?, ?)");
  insert.bind(1, digest).bind(2, name).bind(3, text).bind(4, utc_now()).run();
  const std::int64_t id = connection_.last_id();
  SqliteStatement cell(
      connection_,
      "INSERT INTO cell(key, phase, model, dtype, backend, pattern, layout, m, memory_limit, "
      "options) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
  SqliteStatement member(connection_, "INSERT INTO plan_cell(plan, cell, position) VALUES (?, ?, ?)");
  std::int64_t position = 0;
  for (const Cell& one : cells) {
    const std::string key = cell_key(one);
    auto known = find(connection_, "cell", "key", key);
    if (!known) {
      cell.bind(1, key)
          .bind(2, phase_name(one.phase))
          .bind(3, one.model)
          .bind(4, one.dtype)
          .bind(5, one.backend)
          .bind(6, one.pattern)
          .bind(7, one.layout)
          .bind(8, one.m)
          .bind(9, one.memory_limit)
          .bind(10, options_json(one.options))
          .run();
      known = connection_.last_id();
    }
    member.bind(1, id).bind(2, *known).bind(3, position++).run();
  }
  transaction.commit();
  return id;
}

std::int64_t SweepJournal::begin_run(std::int64_t plan, std::int64_t machine, const SweepOwner& owner,
                                     const std::string& command) {
  SqliteStatement insert(connection_,
                         "INSERT INTO run(plan, machine, started_at, host, boot_id, pid, command) "
                         "VALUES (?, ?, ?, ?, ?, ?, ?)");
  insert.bind(1, plan)
      .bind(2, machine)
      .bind(3, owner.started_at)
      .bind(4, owner.host)
      .bind(5, owner.boot_id)
      .bind(6, static_cast<std::int64_t>(owner.pid))
      .bind(7, command)
      .run();
  return connection_.last_id();
}

void SweepJournal::end_run(std::int64_t run, std::string_view reason) {
  SqliteStatement insert(connection_, "INSERT INTO run_end(run, ended_at, reason) VALUES (?, ?, ?)");
  insert.bind(1, run).bind(2, utc_now()).bind(3, reason).run();
}

std::int64_t SweepJournal::close_interrupted() {
  SqliteTransaction transaction(connection_);
  SqliteStatement open(connection_,
                       "SELECT id FROM attempt WHERE id NOT IN (SELECT attempt FROM outcome) ORDER BY id");
  std::vector<std::int64_t> attempts;
  while (open.step()) attempts.push_back(open.integer(0));
  SqliteStatement close(connection_,
                        "INSERT INTO outcome(attempt, ended_at, seconds, class, message, retry) "
                        "VALUES (?, ?, 0, 'interrupted', 'the sweep ended while it ran', 1)");
  for (const std::int64_t attempt : attempts) close.bind(1, attempt).bind(2, utc_now()).run();
  transaction.commit();
  return static_cast<std::int64_t>(attempts.size());
}

std::int64_t SweepJournal::begin_attempt(std::int64_t cell, std::int64_t run, std::int64_t worker,
                                         const std::string& changed) {
  SqliteStatement insert(
      connection_,
      "INSERT INTO attempt(cell, run, number, started_at, worker, changed) VALUES (?1, ?2, "
      "1 + (SELECT count(*) FROM attempt WHERE cell = ?1), ?3, ?4, ?5)");
  insert.bind(1, cell).bind(2, run).bind(3, utc_now()).bind(4, worker).bind(5, changed).run();
  return connection_.last_id();
}

void SweepJournal::end_attempt(std::int64_t attempt, const CellResult& result, bool retry) {
  SqliteTransaction transaction(connection_);
  SqliteStatement outcome(
      connection_,
      "INSERT INTO outcome(attempt, ended_at, seconds, class, message, retry, exit_status, "
      "signal, library, library_code, needed_bytes, free_bytes, holders, largest_m, log) "
      "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
  const std::string holders = result.holders.empty() ? std::string() : holders_json(result);
  outcome.bind(1, attempt)
      .bind(2, utc_now())
      .bind(3, result.seconds)
      .bind(4, class_name(result.outcome))
      .bind(5, result.message)
      .bind(6, retry ? 1 : 0)
      .bind(7, widen(result.exit_status))
      .bind(8, widen(result.signal))
      .bind(9, text_or_null(result.library))
      .bind(10, result.library_code)
      .bind(11, result.needed_bytes)
      .bind(12, result.free_bytes)
      .bind(13, text_or_null(holders))
      .bind(14, result.largest_m)
      .bind(15, result.log)
      .run();
  SqliteStatement measurement(connection_,
                              "INSERT INTO measurement(attempt, name, unit, value, low, high, samples) "
                              "VALUES (?, ?, ?, ?, ?, ?, ?)");
  for (const Measurement& one : result.measurements) {
    measurement.bind(1, attempt)
        .bind(2, one.name)
        .bind(3, one.unit)
        .bind(4, one.value)
        .bind(5, one.low)
        .bind(6, one.high)
        .bind(7, one.samples)
        .run();
  }
  SqliteStatement attribute(connection_, "INSERT INTO attribute(attempt, name, value) VALUES (?, ?, ?)");
  for (const auto& [name, value] : result.attributes)
    attribute.bind(1, attempt).bind(2, name).bind(3, value).run();
  SqliteStatement check(connection_,
                        R"(INSERT INTO "check"(attempt, name, passed, message) VALUES (?, ?, ?, ?))");
  for (const Check& one : result.checks)
    check.bind(1, attempt).bind(2, one.name).bind(3, one.passed ? 1 : 0).bind(4, one.message).run();
  transaction.commit();
}

void SweepJournal::event(std::int64_t run, std::optional<std::int64_t> attempt, std::string_view level,
                         std::string_view text) {
  SqliteStatement insert(connection_,
                         "INSERT INTO event(run, attempt, at, level, text) VALUES (?, ?, ?, ?, ?)");
  insert.bind(1, run).bind(2, attempt).bind(3, utc_now()).bind(4, level).bind(5, text).run();
}

std::optional<std::string> SweepJournal::last_event(std::int64_t machine, std::string_view level) const {
  SqliteStatement select(
      connection_,
      "SELECT event.text FROM event JOIN run ON run.id = event.run WHERE run.machine = ? AND "
      "event.level = ? ORDER BY event.id DESC LIMIT 1");
  select.bind(1, machine).bind(2, level);
  return select.step() ? std::optional(select.text(0)) : std::nullopt;
}

std::map<std::int64_t, std::vector<PastAttempt>> SweepJournal::attempts(std::int64_t machine,
                                                                        bool any_version) const {
  SqliteStatement select(
      connection_,
      fmt::format("SELECT attempt.cell, outcome.class, outcome.seconds, measurement.value, attempt.changed "
                  "FROM attempt "
                  "JOIN run ON run.id = attempt.run JOIN outcome ON outcome.attempt = attempt.id "
                  "LEFT JOIN measurement ON measurement.attempt = attempt.id AND measurement.name = "
                  "'tokens_per_second' WHERE run.machine IN ({}) ORDER BY attempt.id",
                  same_kind(any_version)));
  select.bind(1, machine);
  std::map<std::int64_t, std::vector<PastAttempt>> attempts;
  while (select.step()) {
    PastAttempt past{
        parse_class(select.text(1), connection_.name()), select.real(2), {}, parse_changes(select.text(4))};
    if (!select.null(3)) past.figure = select.real(3);
    attempts[select.integer(0)].push_back(past);
  }
  return attempts;
}

std::int64_t SweepJournal::cells_of_other_versions(std::int64_t plan, std::int64_t machine) const {
  const std::string measured =
      "SELECT attempt.cell FROM attempt JOIN run ON run.id = attempt.run JOIN outcome ON outcome.attempt = "
      "attempt.id WHERE outcome.class = 'ok' AND run.machine IN ({})";
  SqliteStatement select(
      connection_,
      fmt::format("SELECT count(*) FROM plan_cell WHERE plan = ?2 AND cell IN ({}) AND cell NOT IN ({})",
                  fmt::format(fmt::runtime(measured), same_kind(true)),
                  fmt::format(fmt::runtime(measured), same_kind(false))));
  select.bind(1, machine).bind(2, plan);
  return select.step() ? select.integer(0) : 0;
}

}  // namespace slidesparse
