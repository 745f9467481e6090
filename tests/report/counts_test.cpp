// Totals are the sums of their cells, whatever is in the database.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/core.h>

#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "io/test_files.h"
#include "report/report.h"
#include "report/tables.h"
#include "report/test_database.h"

namespace slidesparse {
namespace {

using testing::CellSpec;
using testing::TempDir;
using testing::TestDatabase;

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::int64_t below(std::int64_t limit) {
    return std::uniform_int_distribution<std::int64_t>(0, limit - 1)(engine_);
  }
  template <std::size_t N>
  const char* of(const std::array<const char*, N>& names) {
    return names[static_cast<std::size_t>(below(N))];
  }

 private:
  std::mt19937_64 engine_;
};

constexpr std::array kClasses{
    "ok",     "ok",          "ok",     "out_of_memory", "does_not_fit",       "time_out",
    "killed", "interrupted", "failed", "unsupported",   "a class of tomorrow"};

// Returns how many cells there are.
std::int64_t fill_randomly(const std::filesystem::path& file, std::uint64_t seed) {
  Random random(seed);
  TestDatabase database(file);
  const std::int64_t plan = database.plan("random");
  std::vector<std::int64_t> runs;
  for (const char* name : {"one", "two"}) runs.push_back(database.run(plan, database.machine(name)));
  std::map<std::string, bool> seen;
  std::int64_t cells = 0;
  for (int i = 0; i < 200; ++i) {
    CellSpec spec;
    spec.phase = random.of(std::array{"prefill", "decode", "gemm", "eval", "convert", "tune"});
    spec.model = random.of(std::array{"a", "b", "c"});
    spec.dtype = random.of(std::array{"int8", "fp8"});
    spec.backend = random.of(std::array{"cublaslt", "cutlass", "auto"});
    spec.pattern = random.of(std::array{"dense", "2:4", "6:8"});
    spec.m = 64 << random.below(3);
    if (random.below(4) == 0) spec.memory_limit = std::int64_t{22} << 30;
    spec.options = random.of(std::array{R"({"runs":3})", R"({"runs":5})", R"({"prompt":16})", "not JSON"});
    const std::string key =
        fmt::format("{} {} {} {} {} {} {} {}", spec.phase, spec.model, spec.dtype, spec.backend, spec.pattern,
                    *spec.m, spec.memory_limit.value_or(0), spec.options);
    if (!seen.try_emplace(key, true).second) continue;
    const std::int64_t cell = database.cell(plan, spec);
    ++cells;
    for (std::int64_t attempts = random.below(4); attempts > 0; --attempts) {
      const std::int64_t run = runs[static_cast<std::size_t>(random.below(2))];
      const std::int64_t attempt = database.attempt(cell, run);
      if (random.below(10) == 0) continue;  // without an end
      const std::string kind = random.of(kClasses);
      database.end(attempt, {.kind = kind});
      if (kind != "ok") continue;
      const double speed = static_cast<double>(1 + random.below(1000));
      database.measure(attempt, "tokens_per_second", "tokens/s", speed, speed * 0.9, speed * 1.1);
      database.measure(attempt, "seconds", "s", 1 / speed);
    }
  }
  database.commit();
  return cells;
}

// "7/8" as two numbers; nothing for an empty place.
std::pair<std::int64_t, std::int64_t> count_of(const TableCell& cell) {
  if (cell.text == "–") return {0, 0};
  const std::size_t slash = cell.text.find('/');
  return {std::stoll(cell.text.substr(0, slash)), std::stoll(cell.text.substr(slash + 1))};
}

void expect_sums(const ReportTable& table) {
  ASSERT_GE(table.rows.size(), 2u);
  const auto& total = table.rows.back();
  for (std::size_t column = 1; column < total.size(); ++column) {
    std::int64_t done = 0, all = 0;
    for (std::size_t row = 0; row + 1 < table.rows.size(); ++row) {
      done += count_of(table.rows[row][column]).first;
      all += count_of(table.rows[row][column]).second;
    }
    EXPECT_EQ(count_of(total[column]), std::make_pair(done, all))
        << table.caption << ", " << table.header[column];
  }
  for (const auto& row : table.rows) {
    std::int64_t done = 0, all = 0;
    for (std::size_t column = 2; column < row.size(); ++column) {
      done += count_of(row[column]).first;
      all += count_of(row[column]).second;
    }
    EXPECT_EQ(count_of(row[1]), std::make_pair(done, all)) << table.caption << ", " << row[0].text;
  }
}

// One number of a query.
std::int64_t ask(const std::filesystem::path& file, const std::string& sql) {
  const SqliteConnection database(file, SqliteConnection::Mode::kRead);
  SqliteStatement statement(database, sql);
  return statement.step() ? statement.integer(0) : -1;
}

class Counts : public ::testing::TestWithParam<int> {};

TEST_P(Counts, TotalsAreTheSumsOfTheirCells) {
  const TempDir directory;
  const auto file = directory / "results.db";
  const std::int64_t cells = fill_randomly(file, static_cast<std::uint64_t>(GetParam()));
  const Words words = Words::of_language("en");
  const Results results = load_results(file);
  const auto sections = sections_of(results);
  const auto ratios = speed_ups(results);
  const ReportView view{results, sections, ratios, words};

  std::int64_t done = 0, all = 0;
  std::vector<int> seen(results.cells.size());
  for (const Section& section : sections) {
    const ReportTable table = completeness_table(view, section);
    expect_sums(table);
    done += count_of(table.rows.back()[1]).first;
    all += count_of(table.rows.back()[1]).second;
    EXPECT_EQ(cells_table(view, section).rows.size(), section.cells.size());
    for (const std::size_t i : section.cells) ++seen[i];
  }
  EXPECT_THAT(seen, ::testing::Each(1)) << "each cell is in one table";
  // The database itself, asked another way.
  const std::int64_t measured =
      ask(file,
          "SELECT count(DISTINCT cell) FROM attempt JOIN outcome ON attempt = attempt.id "
          "WHERE class = 'ok'");
  EXPECT_EQ(all, cells);
  EXPECT_EQ(done, measured);
  const Count count = count_cells(results);
  EXPECT_EQ(count.all, cells);
  EXPECT_EQ(count.measured(), measured);
  EXPECT_EQ(count.of("not_run"),
            ask(file, "SELECT count(*) FROM cell WHERE id NOT IN (SELECT cell FROM attempt)"));
  EXPECT_EQ(count.of("unfinished"), ask(file,
                                        "SELECT count(DISTINCT cell) FROM attempt WHERE cell NOT IN "
                                        "(SELECT cell FROM attempt JOIN outcome ON attempt = attempt.id)"));
  EXPECT_EQ(count.of("time_out"),
            ask(file,
                "SELECT count(*) FROM (SELECT cell, class, max(number) FROM attempt JOIN outcome ON attempt "
                "= attempt.id "
                "GROUP BY cell) WHERE class = 'time_out' AND cell NOT IN "
                "(SELECT cell FROM attempt JOIN outcome ON attempt = attempt.id WHERE class = 'ok')"));
  std::int64_t states = 0;
  for (const auto& [state, number] : count.states) states += number;
  EXPECT_EQ(states, cells);
  EXPECT_EQ(results.attempts, ask(file, "SELECT count(*) FROM attempt"));

  // And what programs read.
  const auto json = nlohmann::json::parse(make_report(file, {}, words).json);
  EXPECT_EQ(json["count"]["all"], cells);
  EXPECT_EQ(json["count"]["measured"], measured);
  std::int64_t listed = 0;
  for (const auto& cell : json["cells"]) listed += cell["state"] == "ok" ? 1 : 0;
  EXPECT_EQ(listed, measured);
  std::int64_t summed = 0;
  for (const auto& section : json["sections"]) summed += section["count"]["all"].get<std::int64_t>();
  EXPECT_EQ(summed, cells);
}

INSTANTIATE_TEST_SUITE_P(Databases, Counts, ::testing::Range(0, 12));

}  // namespace
}  // namespace slidesparse
