#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sweep/failure.h"

namespace slidesparse {

// One figure of an attempt; names and units as in docs/sweep.md.
struct Measurement {
  std::string name;
  std::string unit;
  double value = 0;  // the median where there are samples
  std::optional<double> low, high;
  std::optional<std::int64_t> samples;
  bool operator==(const Measurement&) const = default;
};

// A comparison that an attempt made.
struct Check {
  std::string name;
  bool passed = false;
  std::string message;
  bool operator==(const Check&) const = default;
};

// What an attempt came to: what a worker sends, and what the database keeps.
struct CellResult {
  Class outcome = Class::kFailed;
  std::string message;  // why, in one line; empty for ok
  std::optional<int> exit_status, signal;
  std::string library;
  std::optional<std::int64_t> library_code, needed_bytes, free_bytes, largest_m;
  std::vector<std::pair<std::string, std::int64_t>> holders;  // of memory, bytes
  std::vector<Measurement> measurements;
  std::map<std::string, std::string> attributes;
  std::vector<Check> checks;
  double seconds = 0;  // from the start of the attempt to its end
  std::string log;     // last lines of the worker

  void measure(std::string name, std::string unit, double value) {
    measurements.push_back({std::move(name), std::move(unit), value, {}, {}, {}});
  }
  // Class, line and facts of an exception.
  void fail(const Error& error);
};

// One line of JSON, without `seconds` and `log`, which are the parent's to say; and back. Throws kInput,
// beginning with `where`, for text that is none.
std::string result_to_json(const CellResult& result);
CellResult parse_result(std::string_view text, const std::string& where);
// {"linears": 123, ...}.
std::string holders_json(const CellResult& result);

}  // namespace slidesparse
