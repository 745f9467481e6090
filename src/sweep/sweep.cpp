#include "sweep/sweep.h"

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <set>

#include "core/cuda/status.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "core/samples.h"
#include "core/text.h"
#include "sweep/estimate.h"
#include "sweep/journal.h"
#include "sweep/plan_progress.h"
#include "sweep/worker_process.h"

namespace slidesparse {
namespace {

// A machine that does not say what it is in this time is not there.
constexpr double kMachineSeconds = 300;
constexpr std::string_view kLimitsLevel = "limits";

bool needs_card(const SweepPlan& plan) {
  return std::ranges::any_of(
      plan.rows, [](const PlanRow& row) { return row.backend != "cpu" && row.backend != "auto"; });
}

// "123.4 tokens/s", or whatever the phase measures.
std::string figure_words(const CellResult& result) {
  for (const char* name : {"tokens_per_second", "perplexity", "seconds"}) {
    for (const Measurement& one : result.measurements) {
      if (one.name == name) return fmt::format("{:.5g}{}", one.value, one.unit == "1" ? "" : " " + one.unit);
    }
  }
  return "done";
}

const Measurement* tokens_per_second(const CellResult& result) {
  const auto found = std::ranges::find(result.measurements, "tokens_per_second", &Measurement::name);
  return found == result.measurements.end() ? nullptr : &*found;
}

class Sweep {
 public:
  Sweep(const SweepOptions& options, const SweepOwner& owner, const std::string& left_by)
      : options_(options),
        device_(sweep_device(options.plan)),
        progress_(options.plan, device_ == "cuda"),
        journal_(options.database),
        until_(options.deadline > 0 ? now_seconds() + options.deadline
                                    : std::numeric_limits<double>::infinity()) {
    machine_ = ask_machine(options.worker, device_, false, kMachineSeconds);
    const std::int64_t closed = journal_.close_interrupted();
    std::vector<Cell> cells;
    for (const CellState& state : progress_.cells()) cells.push_back(state.cell);
    const std::int64_t machine = journal_.machine(machine_);
    const bool measured = find_limits(machine);
    const std::int64_t plan = journal_.plan(options.plan.name, options.plan_text, cells);
    run_ = journal_.begin_run(plan, machine, owner, options.command);
    if (measured) journal_.event(run_, {}, kLimitsLevel, limits_text(machine_.limits));
    progress_.recall(journal_, machine, options.any_version, options.retry_failed);
    if (!left_by.empty()) tell("the last sweep did not end cleanly: " + left_by);
    if (closed > 0) tell(fmt::format("{} attempts that it left open are closed as interrupted", closed));
    const std::int64_t others = journal_.cells_of_other_versions(plan, machine);
    if (others > 0 && !options.any_version) {
      tell(
          fmt::format("{} cells were measured with other versions of driver, libraries or this program: they "
                      "are measured again (--any-version keeps them)",
                      others));
    }
  }

  SweepTotals run() {
    const SweepTotals before = progress_.totals();
    options_.say(fmt::format("{}: {} cells, {} measured, {} given up, {} open, about {}", options_.plan.name,
                             before.cells, before.measured, before.given_up, before.open,
                             duration_words(before.seconds_left)));
    std::string end = "done";
    try {
      for (const std::vector<CellState*>& group : groups()) {
        end = run_group(group);
        if (group.front()->cell.phase == Phase::kConvert) remove_work();
        if (end != "done") break;
      }
      remove_work();
    } catch (const Error&) {
      remove_work();
      end_failed();
      throw;
    }
    journal_.end_run(run_, end);
    SweepTotals totals = progress_.totals();
    totals.end = end;
    return totals;
  }

 private:
  // Those that the database has of such a machine, or measured now: then true.
  bool find_limits(std::int64_t machine) {
    if (const auto known = journal_.last_event(machine, kLimitsLevel)) {
      machine_.limits = parse_limits(*known, options_.database.string());
      return false;
    }
    machine_.limits = ask_machine(options_.worker, device_, true, kMachineSeconds).limits;
    return true;
  }

  // Cells that share a worker, each group where its first one stands in the plan.
  std::vector<std::vector<CellState*>> groups() {
    std::vector<std::vector<CellState*>> groups;
    std::map<std::string, std::size_t> places;
    for (CellState& state : progress_.cells()) {
      const auto [place, added] = places.emplace(worker_key(state.cell), groups.size());
      if (added) groups.emplace_back();
      groups[place->second].push_back(&state);
    }
    return groups;
  }

  // Why the sweep ends here; "done" to go on.
  std::string run_group(const std::vector<CellState*>& group) {
    std::unique_ptr<WorkerProcess> worker;
    checked_ = false;
    for (CellState* state : group) {
      for (NextStep next = progress_.next(*state); next.open; next = progress_.next(*state)) {
        if (interrupt_requested()) return "interrupted";
        if (now_seconds() + progress_.estimate(*state) > until_) return "deadline";
        if (next.changes.alone) retire(worker);
        if (!worker) worker = std::make_unique<WorkerProcess>(options_.worker, setup(group));
        const bool deadline = !run_cell(*worker, *state, next.changes);
        if (deadline) return "deadline";
        if (!worker->alive() || next.changes.alone) retire(worker);
      }
    }
    retire(worker);
    return "done";
  }

  static void retire(std::unique_ptr<WorkerProcess>& worker) {
    if (worker) worker->finish();
    worker.reset();
  }

  WorkerSetup setup(const std::vector<CellState*>& group) const {
    WorkerSetup setup{device_, cache(), options_.work.string(), {}, machine_.limits};
    std::set<std::int64_t> all;
    for (const CellState* state : group) {
      if (state->cell.phase == Phase::kPrefill || state->cell.phase == Phase::kDecode)
        all.insert(*state->cell.m);
    }
    if (all.empty()) all.insert(1);
    setup.m.assign(all.begin(), all.end());
    return setup;
  }

  // On the CPU kernels are chosen by rule unless this plan tunes them or a file is named, so that figures
  // repeat.
  std::string cache() const {
    const bool used = device_ == "cuda" || options_.plan.tune || options_.plan.gemm || options_.cache_asked;
    return used ? options_.cache : std::string();
  }

  // False when the sweep's time was up before the cell's end.
  bool run_cell(WorkerProcess& worker, CellState& state, const Changes& changes) {
    CellOrder order{state.cell, changes, !progress_.more_after_misfit(state), {}};
    const std::int64_t position = &state - progress_.cells().data() + 1;
    order.inject = injected(options_.injections, position, ++state.attempts);
    const TimeLimits& limits = options_.plan.time_limits;
    const std::int64_t attempt = journal_.begin_attempt(state.id, run_, worker.pid(), changes_words(changes));
    CellResult result =
        worker.run(order, {limits.cell.at(static_cast<std::size_t>(state.cell.phase)), limits.load, until_});
    const std::string lost = lost_machine(result);
    if (!lost.empty()) {
      result.outcome = Class::kInterrupted;
      result.message += "; " + lost;
    }
    progress_.note(state, result, changes);
    const bool again = progress_.next(state).open;
    journal_.end_attempt(attempt, result, again);
    say_cell(state, position, result, again, changes);
    if (!lost.empty())
      fail(ErrorKind::kIo,
           "the machine is not what it was when the sweep began: {}; once it is, the same command "
           "goes on",
           lost);
    return result.outcome != Class::kInterrupted || now_seconds() < until_;
  }

  // After a failure that may have taken the card along: why this machine is not what it was; empty: it is.
  std::string lost_machine(const CellResult& result) {
    const bool suspect = result.outcome != Class::kInterrupted && spoils_worker(result.outcome);
    if (!suspect && (result.outcome != Class::kUnsupported || checked_)) return {};
    checked_ = true;
    try {
      const SweepMachine now = ask_machine(options_.worker, device_, false, kMachineSeconds);
      return now.fingerprint() == machine_.fingerprint() ? "" : "now it is " + now.name;
    } catch (const Error& error) {
      return error.what();
    }
  }

  void say_cell(const CellState& state, std::int64_t position, const CellResult& result, bool again,
                const Changes& changes) {
    std::string words;
    if (result.outcome == Class::kOk) {
      words = figure_words(result);
    } else {
      words = fmt::format("{}{}: {}", class_name(result.outcome), again ? ", tried again" : "",
                          printable(result.message, 300));
    }
    if (const Measurement* figure = tokens_per_second(result); figure != nullptr) {
      if (result.outcome == Class::kOk) words += progress_.ratio_words(state.cell, figure->value, changes);
      if (result.largest_m)
        words += fmt::format("; {:.5g} tokens/s at M={}", figure->value, *result.largest_m);
    }
    const SweepTotals totals = progress_.totals();
    options_.say(fmt::format("[{}/{}] {} {}: {}; {} open, about {}", position, totals.cells,
                             class_name(result.outcome) == "ok" ? "+" : "-", cell_words(state.cell), words,
                             totals.open, duration_words(totals.seconds_left)));
  }

  void tell(const std::string& text) {
    journal_.event(run_, {}, "info", text);
    options_.say(text);
  }

  void remove_work() const {
    std::error_code ignored;  // what cannot be removed now is found by the next sweep
    std::filesystem::remove_all(options_.work, ignored);
  }

  // The reason is on its way to the caller; a database that cannot be written is one.
  void end_failed() {
    try {
      journal_.end_run(run_, "failed");
    } catch (const Error&) {
    }
  }

  const SweepOptions& options_;
  std::string device_;
  PlanProgress progress_;
  SweepJournal journal_;
  double until_;
  SweepMachine machine_;
  std::int64_t run_ = 0;
  bool checked_ = false;  // the machine, because of something unsupported in this group
};

}  // namespace

std::string sweep_device(const SweepPlan& plan) {
  const CudaStatus& cuda = cuda_status();
  if (needs_card(plan) && !cuda.available) {
    fail(ErrorKind::kUnsupported,
         "plan {}: its backends need a card, and there is none: {}; `slidesparse plan cpu` makes one for the "
         "CPU",
         plan.name, cuda.reason);
  }
  const bool cpu = std::ranges::any_of(plan.rows, [](const PlanRow& row) { return row.backend == "cpu"; });
  return cpu || !cuda.available ? "cpu" : "cuda";
}

SweepTotals run_sweep(const SweepOptions& options) {
  sweep_device(options.plan);  // before anything is written
  const SweepOwner owner = SweepOwner::self();
  const SweepLock lock(options.database, owner);
  return Sweep(options, owner, lock.left_by()).run();
}

SweepTotals plan_sweep(const SweepOptions& options, const std::function<void(const Cell&, double)>& cell) {
  const bool here = cuda_status().available || !needs_card(options.plan);
  PlanProgress progress(options.plan, !here || sweep_device(options.plan) == "cuda");
  if (here && std::filesystem::exists(options.database)) {
    const SweepJournal journal(options.database, SqliteConnection::Mode::kRead);
    const SweepMachine machine =
        ask_machine(options.worker, sweep_device(options.plan), false, kMachineSeconds);
    if (const auto id = journal.find_machine(machine))
      progress.recall(journal, *id, options.any_version, options.retry_failed);
  }
  for (const CellState& state : progress.cells()) {
    if (progress.next(state).open) cell(state.cell, progress.estimate(state));
  }
  return progress.totals();
}

}  // namespace slidesparse
