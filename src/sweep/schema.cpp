#include "sweep/schema.h"

#include <fmt/core.h>

#include <array>
#include <string>

#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {
namespace {

// What happened is only ever added: a repeated cell is another attempt. The triggers keep it so against every
// program.
constexpr const char* kVersion1 = R"sql(
CREATE TABLE machine (
  id INTEGER PRIMARY KEY,
  fingerprint TEXT NOT NULL UNIQUE,
  device TEXT NOT NULL,
  name TEXT NOT NULL,
  memory_bytes INTEGER NOT NULL,
  driver TEXT NOT NULL,
  libraries TEXT NOT NULL,
  processor TEXT NOT NULL,
  threads INTEGER NOT NULL,
  program_version TEXT NOT NULL,
  commit_id TEXT NOT NULL,
  details TEXT NOT NULL
);
CREATE TABLE plan (
  id INTEGER PRIMARY KEY,
  digest TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  text TEXT NOT NULL,
  added_at TEXT NOT NULL
);
CREATE TABLE cell (
  id INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  phase TEXT NOT NULL CHECK (phase IN ('convert', 'tune', 'gemm', 'prefill', 'decode', 'eval')),
  model TEXT NOT NULL,
  dtype TEXT NOT NULL,
  backend TEXT NOT NULL,
  pattern TEXT NOT NULL,
  layout TEXT NOT NULL,
  m INTEGER,
  memory_limit INTEGER,
  options TEXT NOT NULL
);
CREATE TABLE plan_cell (
  plan INTEGER NOT NULL REFERENCES plan(id),
  cell INTEGER NOT NULL REFERENCES cell(id),
  position INTEGER NOT NULL,
  PRIMARY KEY (plan, cell)
) WITHOUT ROWID;
CREATE TABLE run (
  id INTEGER PRIMARY KEY,
  plan INTEGER NOT NULL REFERENCES plan(id),
  machine INTEGER NOT NULL REFERENCES machine(id),
  started_at TEXT NOT NULL,
  host TEXT NOT NULL,
  boot_id TEXT NOT NULL,
  pid INTEGER NOT NULL,
  command TEXT NOT NULL
);
CREATE TABLE run_end (
  run INTEGER PRIMARY KEY REFERENCES run(id),
  ended_at TEXT NOT NULL,
  reason TEXT NOT NULL
);
CREATE TABLE attempt (
  id INTEGER PRIMARY KEY,
  cell INTEGER NOT NULL REFERENCES cell(id),
  run INTEGER NOT NULL REFERENCES run(id),
  number INTEGER NOT NULL,
  started_at TEXT NOT NULL,
  worker INTEGER,
  changed TEXT NOT NULL DEFAULT '',
  UNIQUE (cell, number)
);
CREATE TABLE outcome (
  attempt INTEGER PRIMARY KEY REFERENCES attempt(id),
  ended_at TEXT NOT NULL,
  seconds REAL NOT NULL,
  class TEXT NOT NULL,
  message TEXT NOT NULL DEFAULT '',
  retry INTEGER NOT NULL DEFAULT 0,
  exit_status INTEGER,
  signal INTEGER,
  library TEXT,
  library_code INTEGER,
  needed_bytes INTEGER,
  free_bytes INTEGER,
  holders TEXT,
  largest_m INTEGER,
  log TEXT NOT NULL DEFAULT ''
);
CREATE TABLE measurement (
  id INTEGER PRIMARY KEY,
  attempt INTEGER NOT NULL REFERENCES attempt(id),
  name TEXT NOT NULL,
  unit TEXT NOT NULL,
  value REAL NOT NULL,
  low REAL,
  high REAL,
  samples INTEGER,
  UNIQUE (attempt, name)
);
CREATE TABLE attribute (
  attempt INTEGER NOT NULL REFERENCES attempt(id),
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (attempt, name)
) WITHOUT ROWID;
CREATE TABLE "check" (
  id INTEGER PRIMARY KEY,
  attempt INTEGER NOT NULL REFERENCES attempt(id),
  name TEXT NOT NULL,
  passed INTEGER NOT NULL,
  message TEXT NOT NULL DEFAULT ''
);
CREATE TABLE event (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES run(id),
  attempt INTEGER REFERENCES attempt(id),
  at TEXT NOT NULL,
  level TEXT NOT NULL,
  text TEXT NOT NULL
);
CREATE INDEX attempt_cell ON attempt(cell);
CREATE INDEX plan_cell_position ON plan_cell(plan, position);
)sql";

constexpr std::array kAppendOnly{"machine", "plan",    "cell",        "plan_cell", "run",   "run_end",
                                 "attempt", "outcome", "measurement", "attribute", "check", "event"};

int pragma(const SqliteConnection& connection, const char* name) {
  SqliteStatement statement(connection, fmt::format("PRAGMA {}", name));
  return statement.step() ? static_cast<int>(statement.integer(0)) : 0;
}

bool empty(const SqliteConnection& connection) {
  SqliteStatement statement(connection, "SELECT count(*) FROM sqlite_schema");
  return statement.step() && statement.integer(0) == 0;
}

void check_owner(const SqliteConnection& connection) {
  if (pragma(connection, "application_id") != kApplicationId)
    fail_input("{}: this is not the database of a sweep (application_id {:#x}, expected {:#x})",
               printable(connection.name(), 300), pragma(connection, "application_id"), kApplicationId);
  if (const int version = pragma(connection, "user_version"); version > kSchemaVersion) {
    fail_input("{}: its tables are of version {}, this program knows {}: use a newer slidesparse",
               printable(connection.name(), 300), version, kSchemaVersion);
  }
}

}  // namespace

void migrate_schema(SqliteConnection& connection) {
  SqliteTransaction transaction(connection);
  if (empty(connection)) {
    connection.execute(kVersion1);
    for (const char* table : kAppendOnly) {
      for (const char* change : {"UPDATE", "DELETE"}) {
        connection.execute(fmt::format(
            R"(CREATE TRIGGER {0}_no_{1} BEFORE {1} ON "{0}" BEGIN SELECT RAISE(ABORT, 'rows of {0} are never changed'); END)",
            table, change));
      }
    }
    connection.execute(
        fmt::format("PRAGMA application_id = {}; PRAGMA user_version = {}", kApplicationId, kSchemaVersion));
  }
  check_owner(connection);
  transaction.commit();
}

void check_schema(const SqliteConnection& connection) {
  check_owner(connection);
  if (const int version = pragma(connection, "user_version"); version != kSchemaVersion) {
    fail_input("{}: its tables are of version {}, this program reads {}: run `slidesparse sweep` on it once",
               printable(connection.name(), 300), version, kSchemaVersion);
  }
}

}  // namespace slidesparse
