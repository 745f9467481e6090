#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "io/test_files.h"
#include "sweep/sweep.h"

namespace slidesparse::test {

// A tiny model in the forms that the CPU runs, a plan for them, and where its results go.
class SweepFolder {
 public:
  SweepFolder();

  std::filesystem::path path(const std::string& name) const { return directory_.path() / name; }
  std::filesystem::path database() const { return path("results.db"); }

  // Prefill at 4 and 20 tokens, decode of 1 and 2 sequences, of the dense and the 6:8 model: 8 cells, in the
  // order dense prefill, dense decode, 6:8 prefill, 6:8 decode.
  SweepPlan plan() const;
  // Of plan(), or of another one; lines that it says go into `lines` where there is one.
  SweepOptions options(const SweepPlan& plan, std::vector<std::string>* lines = nullptr) const;
  SweepOptions options() const { return options(plan()); }

 private:
  slidesparse::testing::TempDir directory_;
};

// This build's program as the command line of a worker.
std::vector<std::string> worker_command();

// The first column of the first row; nothing there is a failure of the test.
std::int64_t query_number(const std::filesystem::path& database, const std::string& sql);
std::string query_text(const std::filesystem::path& database, const std::string& sql);

}  // namespace slidesparse::test
