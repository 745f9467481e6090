#include "report/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <ctime>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "io/test_files.h"
#include "report/numbers.h"
#include "report/test_database.h"

namespace slidesparse {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::read_text;
using testing::TempDir;
using testing::TestDatabase;

const Words kEnglish = Words::of_language("en");

void make_matrix(const fs::path& file, int models, std::uint64_t seed) {
  TestDatabase database(file);
  testing::fill_matrix(database, models, seed);
  database.commit();
}

TEST(Report, WritesFourFiles) {
  const TempDir directory;
  make_matrix(directory / "results.db", 1, 1);
  const auto files = write_report({directory / "results.db", directory / "a" / "b", {}, "en"});
  ASSERT_EQ(files.size(), 4u);
  for (const WrittenFile& file : files) EXPECT_EQ(fs::file_size(file.path), file.bytes);
  EXPECT_EQ(std::distance(fs::directory_iterator(directory / "a" / "b"), {}), 4);
}

TEST(Report, TheSameDatabaseGivesTheSameBytes) {
  const TempDir directory;
  make_matrix(directory / "results.db", 2, 1);
  make_matrix(directory / "other.db", 2, 2);
  fs::create_directory(directory / "elsewhere");
  fs::copy(directory / "results.db", directory / "elsewhere" / "copy.db");
  for (const char* language : {"en", "zh"}) {
    write_report({directory / "results.db", directory / "one", directory / "other.db", language});
    write_report({directory / "elsewhere" / "copy.db", directory / "two", directory / "other.db", language});
    for (const char* name : {"report.md", "report.csv", "report.json", "report.html"})
      EXPECT_EQ(read_text(directory / "one" / name), read_text(directory / "two" / name)) << name;
  }
}

TEST(Report, SaysOnlyWhatTheRowsSay) {
  const TempDir directory;
  make_matrix(directory / "results.db", 4, 1);
  const ReportTexts report = make_report(directory / "results.db", {}, kEnglish);
  const auto json = nlohmann::json::parse(report.json);
  std::int64_t measured = 0, ran_dense = 0;
  for (const auto& cell : json["cells"]) {
    measured += cell["state"] == "ok" ? 1 : 0;
    const auto& figures = cell["figures"];
    ran_dense += cell["pattern"] != "dense" && figures.contains("sparse_share") &&
                         figures["sparse_share"]["value"] == 0
                     ? 1
                     : 0;
  }
  EXPECT_THAT(json["summary"][0].get<std::string>(),
              HasSubstr(format_count(measured) + " of 1,116 cells are measured"));
  EXPECT_THAT(json["summary"].back().get<std::string>(),
              HasSubstr(format_count(ran_dense) + " cells have sparse weights but ran dense"));
  EXPECT_THAT(
      report.markdown,
      AllOf(HasSubstr("tokens/s counts decoded tokens only"),
            HasSubstr("the published report repeats each 128 times"), HasSubstr("Largest M that fits"),
            HasSubstr("27.1 GB"), HasSubstr("kv\\_cache 9.40 GB, weights 14.7 GB"), HasSubstr("cuSPARSELt 7"),
            HasSubstr("signal 9"), HasSubstr("▼"), HasSubstr("ran DENSE"),
            HasSubstr("`gate_up cutlass/128x128, qkv cutlass/64x128`"), HasSubstr("eeee0123`")));
  EXPECT_THAT(report.html, AllOf(HasSubstr("Accuracy against speed"), HasSubstr("<svg"),
                                 Not(HasSubstr("://")), Not(HasSubstr("<script"))));
}

TEST(Report, OfAnEmptyDatabase) {
  const TempDir directory;
  TestDatabase(directory / "results.db").commit();
  const ReportTexts report = make_report(directory / "results.db", {}, kEnglish);
  EXPECT_THAT(report.markdown, AllOf(HasSubstr("The database has no cells."), Not(HasSubstr("tokens/s")),
                                     Not(HasSubstr("|"))));
  EXPECT_EQ(nlohmann::json::parse(report.json)["cells"].size(), 0u);
}

TEST(Report, OfFailuresOnly) {
  const TempDir directory;
  {
    TestDatabase database(directory / "results.db");
    const std::int64_t plan = database.plan("p");
    const std::int64_t run = database.run(plan, database.machine("m"));
    database.failed(database.cell(plan, {}), run, {.kind = "illegal_access"});
    database.attempt(database.cell(plan, {.m = 1024}), run);
    database.cell(plan, {.m = 2048});
    database.commit();
  }
  const ReportTexts report = make_report(directory / "results.db", {}, kEnglish);
  EXPECT_THAT(report.markdown, AllOf(HasSubstr("0 of 3 cells are measured (0.0 %)"),
                                     HasSubstr("1 illegal memory access, 1 begun, not ended, 1 not run"),
                                     HasSubstr("| Total | 0/3 |"), HasSubstr("no end was written"),
                                     Not(HasSubstr("of 0 sparse"))));
  EXPECT_THAT(report.html, Not(HasSubstr("<svg")));
}

TEST(Report, ComparesTwoDatabases) {
  const TempDir directory;
  const auto fill = [&](const std::string& name, double first, double second, bool third) {
    TestDatabase database(directory / name);
    const std::int64_t plan = database.plan("p");
    const std::int64_t run = database.run(plan, database.machine("m"));
    database.measured(database.cell(plan, {}), run, first);
    database.measured(database.cell(plan, {.pattern = "6:8"}), run, second);
    const std::int64_t cell = database.cell(plan, {.pattern = "2:4"});
    if (third) database.measured(cell, run, 300);
    database.cell(plan, {.model = name});
    // One run has no spread: no change is claimed.
    const std::int64_t single = database.attempt(database.cell(plan, {.m = 4096}), run);
    database.end(single, {});
    database.measure(single, "tokens_per_second", "tokens/s", first, {}, {}, 1);
    // Measured with FP8 keys and values in one of them.
    database.measured(database.cell(plan, {.phase = "decode"}), run, 10, 0.01,
                      third ? "kv_cache_dtype fp8" : "");
    database.commit();
  };
  fill("here.db", 100, 150, false);
  fill("there.db", 101, 120, true);
  const ReportTexts report = make_report(directory / "here.db", directory / "there.db", kEnglish);
  const auto json = nlohmann::json::parse(report.json)["compare"];
  ASSERT_EQ(json["both"].size(), 3u);
  EXPECT_FALSE(json["both"][0]["changed"]);
  EXPECT_TRUE(json["both"][1]["changed"]);
  EXPECT_DOUBLE_EQ(json["both"][1]["ratio"]["value"], 1.25);
  EXPECT_FALSE(json["both"][2]["changed"]);
  EXPECT_EQ(json["lost"], nlohmann::json({2}));
  EXPECT_EQ(json["gained"].size(), 0u);
  EXPECT_EQ(json["unlike"], nlohmann::json({5}));
  EXPECT_EQ(json["only_here"], 1);
  EXPECT_EQ(json["only_there"], 1);
  EXPECT_THAT(report.markdown,
              AllOf(HasSubstr("Measured in both: 3 cells, of which 1 changed beyond their spreads."),
                    HasSubstr("no spread known"), HasSubstr("better"),
                    HasSubstr("not alike (a retry changed how), and so not compared: 1.")));
}

TEST(Report, SpeaksChinese) {
  const TempDir directory;
  make_matrix(directory / "results.db", 1, 1);
  const ReportTexts report = make_report(directory / "results.db", {}, Words::of_language("zh"));
  EXPECT_THAT(report.html,
              AllOf(HasSubstr("<html lang=\"zh\">"), HasSubstr("完成情况"), Not(HasSubstr("Completeness"))));
  EXPECT_THAT(report.markdown,
              AllOf(HasSubstr("个单元中已测"), HasSubstr("显存不足"), Not(HasSubstr("out of memory"))));
}

TEST(Report, WrongFilesGiveOneLine) {
  const TempDir directory;
  const auto read = [&](const std::string& name) {
    return error_of([&] { write_report({directory / name, directory / "out", {}, "en"}); });
  };
  EXPECT_THAT(read("missing.db"), AllOf(HasSubstr("missing.db"), HasSubstr("unable to open")));
  testing::write_text(directory / "text.db", std::string(5000, 'x'));
  EXPECT_THAT(read("text.db"), AllOf(HasSubstr("text.db"), HasSubstr("not a database"),
                                     HasSubstr("give the database of a sweep")));
  SqliteConnection(directory / "other.db", SqliteConnection::Mode::kWrite).execute("CREATE TABLE t(x)");
  EXPECT_THAT(read("other.db"), HasSubstr("this is not the database of a sweep"));
  EXPECT_FALSE(fs::exists(directory / "out"));
  TestDatabase(directory / "results.db").commit();
  EXPECT_EQ(error_of([&] {
              write_report({directory / "results.db", directory / "out", {}, "fr"});
            }),
            "--language fr: possible are en, zh");
  testing::write_text(directory / "file", "x");
  EXPECT_THAT(error_of([&] {
                write_report({directory / "results.db", directory / "file", {}, "en"});
              }),
              HasSubstr("file"));
}

// For a while another user's rights, if this one has all.
class WithoutRights {
 public:
  WithoutRights() {
    if (::geteuid() == 0) changed_ = ::seteuid(65534) == 0;
  }
  ~WithoutRights() {
    if (changed_ && ::seteuid(0) != 0) std::abort();
  }
  WithoutRights(const WithoutRights&) = delete;
  WithoutRights& operator=(const WithoutRights&) = delete;

 private:
  bool changed_ = false;
};

TEST(Report, ReadsACopyInAReadOnlyPlace) {
  const TempDir directory;
  make_matrix(directory / "results.db", 1, 1);
  const fs::path place = directory / "read only? #1%";
  fs::create_directory(place);
  fs::copy(directory / "results.db", place / "results.db");
  fs::copy(directory / "results.db", place / "open.db");
  testing::write_text(place / "open.db-wal", std::string(100, 'x'));
  const std::string expected = make_report(directory / "results.db", {}, kEnglish).html;
  const auto read_execute = static_cast<fs::perms>(0555);
  fs::permissions(directory.path(), read_execute | fs::perms::owner_write);
  fs::permissions(place, read_execute);
  std::string html, error;
  {
    const WithoutRights rights;
    html = make_report(place / "results.db", {}, kEnglish).html;
    error = error_of([&] { make_report(place / "open.db", {}, kEnglish); });
  }
  fs::permissions(place, fs::perms::owner_all);
  EXPECT_EQ(html, expected);
  EXPECT_THAT(error, AllOf(HasSubstr("open.db"), HasSubstr("100 bytes"), HasSubstr("read-only")));
}

TEST(Report, ReadsWhatARunningSweepHasCommitted) {
  const TempDir directory;
  make_matrix(directory / "results.db", 1, 1);
  const std::string before = make_report(directory / "results.db", {}, kEnglish).csv;
  TestDatabase sweep(directory / "results.db");  // its transaction stays open
  sweep.cell(sweep.plan("more"), {.model = "new"});
  EXPECT_EQ(make_report(directory / "results.db", {}, kEnglish).csv, before);
  sweep.commit();
  EXPECT_THAT(make_report(directory / "results.db", {}, kEnglish).csv, HasSubstr("prefill,new,"));
}

// The reach is 5 s for 10,000 cells; processor time, because others run beside it.
TEST(Report, TenThousandCellsInTime) {
  const TempDir directory;
  make_matrix(directory / "results.db", 37, 1);
  const std::clock_t start = std::clock();
  write_report({directory / "results.db", directory / "out", directory / "results.db", "en"});
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  const auto json = nlohmann::json::parse(read_text(directory / "out" / "report.json"));
  EXPECT_GT(json["cells"].size(), 10'000u);
  EXPECT_LT(seconds, 10);
}

}  // namespace
}  // namespace slidesparse
