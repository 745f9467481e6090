#include "sweep/sqlite.h"

#include <fmt/core.h>
#include <sqlite3.h>

#include <string_view>
#include <system_error>

#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {
namespace {

constexpr int kBusyMilliseconds = 10'000;

[[noreturn]] void fail_sqlite(const std::string& name, sqlite3* database, int code) {
  const std::string words = database != nullptr ? sqlite3_errmsg(database) : sqlite3_errstr(code);
  const char* advice = "";
  if ((code & 0xff) == SQLITE_FULL)
    advice = "; free some space and run the same command again: nothing is lost";
  if ((code & 0xff) == SQLITE_NOTADB) advice = "; give the database of a sweep";
  if ((code & 0xff) == SQLITE_BUSY) advice = "; another program writes to it";
  fail(ErrorKind::kIo, "{}: {}{}", printable(name, 300), words, advice);
}

// SQLite keeps an index of its journal beside the file and cannot even read without one.
bool cannot_make_index(sqlite3* database) {
  const int code =
      sqlite3_exec(database, "SELECT 1 FROM sqlite_schema LIMIT 1", nullptr, nullptr, nullptr) & 0xff;
  return code == SQLITE_CANTOPEN || code == SQLITE_READONLY;
}

// A file that nobody writes to, because nobody can in that folder, is read without an index. Needs that all
// of it is in the file.
sqlite3* open_unchanging(const std::string& name) {
  std::error_code error;
  if (const auto bytes = std::filesystem::file_size(name + "-wal", error); !error && bytes > 0) {
    fail(ErrorKind::kIo,
         "{}: {} bytes of it are still in its -wal file, and the folder is read-only: copy both elsewhere",
         printable(name, 300), bytes);
  }
  std::string uri = "file:";
  for (const char c : name) {
    if (std::string_view("%?#").find(c) != std::string_view::npos) {
      uri += fmt::format("%{:02x}", static_cast<unsigned char>(c));
    } else {
      uri += c;
    }
  }
  sqlite3* database = nullptr;
  const int code = sqlite3_open_v2((uri + "?immutable=1").c_str(), &database,
                                   SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_EXRESCODE, nullptr);
  if (code == SQLITE_OK) return database;
  sqlite3_close_v2(database);
  fail_sqlite(name, nullptr, code);
}

}  // namespace

SqliteConnection::SqliteConnection(const std::filesystem::path& file, Mode mode) : name_(file.string()) {
  const int flags = mode == Mode::kWrite ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY;
  const int code = sqlite3_open_v2(name_.c_str(), &database_, flags | SQLITE_OPEN_EXRESCODE, nullptr);
  try {
    if (code != SQLITE_OK) fail_sqlite(name_, database_, code);
    if (mode == Mode::kRead && cannot_make_index(database_)) {
      sqlite3* unchanging = open_unchanging(name_);
      sqlite3_close_v2(database_);
      database_ = unchanging;
    }
    sqlite3_busy_timeout(database_, kBusyMilliseconds);
    execute("PRAGMA foreign_keys = ON");
    if (mode == Mode::kWrite) execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL");
  } catch (...) {
    sqlite3_close_v2(database_);
    throw;
  }
}

SqliteConnection::~SqliteConnection() {
  sqlite3_close_v2(database_);
}

void SqliteConnection::execute(const std::string& sql) {
  const int code = sqlite3_exec(database_, sql.c_str(), nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) fail_sqlite(name_, database_, code);
}

std::int64_t SqliteConnection::last_id() const {
  return sqlite3_last_insert_rowid(database_);
}

SqliteStatement::SqliteStatement(const SqliteConnection& connection, std::string_view sql)
    : connection_(&connection) {
  check(sqlite3_prepare_v2(connection.handle(), sql.data(), static_cast<int>(sql.size()), &statement_,
                           nullptr));
}

SqliteStatement::~SqliteStatement() {
  sqlite3_finalize(statement_);
}

void SqliteStatement::check(int code) const {
  if (code != SQLITE_OK) fail_sqlite(connection_->name(), connection_->handle(), code);
}

SqliteStatement& SqliteStatement::bind(int parameter, std::int64_t value) {
  check(sqlite3_bind_int64(statement_, parameter, value));
  return *this;
}

SqliteStatement& SqliteStatement::bind(int parameter, double value) {
  check(sqlite3_bind_double(statement_, parameter, value));
  return *this;
}

SqliteStatement& SqliteStatement::bind(int parameter, std::string_view value) {
  check(
      sqlite3_bind_text64(statement_, parameter, value.data(), value.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
  return *this;
}

SqliteStatement& SqliteStatement::bind_null(int parameter) {
  check(sqlite3_bind_null(statement_, parameter));
  return *this;
}

bool SqliteStatement::step() {
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  fail_sqlite(connection_->name(), connection_->handle(), code);
}

void SqliteStatement::run() {
  require(!step(), "{}: a statement that changes rows gave one", connection_->name());
  reset();
}

void SqliteStatement::reset() {
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

bool SqliteStatement::null(int column) const {
  return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

std::int64_t SqliteStatement::integer(int column) const {
  return sqlite3_column_int64(statement_, column);
}

double SqliteStatement::real(int column) const {
  return sqlite3_column_double(statement_, column);
}

std::string SqliteStatement::text(int column) const {
  const auto* bytes = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
  if (bytes == nullptr) return {};
  return {bytes, static_cast<std::size_t>(sqlite3_column_bytes(statement_, column))};
}

SqliteTransaction::SqliteTransaction(SqliteConnection& connection) : connection_(&connection) {
  connection.execute("BEGIN IMMEDIATE");
}

SqliteTransaction::~SqliteTransaction() {
  if (!open_) return;
  try {
    connection_->execute("ROLLBACK");
  } catch (const Error&) {
    // SQLite rolls back by itself after a full disk or a lost file; there is nothing left to undo then.
  }
}

void SqliteTransaction::commit() {
  connection_->execute("COMMIT");
  open_ = false;
}

}  // namespace slidesparse
