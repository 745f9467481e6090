#include "engine/engine_sizes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/model.h"
#include "model/presets.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using testing::HasSubstr;

// Qwen2.5-7B: 28 layers, 4 heads of keys and values of 128: 56 KiB a token; 131,072 positions.
ModelConfig qwen() {
  return *preset_config("qwen2.5-7b");
}

std::string refusal(const EngineOptions& options, DeviceKind device = DeviceKind::kCpu) {
  try {
    core_options(qwen(), device, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(EngineSizes, PagesForAllSequencesOrTwoGibibytes) {
  EngineOptions options;
  options.max_num_seqs = 4;
  options.max_model_len = 1001;  // the last token is never fed
  EngineCoreOptions core = core_options(qwen(), DeviceKind::kCpu, options);
  EXPECT_EQ(core.scheduler.max_context, 1001);
  EXPECT_EQ(core.pages, 4 * 16);  // 1000 tokens are 16 pages of 64
  EXPECT_FALSE(core.overlap);
  EXPECT_TRUE(core_options(qwen(), DeviceKind::kCuda, options).overlap);

  options.max_num_seqs = 64;
  core = core_options(qwen(), DeviceKind::kCpu, options);
  EXPECT_EQ(core.pages, (std::int64_t{2} << 30) / (56 * 1024 * 64));
  EXPECT_EQ(core.scheduler.max_sequences, 64);
  // The model's own length, as far as pages go.
  options.max_model_len = 0;
  core = core_options(qwen(), DeviceKind::kCpu, options);
  EXPECT_EQ(core.scheduler.max_context, qwen().max_position + 1);
  EXPECT_EQ(core.pages, (std::int64_t{2} << 30) / (56 * 1024 * 64));
  // A length that was asked for is served, whatever it takes.
  options.max_model_len = qwen().max_position + 1;
  options.page_size = 1;
  core = core_options(qwen(), DeviceKind::kCpu, options);
  EXPECT_EQ(core.pages, std::max<std::int64_t>((std::int64_t{2} << 30) / (56 * 1024), qwen().max_position));
}

TEST(EngineSizes, EightBitKeysAndValuesAreForCards) {
  EngineOptions options;
  options.kv_cache_dtype = DType::kF8E4M3;
  EXPECT_THAT(refusal(options, DeviceKind::kCpu), HasSubstr("on a card only"));
  const EngineCoreOptions core = core_options(qwen(), DeviceKind::kCuda, options);
  EXPECT_EQ(core.kv_dtype, DType::kF8E4M3);
  options.kv_cache_dtype = DType::kBF16;
  EXPECT_NEAR(static_cast<double>(core.pages),
              2.0 * static_cast<double>(core_options(qwen(), DeviceKind::kCuda, options).pages), 1.0);
}

TEST(EngineSizes, ACardThatIsTooSmallIsToldBeforeAnythingIsThere) {
  EngineOptions options;
  options.max_num_seqs = 4;
  bool asked = false;
  const auto model = [&](std::int64_t longest) {
    asked = true;
    EXPECT_GT(longest, 0);
    MemoryDemand demand;
    demand.config = qwen();
    demand.linear_bytes = std::int64_t{1} << 50;
    return demand;
  };
  EXPECT_THROW(check_engine_memory(qwen(), model, options), Error);
  EXPECT_TRUE(asked);
}

TEST(EngineSizes, DeterministicIsOneSequenceAStep) {
  EngineOptions options;
  options.deterministic = true;
  EXPECT_EQ(core_options(qwen(), DeviceKind::kCpu, options).scheduler.max_sequences, 1);
  EXPECT_EQ(core_options(qwen(), DeviceKind::kCuda, options).scheduler.max_sequences, 1);
}

TEST(EngineSizes, NonsenseIsRefusedWithTheNumbers) {
  EngineOptions options;
  options.max_model_len = 140000;
  EXPECT_THAT(refusal(options),
              HasSubstr("max_model_len 140000: a model of 131072 positions allows 2 to 131073"));
  options.max_model_len = 1;
  EXPECT_THAT(refusal(options), HasSubstr("max_model_len 1"));
  options.max_model_len = 1000;
  options.kv_pages = 10;
  EXPECT_THAT(refusal(options),
              HasSubstr("kv_pages 10: a sequence of max_model_len 1000 tokens takes 16 pages"));
  EXPECT_THAT(refusal(options), HasSubstr("or max_model_len 641"));
  options.kv_pages = 16;
  EXPECT_EQ(refusal(options), "");
  options.max_num_batched_tokens = 63;
  EXPECT_THAT(refusal(options), HasSubstr("max_num_seqs 64, max_num_batched_tokens 63"));
  options = {};
  options.max_num_seqs = 0;
  EXPECT_THAT(refusal(options), HasSubstr("max_num_seqs 0"));
  options = {};
  options.page_size = 0;
  EXPECT_THAT(refusal(options), HasSubstr("page_size 0"));
  options.page_size = 24;
  EXPECT_EQ(refusal(options), "");
  EXPECT_THAT(refusal(options, DeviceKind::kCuda), HasSubstr("page_size 24: on a card a multiple of 16"));
  options = {};
  options.kv_pages = -1;
  EXPECT_THAT(refusal(options), HasSubstr("kv_pages -1"));
}

}  // namespace
}  // namespace slidesparse
