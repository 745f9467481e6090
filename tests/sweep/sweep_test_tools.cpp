#include "sweep/sweep_test_tools.h"

#include <gtest/gtest.h>

#include "convert/convert.h"
#include "convert/random_model.h"
#include "convert/support.h"
#include "sweep/sqlite.h"

namespace slidesparse::test {
SweepFolder::SweepFolder() {
  RandomModelOptions random;
  random.target = path("plain");
  random.quiet = true;
  random_model(testing_support::small_config(), random);
  for (const char* pattern : {"dense", "6:8"}) {
    ConvertOptions options;
    options.source = path("plain");
    options.target = path(pattern == std::string("dense") ? "dense" : "sparse");
    options.pattern = Pattern::parse(pattern);
    options.dtype = DType::kI8;
    options.quiet = true;
    convert_model(options);
  }
}

SweepPlan SweepFolder::plan() const {
  SweepPlan plan;
  plan.name = "tiny";
  plan.models = {path("dense").string(), path("sparse").string()};
  plan.dtypes = {"int8"};
  plan.rows = {{"cpu", {"dense", "6:8"}}};
  plan.prefill = PrefillPhase{{4, 20}, 1, 0};
  plan.decode = DecodePhase{{1, 2}, 1, 4, 3};
  plan.time_limits.cell.fill(60);
  return plan;
}

SweepOptions SweepFolder::options(const SweepPlan& plan, std::vector<std::string>* lines) const {
  SweepOptions options;
  options.plan = plan;
  options.plan_text = plan_to_json(plan);
  options.database = database();
  options.work = path("work");
  options.cache = path("tuning.json").string();
  options.worker = worker_command();
  options.command = "test";
  options.say = [lines](const std::string& line) {
    if (lines != nullptr) lines->push_back(line);
  };
  return options;
}

std::vector<std::string> worker_command() {
  return {SLIDESPARSE_PROGRAM, "--threads", "1", "--quiet", "sweep-worker"};
}

std::int64_t query_number(const std::filesystem::path& database, const std::string& sql) {
  const SqliteConnection connection(database, SqliteConnection::Mode::kRead);
  SqliteStatement statement(connection, sql);
  EXPECT_TRUE(statement.step()) << sql;
  return statement.integer(0);
}

std::string query_text(const std::filesystem::path& database, const std::string& sql) {
  const SqliteConnection connection(database, SqliteConnection::Mode::kRead);
  SqliteStatement statement(connection, sql);
  EXPECT_TRUE(statement.step()) << sql;
  return statement.text(0);
}

}  // namespace slidesparse::test
