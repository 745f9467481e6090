#include "sweep/card_forecast.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "slidesparse/core/error.h"
#include "sweep/plan.h"

namespace slidesparse {
namespace {

using ::testing::HasSubstr;

Cell cell_of(Phase phase, const char* model, const char* dtype, const char* backend, const char* pattern,
             std::int64_t m, const char* layout = "slide") {
  Cell cell;
  cell.phase = phase;
  cell.model = model;
  cell.dtype = dtype;
  cell.backend = backend;
  cell.pattern = pattern;
  cell.layout = layout;
  cell.m = m;
  if (phase == Phase::kDecode) {
    cell.options.steps = 256;
    cell.options.prompt = 16;
  }
  return cell;
}

CardForecast one(const char* card, const Cell& cell) {
  return forecast_card(known_card(card), {cell}).front();
}

// Figures worked out by hand for Qwen2.5-14B in FP8: 14.75 GB of dense linears less embedding and head, 192
// KiB of keys and values a token.
TEST(CardForecast, The14BOnA24GBCard) {
  const CardForecast prefill =
      one("rtx4090", cell_of(Phase::kPrefill, "qwen2.5-14b", "fp8", "cublaslt", "dense", 512));
  EXPECT_EQ(prefill.verdict, ForecastVerdict::kFits) << prefill.why;
  EXPECT_NEAR(1e-9 * static_cast<double>(prefill.weight_bytes), 13.2, 0.1);
  // 512 sequences of 272 tokens take 25.5 GiB of keys and values alone.
  const CardForecast decode =
      one("rtx4090", cell_of(Phase::kDecode, "qwen2.5-14b", "fp8", "cublaslt", "dense", 512));
  EXPECT_EQ(decode.verdict, ForecastVerdict::kSmaller);
  EXPECT_GT(decode.needed_bytes, std::int64_t{40} << 30);
  EXPECT_GT(decode.largest_m, 100);
  EXPECT_LT(decode.largest_m, 250);
  EXPECT_THAT(decode.why, HasSubstr("GiB"));
  // The same on a card with room.
  EXPECT_EQ(one("h200", cell_of(Phase::kDecode, "qwen2.5-14b", "fp8", "cublaslt", "dense", 512)).verdict,
            ForecastVerdict::kFits);
}

// 152064 x 5120: half of a BF16 head's 1.45 GiB; on an A100 there is no FP8.
TEST(CardForecast, AQuantisedHead) {
  Cell cell = cell_of(Phase::kDecode, "qwen2.5-14b", "int8", "cublaslt", "dense", 64);
  cell.options.head = "bf16";
  const std::int64_t bf16 = one("h200", cell).needed_bytes;
  cell.options.head = "int8";
  EXPECT_NEAR(1e-9 * static_cast<double>(bf16 - one("h200", cell).needed_bytes), 0.7786, 0.001);
  cell.options.head = "fp8";
  EXPECT_EQ(one("h200", cell).verdict, ForecastVerdict::kFits);
  EXPECT_EQ(one("a100", cell).verdict, ForecastVerdict::kUnsupported);
  EXPECT_THAT(one("a100", cell).why, HasSubstr("no FP8 head"));
}

TEST(CardForecast, KernelsThatACardHasNot) {
  const CardForecast fp8 =
      one("a100", cell_of(Phase::kPrefill, "llama3.2-1b", "fp8", "cublaslt", "dense", 512));
  EXPECT_EQ(fp8.verdict, ForecastVerdict::kUnsupported);
  EXPECT_THAT(fp8.why, HasSubstr("8.9"));
  EXPECT_EQ(one("a100", cell_of(Phase::kPrefill, "llama3.2-1b", "int8", "cublaslt", "dense", 512)).verdict,
            ForecastVerdict::kFits);
  const CardForecast native =
      one("rtx4090", cell_of(Phase::kPrefill, "llama3.2-1b", "fp8", "native", "6:8", 512, "split"));
  EXPECT_EQ(native.verdict, ForecastVerdict::kUnsupported);
  EXPECT_THAT(native.why, HasSubstr("Hopper"));
  const CardForecast split =
      one("h200", cell_of(Phase::kPrefill, "llama3.2-1b", "fp8", "cusparselt", "6:8", 512, "split"));
  EXPECT_EQ(split.verdict, ForecastVerdict::kUnsupported);
}

// .8125 bytes a weight at 6:8 split, .625 at 2:4, 1 dense; slid 6:8 is 1.5 of 2:4.
TEST(CardForecast, BytesOfOurOwnFormsOfWeights) {
  const auto bytes = [](const char* pattern, const char* layout, const char* dtype = "fp8") {
    return static_cast<double>(
        one("h200", cell_of(Phase::kPrefill, "qwen2.5-7b", dtype, "native", pattern, 512, layout))
            .weight_bytes);
  };
  const double dense = bytes("dense", "slide");
  EXPECT_NEAR(bytes("6:8", "split") / dense, 0.8125, 0.003);
  EXPECT_NEAR(bytes("2:4", "split") / dense, 0.625, 0.003);
  EXPECT_NEAR(bytes("6:8", "slide") / dense, 0.625 * 1.5, 0.003);
  EXPECT_NEAR(bytes("6:8", "split", "bf16") / dense, 1.5625, 0.006);
  EXPECT_NEAR(bytes("2:4", "split", "bf16") / dense, 1.125, 0.006);
}

TEST(CardForecast, AMemoryLimitCountsInsteadOfTheCard) {
  Cell cell = cell_of(Phase::kDecode, "qwen2.5-14b", "fp8", "cublaslt", "dense", 512);
  cell.memory_limit = static_cast<std::int64_t>(22.4 * (1 << 30));
  EXPECT_EQ(one("h200", cell).verdict, ForecastVerdict::kSmaller);
}

// Totals of the table are those of the rows, whatever the card.
TEST(CardForecast, TheMissionOnEveryCard) {
  const std::vector<Cell> cells = plan_cells(mission_plan({}));
  for (const KnownCard& card : known_cards()) {
    const auto forecasts = forecast_card(card, cells);
    ASSERT_EQ(forecasts.size(), cells.size());
    const std::string table = forecast_table(card, forecasts);
    std::map<ForecastVerdict, int> counts;
    for (const CardForecast& row : forecasts) {
      ++counts[row.verdict];
      const bool explained =
          row.verdict == ForecastVerdict::kFits || row.verdict == ForecastVerdict::kNotAsked;
      EXPECT_NE(explained, !row.why.empty()) << card.name << ": " << cell_words(row.cell);
    }
    EXPECT_THAT(table, HasSubstr(fmt::format("{} cells:", cells.size())));
    EXPECT_THAT(table, HasSubstr(fmt::format(" {} fits", counts[ForecastVerdict::kFits])));
    if (card.compute_capability == 90) {
      EXPECT_EQ(counts[ForecastVerdict::kUnsupported], 0) << table;
    }
  }
  EXPECT_THROW(known_card("voodoo2"), Error);
}

}  // namespace
}  // namespace slidesparse
