#include "sweep/worker_process.h"

#include <sys/wait.h>

#include <algorithm>

#include "core/fail.h"
#include "core/samples.h"
#include "core/text.h"

namespace slidesparse {
namespace {

// A process that has closed its socket, or was told to end, is gone soon.
constexpr double kEndSeconds = 20;

// The last line that says something.
std::string last_line(const std::string& log) {
  std::string last;
  for (std::size_t begin = 0; begin < log.size();) {
    const std::size_t end = std::min(log.find('\n', begin), log.size());
    if (end > begin) last = log.substr(begin, end - begin);
    begin = end + 1;
  }
  return printable(last, 300);
}

// Waits for its end, or makes it.
ProcessEnd end_of(ChildProcess& child, bool timed_out) {
  if (timed_out) child.kill();
  const int status = child.wait(kEndSeconds);
  ProcessEnd end;
  end.timed_out = timed_out;
  if (timed_out) return end;
  if (WIFSIGNALED(status)) end.signal = WTERMSIG(status);
  if (WIFEXITED(status)) end.exit_status = WEXITSTATUS(status);
  return end;
}

}  // namespace

WorkerProcess::WorkerProcess(const std::vector<std::string>& command, const WorkerSetup& setup)
    : child_(command) {
  // A worker that is gone already is noticed with its first cell.
  child_.send_line(setup_line(setup));
}

CellResult WorkerProcess::run(const CellOrder& order, const Limits& limits) {
  const double start = now_seconds();
  child_.take_log();  // of the cells before
  child_.send_line(order_line(order));
  CellResult result;
  try {
    result = wait_for_result(limits);
  } catch (const Error& error) {  // no words of ours
    result.fail(error);
    alive_ = false;
  }
  if (spoils_worker(result.outcome)) alive_ = false;
  if (!alive_) child_.kill();
  result.seconds = now_seconds() - start;
  if (result.outcome != Class::kOk) result.log = child_.take_log();
  return result;
}

CellResult WorkerProcess::wait_for_result(const Limits& limits) {
  const double start = now_seconds();
  double until = start + limits.cell;
  std::string line;
  while (true) {
    switch (child_.next_line(std::min(until, limits.deadline), line)) {
      case ChildProcess::Got::kTimeOut:
        if (now_seconds() < until) {  // the whole sweep's time is up
          CellResult result;
          result.outcome = Class::kInterrupted;
          result.message = "the deadline of the sweep came while it ran";
          return result;
        }
        return ended(true, now_seconds() - start);
      case ChildProcess::Got::kClosed:
        return ended(false, now_seconds() - start);
      case ChildProcess::Got::kLine:
        break;
    }
    WorkerWords words = parse_words(line, "worker");
    if (words.loading) until = now_seconds() + limits.load;
    if (words.loaded) until = now_seconds() + limits.cell;
    if (words.result) return std::move(*words.result);
  }
}

CellResult WorkerProcess::ended(bool timed_out, double seconds) {
  alive_ = false;
  const ProcessEnd end = end_of(child_, timed_out);
  CellResult result;
  result.outcome = classify(end);
  result.message = process_end_words(end, seconds);
  result.signal = end.signal;
  result.exit_status = end.exit_status;
  return result;
}

void WorkerProcess::finish() {
  if (!alive_) return;
  alive_ = false;
  child_.close_input();
  child_.wait(kEndSeconds);
}

SweepMachine ask_machine(const std::vector<std::string>& command, const std::string& device, bool limits,
                         double seconds) {
  ChildProcess child(command);
  child.send_line(describe_line(device, limits));
  std::string line;
  if (const auto got = child.next_line(now_seconds() + seconds, line); got != ChildProcess::Got::kLine) {
    const ProcessEnd end = end_of(child, got == ChildProcess::Got::kTimeOut);
    const std::string words = last_line(child.take_log());
    fail(ErrorKind::kIo, "asked what this machine is: {}{}", process_end_words(end, seconds),
         words.empty() ? "" : "; its last words: " + words);
  }
  WorkerWords words = parse_words(line, "worker");
  if (!words.machine)
    fail(ErrorKind::kInternal, "worker: asked for the machine, it said {}", printable(line));
  child.close_input();
  child.wait(kEndSeconds);
  return std::move(*words.machine);
}

}  // namespace slidesparse
