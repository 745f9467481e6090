#include "engine/bench_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/presets.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using testing::HasSubstr;
constexpr std::int64_t kGiB = std::int64_t{1} << 30;

// A 14B model in FP8, 6:8 packed.
MemoryDemand large_model() {
  MemoryDemand demand;
  demand.config = parse_model_config(preset_config_json("qwen2.5-14b", std::nullopt), "preset");
  demand.linear_bytes = packed_linear_bytes(demand.config, DType::kF8E4M3, Pattern::parse("6:8"));
  demand.scratch = [config = demand.config](std::int64_t tokens, std::int64_t wanted) {
    return input_scratch(config, tokens, wanted, DType::kF8E4M3);
  };
  return demand;
}

MemoryBudget card(double gib) {
  return {static_cast<std::int64_t>(gib * kGiB), {{"context", kGiB / 2}}};
}

std::int64_t bytes_at(const MemoryDemand& model, const BenchModelOptions& options, std::int64_t m) {
  return bytes_of(plan_memory(bench_demand(model, options, m)));
}

TEST(BenchFit, WhatFitsIsOneStep) {
  const BenchFit fit = fit_bench(large_model(), card(80), {}, 65536);
  EXPECT_EQ(fit.m, 65536);
  EXPECT_EQ(fit.step_tokens, 65536);
  EXPECT_EQ(fit.note, "");
}

TEST(BenchFit, LargePrefillGoesInTheLargestChunkOfWholePrompts) {
  const MemoryDemand model = large_model();
  const BenchModelOptions options;
  const MemoryBudget budget = card(18);
  const BenchFit fit = fit_bench(model, budget, options, 65536);
  EXPECT_EQ(fit.m, 65536);
  EXPECT_GT(fit.step_tokens, 1024);
  EXPECT_LT(fit.step_tokens, 65536);
  EXPECT_EQ(fit.step_tokens % 1024, 0);
  EXPECT_THAT(fit.note, HasSubstr("needed"));
  MemoryDemand chunk = bench_demand(model, options, 65536);
  chunk.step_tokens = fit.step_tokens;
  EXPECT_LE(bytes_of(plan_memory(chunk)), budget.free());
  chunk.step_tokens += 1024;
  EXPECT_GT(bytes_of(plan_memory(chunk)), budget.free());
}

TEST(BenchFit, DecodeRunsAsManySequencesAsFit) {
  const MemoryDemand model = large_model();
  BenchModelOptions options;
  options.phase = BenchPhase::kDecode;
  options.steps = 256;
  const MemoryBudget budget = card(22.4);
  const BenchFit fit = fit_bench(model, budget, options, 512);
  EXPECT_GT(fit.m, 64);
  EXPECT_LT(fit.m, 512);
  EXPECT_EQ(fit.step_tokens, fit.m);
  EXPECT_THAT(fit.note, HasSubstr("KV cache"));
  EXPECT_LE(bytes_at(model, options, fit.m), budget.free());
  // Keys and values of half the size let more run.
  options.kv_dtype = DType::kF8E4M3;
  EXPECT_GT(fit_bench(model, budget, options, 512).m, fit.m);
}

TEST(BenchFit, RefusesWhatCannotRunAtAll) {
  for (const BenchPhase phase : {BenchPhase::kPrefill, BenchPhase::kDecode}) {
    BenchModelOptions options;
    options.phase = phase;
    try {
      fit_bench(large_model(), card(8), options, 512);
      ADD_FAILURE() << "a 14B model in 8 GiB";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
      EXPECT_THAT(error.what(), HasSubstr("M=512"));
      EXPECT_THAT(error.what(), HasSubstr("linears"));
    }
  }
}

// 14B in 22.4 GiB: with the embedding on the host, 128 sequences of 272 tokens fit, and 256 in 8 bits.
TEST(BenchFit, TheEmbeddingOnTheHostLetsMoreSequencesRun) {
  MemoryDemand model = large_model();
  model.linear_bytes = packed_linear_bytes(model.config, DType::kF8E4M3, Pattern());
  BenchModelOptions options;
  options.phase = BenchPhase::kDecode;
  options.steps = 256;
  EXPECT_LT(fit_bench(model, card(22), options, 128).m, 128);
  model.embedding_on_host = true;
  EXPECT_EQ(fit_bench(model, card(22), options, 128).m, 128);
  options.kv_dtype = DType::kF8E4M3;
  EXPECT_EQ(fit_bench(model, card(22), options, 256).m, 256);
}

TEST(BenchFit, PagesLeaveLittleEmpty) {
  EXPECT_EQ(bench_page(272), 16);
  EXPECT_EQ(bench_page(1024), 64);
  EXPECT_EQ(bench_page(7), 16);
  EXPECT_EQ(bench_page(1000), 64);
}

TEST(BenchFit, PromptsOfDecodeGoInShortSteps) {
  BenchModelOptions options;
  options.phase = BenchPhase::kDecode;
  EXPECT_EQ(bench_prompt_step(4, options), 64);
  EXPECT_EQ(bench_prompt_step(512, options), 2048);
  options.prompt = 5000;
  EXPECT_EQ(bench_prompt_step(512, options), 5000);
}

}  // namespace
}  // namespace slidesparse
