#include "report/words.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "io/test_files.h"
#include "report/report.h"
#include "report/test_database.h"

namespace slidesparse {
namespace {

using testing::error_of;
using testing::TempDir;
using testing::TestDatabase;

std::multiset<std::string> places_of(std::string_view text) {
  static const std::regex kPlace(R"(\{\d\})");
  const std::string copy(text);
  std::multiset<std::string> places;
  for (std::sregex_iterator match(copy.begin(), copy.end(), kPlace), end; match != end; ++match)
    places.insert(match->str());
  return places;
}

TEST(Words, LanguagesHaveTheSameKeysAndPlaces) {
  const auto english = english_words(), chinese = chinese_words();
  ASSERT_EQ(english.size(), chinese.size());
  EXPECT_TRUE(std::ranges::is_sorted(english, {}, &WordEntry::key));
  for (std::size_t i = 0; i < english.size(); ++i) {
    EXPECT_EQ(english[i].key, chinese[i].key);
    EXPECT_EQ(places_of(english[i].text), places_of(chinese[i].text)) << english[i].key;
  }
}

TEST(Words, AnotherLanguageIsRefused) {
  EXPECT_EQ(error_of([] { Words::of_language("fr"); }), "--language fr: possible are en, zh");
}

TEST(Words, AllOfThemAreUsed) {
  // A key that nobody asks for would be a sentence that no reader sees.
  std::string sources;
  for (const auto& entry : std::filesystem::directory_iterator(SLIDESPARSE_REPORT_SOURCES)) {
    const std::string name = entry.path().filename();
    if (entry.path().extension() == ".cpp" && name.rfind("words", 0) != 0)
      sources += testing::read_text(entry.path());
  }
  for (const WordEntry& entry : english_words()) {
    const std::string key(entry.key);
    const std::string family = key.substr(0, key.rfind('.') + 1);
    EXPECT_TRUE(sources.find('"' + key + '"') != std::string::npos ||
                (!family.empty() && sources.find('"' + family + '"') != std::string::npos))
        << key;
  }
}

// What is left of a report when every word of the table is taken away.
std::string without_words(const std::string& text) {
  std::string left = text;
  if (const std::size_t style = left.find("<style>"); style != std::string::npos)
    left.erase(style, left.find("</style>") + 8 - style);
  for (const char* message : {"keys and values of 512 sequences", "no end after 120 s", "worker ended",
                              "activations", "matmul", "clock fell below 1,200 MHz for 3 s"}) {
    left = std::regex_replace(left, std::regex(message), "");
  }
  left = std::regex_replace(left, std::regex("<code>[^<]*</code>|`[^`]*`"), " ");
  left = std::regex_replace(left, std::regex(R"rx(aria-label="([^"]*)")rx"), ">$1<");
  return std::regex_replace(left, std::regex("<[^>]*>"), " ");
}

TEST(Words, NoOthersAreInAReport) {
  std::vector<std::string> texts;
  std::vector<WordEntry> table;
  for (const WordEntry& entry : english_words()) {
    std::string& text = texts.emplace_back();
    for (const std::string& place : places_of(entry.text)) text += place + " ";
  }
  for (std::size_t i = 0; i < texts.size(); ++i) table.push_back({english_words()[i].key, texts[i]});
  const TempDir directory;
  for (const std::uint64_t seed : {1u, 2u}) {
    TestDatabase database(directory / std::to_string(seed));
    testing::fill_matrix(database, 4, seed);
    database.commit();
  }
  const ReportTexts report = make_report(directory / "1", directory / "2", Words("xx", table));
  // Names in the database, and units.
  const std::set<std::string> known{
      "mission", "SHA",    "cpu",   "llama",   "qwen", "cublaslt", "cutlass",    "cusparselt",
      "native",  "auto",   "dense", "split",   "INT",  "FP",       "prompt",     "steps",
      "NVIDIA",  "CUDA",   "host",  "abc",     "GB",   "MB",       "cuSPARSELt", "GiB",
      "MHz",     "tokens", "TFLOP", "weights", "kv",   "cache",    "warning",    "slidesparse"};
  static const std::regex kWord("[A-Za-z]{2,}");
  std::set<std::string> leaked;
  for (const std::string& text : {without_words(report.markdown), without_words(report.html)}) {
    const std::string plain = std::regex_replace(std::regex_replace(text, std::regex("&[a-z]+;|&#39;"), " "),
                                                 std::regex(R"(\\)"), "");
    for (std::sregex_iterator match(plain.begin(), plain.end(), kWord), end; match != end; ++match) {
      if (known.count(match->str()) == 0) leaked.insert(match->str());
    }
  }
  EXPECT_THAT(leaked, ::testing::IsEmpty());
}

}  // namespace
}  // namespace slidesparse
