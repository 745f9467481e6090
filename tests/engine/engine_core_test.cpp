// Many requests at once against each of them alone.
#include "engine/engine_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "core/random.h"
#include "engine/alone.h"
#include "io/json.h"
#include "model/model_test_tools.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using testing::HasSubstr;

// INT8 throughout, so that sums do not depend on how many tokens are multiplied at once.
const Model& model() {
  static const Model kModel = [] {
    const ModelConfig config =
        parse_model_config(read_text_file(test::golden("llama") / "config.json"), "config.json");
    return Model::random(config, DType::kI8, Pattern::parse("6:8"), DType::kI8, 1);
  }();
  return kModel;
}

CoreRequest some_request(std::int64_t id) {
  const auto seed = static_cast<std::uint64_t>(id);
  CoreRequest made;
  made.request.id = id;
  const auto length = static_cast<std::int64_t>(1 + random_bits(seed, 0) % 40);
  for (std::int64_t i = 0; i < length; ++i) {
    made.request.prompt.push_back(
        static_cast<std::int32_t>(random_bits(seed, static_cast<std::uint64_t>(100 + i)) % 128));
  }
  made.request.max_new_tokens = static_cast<std::int64_t>(1 + random_bits(seed, 1) % 20);
  made.request.stop_tokens = {3, 7, 11, 60};
  made.sampling.seed = seed + 5;
  if (id % 3 != 0) made.sampling.temperature = 0.5 + 0.25 * static_cast<double>(id % 4);
  if (id % 4 == 1) made.sampling.top_k = 12;
  if (id % 5 == 2) made.sampling.repetition_penalty = 1.4;
  return made;
}

test::AloneResult alone(const CoreRequest& request) {
  test::AloneOptions options;
  options.max_tokens = request.request.max_new_tokens;
  options.sampling = request.sampling;
  options.stop_tokens = request.request.stop_tokens;
  return test::generate_alone(model(), request.request.prompt, options);
}

struct Outcome {
  std::vector<std::int32_t> streamed, output;
  StopReason reason = StopReason::kCaller;
  std::int64_t preemptions = 0;
};

// Everything that comes of the requests in the engine.
std::map<std::int64_t, Outcome> drain(EngineCore& engine) {
  std::map<std::int64_t, Outcome> outcomes;
  CoreSink sink;
  sink.on_token = [&](const NewToken& token, const RowLogprobs*) {
    EXPECT_EQ(token.index, static_cast<std::int64_t>(outcomes[token.id].streamed.size()));
    outcomes[token.id].streamed.push_back(token.token);
  };
  sink.on_finish = [&](const FinishedRequest& finished) {
    Outcome& outcome = outcomes[finished.id];
    outcome.output.assign(finished.output.begin(), finished.output.end());
    outcome.reason = finished.reason;
    outcome.preemptions = finished.preemptions;
  };
  sink.on_error = [](std::int64_t id, const std::string& why) { ADD_FAILURE() << id << ": " << why; };
  while (engine.turn(sink)) {
  }
  return outcomes;
}

struct EngineCase {
  const char* name;
  bool overlap;
  std::int64_t tokens, sequences, pages;
};

class EngineCoreTest : public testing::TestWithParam<EngineCase> {};

TEST_P(EngineCoreTest, EveryRequestGetsWhatItGetsAlone) {
  const EngineCase& c = GetParam();
  EngineCoreOptions options;
  options.scheduler.max_batched_tokens = c.tokens;
  options.scheduler.max_sequences = c.sequences;
  options.scheduler.max_context = 64;
  options.pages = c.pages;
  options.page_size = 4;
  options.overlap = c.overlap;
  EngineCore engine(model(), options);
  constexpr std::int64_t kRequests = 24;
  for (std::int64_t id = 0; id < kRequests; ++id) engine.submit(some_request(id));
  const auto outcomes = drain(engine);
  ASSERT_EQ(outcomes.size(), static_cast<std::size_t>(kRequests));
  for (const auto& [id, outcome] : outcomes) {
    const test::AloneResult expected = alone(some_request(id));
    EXPECT_EQ(outcome.output, expected.tokens) << id;
    EXPECT_EQ(outcome.streamed, expected.tokens) << id;
    EXPECT_EQ(outcome.reason, expected.reason) << id;
  }
  EXPECT_EQ(engine.scheduler().live(), 0);
  EXPECT_EQ(engine.scheduler().blocks().used(), 0);
  EXPECT_GT(engine.metrics().steps, 0);
  if (c.pages < 20) {
    EXPECT_GT(engine.scheduler().preemptions(), 0) << "pages were meant to run out";
  }
}

INSTANTIATE_TEST_SUITE_P(Engines, EngineCoreTest,
                         testing::Values(EngineCase{"plain", false, 64, 8, 200},
                                         EngineCase{"overlap", true, 64, 8, 200},
                                         EngineCase{"one_at_a_time", true, 16, 1, 200},
                                         EngineCase{"few_pages", false, 48, 8, 18},
                                         EngineCase{"few_pages_overlap", true, 48, 8, 18}),
                         [](const auto& which) { return which.param.name; });

EngineCore small_engine() {
  EngineCoreOptions options;
  options.scheduler.max_batched_tokens = 32;
  options.scheduler.max_sequences = 4;
  options.scheduler.max_context = 64;
  options.pages = 40;
  options.page_size = 4;
  return EngineCore(model(), options);
}

std::string refusal(EngineCore& engine, const CoreRequest& request) {
  try {
    engine.submit(request);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(EngineCore, BadRequestsAreRefusedAndDisturbNobody) {
  EngineCore engine = small_engine();
  engine.submit(some_request(1));
  CoreRequest bad = some_request(2);
  bad.request.prompt[0] = 128;
  EXPECT_THAT(refusal(engine, bad),
              HasSubstr("token 0 of its prompt is 128, which is not in the vocabulary of 128"));
  bad = some_request(2);
  bad.request.prompt.clear();
  EXPECT_THAT(refusal(engine, bad), HasSubstr("the prompt has no tokens"));
  bad.request.prompt.assign(64, 1);
  EXPECT_THAT(refusal(engine, bad), HasSubstr("do not fit in a context of 64 tokens"));
  bad = some_request(2);
  bad.sampling.temperature = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(refusal(engine, bad), HasSubstr("temperature"));
  bad = some_request(1);
  EXPECT_THAT(refusal(engine, bad), HasSubstr("request 1"));
  const auto outcomes = drain(engine);
  ASSERT_EQ(outcomes.size(), 1u);
  EXPECT_EQ(outcomes.at(1).output, alone(some_request(1)).tokens);
}

TEST(EngineCore, NothingComesOfACancelledRequest) {
  EngineCore engine = small_engine();
  for (std::int64_t id = 0; id < 6; ++id) engine.submit(some_request(id));
  EXPECT_TRUE(engine.cancel(5));  // waiting
  EXPECT_FALSE(engine.cancel(99));
  engine.turn({});
  EXPECT_TRUE(engine.cancel(0));  // in a step under way
  EXPECT_FALSE(engine.cancel(0));
  const auto outcomes = drain(engine);
  EXPECT_EQ(outcomes.count(0), 0u);
  EXPECT_EQ(outcomes.count(5), 0u);
  for (const std::int64_t id : {1, 2, 3, 4})
    EXPECT_EQ(outcomes.at(id).output, alone(some_request(id)).tokens) << id;
  EXPECT_EQ(engine.scheduler().blocks().used(), 0);
}

TEST(EngineCore, AnIdleEngineTakesMore) {
  EngineCore engine = small_engine();
  EXPECT_FALSE(engine.turn({}));
  engine.submit(some_request(4));
  EXPECT_EQ(drain(engine).at(4).output, alone(some_request(4)).tokens);
  engine.submit(some_request(4));  // an id may come again
  EXPECT_EQ(drain(engine).at(4).output, alone(some_request(4)).tokens);
}

}  // namespace
}  // namespace slidesparse
