#include "sweep/schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "io/test_files.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using ::testing::HasSubstr;
using Mode = SqliteConnection::Mode;

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Schema, IsMadeOnceAndReadBack) {
  const slidesparse::testing::TempDir directory;
  const auto file = directory.path() / "results.db";
  for (int round = 0; round < 2; ++round) {
    SqliteConnection connection(file, Mode::kWrite);
    migrate_schema(connection);
  }
  const SqliteConnection reader(file, Mode::kRead);
  check_schema(reader);
  SqliteStatement tables(reader, "SELECT count(*) FROM sqlite_schema WHERE type = 'table'");
  ASSERT_TRUE(tables.step());
  EXPECT_EQ(tables.integer(0), 12);
}

TEST(Schema, RowsAreNeverChanged) {
  const slidesparse::testing::TempDir directory;
  SqliteConnection connection(directory.path() / "results.db", Mode::kWrite);
  migrate_schema(connection);
  connection.execute("INSERT INTO plan(digest, name, text, added_at) VALUES ('d', 'n', '{}', 't')");
  EXPECT_THAT(error_of([&] { connection.execute("UPDATE plan SET name = 'other'"); }),
              HasSubstr("rows of plan are never changed"));
  EXPECT_THAT(error_of([&] { connection.execute("DELETE FROM plan"); }),
              HasSubstr("rows of plan are never changed"));
}

TEST(Schema, ForeignKeysHold) {
  const slidesparse::testing::TempDir directory;
  SqliteConnection connection(directory.path() / "results.db", Mode::kWrite);
  migrate_schema(connection);
  EXPECT_THAT(error_of([&] { connection.execute("INSERT INTO plan_cell VALUES (1, 1, 0)"); }),
              HasSubstr("FOREIGN KEY"));
}

TEST(Schema, OtherFilesAreRefused) {
  const slidesparse::testing::TempDir directory;
  const auto file = directory.path() / "other.db";
  {
    SqliteConnection connection(file, Mode::kWrite);
    connection.execute("CREATE TABLE mine(x)");
    EXPECT_THAT(error_of([&] { migrate_schema(connection); }), HasSubstr("not the database of a sweep"));
  }
  const auto newer = directory.path() / "newer.db";
  SqliteConnection connection(newer, Mode::kWrite);
  migrate_schema(connection);
  connection.execute("PRAGMA user_version = 99");
  EXPECT_THAT(error_of([&] { migrate_schema(connection); }), HasSubstr("version 99"));
  EXPECT_THAT(error_of([&] { SqliteConnection(directory.path() / "none.db", Mode::kRead); }),
              HasSubstr("unable to open"));
}

TEST(Sqlite, NullsAndTypesComeBack) {
  const slidesparse::testing::TempDir directory;
  SqliteConnection connection(directory.path() / "any.db", Mode::kWrite);
  connection.execute("CREATE TABLE t(i, r, s, n)");
  SqliteStatement insert(connection, "INSERT INTO t VALUES (?, ?, ?, ?)");
  insert.bind(1, std::int64_t{1} << 40)
      .bind(2, 0.1)
      .bind(3, "a\xc3\xa9")
      .bind(4, std::optional<double>())
      .run();
  SqliteStatement select(connection, "SELECT i, r, s, n FROM t");
  ASSERT_TRUE(select.step());
  EXPECT_EQ(select.integer(0), std::int64_t{1} << 40);
  EXPECT_EQ(select.real(1), 0.1);
  EXPECT_EQ(select.text(2), "a\xc3\xa9");
  EXPECT_TRUE(select.null(3));
  EXPECT_FALSE(select.step());
}

TEST(Sqlite, TransactionsRollBack) {
  const slidesparse::testing::TempDir directory;
  SqliteConnection connection(directory.path() / "any.db", Mode::kWrite);
  connection.execute("CREATE TABLE t(i)");
  {
    SqliteTransaction transaction(connection);
    connection.execute("INSERT INTO t VALUES (1)");
  }
  SqliteStatement count(connection, "SELECT count(*) FROM t");
  ASSERT_TRUE(count.step());
  EXPECT_EQ(count.integer(0), 0);
}

}  // namespace
}  // namespace slidesparse
