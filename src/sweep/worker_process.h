#pragma once

#include <string>
#include <vector>

#include "core/child_process.h"
#include "sweep/messages.h"

namespace slidesparse {

// The sweep's side of a worker: starts it, hands it cells, and tells from how it ends what became of them.
class WorkerProcess {
 public:
  // Throws kIo when no process can be started.
  WorkerProcess(const std::vector<std::string>& command, const WorkerSetup& setup);

  struct Limits {
    double cell = 0;  // seconds
    double load = 0;
    double deadline = 0;  // now_seconds() at which everything ends
  };
  // Never throws: whatever the worker does is a result. After one that spoils a worker it is not alive.
  CellResult run(const CellOrder& order, const Limits& limits);

  long pid() const { return child_.pid(); }
  bool alive() const { return alive_; }
  // Lets it end by itself.
  void finish();

 private:
  CellResult wait_for_result(const Limits& limits);
  CellResult ended(bool timed_out, double seconds);

  ChildProcess child_;
  bool alive_ = true;
};

// Asks a process of its own what this machine is, with its measured limits if they are wanted. Throws kIo,
// with that process's last words, when it has no answer within `seconds`.
SweepMachine ask_machine(const std::vector<std::string>& command, const std::string& device, bool limits,
                         double seconds);

}  // namespace slidesparse
