#include "sweep/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <utility>

#include "io/test_files.h"

namespace slidesparse {
namespace {

using testing::error_of;
using ::testing::HasSubstr;

constexpr const char* kSmall =
    R"({"schema": 1, "name": "small", "models": ["llama3.2-1b"], "dtypes": ["int8"],
  "rows": [{"backend": "cublaslt", "patterns": ["dense"]}, {"backend": "cusparselt", "patterns": ["6:8"]}],
  "prefill": {"m": [512, 1024]}})";

std::string with(const std::string& from, const std::string& to) {
  std::string text = kSmall;
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos);
  return text.replace(at, from.size(), to);
}

std::string refusal(const std::string& text) {
  return error_of([&] { plan_cells(parse_plan(text, "p.json")); });
}

std::map<Phase, int> count(const std::vector<Cell>& cells) {
  std::map<Phase, int> counts;
  for (const Cell& cell : cells) ++counts[cell.phase];
  return counts;
}

TEST(Plan, DefaultsAreTheMissions) {
  const SweepPlan plan = parse_plan(kSmall, "p.json");
  EXPECT_EQ(plan.prefill->runs, 3);
  EXPECT_EQ(plan.prefill->min_seconds, 1);
  const std::vector<Cell> cells = plan_cells(plan);
  ASSERT_EQ(cells.size(), 4U);
  EXPECT_EQ(
      cell_key(cells.front()),
      R"({"phase":"prefill","model":"llama3.2-1b","dtype":"int8","backend":"cublaslt","pattern":"dense",)"
      R"("layout":"slide","m":512,"options":{"head":"bf16","kv_cache_dtype":"bf16","min_seconds":1.0,)"
      R"("runs":3,"seed":1,"weights":"fastest"}})");
}

TEST(Plan, TheHeadsType) {
  std::string text = kSmall;
  text.insert(text.find('{') + 1, R"("head": "fp8", "tune": {"m": [64]}, )");
  int tuned = 0, run = 0;
  for (const Cell& cell : plan_cells(parse_plan(text, "p.json"))) {
    EXPECT_EQ(cell.options.head, "fp8");
    ++(cell.phase == Phase::kTune ? tuned : run);
  }
  EXPECT_GT(tuned, 0);
  EXPECT_EQ(run, 4);
  // Also of a directory, where a BF16 head goes without saying.
  for (const char* head : {"bf16", "int8"}) {
    SweepPlan plan = parse_plan(kSmall, "p.json");
    plan.models = {"/some/model"};
    plan.head = head;
    const auto form = [](const std::string&) { return ModelForm{"int8", "dense", "slide", true}; };
    for (const Cell& cell : plan_cells(plan, form))
      EXPECT_EQ(cell.options.head, std::string(head) == "int8" ? "int8" : "");
  }
  text.replace(text.find("fp8"), 3, "fp4");
  EXPECT_THAT(refusal(text), HasSubstr("head"));
}

TEST(Plan, TheMissionsMatrix) {
  auto counts = count(plan_cells(mission_plan({})));
  EXPECT_EQ(counts[Phase::kConvert], 4 * 2 * 4);
  EXPECT_EQ(counts[Phase::kTune], 4 * 2 * 5);
  EXPECT_EQ(counts[Phase::kPrefill], 4 * 2 * 10 * 8);
  EXPECT_EQ(counts[Phase::kDecode], 4 * 2 * 10 * 4);
  MissionOptions options;
  options.native = true;
  options.memory_limit = 24 << 20;
  options.prefill_runs = 128;
  const std::vector<Cell> cells = plan_cells(mission_plan(options));
  counts = count(cells);
  EXPECT_EQ(counts[Phase::kPrefill], 4 * 2 * 14 * 8);
  EXPECT_EQ(counts[Phase::kTune], 4 * 2 * 9);
  for (const Cell& cell : cells) {
    const bool limited = cell.phase == Phase::kPrefill || cell.phase == Phase::kDecode;
    EXPECT_EQ(cell.memory_limit.has_value(), limited);
    if (cell.phase == Phase::kPrefill) {
      EXPECT_EQ(cell.options.runs, 128);
    }
  }
  options.convert = false;
  options.dtypes = {"fp8"};
  options.models = {"llama3.2-1b"};
  counts = count(plan_cells(mission_plan(options)));
  EXPECT_EQ(counts.count(Phase::kConvert), 0u);
  EXPECT_EQ(counts[Phase::kPrefill], 14 * 8);
}

TEST(Plan, TheQuickMatrixHasTheSameCellsWithFewerRepetitions) {
  MissionOptions options;
  options.quick = true;
  const std::vector<Cell> quick = plan_cells(mission_plan(options)), whole = plan_cells(mission_plan({}));
  ASSERT_EQ(quick.size(), whole.size());
  for (std::size_t i = 0; i < quick.size(); ++i) {
    Cell cell = quick[i];
    if (cell.phase == Phase::kDecode) {
      EXPECT_EQ(std::exchange(cell.options.steps, 256), 64);
    }
    if (cell.phase == Phase::kPrefill) {
      EXPECT_EQ(std::exchange(cell.options.min_seconds, 1), 0.3);
    }
    EXPECT_EQ(cell_key(cell), cell_key(whole[i]));
  }
}

// Preparation first; then everything that one process runs stands together.
TEST(Plan, OrderOfCells) {
  for (const SweepPlan& plan : {mission_plan({}), cpu_plan()}) {
    const std::vector<Cell> cells = plan_cells(plan);
    std::set<std::string> closed, keys;
    std::string current;
    bool prepared = false;
    for (const Cell& cell : cells) {
      EXPECT_TRUE(keys.insert(cell_key(cell)).second) << "twice";
      const bool preparation = cell.phase == Phase::kConvert || cell.phase == Phase::kTune;
      EXPECT_FALSE(prepared && preparation);
      prepared = !preparation;
      const std::string worker = worker_key(cell);
      if (worker == current) continue;
      EXPECT_TRUE(closed.insert(worker).second) << worker << " is started twice";
      current = worker;
    }
  }
}

TEST(Plan, ComesBackFromItsText) {
  MissionOptions options;
  options.native = true;
  options.memory_limit = 24052072448;
  for (SweepPlan plan : {mission_plan(options), cpu_plan()}) {
    EXPECT_EQ(parse_plan(plan_to_json(plan), "p.json"), plan);
    plan.gemm = GemmPhase{{1, 64}, 0.25};
    plan.eval = EvalPhase{"text", 3};
    plan.tune = TunePhase{{7}};
    plan.attempts = 5;
    plan.time_limits.load = 12.5;
    EXPECT_EQ(parse_plan(plan_to_json(plan), "p.json"), plan);
  }
}

TEST(Plan, SizesOfMemoryAreWordsOrBytes) {
  EXPECT_EQ(parse_plan(with("\"schema\": 1", R"("schema": 1, "memory_limit": "22.4GiB")"), "p").memory_limit,
            24051816857);
  EXPECT_EQ(parse_plan(with("\"schema\": 1", R"("schema": 1, "memory_limit": 4096)"), "p").memory_limit,
            4096);
}

TEST(Plan, RefusalsNameTheMemberAndItsValue) {
  EXPECT_THAT(refusal("[]"), HasSubstr("a plan is an object"));
  EXPECT_THAT(refusal(with("\"schema\": 1", "\"schema\": 2")), HasSubstr("schema"));
  EXPECT_THAT(refusal(with("\"name\"", "\"nam\"")), HasSubstr("\"nam\""));
  EXPECT_THAT(refusal(with("512, 1024", "512, 0")),
              AllOf(HasSubstr("p.json: prefill: \"m\""), HasSubstr("found 0")));
  EXPECT_THAT(refusal(with("512, 1024", "512, 512")), HasSubstr("m names something twice"));
  EXPECT_THAT(refusal(with("[512, 1024]", "[]")), HasSubstr("prefill: m must be a list of 1 to"));
  EXPECT_THAT(refusal(with("6:8", "6:9")), AllOf(HasSubstr("rows[1]"), HasSubstr("6:9")));
  EXPECT_THAT(refusal(with("cusparselt", "mkl")), AllOf(HasSubstr("\"mkl\""), HasSubstr("cublaslt")));
  EXPECT_THAT(refusal(with("int8", "int4")), HasSubstr("\"int4\""));
  EXPECT_THAT(refusal(with("cublaslt", "cpu")), HasSubstr("swept apart"));
  EXPECT_THAT(refusal(with("\"schema\": 1", R"("schema": 1, "memory_limit": "many")")),
              HasSubstr("\"many\""));
  EXPECT_THAT(refusal(with("\"schema\": 1", R"("schema": 1, "time_limits": {"decode": 0})")),
              HasSubstr("time_limits"));
  EXPECT_THAT(refusal(with(R"("prefill": {"m": [512, 1024]})", R"("tune": {})")), HasSubstr("tune needs m"));
  EXPECT_THAT(refusal(with("llama3.2-1b", "/nowhere/model")), HasSubstr("/nowhere/model"));
}

TEST(Plan, TooManyCellsAreRefused) {
  SweepPlan plan = parse_plan(kSmall, "p.json");
  plan.prefill->m.clear();
  for (std::int64_t m = 1; m <= 60'000; ++m) plan.prefill->m.push_back(m);
  EXPECT_THAT(error_of([&] { plan_cells(plan); }), HasSubstr("more than 100000 cells"));
}

TEST(Plan, ADirectoryHasTheFormThatItHas) {
  SweepPlan plan = parse_plan(kSmall, "p.json");
  plan.models = {"packed", "plain"};
  plan.dtypes = {"int8", "bf16"};
  plan.convert = ConvertPhase{{"2:4"}};
  const auto form = [](const std::string& model) {
    return model == "packed" ? ModelForm{"int8", "6:8", "slide", true}
                             : ModelForm{"bf16", "dense", "slide", false};
  };
  const std::vector<Cell> cells = plan_cells(plan, form);
  auto counts = count(cells);
  EXPECT_EQ(counts[Phase::kConvert], 2) << "of the plain one, into each dtype";
  EXPECT_EQ(counts[Phase::kPrefill], 4);
  for (const Cell& cell : cells) {
    if (cell.phase == Phase::kConvert) {
      EXPECT_EQ(cell.model, "plain");
    } else {
      EXPECT_EQ(cell.dtype, cell.model == "packed" ? "int8" : "bf16");
    }
  }
  plan.dtypes = {"fp8"};
  EXPECT_THAT(error_of([&] { plan_cells(plan, form); }), HasSubstr("packed holds int8 6:8 (slide)"));
}

// What a plan says about cells survives any order and any subset of its lists.
TEST(Plan, PropertyCellsComeBackFromTheirKeys) {
  std::mt19937 random(4);
  const auto coin = [&] { return std::uniform_int_distribution<int>(0, 1)(random) == 1; };
  for (int round = 0; round < 100; ++round) {
    SweepPlan plan = mission_plan({});
    std::shuffle(plan.models.begin(), plan.models.end(), random);
    plan.models.resize(1 + static_cast<std::size_t>(round) % 4);
    if (coin()) plan.convert.reset();
    if (coin()) plan.tune.reset();
    if (coin()) plan.decode.reset();
    if (coin()) plan.gemm = GemmPhase{{16, 2048}, 0.5};
    if (coin()) plan.memory_limit = 24 << 20;
    std::set<std::string> keys;
    for (const Cell& cell : plan_cells(plan)) {
      EXPECT_EQ(parse_cell_key(cell_key(cell), "key"), cell);
      EXPECT_TRUE(keys.insert(cell_key(cell)).second);
    }
    EXPECT_EQ(plan_cells(parse_plan(plan_to_json(plan), "p.json")), plan_cells(plan));
  }
}

}  // namespace
}  // namespace slidesparse
