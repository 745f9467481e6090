#include "cli/output.h"

#include <fmt/core.h>

#include <cstdio>
#include <optional>

#include "core/progress.h"
#include "core/version.h"
#include "gemm/describe_machine.h"
#include "io/file_writer.h"

namespace slidesparse {

nlohmann::ordered_json describe_run(const std::string& command) {
  return {{"program", "slidesparse"},
          {"version", kVersion},
          {"schema", 1},
          {"command", command},
          {"machine", describe_machine()}};
}

nlohmann::ordered_json spread_json(const Spread& spread) {
  return {{"median", spread.median}, {"low", spread.low}, {"high", spread.high}, {"count", spread.count}};
}

void show_progress(const std::string& title, bool quiet, const std::function<void(const ReportDone&)>& work) {
  std::optional<Progress> progress;
  std::int64_t before = 0;
  work([&](std::int64_t done, std::int64_t total) {
    if (!progress) progress.emplace(title, total, Progress::Unit::kItems, quiet);
    progress->advance(done - before);
    before = done;
  });
}

void write_json(const std::string& path, const nlohmann::ordered_json& json) {
  const std::string text = json.dump(2) + "\n";
  if (path == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
  } else {
    write_file_atomically(path, text);
  }
}

std::string describe_pattern(const std::string& pattern) {
  if (pattern == "dense" || pattern == "mixed") return pattern;
  const Pattern parsed = Pattern::parse(pattern.substr(0, pattern.find(' ')));
  return fmt::format("{} (keeps {}, zeroes {})", pattern, parsed.kept(), parsed.zeroed());
}

}  // namespace slidesparse
