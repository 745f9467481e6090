#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sweep/cell.h"
#include "sweep/lock.h"
#include "sweep/machine.h"
#include "sweep/result.h"
#include "sweep/sqlite.h"

namespace slidesparse {

// An attempt as it stands in the database.
struct PastAttempt {
  Class outcome = Class::kInterrupted;
  double seconds = 0;
  std::optional<double> figure;  // tokens_per_second
  Changes changes;
};

// What a sweep writes down: rows are only added, each call is one transaction that is on the disk when it
// returns. Throws kIo and kInput as SqliteConnection and migrate_schema do.
class SweepJournal {
 public:
  // kRead: the database must be there and of this version; only what is const may be called.
  explicit SweepJournal(const std::filesystem::path& database,
                        SqliteConnection::Mode mode = SqliteConnection::Mode::kWrite);

  // Ids, of a new row or the one that is there.
  std::int64_t machine(const SweepMachine& machine);
  std::int64_t plan(const std::string& name, const std::string& text, const std::vector<Cell>& cells);
  std::optional<std::int64_t> find_machine(const SweepMachine& machine) const;
  std::optional<std::int64_t> find_cell(const Cell& cell) const;

  std::int64_t begin_run(std::int64_t plan, std::int64_t machine, const SweepOwner& owner,
                         const std::string& command);
  void end_run(std::int64_t run, std::string_view reason);
  // Attempts of sweeps that were killed get the outcome `interrupted`; how many there were. Only while no
  // other sweep runs.
  std::int64_t close_interrupted();

  std::int64_t begin_attempt(std::int64_t cell, std::int64_t run, std::int64_t worker,
                             const std::string& changed);
  // Outcome, measurements, attributes and checks; `retry`: another attempt follows.
  void end_attempt(std::int64_t attempt, const CellResult& result, bool retry);
  void event(std::int64_t run, std::optional<std::int64_t> attempt, std::string_view level,
             std::string_view text);

  // The text of the last event of that level on machines of the kind of `machine`.
  std::optional<std::string> last_event(std::int64_t machine, std::string_view level) const;

  // Attempts by cell, oldest first, of machines of the same kind as `machine`; with `any_version`, also of
  // the same card or processor with other drivers, libraries or versions of ours. Without outcome: left out.
  std::map<std::int64_t, std::vector<PastAttempt>> attempts(std::int64_t machine, bool any_version) const;
  // Cells of the plan that have an outcome `ok` on the same card or processor with other versions, and none
  // with these.
  std::int64_t cells_of_other_versions(std::int64_t plan, std::int64_t machine) const;

 private:
  SqliteConnection connection_;
};

}  // namespace slidesparse
