// The public engine: what comes of requests, and what does not.
#include "slidesparse/engine/engine.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "engine/engine_test_tools.h"

namespace slidesparse {
namespace {

using test::alone;
using test::drain;
using test::int8_model;
using test::small_engine;
using test::small_options;
using test::some_request;
using testing::HasSubstr;

template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Engine, StreamsTextThatIsTheDecodedTokens) {
  const Tokenizer tokenizer = load(small_tokenizer());
  Engine engine = small_engine();
  GenerationRequest request;
  request.text = "abc a xyz";
  request.max_tokens = 12;
  request.ignore_eos = true;
  request.sampling = {.temperature = 2.0, .seed = 4};
  const std::int64_t id = engine.submit(request);
  const test::Told told = drain(engine).at(id);
  ASSERT_TRUE(told.last);
  EXPECT_EQ(told.last->kind, EventKind::kFinished);
  EXPECT_EQ(told.last->reason, StopReason::kMaxTokens);
  EXPECT_EQ(told.last->output_tokens, 12);
  GenerationRequest ids = request;
  ids.text.clear();
  ids.tokens = tokenizer.encode("abc a xyz");
  EXPECT_EQ(told.last->prompt_tokens, static_cast<std::int64_t>(ids.tokens.size()));
  EXPECT_EQ(told.tokens, alone(ids).tokens);
  EXPECT_EQ(told.text, tokenizer.decode(told.tokens, true));
  engine.submit(ids);
  EXPECT_EQ(drain(engine).begin()->second.text, told.text);
}

TEST(Engine, PollTakesWhatIsThereAndStepRunsOne) {
  Engine engine = small_engine();
  EXPECT_FALSE(engine.poll());
  EXPECT_FALSE(engine.next());
  EXPECT_FALSE(engine.step());
  GenerationRequest request = some_request(1);
  request.tokens.assign(40, 9);  // two steps of 32 tokens at most
  engine.submit(request);
  EXPECT_FALSE(engine.poll()) << "nothing may run by itself";
  EXPECT_TRUE(engine.step());
  EXPECT_FALSE(engine.poll());
  EXPECT_TRUE(engine.step());
  EXPECT_TRUE(engine.poll());
}

TEST(Engine, StopTokensEndTokensAndLengths) {
  Engine engine = small_engine();
  GenerationRequest request = some_request(3);
  request.stop_tokens.clear();
  request.ignore_eos = true;
  request.max_tokens = 12;
  const auto run = [&] {
    engine.submit(request);
    return drain(engine).rbegin()->second;
  };
  const std::vector<std::int32_t> free = run().tokens;
  ASSERT_EQ(free.size(), 12u);
  request.stop_tokens = {free[4]};
  const auto stop = static_cast<std::size_t>(std::ranges::find(free, free[4]) - free.begin());
  EXPECT_EQ(run().tokens, std::vector(free.begin(), free.begin() + static_cast<std::ptrdiff_t>(stop)));
  EXPECT_EQ(run().last->reason, StopReason::kStopToken);
  request.min_tokens = static_cast<std::int64_t>(stop) + 1;
  EXPECT_GT(run().tokens.size(), stop);
  // The model's own end token.
  Engine ending = make_engine({int8_model(), std::nullopt, {free[4]}}, small_options());
  GenerationRequest plain = request;
  plain.stop_tokens.clear();
  plain.min_tokens = 0;
  plain.ignore_eos = false;
  ending.submit(plain);
  EXPECT_EQ(drain(ending).at(0).tokens.size(), stop);
  plain.ignore_eos = true;
  ending.submit(plain);
  EXPECT_EQ(drain(ending).at(1).tokens, free);
  // Lengths.
  request = some_request(3);
  request.ignore_eos = true;
  request.stop_tokens.clear();
  request.max_tokens = std::numeric_limits<std::int64_t>::max();
  const test::Told longest = run();
  EXPECT_EQ(longest.last->reason, StopReason::kMaxModelLen);
  EXPECT_EQ(longest.tokens.size() + request.tokens.size(), 64u);
  request.max_tokens = 0;
  const test::Told none = run();
  EXPECT_TRUE(none.tokens.empty());
  EXPECT_EQ(none.last->reason, StopReason::kMaxTokens);
  EXPECT_EQ(engine.metrics().kv_pages_used, 0);
}

TEST(Engine, ABadRequestGetsOneErrorAndDisturbsNobody) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  struct Case {
    void (*spoil)(GenerationRequest&);
    const char* says;
  };
  const Case cases[] = {
      {[](auto& r) { r.tokens.clear(); }, "the prompt has no tokens"},
      {[](auto& r) { r.tokens.push_back(261); }, "is 261, which is not in the vocabulary of 261"},
      {[](auto& r) { r.tokens[0] = -1; }, "token 0 of its prompt is -1"},
      {[](auto& r) { r.tokens.assign(64, 1); },
       "64 tokens leaves no room for a new one within max_model_len 64"},
      {[](auto& r) { r.text = "x"; }, "both token ids and text"},
      {[](auto& r) { r.tokens.clear(), r.text = "\xff"; }, "UTF-8"},
      {[](auto& r) { r.sampling.temperature = kNan; }, "temperature nan"},
      {[](auto& r) { r.sampling.temperature = -1; }, "temperature -1"},
      {[](auto& r) { r.sampling.top_p = 0; }, "top-p 0"},
      {[](auto& r) { r.sampling.top_p = 1.01; }, "top-p 1.01"},
      {[](auto& r) { r.sampling.top_p = kNan; }, "top-p nan"},
      {[](auto& r) { r.sampling.top_k = -1; }, "top-k -1"},
      {[](auto& r) { r.sampling.min_p = 2; }, "min-p 2"},
      {[](auto& r) { r.sampling.repetition_penalty = -2; }, "repetition penalty -2"},
      {[](auto& r) { r.sampling.repetition_penalty = kNan; }, "repetition penalty nan"},
      {[](auto& r) { r.max_tokens = -1; }, "max_tokens -1"},
      {[](auto& r) { r.min_tokens = 50; }, "min_tokens 50"},
      {[](auto& r) { r.min_tokens = -1; }, "min_tokens -1"},
      {[](auto& r) { r.logprobs = 21; }, "logprobs 21: -1 (none) to 20"},
      {[](auto& r) { r.logprobs = -2; }, "logprobs -2"},
  };
  Engine engine = small_engine();
  const std::int64_t good = engine.submit(some_request(1));
  engine.step();
  const EngineMetrics before = engine.metrics();
  for (const Case& c : cases) {
    GenerationRequest bad = some_request(2);
    c.spoil(bad);
    const std::string error = error_of([&] { engine.submit(bad); });
    EXPECT_THAT(error, HasSubstr(c.says));
    EXPECT_EQ(error.find('\n'), std::string::npos);
  }
  EXPECT_EQ(engine.metrics().requests_submitted, before.requests_submitted);
  EXPECT_EQ(engine.metrics().prompt_tokens, before.prompt_tokens);
  EXPECT_EQ(engine.metrics().kv_pages_used, before.kv_pages_used);
  const std::int64_t other = engine.submit(some_request(5));
  EXPECT_EQ(other, good + 1);
  const auto told = drain(engine);
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told.at(good).tokens, alone(some_request(1)).tokens);
  EXPECT_EQ(told.at(other).tokens, alone(some_request(5)).tokens);
}

TEST(Engine, TextNeedsATokenizer) {
  Engine engine = make_engine({int8_model(), std::nullopt, {}}, small_options());
  EXPECT_FALSE(engine.has_tokenizer());
  GenerationRequest request;
  request.text = "x";
  EXPECT_THAT(error_of([&] { engine.submit(request); }), HasSubstr("no tokenizer"));
  engine.submit(some_request(1));
  EXPECT_EQ(drain(engine).at(0).text, "");
}

TEST(Engine, CancelFreesPagesAtOnceAndNothingMoreComes) {
  Engine engine = small_engine();
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    GenerationRequest request = some_request(seed);
    request.tokens.resize(8, 1);
    request.max_tokens = 20;
    request.stop_tokens.clear();
    request.ignore_eos = true;
    engine.submit(request);
  }
  EXPECT_TRUE(engine.cancel(5));  // waiting
  EXPECT_FALSE(engine.cancel(5));
  EXPECT_FALSE(engine.cancel(77));
  EXPECT_FALSE(engine.cancel(-1));
  ASSERT_TRUE(engine.step());  // 8 tokens are 2 pages of 4: the first four requests
  EXPECT_EQ(engine.metrics().requests_running, 4);
  EXPECT_EQ(engine.metrics().requests_waiting, 1);
  EXPECT_EQ(engine.metrics().kv_pages_used, 8);
  EXPECT_TRUE(engine.cancel(1));  // running, with an event that nobody has taken
  EXPECT_EQ(engine.metrics().kv_pages_used, 6);
  EXPECT_EQ(engine.metrics().requests_cancelled, 2);
  const auto told = drain(engine);
  EXPECT_EQ(told.size(), 4u);
  EXPECT_EQ(told.count(1) + told.count(5), 0u);
  for (const auto& [id, entry] : told) EXPECT_EQ(entry.tokens.size(), 20u) << id;
  EXPECT_EQ(engine.metrics().kv_pages_used, 0);
  EXPECT_EQ(engine.metrics().requests_finished, 4);
}

TEST(Engine, WhatEndedCanBeCancelledUntilItsLastEventIsTaken) {
  Engine engine = small_engine();
  GenerationRequest request = some_request(3);
  request.max_tokens = 1;
  request.stop_tokens.clear();
  request.ignore_eos = true;
  engine.submit(request);
  engine.submit(request);
  ASSERT_TRUE(engine.step());
  EXPECT_EQ(engine.metrics().kv_pages_used, 0);
  EXPECT_EQ(engine.metrics().requests_running, 2);
  EXPECT_TRUE(engine.cancel(0));
  ASSERT_EQ(engine.next()->request, 1);
  EXPECT_EQ(engine.next()->kind, EventKind::kFinished);
  EXPECT_FALSE(engine.cancel(1));
  EXPECT_FALSE(engine.next());
  EXPECT_EQ(engine.metrics().requests_cancelled, 1);
  EXPECT_EQ(engine.metrics().generation_tokens, 1);
}

TEST(Engine, LogprobsAreTheLogSoftmaxOfTheLogits) {
  Engine engine = small_engine();
  std::vector<GenerationRequest> requests;
  for (std::uint64_t seed = 0; seed < 12; ++seed) requests.push_back(some_request(seed));
  for (const GenerationRequest& request : requests) engine.submit(request);
  const auto told = drain(engine);
  std::int64_t checked = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const test::AloneResult expected = alone(requests[i]);
    const test::Told& entry = told.at(static_cast<std::int64_t>(i));
    ASSERT_EQ(entry.tokens, expected.tokens) << i;
    for (std::size_t t = 0; t < entry.events.size(); ++t) {
      const Event& event = entry.events[t];
      if (requests[i].logprobs < 0) {
        EXPECT_EQ(event.logprob, 0);
        EXPECT_TRUE(event.top.empty());
        continue;
      }
      const std::vector<float>& logits = expected.logits[t];
      double sum = 0;
      for (const float x : logits) sum += std::exp(static_cast<double>(x));
      EXPECT_NEAR(event.logprob, logits[static_cast<std::size_t>(event.token)] - std::log(sum), 2e-6);
      EXPECT_EQ(event.top, top_logprobs(logits, requests[i].logprobs));
      ASSERT_EQ(event.top.size(), static_cast<std::size_t>(requests[i].logprobs));
      for (const TokenLogprob& top : event.top)
        EXPECT_NEAR(top.logprob, logits[static_cast<std::size_t>(top.id)] - std::log(sum), 2e-6);
      ++checked;
    }
  }
  EXPECT_GT(checked, 30);
}

// Whose weights are damaged in the row of one token: requests that hold it fail, others go on, over pages
// that those have left behind.
TEST(Engine, ARequestWithoutNumbersFailsAlone) {
  const test::ScratchDirectory scratch("slidesparse_nan_model");
  const test::TensorFile tensors(test::golden("llama") / "model.safetensors");
  std::vector<test::NewTensor> damaged;
  for (const auto& [name, view] : tensors.all()) {
    const auto* bytes = static_cast<const std::byte*>(view.data);
    test::NewTensor tensor{name, view.dtype, {}, {bytes, bytes + view.byte_size()}};
    for (int i = 0; i < view.rank(); ++i) tensor.shape.push_back(view.dim(i));
    if (name == "model.embed_tokens.weight") std::memset(tensor.bytes.data() + 5 * 48 * 2, 0xff, 48 * 2);
    damaged.push_back(std::move(tensor));
  }
  test::write_model_directory(scratch.path(), read_text_file(test::golden("llama") / "config.json"), damaged);
  Engine engine = Engine::load({.directory = scratch.path().string(), .device = "cpu"}, small_options());
  GenerationRequest good, bad;
  good.tokens = {9, 10, 11, 12, 13};
  good.max_tokens = 20;
  good.stop_tokens = {5};
  bad.tokens = {9, 5, 11};
  const std::int64_t first = engine.submit(good);
  const std::int64_t failing = engine.submit(bad);
  auto told = drain(engine);
  ASSERT_TRUE(told.at(failing).last);
  EXPECT_EQ(told.at(failing).last->kind, EventKind::kFailed);
  EXPECT_THAT(told.at(failing).last->error, HasSubstr("request 1: every logit is NaN or -inf"));
  EXPECT_TRUE(told.at(failing).tokens.empty());
  EXPECT_EQ(told.at(first).last->kind, EventKind::kFinished);
  const std::int64_t again = engine.submit(good);
  EXPECT_EQ(drain(engine).at(again).tokens, told.at(first).tokens);
  EXPECT_EQ(engine.metrics().requests_failed, 1);
  EXPECT_EQ(engine.metrics().requests_finished, 2);
  EXPECT_EQ(engine.metrics().kv_pages_used, 0);
}

}  // namespace
}  // namespace slidesparse
