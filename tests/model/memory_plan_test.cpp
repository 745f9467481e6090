// Against the figures that were worked out by hand for Qwen2.5-14B on a card with 22.4 GiB free, 0.55 GiB of
// it for the context: weights in several forms, prefill of 65,536 tokens, the most sequences that decode.
#include "model/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/presets.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Pair;

constexpr double kGiB = 1 << 30;
constexpr double kHopper = 0.625, kAda = 0.75;  // bytes a byte of slid row
constexpr auto k8Bit = DType::kF8E4M3;

double gib(std::int64_t bytes) {
  return static_cast<double>(bytes) / kGiB;
}

ModelConfig config_of(const char* name) {
  return *preset_config(name);
}

MemoryDemand demand_of(const char* name, std::int64_t linear_bytes) {
  MemoryDemand demand;
  demand.config = config_of(name);
  demand.linear_bytes = linear_bytes;
  demand.page_size = 16;
  demand.scratch = [config = demand.config](std::int64_t tokens, std::int64_t wanted) {
    return input_scratch(config, tokens, wanted, k8Bit);
  };
  return demand;
}

MemoryBudget budget() {
  return {static_cast<std::int64_t>(22.4 * kGiB), {{"context", static_cast<std::int64_t>(0.55 * kGiB)}}};
}

std::int64_t use(const std::vector<MemoryUse>& uses, const std::string& name) {
  for (const MemoryUse& one : uses) {
    if (one.name == name) return one.bytes;
  }
  ADD_FAILURE() << name;
  return 0;
}

std::int64_t weights(const std::vector<MemoryUse>& uses) {
  return use(uses, "linears") + use(uses, "embedding, norms and biases") + use(uses, "head");
}

TEST(MemoryPlan, WeightsInEveryForm) {
  // GB, dense in 8 bits, embedding and head in BF16.
  for (const auto& [name, gigabytes] : {std::pair("llama3.2-1b", 1.50), std::pair("llama3.2-3b", 3.61),
                                        std::pair("qwen2.5-7b", 8.71), std::pair("qwen2.5-14b", 16.33)}) {
    const ModelConfig config = config_of(name);
    const MemoryDemand demand = demand_of(name, packed_linear_bytes(config, k8Bit, Pattern()));
    EXPECT_NEAR(1e-9 * static_cast<double>(weights(plan_memory(demand))), gigabytes, 0.006) << name;
  }
  const ModelConfig config = config_of("qwen2.5-14b");
  const auto total = [&](std::int64_t linears) {
    return gib(weights(plan_memory(demand_of("qwen2.5-14b", linears))));
  };
  const struct {
    const char* pattern;
    double packed, hopper, ada;
  } rows[] = {
      {"2:4", 10.2, 10.6, 0}, {"4:6", 12.1, 13.2, 0}, {"6:8", 13.1, 14.4, 16.7}, {"8:10", 13.7, 15.2, 17.7}};
  for (const auto& row : rows) {
    const Pattern pattern = Pattern::parse(row.pattern);
    EXPECT_NEAR(total(packed_linear_bytes(config, k8Bit, pattern)), row.packed, 0.06) << row.pattern;
    EXPECT_NEAR(total(compressed_linear_bytes(config, k8Bit, pattern, kHopper)), row.hopper, 0.06)
        << row.pattern;
    if (row.ada > 0) {
      EXPECT_NEAR(total(compressed_linear_bytes(config, k8Bit, pattern, kAda)), row.ada, 0.06) << row.pattern;
    }
  }
}

// A quantised head is beside the embedding, tied or not: its own bytes, or those of the forms that are kept.
TEST(MemoryPlan, AQuantisedHeadIsCounted) {
  for (const char* name : {"llama3.2-1b", "qwen2.5-7b"}) {  // tied, untied
    const ModelConfig config = config_of(name);
    const std::int64_t embedding = 2 * config.vocab * config.hidden;
    MemoryDemand demand = demand_of(name, 0);
    const std::int64_t plain = use(plan_memory(demand), "embedding, norms and biases");
    EXPECT_EQ(use(plan_memory(demand), "head"), config.tied_embeddings ? 0 : embedding);
    demand.head = k8Bit;
    EXPECT_EQ(use(plan_memory(demand), "head"), embedding / 2 + 2 * config.vocab);
    EXPECT_EQ(use(plan_memory(demand), "embedding, norms and biases"), plain);
    demand.head_bytes = embedding + 8 * config.vocab;  // two forms
    EXPECT_EQ(use(plan_memory(demand), "head"), demand.head_bytes);
    demand.embedding_on_host = true;
    EXPECT_EQ(use(plan_memory(demand), "embedding, norms and biases"), plain - embedding);
  }
}

// Rows that go through the head in blocks, whatever the number of sequences.
TEST(MemoryPlan, LogitsOfBlocks) {
  MemoryDemand demand = demand_of("qwen2.5-7b", 0);
  demand.length = 2048;
  demand.step_tokens = 2048;
  const std::int64_t row = 4 * demand.config.vocab;
  EXPECT_EQ(use(plan_memory(demand), "logits"), row);
  const std::int64_t before = use(plan_memory(demand), "activations and scratch");
  demand.logit_rows = 48;
  EXPECT_EQ(use(plan_memory(demand), "logits"), 48 * row);
  EXPECT_EQ(use(plan_memory(demand), "activations and scratch"), before);  // the layers take more
  demand.sequences = 100;
  EXPECT_EQ(use(plan_memory(demand), "logits"), 48 * row);
}

TEST(MemoryPlan, KeysAndValuesByTokenAndType) {
  MemoryDemand demand = demand_of("qwen2.5-14b", 0);
  demand.sequences = 3;
  demand.length = 272;  // 17 pages of 16
  EXPECT_EQ(use(plan_memory(demand), "KV cache"), 3 * 272 * 192 * 1024);
  demand.kv_dtype = DType::kF8E4M3;
  EXPECT_EQ(use(plan_memory(demand), "KV cache"), 3 * 272 * 96 * 1024);
  demand.page_size = 64;  // 5 pages
  EXPECT_EQ(use(plan_memory(demand), "KV cache"), 3 * 320 * 96 * 1024);
  demand.kv_kept = KvKept::kUntilFinished;
  demand.step_tokens = 273;  // the end of one, a whole one, the beginning of another
  EXPECT_EQ(use(plan_memory(demand), "KV cache"), 3 * 320 * 96 * 1024);
  demand.step_tokens = 272;
  EXPECT_EQ(use(plan_memory(demand), "KV cache"), 2 * 320 * 96 * 1024);
  demand.kv_kept = KvKept::kCurrentLayer;
  EXPECT_EQ(use(plan_memory(demand), "KV cache"), 2 * 320 * 2 * 1024);
}

// M = 65,536 of 64 prompts. By hand, to a tenth of a GiB: 20.6 in one step without any keys and values, 17.9
// in chunks of 8192 with 1.5 of them. Besides, ours has what is added to the residual (0.625 GiB a step of
// 65,536), the rotary table and logits (0.1).
TEST(MemoryPlan, PrefillOf65536Tokens) {
  MemoryDemand demand =
      demand_of("qwen2.5-14b", packed_linear_bytes(config_of("qwen2.5-14b"), k8Bit, Pattern()));
  demand.sequences = 64;
  demand.length = 1024;
  const auto total = [&] { return gib(bytes_of(plan_memory(demand)) + bytes_of(budget().held)); };
  demand.step_tokens = 65536;
  demand.kv_kept = KvKept::kCurrentLayer;
  EXPECT_NEAR(total(), 20.6 + 0.625 + 0.1 + 0.25, 0.06);  // and one layer's keys and values
  EXPECT_NO_THROW(check_memory(demand, budget()));
  demand.step_tokens = 8192;
  demand.kv_kept = KvKept::kUntilFinished;
  EXPECT_NEAR(total(), 17.9 + 0.08 + 0.1 + 0.19, 0.06);  // and a ninth prompt's, if they lie unevenly
  EXPECT_NO_THROW(check_memory(demand, budget()));
  // Those of all prompts kept: 12 GiB; none of the forms leaves so much.
  demand.kv_kept = KvKept::kAll;
  EXPECT_NEAR(total(), 17.9 + 0.08 + 0.1 - 1.5 + 12, 0.06);
  for (const char* pattern : {"2:4", "4:6", "6:8", "8:10"}) {
    demand.linear_bytes = packed_linear_bytes(demand.config, k8Bit, Pattern::parse(pattern));
    EXPECT_THROW(check_memory(demand, budget()), Error) << pattern;
  }
}

TEST(MemoryPlan, TheMostSequencesThatDecode) {
  const ModelConfig config = config_of("qwen2.5-14b");
  const auto most = [&](std::int64_t linears, DType kv) {
    MemoryDemand demand = demand_of("qwen2.5-14b", linears);
    demand.length = 272;
    demand.kv_dtype = kv;
    const std::int64_t sequences = memory_limits(demand, budget()).sequences;
    demand.sequences = sequences;
    EXPECT_NO_THROW(check_memory(demand, budget()));
    ++demand.sequences;
    EXPECT_THROW(check_memory(demand, budget()), Error);
    return static_cast<double>(sequences);
  };
  const struct {
    const char* pattern;
    double packed_bf16, packed_fp8, hopper_bf16, hopper_fp8;
  } rows[] = {{"2:4", 229, 454, 222, 439},
              {"4:6", 191, 379, 171, 338},
              {"6:8", 172, 341, 145, 288},
              {"8:10", 161, 318, 130, 258}};
  // By hand: 0.1 GiB more or less is two sequences, four in FP8.
  for (const auto& row : rows) {
    const Pattern pattern = Pattern::parse(row.pattern);
    const std::int64_t packed = packed_linear_bytes(config, k8Bit, pattern);
    const std::int64_t hopper = compressed_linear_bytes(config, k8Bit, pattern, kHopper);
    EXPECT_NEAR(most(packed, DType::kBF16), row.packed_bf16, 2) << row.pattern;
    EXPECT_NEAR(most(packed, k8Bit), row.packed_fp8, 4) << row.pattern;
    EXPECT_NEAR(most(hopper, DType::kBF16), row.hopper_bf16, 2) << row.pattern;
    EXPECT_NEAR(most(hopper, k8Bit), row.hopper_fp8, 4) << row.pattern;
  }
  const std::int64_t dense = packed_linear_bytes(config, k8Bit, Pattern());
  EXPECT_NEAR(most(dense, DType::kBF16), 130, 2);
  EXPECT_NEAR(most(dense, k8Bit), 258, 4);
}

TEST(MemoryPlan, EveryLimitIsTheLargestThatFits) {
  MemoryDemand demand =
      demand_of("qwen2.5-7b", packed_linear_bytes(config_of("qwen2.5-7b"), k8Bit, Pattern::parse("6:8")));
  const MemoryBudget card{24'000'000'000, {{"context", 600'000'000}, {"other programs", 1'000'000'000}}};
  for (const KvKept kept : {KvKept::kAll, KvKept::kUntilFinished, KvKept::kCurrentLayer}) {
    demand.kv_kept = kept;
    demand.sequences = 200;
    demand.length = 5000;
    demand.step_tokens = 300000;
    const MemoryLimits limits = memory_limits(demand, card);
    const auto fits = [&](std::int64_t MemoryDemand::*number, std::int64_t value) {
      MemoryDemand tried = demand;
      tried.*number = value;
      return bytes_of(plan_memory(tried)) <= card.free();
    };
    const auto expect_largest = [&](std::int64_t MemoryDemand::*number, std::int64_t value,
                                    std::int64_t most) {
      EXPECT_TRUE(value == 0 || fits(number, value)) << value;
      EXPECT_TRUE(value == most || !fits(number, value + 1)) << value;
    };
    expect_largest(&MemoryDemand::sequences, limits.sequences, std::int64_t{1} << 30);
    expect_largest(&MemoryDemand::step_tokens, limits.step_tokens, demand.step_tokens);
    expect_largest(&MemoryDemand::length, limits.length, demand.config.max_position);
    EXPECT_LT(limits.step_tokens, demand.step_tokens);
  }
}

TEST(MemoryPlan, WhatDoesNotFitSaysWhoTakesItAndWhatWould) {
  MemoryDemand demand =
      demand_of("qwen2.5-14b", packed_linear_bytes(config_of("qwen2.5-14b"), k8Bit, Pattern()));
  demand.length = 272;
  demand.sequences = 256;
  demand.graphs = 1 << 20;
  std::string message;
  try {
    check_memory(demand, budget());
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    message = error.what();
    ASSERT_NE(error.facts(), nullptr);
    EXPECT_TRUE(error.facts()->planned);
    EXPECT_EQ(error.facts()->needed_bytes, bytes_of(plan_memory(demand)));
    EXPECT_EQ(error.facts()->free_bytes, budget().free());
    EXPECT_THAT(error.facts()->holders, Contains(Pair("KV cache", 13690208256)));
  }
  EXPECT_THAT(message, HasSubstr("linears 12.3"));
  EXPECT_THAT(message, HasSubstr("KV cache 12.75 GiB"));
  EXPECT_THAT(message, HasSubstr("21.85 GiB of 22.40 GiB free (context 0.55 GiB)"));
  const MemoryLimits limits = memory_limits(demand, budget());
  EXPECT_THAT(message, HasSubstr("what would fit: " + std::to_string(limits.sequences) +
                                 " sequences of 272 tokens, or 256 sequences of " +
                                 std::to_string(limits.length) + " tokens"));
  EXPECT_EQ(message.find('\n'), std::string::npos);
  const std::string table = memory_table(demand, budget());
  for (const char* part : {"KV cache", "13690208256", "graphs", "needed", "held: context", "free"})
    EXPECT_THAT(table, HasSubstr(part));
  // Nothing helps where the weights alone are too much.
  const MemoryBudget small{std::int64_t{8} << 30, {}};
  EXPECT_EQ(memory_limits(demand, small).sequences, 0);
  EXPECT_EQ(memory_limits(demand, small).length, 0);
  EXPECT_EQ(memory_limits(demand, small).step_tokens, 0);
  try {
    check_memory(demand, small);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("8.00 GiB of 8.00 GiB free: no smaller step"));
  }
}

TEST(MemoryPlan, RefusesSizesThatAreNone) {
  for (std::int64_t MemoryDemand::*number : {&MemoryDemand::sequences, &MemoryDemand::length,
                                             &MemoryDemand::step_tokens, &MemoryDemand::page_size}) {
    for (const std::int64_t value : {std::int64_t{0}, std::int64_t{-5}, std::int64_t{1} << 31}) {
      MemoryDemand demand = demand_of("qwen2.5-7b", 0);
      demand.*number = value;
      EXPECT_THROW(plan_memory(demand), Error) << value;
    }
  }
}

}  // namespace
}  // namespace slidesparse
