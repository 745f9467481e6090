#include "engine/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "io/json.h"
#include "model/model_test_tools.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

const Model& llama() {
  static const Model model = Model::load(test::golden("llama"));
  return model;
}

std::vector<std::int32_t> prompt() {
  return {1, 17, 99, 4, 63, 5, 5, 80};
}

TEST(Generate, GreedyIsTheArgmaxOfEveryPrefix) {
  GenerateOptions options;
  options.max_tokens = 6;
  const GenerateResult result = generate(llama(), prompt(), options);
  ASSERT_EQ(result.tokens.size(), 6u);
  EXPECT_EQ(result.reason, StopReason::kMaxTokens);
  EXPECT_EQ(result.prompt_tokens, 8);
  EXPECT_EQ(result.decode_steps, 5);
  std::vector<std::int32_t> tokens = prompt();
  for (const std::int32_t token : result.tokens) {
    const std::vector<float> logits = test::run_whole(llama(), tokens).back();
    // Decode and prefill round differently: the drawn token is the best one or as good as the best.
    EXPECT_GE(logits[static_cast<std::size_t>(token)], *std::ranges::max_element(logits) - 0.1f);
    tokens.push_back(token);
  }
}

TEST(Generate, ChunksOfThePromptChangeNothing) {
  GenerateOptions options;
  options.max_tokens = 10;
  const GenerateResult whole = generate(llama(), prompt(), options);
  options.prefill_chunk = 3;
  EXPECT_EQ(generate(llama(), prompt(), options).tokens, whole.tokens);
}

TEST(Generate, StopsAtStopTokensCallersAndTheLastPosition) {
  GenerateOptions options;
  options.max_tokens = 10;
  const std::vector<std::int32_t> free = generate(llama(), prompt(), options).tokens;
  const auto first_of = [&](std::int32_t token) { return std::ranges::find(free, token) - free.begin(); };
  options.stop_tokens = {free[3]};
  GenerateResult stopped = generate(llama(), prompt(), options);
  EXPECT_EQ(stopped.reason, StopReason::kStopToken);
  EXPECT_EQ(static_cast<std::ptrdiff_t>(stopped.tokens.size()), first_of(free[3]));

  options.stop_tokens.clear();
  std::vector<std::int32_t> seen;
  stopped = generate(llama(), prompt(), options, [&](std::int32_t token) {
    seen.push_back(token);
    return seen.size() < 2;
  });
  EXPECT_EQ(stopped.reason, StopReason::kCaller);
  EXPECT_EQ(seen, std::vector<std::int32_t>(free.begin(), free.begin() + 2));

  options.max_tokens = std::int64_t{1} << 40;
  stopped = generate(llama(), std::vector<std::int32_t>(250, 3), options);
  EXPECT_EQ(stopped.reason, StopReason::kMaxPosition);
  EXPECT_EQ(stopped.tokens.size(), 7u);  // positions 250 .. 255 are fed, and one more token is drawn

  options.max_tokens = 0;
  EXPECT_TRUE(generate(llama(), prompt(), options).tokens.empty());
}

TEST(Generate, RefusesBadPromptsAndOptions) {
  const GenerateOptions good;
  EXPECT_THROW(generate(llama(), {}, good), Error);
  EXPECT_THROW(generate(llama(), std::vector<std::int32_t>{128}, good), Error);
  EXPECT_THROW(generate(llama(), std::vector<std::int32_t>{-1}, good), Error);
  EXPECT_THROW(generate(llama(), std::vector<std::int32_t>(257, 1), good), Error);
  GenerateOptions bad = good;
  bad.max_tokens = -1;
  EXPECT_THROW(generate(llama(), prompt(), bad), Error);
  bad = good;
  bad.prefill_chunk = 0;
  EXPECT_THROW(generate(llama(), prompt(), bad), Error);
}

TEST(Generate, StopTokensComeFromBothFiles) {
  const test::ScratchDirectory scratch("slidesparse_stop_test");
  ModelConfig config;
  config.eos_tokens = {2, 5};
  EXPECT_THAT(stop_tokens_of(config, scratch.path()), testing::ElementsAre(2, 5));
  std::ofstream(scratch.path() / "generation_config.json") << R"({"eos_token_id": [5, 9]})";
  EXPECT_THAT(stop_tokens_of(config, scratch.path()), testing::ElementsAre(2, 5, 9));
  std::ofstream(scratch.path() / "generation_config.json") << R"({"eos_token_id": "x"})";
  EXPECT_THROW(stop_tokens_of(config, scratch.path()), Error);
}

}  // namespace
}  // namespace slidesparse
