// Random requests with random cancels, between steps and events: whatever an engine does with them, each gets
// the tokens that it gets alone, totals add up, and no page is lost.
#include <gtest/gtest.h>

#include <algorithm>

#include "engine/engine_test_tools.h"

namespace slidesparse {
namespace {

using test::alone;
using test::some_request;
using test::Told;

struct EngineCase {
  const char* name;
  std::int64_t sequences, tokens, pages;
  bool deterministic;
};

void expect_sums(const EngineMetrics& metrics) {
  EXPECT_EQ(metrics.requests_submitted, metrics.requests_waiting + metrics.requests_running +
                                            metrics.requests_finished + metrics.requests_failed +
                                            metrics.requests_cancelled);
  EXPECT_GE(metrics.requests_running, 0);
  EXPECT_LE(metrics.kv_pages_used, metrics.kv_pages_peak);
  EXPECT_LE(metrics.kv_pages_peak, metrics.kv_pages_total);
  EXPECT_LE(metrics.step_seconds_p50, metrics.step_seconds_p99);
  EXPECT_LE(metrics.step_seconds_p99, metrics.busy_seconds);
}

class EngineProperty : public testing::TestWithParam<EngineCase> {};

TEST_P(EngineProperty, CancelsAndCompanyChangeNobodysTokens) {
  const EngineCase& c = GetParam();
  EngineOptions options;
  options.max_num_seqs = c.sequences;
  options.max_num_batched_tokens = c.tokens;
  options.page_size = 4;
  options.kv_pages = c.pages;
  options.deterministic = c.deterministic;
  std::int64_t preemptions = 0, cancelled_running = 0;
  for (std::uint64_t round = 0; round < 6; ++round) {
    Engine engine = test::small_engine(options);
    Random random(round + 1);
    std::map<std::int64_t, GenerationRequest> requests;
    std::map<std::int64_t, Told> told;
    std::vector<std::int64_t> open, cancelled;
    constexpr std::int64_t kRequests = 20;
    std::int64_t prompt_tokens = 0;
    const auto take_one = [&](const Event& event) {
      ASSERT_TRUE(std::ranges::find(cancelled, event.request) == cancelled.end());
      take(told, event);
      if (event.kind != EventKind::kToken) std::erase(open, event.request);
    };
    while (true) {
      const std::int64_t dice = random.below(8);
      if (dice < 2 && static_cast<std::int64_t>(requests.size()) < kRequests) {
        const GenerationRequest request = some_request(100 * round + requests.size());
        const std::int64_t id = engine.submit(request);
        prompt_tokens += static_cast<std::int64_t>(request.tokens.size());
        requests[id] = request;
        open.push_back(id);
      } else if (dice == 2 && !open.empty() && random.below(3) == 0) {
        const std::int64_t id =
            open[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(open.size())))];
        cancelled_running += told.count(id) != 0 ? 1 : 0;
        EXPECT_TRUE(engine.cancel(id));
        EXPECT_FALSE(engine.cancel(id));
        cancelled.push_back(id);
        std::erase(open, id);
      } else if (dice < 5) {
        while (const std::optional<Event> event = engine.poll()) take_one(*event);
      } else if (const std::optional<Event> event = engine.next()) {
        take_one(*event);
      } else if (static_cast<std::int64_t>(requests.size()) == kRequests) {
        break;
      }
      expect_sums(engine.metrics());
    }
    EXPECT_TRUE(open.empty());
    std::int64_t generated = 0;
    for (const auto& [id, request] : requests) {
      const test::AloneResult expected = alone(request, *test::int8_model(), c.tokens);
      const Told& entry = told[id];
      generated += static_cast<std::int64_t>(entry.tokens.size());
      if (std::ranges::find(cancelled, id) == cancelled.end()) {
        ASSERT_TRUE(entry.last) << id;
        EXPECT_EQ(entry.tokens, expected.tokens) << id;
        EXPECT_EQ(entry.last->reason, expected.reason) << id;
        EXPECT_EQ(entry.last->output_tokens, static_cast<std::int64_t>(expected.tokens.size())) << id;
        EXPECT_EQ(entry.last->prompt_tokens, static_cast<std::int64_t>(request.tokens.size())) << id;
      } else {
        ASSERT_LE(entry.tokens.size(), expected.tokens.size()) << id;
        EXPECT_TRUE(std::equal(entry.tokens.begin(), entry.tokens.end(), expected.tokens.begin())) << id;
      }
    }
    const EngineMetrics metrics = engine.metrics();
    EXPECT_EQ(metrics.requests_submitted, kRequests);
    EXPECT_EQ(metrics.requests_waiting, 0);
    EXPECT_EQ(metrics.requests_running, 0);
    EXPECT_EQ(metrics.requests_cancelled, static_cast<std::int64_t>(cancelled.size()));
    EXPECT_EQ(metrics.requests_finished, kRequests - metrics.requests_cancelled);
    EXPECT_EQ(metrics.prompt_tokens, prompt_tokens);
    EXPECT_EQ(metrics.generation_tokens, generated);
    EXPECT_EQ(metrics.kv_pages_used, 0);
    EXPECT_EQ(metrics.kv_pages_total, c.pages);
    EXPECT_GT(metrics.kv_pages_peak, 0);
    preemptions += metrics.preemptions;
  }
  EXPECT_GT(cancelled_running, 0) << "some were meant to be cancelled after their first token";
  if (c.pages < 20 && !c.deterministic) {
    EXPECT_GT(preemptions, 0) << "pages were meant to run out";
  }
}

INSTANTIATE_TEST_SUITE_P(Engines, EngineProperty,
                         testing::Values(EngineCase{"roomy", 8, 64, 200, false},
                                         EngineCase{"one_at_a_time", 1, 16, 200, false},
                                         EngineCase{"small_steps", 8, 8, 200, false},
                                         EngineCase{"few_pages", 8, 48, 18, false},
                                         EngineCase{"deterministic", 8, 48, 18, true}),
                         [](const auto& which) { return which.param.name; });

// Sums of FP8 depend on how many tokens are multiplied at once, so here company could change tokens; it may
// not.
TEST(EngineProperty, DeterministicIsBitForBitWhatOneRequestGetsAlone) {
  const std::shared_ptr<const Model> model = test::tiny_model(DType::kF8E4M3);
  EngineOptions options = test::small_options();
  options.deterministic = true;
  options.max_model_len = 0;
  Engine engine = make_engine({model, std::nullopt, {test::kEnd}}, options);
  for (std::uint64_t seed = 0; seed < 16; ++seed) engine.submit(some_request(seed));
  const auto told = test::drain(engine);
  for (std::uint64_t seed = 0; seed < 16; ++seed) {
    const test::AloneResult expected = alone(some_request(seed), *model);
    const Told& entry = told.at(static_cast<std::int64_t>(seed));
    EXPECT_EQ(entry.tokens, expected.tokens) << seed;
    for (std::size_t t = 0; t < entry.events.size() && some_request(seed).logprobs >= 0; ++t)
      EXPECT_EQ(entry.events[t].logprob, token_logprob(expected.logits[t], entry.tokens[t])) << seed;
  }
}

}  // namespace
}  // namespace slidesparse
