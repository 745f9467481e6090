#include "report/speed_up.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/test_files.h"
#include "report/numbers.h"
#include "report/test_database.h"

namespace slidesparse {
namespace {

using testing::TempDir;
using testing::TestDatabase;

class SpeedUp : public ::testing::Test {
 protected:
  SpeedUp() : database_(directory_ / "results.db") {
    plan_ = database_.plan("p");
    machine_ = database_.machine("one");
    run_ = database_.run(plan_, machine_);
  }
  Results load() {
    database_.commit();
    return load_results(directory_ / "results.db");
  }

  TempDir directory_;
  TestDatabase database_;
  std::int64_t plan_ = 0, machine_ = 0, run_ = 0;
};

TEST_F(SpeedUp, IsOverTheFastestDenseBackend) {
  database_.measured(database_.cell(plan_, {}), run_, 100);
  database_.measured(database_.cell(plan_, {.backend = "cutlass"}), run_, 125);
  database_.measured(database_.cell(plan_, {.backend = "auto", .pattern = "6:8"}), run_, 150);
  const Results results = load();
  const auto ratios = speed_ups(results);
  EXPECT_DOUBLE_EQ(ratios[0]->value, 0.8);
  EXPECT_DOUBLE_EQ(ratios[1]->value, 1);
  EXPECT_EQ(ratios[1]->base, 1u);
  EXPECT_DOUBLE_EQ(ratios[2]->value, 1.2);
  EXPECT_DOUBLE_EQ(ratios[2]->low, 150 * 0.99 / (125 * 1.01));
  EXPECT_DOUBLE_EQ(ratios[2]->high, 150 * 1.01 / (125 * 0.99));
  EXPECT_EQ(format_ratio(*ratios[0]), "0.80× ▼");
  EXPECT_EQ(format_ratio(*ratios[2]), "1.20×");
}

TEST_F(SpeedUp, NeedsADenseCellOfTheSameKind) {
  database_.measured(database_.cell(plan_, {}), run_, 100);
  database_.measured(database_.cell(plan_, {.pattern = "6:8", .m = 1024}), run_, 150);
  database_.measured(database_.cell(plan_, {.dtype = "fp8", .pattern = "6:8"}), run_, 150);
  database_.measured(database_.cell(plan_, {.pattern = "6:8", .memory_limit = 1 << 30}), run_, 150);
  database_.measured(database_.cell(plan_, {.phase = "decode", .pattern = "6:8"}), run_, 150);
  database_.measured(database_.cell(plan_, {.pattern = "6:8", .options = R"({"kv_cache_dtype":"fp8"})"}),
                     run_, 150);
  // How often it was measured is no other work.
  database_.measured(database_.cell(plan_, {.pattern = "6:8", .options = R"({"runs":9})"}), run_, 150);
  const Results results = load();
  const auto ratios = speed_ups(results);
  for (std::size_t i = 1; i < 6; ++i) EXPECT_FALSE(ratios[i]) << i;
  EXPECT_DOUBLE_EQ(ratios[6]->value, 1.5);
}

// What was measured otherwise than asked for has the same among its peers, or no ratio.
TEST_F(SpeedUp, IsOverADenseCellWithTheSameChanges) {
  const testing::CellSpec dense, other{.backend = "cutlass"}, sparse{.backend = "auto", .pattern = "6:8"};
  database_.measured(database_.cell(plan_, dense), run_, 100);
  database_.measured(database_.cell(plan_, other), run_, 200, 0.01, "kv_cache_dtype fp8");
  const std::int64_t cell = database_.cell(plan_, sparse);
  database_.measured(cell, run_, 150, 0.01, "alone, weights smallest");
  EXPECT_DOUBLE_EQ(speed_ups(load())[2]->value, 1.5);
  const auto again = [&] { return load_results(directory_ / "results.db"); };
  database_.measured(cell, run_, 150, 0.01, "alone, kv_cache_dtype fp8");
  EXPECT_DOUBLE_EQ(speed_ups(again())[2]->value, 0.75);
  database_.measured(cell, run_, 150, 0.01, "alone, kernels by rule");
  const Results results = again();
  EXPECT_FALSE(speed_ups(results)[2]);
  EXPECT_EQ(changes_words(results.cells[2].changes), "kernels by rule");
}

TEST_F(SpeedUp, OfOtherVersionsOnlyWhenAsked) {
  const std::int64_t newer = database_.run(plan_, database_.machine("newer"));
  database_.measured(database_.cell(plan_, {}), run_, 100);
  database_.measured(database_.cell(plan_, {.pattern = "6:8"}), newer, 150);
  database_.commit();
  EXPECT_FALSE(speed_ups(load_results(directory_ / "results.db"))[1]);
  const Results merged = load_results(directory_ / "results.db", true);
  EXPECT_DOUBLE_EQ(speed_ups(merged)[1]->value, 1.5);
  EXPECT_EQ(*merged.cells[1].machine, 1u) << "the row says where it was measured";
}

TEST_F(SpeedUp, IsOfOneMachineAndOfLastGoodAttempts) {
  const std::int64_t other = database_.run(plan_, database_.machine("two"));
  const std::int64_t dense = database_.cell(plan_, {});
  const std::int64_t sparse = database_.cell(plan_, {.pattern = "6:8"});
  database_.measured(dense, run_, 100);
  database_.measured(dense, other, 500);
  database_.measured(sparse, run_, 110);
  database_.measured(sparse, run_, 120);
  database_.failed(sparse, run_, {.kind = "time_out"});
  const Results results = load();
  EXPECT_EQ(results.cells[1].state, "ok");
  EXPECT_DOUBLE_EQ(results.cells[1].figure("tokens_per_second")->value, 120);
  EXPECT_DOUBLE_EQ(results.cells[0].figure("tokens_per_second")->value, 500);
  EXPECT_DOUBLE_EQ(speed_ups(results)[1]->value, 1.2);
}

TEST(Ratio, SaysWhetherADifferenceIsShown) {
  const Figure base{"tokens/s", 100, 99, 101, 3};
  EXPECT_EQ(verdict(ratio_of({"tokens/s", 104, 103, 105, 3}, base)), Verdict::kFaster);
  EXPECT_EQ(verdict(ratio_of({"tokens/s", 96, 95, 97, 3}, base)), Verdict::kSlower);
  EXPECT_EQ(verdict(ratio_of({"tokens/s", 101, 100, 102, 3}, base)), Verdict::kWithinSpread);
  EXPECT_EQ(format_ratio(ratio_of({"tokens/s", 99.8, 98, 101, 3}, base)), "0.998× ≈");
  EXPECT_FALSE(ratio_of({"tokens/s", 104, {}, {}, 1}, base).spread);
}

TEST(Numbers, AreReadable) {
  EXPECT_EQ(format_value(1234567.8), "1,234,568");
  EXPECT_EQ(format_value(999.96), "1,000");
  EXPECT_EQ(format_value(999.9), "999.9");
  EXPECT_EQ(format_value(0.01234), "0.012");
  EXPECT_EQ(format_value(1.2e-6), "1.2e-06");
  EXPECT_EQ(format_value(0), "0");
  EXPECT_EQ(format_count(-1234), "-1,234");
  EXPECT_EQ(format_figure({"FLOP/s", 1.25e15, {}, {}, 3}), "1,250 TFLOP/s");
  EXPECT_EQ(format_figure({"B", 22.6e9, {}, {}, 1}), "22.6 GB");
  EXPECT_EQ(format_spread({"s", 2, 1.9, 2.1, 3}), "±5.0%");
  EXPECT_EQ(format_spread({"s", 2, {}, {}, 1}), "");
}

}  // namespace
}  // namespace slidesparse
