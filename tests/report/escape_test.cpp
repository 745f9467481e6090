// Texts of a database are never more than texts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>

#include "io/test_files.h"
#include "report/chart.h"
#include "report/csv.h"
#include "report/markdown.h"
#include "report/repeat.h"
#include "report/report.h"
#include "report/test_database.h"

namespace slidesparse {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::TempDir;
using testing::TestDatabase;

constexpr const char* kHostile = "<script>alert(1)</script>\"'|`*_[x](http://e.x)\n# &lt; \xff\x1b[31m";

TEST(Escape, Markup) {
  EXPECT_EQ(escape_markup("<a href=\"x\">'&\n"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;\\x0a");
  EXPECT_EQ(escape_markup("\xff"), "\\xff");
  EXPECT_EQ(escape_markup("模式"), "模式");
}

TEST(Escape, Markdown) {
  EXPECT_EQ(escape_markdown("a|b *c* _d_ [e](f) `g` <h> # \n"),
            "a\\|b \\*c\\* \\_d\\_ \\[e\\](f) \\`g\\` &lt;h\\> \\# \\\\x0a");
  EXPECT_EQ(markdown_code("a|b"), "`a\\|b`");
  EXPECT_EQ(markdown_code("`` `"), "``` `` ` ```");
}

TEST(Escape, CsvHasNoFormulas) {
  EXPECT_EQ(csv_field("=1+1"), "'=1+1");
  EXPECT_EQ(csv_field("@SUM(A1)"), "'@SUM(A1)");
  EXPECT_EQ(csv_field("-2"), "'-2");
  EXPECT_EQ(csv_field("+2,\"x\""), "\"'+2,\"\"x\"\"\"");
  EXPECT_EQ(csv_field("a\r\nb"), "a\\x0d\\x0ab");
  EXPECT_EQ(csv_field("6:8"), "6:8");
}

// Fields of each line, as RFC 4180 reads them.
std::vector<std::vector<std::string>> parse_csv(const std::string& text) {
  std::vector<std::vector<std::string>> lines(1);
  std::string field;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '"' && i + 1 < text.size() && text[i + 1] == '"') {
      field += c;
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (!quoted && (c == ',' || c == '\n')) {
      lines.back().push_back(field);
      field.clear();
      if (c == '\n') lines.emplace_back();
    } else {
      field += c;
    }
  }
  lines.pop_back();
  return lines;
}

class HostileReport : public ::testing::Test {
 protected:
  HostileReport() {
    const auto file = directory_ / "results.db";
    TestDatabase database(file);
    const std::int64_t plan = database.plan(kHostile);
    const std::int64_t run = database.run(plan, database.machine(kHostile, kHostile));
    for (const char* pattern : {"dense", kHostile}) {
      const std::int64_t cell = database.cell(plan, {.model = kHostile,
                                                     .dtype = kHostile,
                                                     .backend = kHostile,
                                                     .pattern = pattern,
                                                     .layout = kHostile,
                                                     .options = kHostile});
      const std::int64_t attempt = database.measured(cell, run, 100);
      database.measure(attempt, kHostile, kHostile, 1);
      database.measure(attempt, "weight_bytes", "B", 1);
      database.measure(attempt, "peak_bytes", "B", 2);
      database.check(attempt, kHostile, false, kHostile);
    }
    const std::int64_t eval = database.cell(plan, {.phase = "eval",
                                                   .model = kHostile,
                                                   .dtype = kHostile,
                                                   .backend = kHostile,
                                                   .layout = kHostile,
                                                   .m = {},
                                                   .options = kHostile});
    const std::int64_t attempt = database.attempt(eval, run);
    database.end(attempt, {});
    database.measure(attempt, "perplexity", kHostile, 5);
    for (const char* kind : {"out_of_memory", kHostile}) {
      const std::int64_t cell = database.cell(plan, {.model = kHostile, .backend = kind});
      database.failed(cell, run,
                      {.kind = kind, .message = kHostile, .library = kHostile, .holders = kHostile});
    }
    database.event(run, "warning", kHostile);
    database.end_run(run, kHostile);
    database.commit();
    report_ = make_report(file, file, Words::of_language("en"));
  }

  TempDir directory_;
  ReportTexts report_;
};

TEST_F(HostileReport, HtmlHasNoElementsButOurs) {
  EXPECT_THAT(report_.html, Not(HasSubstr("<script")));
  EXPECT_THAT(report_.html, Not(HasSubstr("alert(1)</")));
  EXPECT_THAT(report_.html, HasSubstr("&lt;script&gt;alert(1)"));
  EXPECT_EQ(report_.html.find('\x1b'), std::string::npos);
  EXPECT_EQ(report_.html.find('\xff'), std::string::npos);
  // Every attribute is one that the report writes.
  static const std::regex kTag("<([a-z0-9]+)((?: [a-zA-Z-]+=\"[^\"<>]*\")*)/?>|</[a-z0-9]+>|<!doctype html>");
  std::string rest = report_.html;
  const std::size_t style = rest.find("<style>");
  rest.erase(style, rest.find("</style>") + 8 - style);
  rest = std::regex_replace(rest, kTag, "");
  EXPECT_EQ(rest.find('<'), std::string::npos) << rest.substr(rest.find('<'), 80);
  EXPECT_EQ(rest.find('>'), std::string::npos) << rest.substr(rest.find('>'), 80);
}

TEST_F(HostileReport, MarkdownKeepsItsTables) {
  EXPECT_EQ(std::regex_replace(report_.markdown, std::regex("`` [^\n]* ``"), "").find("[x](http"),
            std::string::npos);
  std::istringstream lines(report_.markdown);
  std::string line;
  std::size_t columns = 0;
  while (std::getline(lines, line)) {
    if (!line.starts_with('|')) {
      columns = 0;
      // Outside of code no element can begin.
      EXPECT_EQ(line.find('<'), std::string::npos) << line;
      continue;
    }
    std::size_t bars = 0;
    for (std::size_t i = 0; i < line.size(); ++i)
      bars += line[i] == '|' && (i == 0 || line[i - 1] != '\\') ? 1 : 0;
    if (columns != 0) {
      EXPECT_EQ(bars, columns) << line;
    }
    columns = bars;
  }
}

TEST_F(HostileReport, CsvHasALineACellAndEqualColumns) {
  const auto lines = parse_csv(report_.csv);
  ASSERT_EQ(lines.size(), 6u);
  for (const auto& line : lines) EXPECT_EQ(line.size(), lines.front().size());
}

TEST_F(HostileReport, JsonIsValid) {
  const auto json = nlohmann::json::parse(report_.json);
  EXPECT_EQ(json["cells"].size(), 5u);
  EXPECT_THAT(json["cells"][0]["model"].get<std::string>(), HasSubstr("<script>alert(1)</script>\"'|`"));
}

TEST(Escape, CommandsKeepNamesInOneWord) {
  EXPECT_EQ(shell_word("qwen2.5-7b"), "qwen2.5-7b");
  EXPECT_EQ(shell_word("a b;$(rm)'x"), "'a b;$(rm)'\\''x'");
  EXPECT_EQ(shell_word(""), "''");
}

}  // namespace
}  // namespace slidesparse
