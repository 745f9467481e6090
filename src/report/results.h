#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "sweep/failure.h"

// What a sweep's database says, as values (docs/sweep.md). Nothing here has words of a report.
namespace slidesparse {

struct Figure {
  std::string unit;                 // "tokens/s", "B", "s", "1" ...
  double value = 0;                 // median
  std::optional<double> low, high;  // 10th and 90th percentile
  std::int64_t samples = 0;         // 0: not said
};

// How an attempt ended.
struct AttemptOutcome {
  std::string kind;  // class: "ok", "out_of_memory" ...
  std::string message;
  std::optional<std::int64_t> needed_bytes, free_bytes, largest_m, library_code, exit_status, signal;
  std::string library;
  std::string holders;  // JSON, who holds how many bytes
  std::string log;      // last lines of the worker
  double seconds = 0;
};

struct MachineFigure {
  Figure figure;
  std::string unlike;  // unlike_words of its attempt
};

struct ReportCell {
  std::string key;
  std::string phase, model, dtype, backend, pattern, layout;
  std::optional<std::int64_t> m;             // tokens of a step, or running sequences
  std::optional<std::int64_t> memory_limit;  // bytes
  std::string options;                       // JSON
  // "ok", the class of the last outcome, "unfinished" (begun, without an end) or "not_run".
  std::string state;
  std::int64_t attempts = 0;
  std::optional<AttemptOutcome> last;     // of the last attempt that ended
  std::optional<std::size_t> machine;     // index into Results::machines, of the measured attempt
  std::map<std::string, Figure> figures;  // of the measured attempt, the last that was ok
  std::map<std::string, std::string> attributes;
  Changes changes;  // of that attempt, from what the cell asks for; `alone` is left out
  // Main figure (main_figure) of the last good attempt on each machine, by index.
  std::map<std::size_t, MachineFigure> by_machine;  // keys are values of Results::comparable

  bool measured() const { return state == "ok"; }
  // Null where it was not measured.
  const Figure* figure(const std::string& name) const;
};

struct ReportMachine {
  std::string fingerprint, device, name, driver, libraries, processor, program_version, commit, details;
  std::int64_t memory_bytes = 0;
  std::int64_t threads = 0;
};

struct ReportRun {
  std::string plan, started_at, ended_at, command;
  std::string reason;  // "done", "deadline" ...; empty: no end was written
  std::size_t machine = 0;
  std::int64_t attempts = 0, good = 0;
};

struct FailedCheck {
  std::size_t cell = 0;
  std::string name, message;
};

struct ReportEvent {
  std::string at, level, text;
};

struct Results {
  std::vector<ReportCell> cells;  // in the order of plans, then of ids
  std::vector<ReportMachine> machines;
  // By index of a machine, the first whose figures may be compared with its own: itself, or with any version
  // the first of the same device, name and memory.
  std::vector<std::size_t> comparable;
  std::vector<ReportRun> runs;
  std::vector<std::string> plans;                // names
  std::map<std::string, std::int64_t> outcomes;  // attempts by class; "unfinished": without an end
  std::int64_t attempts = 0;
  std::int64_t checks = 0;
  std::vector<FailedCheck> failed_checks;
  std::vector<ReportEvent> events;  // warnings and errors, in order
};

// The measurement that stands for a cell of a phase, "tokens_per_second" for prefill; "seconds" for phases
// that this program does not know.
const char* main_figure(const std::string& phase);

// One consistent view, also while a sweep writes. `any_version`: figures of other drivers, libraries and
// versions of this program on the same kind of card or processor are compared with each other. Throws kIo or
// kInput with the file's name.
Results load_results(const std::filesystem::path& database, bool any_version = false);

}  // namespace slidesparse
