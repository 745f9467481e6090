#include "engine/bench_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/bench_fit.h"
#include "io/json.h"
#include "model/model_test_tools.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

Model make(const char* pattern) {
  const ModelConfig config =
      parse_model_config(read_text_file(test::golden("llama") / "config.json"), "config.json");
  return Model::random(config, DType::kI8, Pattern::parse(pattern), DType::kI8, 1);
}

TEST(BenchModel, DecodeCountsOneTokenASequenceAndSaysWhatRan) {
  const Model dense = make("dense"), sparse = make("6:8");
  const std::vector<BenchSubject> subjects{{"dense", &dense}, {"6:8", &sparse}};
  BenchModelOptions options;
  options.phase = BenchPhase::kDecode;
  options.m = {1, 3};
  options.warmup = 0;
  options.runs = 2;
  options.prompt = 5;
  options.steps = 4;
  std::vector<std::string> order;
  const auto rows =
      bench_model(subjects, options, [&](const BenchModelRow& row) { order.push_back(row.subject); });
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_THAT(order, testing::ElementsAre("dense", "6:8", "dense", "6:8"));
  const BenchModelRow& row = rows[3];
  EXPECT_EQ(row.m, 3);
  EXPECT_EQ(row.sequences, 3);
  EXPECT_EQ(row.step_tokens, 3);
  EXPECT_EQ(row.seconds.count, 8);
  EXPECT_GT(row.seconds.low, row.seconds.median / 20)
      << "a step that took no time: another one was counted twice";
  EXPECT_EQ(row.dtype, "int8");
  EXPECT_EQ(row.pattern, "6:8");
  EXPECT_GT(row.tokens_per_second, 0);
  EXPECT_NEAR(row.tokens_per_second * row.seconds.median, 3.0, 1e-9);
  EXPECT_LT(row.weight_bytes, rows[2].weight_bytes);
  EXPECT_EQ(rows[2].sparse_share, 0);
  // The head is dense: 128 x 48 of all products.
  const double head = 128.0 * 48, rest = row.linear_flops / (2 * 3) - head;
  EXPECT_NEAR(row.sparse_share, rest / (rest + head), 1e-12);
  EXPECT_EQ(row.linears.size(), 15u);
  EXPECT_FALSE(row.linears.back().sparse);
  // 7 tokens of context at the middle step, 2 layers, keys and values of one head of 16 in BF16.
  EXPECT_EQ(row.kv_bytes, 3 * 7 * 2 * 2 * 16 * 2);
}

TEST(BenchModel, PrefillIsOneStepOfMTokens) {
  const ModelConfig config = [] {
    ModelConfig c = parse_model_config(read_text_file(test::golden("llama") / "config.json"), "config.json");
    c.max_position = 2048;
    return c;
  }();
  const Model model = Model::random(config, DType::kI8, Pattern::parse("6:8"), DType::kBF16, 1);
  const std::vector<BenchSubject> subjects{{"x", &model}};
  BenchModelOptions options;
  options.m = {7, 1024, 1500};
  options.warmup = 0;
  options.runs = 1;
  const auto rows = bench_model(subjects, options);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].sequences, 1);
  EXPECT_EQ(rows[1].sequences, 1);
  EXPECT_EQ(rows[2].sequences, 2);
  EXPECT_EQ(rows[2].step_tokens, 1500);
  EXPECT_GT(rows[2].sparse_share, 0.9);

  // In chunks: the same tokens and products, the weights read three times.
  std::vector<BenchSubject> chunked{{"x", &model, [](std::int64_t m) {
                                       return BenchFit{m, std::min<std::int64_t>(m, 1024), "too large"};
                                     }}};
  options.m = {2500};
  const auto chunks = bench_model(chunked, options);
  ASSERT_EQ(chunks.size(), 1u);
  EXPECT_EQ(chunks[0].m, 2500);
  EXPECT_EQ(chunks[0].step_tokens, 1024);
  EXPECT_EQ(chunks[0].sequences, 3);
  EXPECT_EQ(chunks[0].note, "too large");
  EXPECT_EQ(chunks[0].seconds.count, 1);
  EXPECT_NEAR(chunks[0].tokens_per_second * chunks[0].seconds.median, 2500, 1e-6);
}

TEST(BenchModel, FewerSequencesThanAskedFor) {
  const Model model = make("6:8");
  std::vector<BenchSubject> subjects{{"x", &model, [](std::int64_t) { return BenchFit{2, 2, "too many"}; }}};
  BenchModelOptions options;
  options.phase = BenchPhase::kDecode;
  options.m = {5};
  options.warmup = 0;
  options.runs = 1;
  options.steps = 3;
  const auto rows = bench_model(subjects, options);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].m, 2);
  EXPECT_EQ(rows[0].sequences, 2);
  EXPECT_EQ(rows[0].note, "too many");
}

TEST(BenchModel, RefusesNonsense) {
  const Model model = make("dense");
  const std::vector<BenchSubject> subjects{{"x", &model}};
  const auto refuse = [&](const BenchModelOptions& options) {
    EXPECT_THROW(bench_model(subjects, options), Error);
  };
  refuse({.m = {0}});
  refuse({.m = {-5}});
  refuse({.m = {257}});  // beyond the model's positions
  refuse({.m = {1}, .runs = 0});
  refuse({.phase = BenchPhase::kDecode, .m = {1}, .steps = 0});
  refuse({.phase = BenchPhase::kDecode, .m = {1}, .prompt = 250, .steps = 20});
}

}  // namespace
}  // namespace slidesparse
