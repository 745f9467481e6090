// The page in a real browser: Chromium, without a window.
#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "io/test_files.h"
#include "report/report.h"
#include "report/test_database.h"

namespace slidesparse {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::read_text;
using testing::TempDir;
using testing::TestDatabase;

// Looks at the page in a frame of the width of a phone, opened to the last fold, and leaves what it saw as
// JSON.
constexpr const char* kLook = R"html(<!doctype html><meta charset="utf-8"><title>look</title>
<iframe id="page" style="border:0;width:{}px;height:844px" srcdoc="{}"></iframe><pre id="seen"></pre>
<script>
const frame = document.getElementById('page');
frame.addEventListener('load', () => {{
  const page = frame.contentDocument, view = frame.contentWindow;
  page.querySelectorAll('details').forEach(fold => fold.open = true);
  const light = colour => {{
    const parts = colour.match(/[\d.]+/g).slice(0, 3).map(part => part / 255)
        .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  }};
  const ground = light(view.getComputedStyle(page.body).backgroundColor);
  const contrast = (selector, property) => Math.min(...[...page.querySelectorAll(selector)].map(element => {{
    const ink = light(view.getComputedStyle(element)[property]);
    return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
  }}));
  const wide = [...page.querySelectorAll('body *')].filter(element =>
      !element.closest('.scroll') && element.getBoundingClientRect().right > page.documentElement.clientWidth + 1);
  document.getElementById('seen').textContent = JSON.stringify({{
    width: page.documentElement.scrollWidth, frame: page.documentElement.clientWidth,
    wide: wide.map(element => element.outerHTML.slice(0, 120)),
    rows: page.querySelectorAll('table[data-rows=cells] tbody tr').length,
    plots: page.querySelectorAll('figure svg').length,
    flat: [...page.querySelectorAll('figure svg')].filter(plot => plot.getBoundingClientRect().height < 60).length,
    unnamed: page.querySelectorAll('figure svg:not([aria-label]), table:not(:has(caption)):not(details table)').length,
    anchors: [...page.querySelectorAll('nav a')].filter(link => !page.querySelector(link.getAttribute('href'))).length,
    fetched: view.performance.getEntriesByType('resource').length, dark: ground < 0.2,
    text: contrast('p, li, td, th, small, caption, a, .good, .bad, .quiet', 'color'), lines: contrast('.line', 'stroke'),
    marks: contrast('.mark', 'fill')}});
}});
</script>)html";

// Empty where there is none.
std::string browser() {
  for (const char* name : {"chromium", "chromium-browser", "google-chrome"}) {
    if (std::system(fmt::format("command -v {} >/dev/null 2>&1", name).c_str()) == 0) return name;
  }
  return "";
}

struct Seen {
  nlohmann::json page;
  std::string console;  // messages of the page
};

Seen look_at(const std::string& html, int width, bool dark) {
  const TempDir directory;
  testing::write_text(directory / "look.html", fmt::format(kLook, width, [&] {
                        std::string quoted;
                        for (const char c : html)
                          quoted += c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
                        return quoted;
                      }()));
  const std::string command = fmt::format(
      "timeout 120 {} --headless --no-sandbox --hide-scrollbars --disable-gpu --enable-logging=stderr "
      "--user-data-dir={}/profile "
      "--host-resolver-rules='MAP * ~NOTFOUND' --blink-settings=preferredColorScheme={} "
      "--virtual-time-budget=20000 "
      "--window-size=1400,1000 --dump-dom file://{}/look.html >{}/dom 2>{}/log",
      browser(), directory.path().string(), dark ? 0 : 1, directory.path().string(),
      directory.path().string(), directory.path().string());
  EXPECT_EQ(std::system(command.c_str()), 0) << read_text(directory / "log");
  const std::string dom = read_text(directory / "dom");
  const std::size_t start = dom.rfind("<pre id=\"seen\">"), end = dom.rfind("</pre>");
  Seen seen;
  seen.console = read_text(directory / "log");
  if (start == std::string::npos || end == std::string::npos || end < start + 16) {
    ADD_FAILURE() << "the browser gave no answer: " << seen.console;
    return seen;
  }
  std::string answer = dom.substr(start + 15, end - start - 15);
  for (const auto& [entity, text] :
       {std::pair("&lt;", "<"), std::pair("&gt;", ">"), std::pair("&amp;", "&")}) {
    for (std::size_t at = 0; (at = answer.find(entity, at)) != std::string::npos;)
      answer.replace(at, std::string(entity).size(), text);
  }
  seen.page = nlohmann::json::parse(answer);
  return seen;
}

void expect_good(const Seen& seen, std::size_t cells, bool dark) {
  const auto& page = seen.page;
  ASSERT_TRUE(page.is_object());
  EXPECT_EQ(page["width"], page["frame"]) << "the page is wider than its frame";
  EXPECT_THAT(page["wide"], ::testing::IsEmpty());
  EXPECT_EQ(page["rows"], cells);
  EXPECT_EQ(page["flat"], 0);
  EXPECT_EQ(page["unnamed"], 0);
  EXPECT_EQ(page["anchors"], 0) << "links to nowhere";
  EXPECT_EQ(page["fetched"], 0);
  EXPECT_EQ(page["dark"], dark);
  EXPECT_GE(page["text"], 4.5) << "contrast of texts";
  EXPECT_GE(page["lines"], 3.0) << "contrast of lines";
  EXPECT_GE(page["marks"], 3.0) << "contrast of marks";
  EXPECT_THAT(seen.console, Not(HasSubstr("CONSOLE"))) << "messages of the page";
}

TEST(Page, IsGoodOnAPhoneAndADesktop) {
  if (browser().empty()) GTEST_SKIP() << "no chromium here: apt-get install chromium (tools/packages.txt)";
  const TempDir directory;
  {
    TestDatabase database(directory / "results.db");
    testing::fill_matrix(database, 2, 1);
    database.commit();
  }
  for (const char* language : {"en", "zh"}) {
    const ReportTexts report =
        make_report(directory / "results.db", directory / "results.db", Words::of_language(language));
    const std::size_t cells = nlohmann::json::parse(report.json)["cells"].size();
    const bool dark = std::string_view(language) == "zh";
    SCOPED_TRACE(language);
    const Seen phone = look_at(report.html, 390, dark);
    expect_good(phone, cells, dark);
    EXPECT_EQ(phone.page["frame"], 390);
    EXPECT_GE(phone.page["plots"], 10);
    expect_good(look_at(report.html, 1280, !dark), cells, !dark);
  }
}

TEST(Page, StaysWholeWithHostileNames) {
  if (browser().empty()) GTEST_SKIP() << "no chromium here: apt-get install chromium (tools/packages.txt)";
  const TempDir directory;
  const std::string name =
      "</td></table><script>console.log('x')</script><img src=http://x.invalid/y>" + std::string(300, 'w');
  {
    TestDatabase database(directory / "results.db");
    const std::int64_t plan = database.plan(name);
    const std::int64_t run = database.run(plan, database.machine(name, name));
    database.measured(database.cell(plan, {.model = name, .backend = name}), run, 100);
    database.measured(database.cell(plan, {.model = name, .backend = name, .pattern = name}), run, 130);
    database.failed(database.cell(plan, {.model = name, .pattern = "6:8"}), run,
                    {.kind = "failed", .message = name});
    database.commit();
  }
  expect_good(look_at(make_report(directory / "results.db", {}, Words::of_language("en")).html, 390, false),
              3, false);
}

}  // namespace
}  // namespace slidesparse
