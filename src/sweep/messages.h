#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sweep/cell.h"
#include "sweep/failure.h"
#include "sweep/machine.h"
#include "sweep/result.h"

// What a sweep and its worker say to each other: one object of JSON a line. All parsers throw kInput,
// beginning with `where`.
namespace slidesparse {

// To the worker, first: what holds for all its cells.
struct WorkerSetup {
  std::string device;           // "cpu" or "cuda"
  std::string cache;            // measured kernels: read, and written by tune
  std::string work;             // directory for what is deleted again
  std::vector<std::int64_t> m;  // every M that a model loaded there runs at
  MachineLimits limits;
};

// To the worker: a cell to run.
struct CellOrder {
  Cell cell;
  Changes changes;
  bool smaller = true;  // what does not fit is measured at the largest M that does
  std::string inject;   // a failure to be had on purpose (inject.h); empty: none
};

// The worker's: one of these.
struct WorkerWords {
  bool loading = false;  // something is loaded, generated or measured before the cell itself
  bool loaded = false;   // that is done
  std::optional<SweepMachine> machine;
  std::optional<CellResult> result;
};

std::string setup_line(const WorkerSetup& setup);
std::string order_line(const CellOrder& order);
std::string describe_line(const std::string& device, bool limits);  // asks for the machine

// To the worker, any of them.
struct WorkerTask {
  std::optional<WorkerSetup> setup;
  std::optional<CellOrder> order;
  std::string describe;  // a device
  bool limits = false;   // and its limits, measured
};
WorkerTask parse_task(std::string_view line, const std::string& where);

// {"read": ..., "int8": ..., "bf16": ..., "fp8": ...}, bytes and operations a second.
std::string limits_text(const MachineLimits& limits);
MachineLimits parse_limits(std::string_view text, const std::string& where);

std::string loading_line();
std::string loaded_line();
std::string machine_line(const SweepMachine& machine);
std::string result_line(const CellResult& result);
WorkerWords parse_words(std::string_view line, const std::string& where);

}  // namespace slidesparse
