#include "engine/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <memory>

#include "engine/alone.h"
#include "engine/make_engine.h"
#include "io/json.h"
#include "model/model_test_tools.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

std::shared_ptr<const Model> llama() {
  static const auto kModel = std::make_shared<const Model>(Model::load(test::golden("llama")));
  return kModel;
}

std::vector<std::int32_t> prompt() {
  return {1, 17, 99, 4, 63, 5, 5, 80};
}

GenerationRequest request_of(std::vector<std::int32_t> tokens, std::int64_t max_tokens) {
  GenerationRequest request;
  request.tokens = std::move(tokens);
  request.max_tokens = max_tokens;
  return request;
}

// Made for the request, as the command does.
Engine engine_for(const GenerationRequest& request, std::int64_t chunk = kPrefillChunk) {
  EngineOptions options = one_request_options(
      llama()->config(), static_cast<std::int64_t>(request.tokens.size()), request.max_tokens);
  options.max_num_batched_tokens = chunk;
  return make_engine({llama(), std::nullopt, {}}, options);
}

GenerateResult generate_fresh(const GenerationRequest& request, std::int64_t chunk = kPrefillChunk,
                              const std::function<bool(const Event&)>& on_event = {}) {
  Engine engine = engine_for(request, chunk);
  return generate(engine, request, on_event);
}

TEST(Generate, GreedyIsTheArgmaxOfEveryPrefix) {
  const GenerateResult result = generate_fresh(request_of(prompt(), 6));
  ASSERT_EQ(result.tokens.size(), 6u);
  EXPECT_EQ(result.reason, StopReason::kMaxTokens);
  EXPECT_EQ(result.prompt_tokens, 8);
  EXPECT_EQ(result.decode_steps, 5);
  EXPECT_GT(result.prefill_tokens_per_second(), 0);
  EXPECT_GT(result.decode_tokens_per_second(), 0);
  std::vector<std::int32_t> tokens = prompt();
  for (const std::int32_t token : result.tokens) {
    const std::vector<float> logits = test::run_whole(*llama(), tokens).back();
    // Decode and prefill round differently: the drawn token is the best one or as good as the best.
    EXPECT_GE(logits[static_cast<std::size_t>(token)], *std::ranges::max_element(logits) - 0.1f);
    tokens.push_back(token);
  }
}

// The engine does what one loop around Model::forward does, bit for bit.
TEST(Generate, IsOneSequenceThroughTheModel) {
  for (const double temperature : {0.0, 0.9}) {
    GenerationRequest request = request_of(prompt(), 30);
    request.sampling = {.temperature = temperature, .repetition_penalty = 1.2, .seed = 17};
    test::AloneOptions alone;
    alone.max_tokens = request.max_tokens;
    alone.sampling = request.sampling;
    EXPECT_EQ(generate_fresh(request).tokens, test::generate_alone(*llama(), request.tokens, alone).tokens);
  }
}

TEST(Generate, ChunksOfThePromptChangeNothing) {
  const GenerationRequest request = request_of(prompt(), 10);
  EXPECT_EQ(generate_fresh(request, 3).tokens, generate_fresh(request).tokens);
}

TEST(Generate, StopsAtStopTokensCallersAndTheLastPosition) {
  GenerationRequest request = request_of(prompt(), 10);
  const std::vector<std::int32_t> free = generate_fresh(request).tokens;
  const auto first_of = [&](std::int32_t token) { return std::ranges::find(free, token) - free.begin(); };
  request.stop_tokens = {free[3]};
  GenerateResult stopped = generate_fresh(request);
  EXPECT_EQ(stopped.reason, StopReason::kStopToken);
  EXPECT_EQ(static_cast<std::ptrdiff_t>(stopped.tokens.size()), first_of(free[3]));

  request.stop_tokens.clear();
  std::vector<std::int32_t> seen;
  Engine engine = engine_for(request);
  stopped = generate(engine, request, [&](const Event& event) {
    seen.push_back(event.token);
    return seen.size() < 2;
  });
  EXPECT_EQ(stopped.reason, StopReason::kCaller);
  EXPECT_EQ(seen, std::vector<std::int32_t>(free.begin(), free.begin() + 2));
  EXPECT_EQ(stopped.tokens, seen);
  EXPECT_EQ(engine.metrics().kv_pages_used, 0);
  EXPECT_EQ(generate(engine, request).tokens, free);  // nothing is left of it

  stopped = generate_fresh(request_of(std::vector<std::int32_t>(250, 3), std::int64_t{1} << 40));
  EXPECT_EQ(stopped.reason, StopReason::kMaxModelLen);
  EXPECT_EQ(stopped.tokens.size(), 7u);  // positions 250 .. 255 are fed, and one more token is drawn

  EXPECT_TRUE(generate_fresh(request_of(prompt(), 0)).tokens.empty());
}

TEST(Generate, RefusesBadPromptsAndOptions) {
  EXPECT_THROW(generate_fresh(request_of({}, 128)), Error);
  EXPECT_THROW(generate_fresh(request_of({128}, 128)), Error);
  EXPECT_THROW(generate_fresh(request_of({-1}, 128)), Error);
  EXPECT_THROW(generate_fresh(request_of(std::vector<std::int32_t>(257, 1), 128)), Error);
  EXPECT_THROW(generate_fresh(request_of(prompt(), -1)), Error);
  EXPECT_THROW(generate_fresh(request_of(prompt(), 128), 0), Error);
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
