#pragma once

// What several commands print or write. Include from cli's .cpp files only.
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "core/samples.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {

// Runs of `bench` and `eval` describe themselves the same way: {"program", "version", "command", "machine":
// {...}}.
nlohmann::ordered_json describe_run(const std::string& command);

// {"median", "low", "high", "count"}, in seconds.
nlohmann::ordered_json spread_json(const Spread& spread);

// Writes JSON atomically to a file, or to stdout for "-".
void write_json(const std::string& path, const nlohmann::ordered_json& json);

// Runs `work`, which calls what it is given with how much is done of how much, and shows that on stderr.
using ReportDone = std::function<void(std::int64_t done, std::int64_t total)>;
void show_progress(const std::string& title, bool quiet, const std::function<void(const ReportDone&)>& work);

// Kept and zeroed, because people write patterns both ways: "6:8 (keeps 6, zeroes 2)", "6:8 split (keeps 6,
// zeroes 2)", "dense", "mixed".
std::string describe_pattern(const std::string& pattern);

}  // namespace slidesparse
