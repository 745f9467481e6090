#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "sweep/sqlite.h"

// A small writer of a sweep's database, so that tests say what the report is to find there.
namespace slidesparse::testing {

struct CellSpec {
  std::string phase = "prefill", model = "llama3.2-1b", dtype = "int8", backend = "cublaslt",
              pattern = "dense", layout = "slide";
  std::optional<std::int64_t> m = 512;
  std::optional<std::int64_t> memory_limit = {};
  std::string options = R"({"runs":3})";
};

struct EndSpec {
  std::string kind = "ok";
  std::string message = {};
  std::optional<std::int64_t> needed_bytes = {}, free_bytes = {}, largest_m = {}, signal = {},
                              library_code = {};
  std::string library = {}, holders = {};
};

class TestDatabase {
 public:
  // Makes the tables in a new file, one transaction over all that follows.
  explicit TestDatabase(const std::filesystem::path& file);
  void commit();

  std::int64_t machine(const std::string& fingerprint, const std::string& name = "NVIDIA H200",
                       const std::string& device = "cuda");
  std::int64_t plan(const std::string& name);
  std::int64_t run(std::int64_t plan, std::int64_t machine);
  void end_run(std::int64_t run, const std::string& reason);
  std::int64_t cell(std::int64_t plan, const CellSpec& spec);
  std::int64_t attempt(std::int64_t cell, std::int64_t run, const std::string& changed = {});  // begins one
  void end(std::int64_t attempt, const EndSpec& spec);
  void measure(std::int64_t attempt, const std::string& name, const std::string& unit, double value,
               std::optional<double> low = {}, std::optional<double> high = {}, std::int64_t samples = 3);
  void attribute(std::int64_t attempt, const std::string& name, const std::string& value);
  void check(std::int64_t attempt, const std::string& name, bool passed, const std::string& message);
  void event(std::int64_t run, const std::string& level, const std::string& text);

  // An attempt that is ok and measured so many tokens a second, with percentiles `spread` (a share) around.
  std::int64_t measured(std::int64_t cell, std::int64_t run, double tokens_per_second, double spread = 0.01,
                        const std::string& changed = {});
  std::int64_t failed(std::int64_t cell, std::int64_t run, const EndSpec& spec);

 private:
  SqliteConnection connection_;
  std::optional<SqliteTransaction> transaction_;
  std::int64_t position_ = 0;
};

// A sweep as the published one: `models` models, INT8 and FP8, dense on two backends and four patterns on
// three, eight M of prefill and four of decode, with evaluation, failures of most classes and cells not run.
void fill_matrix(TestDatabase& database, int models, std::uint64_t seed);

}  // namespace slidesparse::testing
