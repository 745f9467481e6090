#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

struct sqlite3;
struct sqlite3_stmt;

// The few calls of SQLite that the sweep and the report need, with errors as slidesparse::Error.
namespace slidesparse {

class SqliteConnection {
 public:
  enum class Mode { kRead, kWrite };
  // kRead: the file must be there; its folder need not be writable. kWrite: made when missing, WAL,
  // synchronous=FULL. Foreign keys hold in both. Throws kIo with SQLite's words: no such file, not a
  // database, disk full, locked.
  SqliteConnection(const std::filesystem::path& file, Mode mode);
  ~SqliteConnection();
  SqliteConnection(const SqliteConnection&) = delete;
  SqliteConnection& operator=(const SqliteConnection&) = delete;

  void execute(const std::string& sql);  // statements without results
  std::int64_t last_id() const;
  sqlite3* handle() const { return database_; }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  sqlite3* database_ = nullptr;
};

// A prepared statement. Parameters are numbered from 1, columns from 0.
class SqliteStatement {
 public:
  SqliteStatement(const SqliteConnection& connection, std::string_view sql);
  ~SqliteStatement();
  SqliteStatement(const SqliteStatement&) = delete;
  SqliteStatement& operator=(const SqliteStatement&) = delete;

  SqliteStatement& bind(int parameter, std::int64_t value);
  SqliteStatement& bind(int parameter, int value) {
    return bind(parameter, static_cast<std::int64_t>(value));
  }
  SqliteStatement& bind(int parameter, double value);
  SqliteStatement& bind(int parameter, std::string_view value);
  SqliteStatement& bind(int parameter, const char* value) { return bind(parameter, std::string_view(value)); }
  SqliteStatement& bind_null(int parameter);
  template <typename T>
  SqliteStatement& bind(int parameter, const std::optional<T>& value) {
    return value ? bind(parameter, *value) : bind_null(parameter);
  }

  bool step();  // whether there is a row
  void run();   // one that has no rows, then ready to be bound again
  void reset();

  bool null(int column) const;
  std::int64_t integer(int column) const;
  double real(int column) const;
  std::string text(int column) const;  // empty for null

 private:
  void check(int code) const;
  const SqliteConnection* connection_;
  sqlite3_stmt* statement_ = nullptr;
};

// BEGIN IMMEDIATE ... COMMIT; rolled back unless commit() was reached.
class SqliteTransaction {
 public:
  explicit SqliteTransaction(SqliteConnection& connection);
  ~SqliteTransaction();
  SqliteTransaction(const SqliteTransaction&) = delete;
  SqliteTransaction& operator=(const SqliteTransaction&) = delete;
  void commit();

 private:
  SqliteConnection* connection_;
  bool open_ = true;
};

}  // namespace slidesparse
