#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "report/document.h"
#include "report/words.h"

namespace slidesparse {

struct ReportOptions {
  std::filesystem::path database;
  std::filesystem::path out;                     // directory; made when missing
  std::optional<std::filesystem::path> compare;  // another sweep's database
  std::string language = "en";                   // "en" or "zh"
  bool any_version = false;                      // as load_results()
};

struct WrittenFile {
  std::filesystem::path path;
  std::size_t bytes = 0;
};

// The report as texts of its four formats. The same databases give the same bytes.
struct ReportTexts {
  std::string markdown, csv, json, html;
};
ReportTexts make_report(const std::filesystem::path& database,
                        const std::optional<std::filesystem::path>& compare, const Words& words,
                        bool any_version = false);

// Writes report.md, report.csv, report.json and report.html, each at once. Throws kUsage for a language that
// is not there, kIo and kInput for databases that cannot be read and files that cannot be written.
std::vector<WrittenFile> write_report(const ReportOptions& options);

}  // namespace slidesparse
