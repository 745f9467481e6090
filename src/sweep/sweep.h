#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "sweep/inject.h"
#include "sweep/plan.h"

namespace slidesparse {

struct SweepOptions {
  SweepPlan plan;
  std::string plan_text;  // as it stands in its file: its digest is the plan's identity
  std::filesystem::path database;
  std::filesystem::path work;         // for what is deleted again; removed at the end
  std::string cache;                  // measured kernels
  bool cache_asked = false;           // use it on the CPU, too, where nothing of the plan tunes
  std::vector<std::string> worker;    // the command that runs run_sweep_worker()
  std::string command;                // that started this sweep: for the record
  double deadline = 0;                // seconds; 0: none
  bool retry_failed = false;          // cells that were given up are tried again
  bool any_version = false;           // figures of other drivers, libraries and versions of ours count
  std::vector<Injection> injections;  // failures to be had on purpose
  std::function<void(const std::string& line)> say;
};

// What a plan comes to on this machine, before or after a sweep.
struct SweepTotals {
  std::int64_t cells = 0;
  std::int64_t measured = 0;
  std::int64_t given_up = 0;  // with a class that no other attempt can help
  std::int64_t open = 0;
  double seconds_left = 0;  // that the open ones are thought to take
  std::string end;          // why the sweep ended: a word of table run_end
};

// Runs every cell of the plan that is not done on this kind of machine, each in a worker process, and writes
// down what became of it. Returns when none is open, at the deadline, or when an interrupt was asked for,
// after the running cell. Throws Error for a database that another sweep holds, a plan that this machine
// cannot run, a database that cannot be written, and a machine that is not there any more.
SweepTotals run_sweep(const SweepOptions& options);

// The open cells of the plan with the time that each is thought to take; `cell` is called in the order in
// which they would run. Reads the database where there is one.
SweepTotals plan_sweep(const SweepOptions& options,
                       const std::function<void(const Cell& cell, double seconds)>& cell);

// The device that the plan runs on: "cpu" or "cuda". Throws kUnsupported for a card that is not there.
std::string sweep_device(const SweepPlan& plan);

}  // namespace slidesparse
