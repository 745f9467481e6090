// Requests on a card: against themselves, and against the CPU as far as rounding lets them agree.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "core/cuda/memory.h"
#include "core/cuda/status.h"
#include "core/fail.h"
#include "core/random.h"
#include "engine/alone.h"
#include "engine/bench_fit.h"
#include "engine/engine_core.h"
#include "engine/weight_plan.h"
#include "model/card_model.h"

namespace slidesparse {
namespace {

ModelConfig small_config() {
  ModelConfig config;
  config.hidden = 256;
  config.intermediate = 512;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 64;
  config.vocab = 1000;
  config.max_position = 512;
  return config;
}

Model make(DeviceKind device) {
  ModelOptions options;
  options.device = device;
  options.ms = {1, 16, 64};
  return Model::random(small_config(), DType::kI8, Pattern::parse("6:8"), DType::kI8, 3, options);
}

CoreRequest some_request(std::int64_t id) {
  const auto seed = static_cast<std::uint64_t>(id);
  CoreRequest made;
  made.request.id = id;
  const auto length = static_cast<std::int64_t>(1 + random_bits(seed, 0) % 90);
  for (std::int64_t i = 0; i < length; ++i) {
    made.request.prompt.push_back(
        static_cast<std::int32_t>(random_bits(seed, static_cast<std::uint64_t>(100 + i)) % 1000));
  }
  made.request.max_new_tokens = static_cast<std::int64_t>(1 + random_bits(seed, 1) % 30);
  made.sampling.seed = seed;
  if (id % 4 == 1) made.sampling.temperature = 0.8;
  if (id % 8 == 3) made.sampling.repetition_penalty = 1.3;
  return made;
}

using Outputs = std::map<std::int64_t, std::vector<std::int32_t>>;

Outputs run(const Model& model, std::int64_t requests, std::int64_t pages, bool overlap, bool graphs,
            std::int64_t* preemptions = nullptr, DType kv = DType::kBF16) {
  EngineCoreOptions options;
  options.kv_dtype = kv;
  options.scheduler.max_batched_tokens = 128;
  options.scheduler.max_sequences = 12;
  options.scheduler.max_context = 160;
  options.pages = pages;
  options.page_size = 16;
  options.overlap = overlap;
  options.graphs = graphs;
  EngineCore engine(model, options);
  for (std::int64_t id = 0; id < requests; ++id) engine.submit(some_request(id));
  Outputs outputs;
  CoreSink sink;
  sink.on_finish = [&](const FinishedRequest& finished) {
    outputs[finished.id].assign(finished.output.begin(), finished.output.end());
  };
  sink.on_error = [](std::int64_t id, const std::string& why) { ADD_FAILURE() << id << ": " << why; };
  while (engine.turn(sink)) {
  }
  EXPECT_EQ(engine.scheduler().blocks().used(), 0);
  if (preemptions != nullptr) *preemptions = engine.scheduler().preemptions();
  return outputs;
}

class CudaEngine : public testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_status().available) GTEST_SKIP() << cuda_status().reason;
  }
};

// The planner's bytes are those that are taken: never fewer, and not many more.
TEST_F(CudaEngine, TakesWhatWasPlanned) {
  if (cuda_status().devices.front().compute_capability() < 89) GTEST_SKIP() << "no FP8 on this card";
  struct Case {
    DType kv, head;
    bool tied;
    WeightPolicy weights;
  };
  constexpr auto kFastest = WeightPolicy::kFastest, kSmallest = WeightPolicy::kSmallest;
  for (const Case& c : {Case{DType::kBF16, DType::kBF16, false, kFastest},
                        {DType::kF8E4M3, DType::kBF16, false, kFastest},
                        {DType::kBF16, DType::kF8E4M3, true, kFastest},
                        {DType::kBF16, DType::kI8, false, kFastest},
                        {DType::kBF16, DType::kF8E4M3, true, kSmallest}}) {
    ModelConfig config = small_config();
    config.hidden = 1024;
    config.intermediate = 4096;
    config.heads = 16;
    config.vocab = 20000;
    config.tied_embeddings = c.tied;
    for (const BenchPhase phase : {BenchPhase::kPrefill, BenchPhase::kDecode}) {
      BenchModelOptions bench;
      bench.phase = phase;
      bench.m = {phase == BenchPhase::kPrefill ? 400 : 48};
      bench.kv_dtype = c.kv;
      bench.runs = 1;
      ModelOptions options;
      options.device = DeviceKind::kCuda;
      options.ms = bench.m;
      options.weights = c.weights;
      options.head = c.head;
      const auto reader = random_weights(config, DType::kF8E4M3, Pattern::parse("6:8"), DType::kBF16, 1);
      const MemoryDemand model =
          card_memory(config, *reader, options, bench_length(phase, bench.m[0], bench));
      const std::int64_t planned = bytes_of(plan_memory(bench_demand(model, bench, bench.m[0])));
      const std::int64_t before = device_memory_use().in_use;
      reset_device_memory_peak();
      const Model made =
          Model::random(config, DType::kF8E4M3, Pattern::parse("6:8"), DType::kBF16, 1, options);
      ModelOptions on_host;
      on_host.head = c.head;
      const Model host =
          Model::random(config, DType::kF8E4M3, Pattern::parse("6:8"), DType::kBF16, 1, on_host);
      const BenchSubject subject{"x", &made, {}, std::make_shared<const GreedyReference>(host, 1)};
      EXPECT_EQ(bench_model({&subject, 1}, bench).front().check, "ok");
      const std::int64_t taken = device_memory_use().peak - before;
      const auto words = fmt::format("M={} head {} tied {}", bench.m[0], dtype_name(c.head), c.tied);
      EXPECT_LE(taken, planned) << words;
      EXPECT_GE(static_cast<double>(taken), 0.9 * static_cast<double>(planned)) << words;
    }
  }
}

// The same of evaluations; and what does not fit is refused before anything is there.
TEST_F(CudaEngine, EvaluationsTakeWhatWasPlanned) {
  ModelConfig config = small_config();
  config.vocab = 20000;
  config.max_position = 4096;
  std::vector<std::int32_t> tokens;
  for (std::uint64_t i = 0; i < 7000; ++i)
    tokens.push_back(static_cast<std::int32_t>(random_bits(5, i) % 20000));
  ModelOptions options;
  options.device = DeviceKind::kCuda;
  options.ms = {2048};
  const auto reader = random_weights(config, DType::kI8, Pattern::parse("6:8"), DType::kBF16, 1);
  for (const std::int64_t window : {100, 3000}) {
    PerplexityOptions perplexity;
    perplexity.window = window;
    const EvalSizes sizes = perplexity_sizes(config, static_cast<std::int64_t>(tokens.size()), perplexity);
    const MemoryDemand model = card_memory(config, *reader, options, sizes.longest);
    const std::int64_t planned = bytes_of(plan_memory(eval_demand(model, sizes)));
    const std::int64_t before = device_memory_use().in_use;
    reset_device_memory_peak();
    {
      const Model made = Model::random(config, DType::kI8, Pattern::parse("6:8"), DType::kBF16, 1, options);
      EXPECT_TRUE(std::isfinite(evaluate_perplexity(made, tokens, perplexity).perplexity));
    }
    const std::int64_t taken = device_memory_use().peak - before;
    EXPECT_LE(taken, planned) << window;
    EXPECT_GE(static_cast<double>(taken), 0.9 * static_cast<double>(planned)) << window;

    ModelOptions chosen = options;
    plan_evaluation("x", config, *reader, chosen, {&sizes, 1}, {2 * planned, {}});
    EXPECT_EQ(chosen.weights, options.weights);
    try {
      plan_evaluation("x", config, *reader, chosen, {&sizes, 1}, {planned / 2, {}});
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
      EXPECT_TRUE(error.facts() != nullptr && error.facts()->planned);
      EXPECT_EQ(chosen.weights, WeightPolicy::kSmallest);
    }
    EXPECT_EQ(device_memory_use().in_use, before);
  }
}

// Figures of a card are those of outputs that the CPU gives, too; of other weights there are none.
TEST_F(CudaEngine, BenchRowsAreComparedWithTheCpu) {
  ModelConfig config = small_config();
  config.max_position = 2048;
  for (const DType dtype : {DType::kI8, DType::kF8E4M3, DType::kBF16}) {
    if (dtype == DType::kF8E4M3 && cuda_status().devices.front().compute_capability() < 89) continue;
    for (const char* pattern : {"dense", "6:8"}) {
      ModelOptions options;
      options.device = DeviceKind::kCuda;
      options.ms = {1, 9, 70};
      const auto make = [&](std::uint64_t seed, const ModelOptions& how) {
        return Model::random(config, dtype, Pattern::parse(pattern), DType::kBF16, seed, how);
      };
      const Model card = make(3, options);
      const auto right = std::make_shared<const GreedyReference>(make(3, {}), 1);
      const auto wrong = std::make_shared<const GreedyReference>(make(4, {}), 1);
      for (const BenchPhase phase : {BenchPhase::kPrefill, BenchPhase::kDecode}) {
        const bool prefill = phase == BenchPhase::kPrefill;
        BenchModelOptions bench;
        bench.phase = phase;
        bench.m = prefill ? std::vector<std::int64_t>{1, 192, 5120} : std::vector<std::int64_t>{1, 9, 70};
        bench.runs = 1;
        bench.steps = 12;
        const std::vector<BenchSubject> subjects{{"right", &card, {}, right}, {"wrong", &card, {}, wrong}};
        for (const BenchModelRow& row : bench_model(subjects, bench)) {
          SCOPED_TRACE(fmt::format("{} {} {} M={} {}: worst gap {:.3f}", dtype_name(dtype), pattern,
                                   prefill ? "prefill" : "decode", row.m, row.subject, row.greedy.worst_gap));
          EXPECT_EQ(row.greedy.compared, prefill ? row.sequences : 8 * row.m);
          if (row.subject == "right") {
            EXPECT_EQ(row.check, "ok");
            EXPECT_GT(row.tokens_per_second, 0);
            // Rounding leaves half of what is allowed alone.
            EXPECT_LT(row.greedy.worst_gap, row.greedy.allowed / 2);
          } else {
            EXPECT_GT(row.greedy.wrong, row.greedy.compared / 2);
            EXPECT_EQ(row.tokens_per_second, 0);
          }
        }
      }
    }
  }
}

// EngineOptions::deterministic: one sequence a step, so that company changes nothing, in FP8 too.
TEST_F(CudaEngine, OneSequenceAStepIsEachRequestAlone) {
  if (cuda_status().devices.front().compute_capability() < 89) GTEST_SKIP() << "no FP8 on this card";
  ModelOptions options;
  options.device = DeviceKind::kCuda;
  options.ms = {1, 16, 64};
  const Model card =
      Model::random(small_config(), DType::kF8E4M3, Pattern::parse("6:8"), DType::kBF16, 3, options);
  const auto outputs = [&](std::int64_t first, std::int64_t end) {
    EngineCoreOptions core;
    core.scheduler.max_batched_tokens = 128;
    core.scheduler.max_sequences = 1;
    core.scheduler.max_context = 160;
    core.pages = 40;
    core.page_size = 16;
    EngineCore engine(card, core);
    for (std::int64_t id = first; id < end; ++id) engine.submit(some_request(id));
    Outputs all;
    CoreSink sink;
    sink.on_finish = [&](const FinishedRequest& finished) {
      all[finished.id].assign(finished.output.begin(), finished.output.end());
    };
    while (engine.turn(sink)) {
    }
    return all;
  };
  const Outputs together = outputs(0, 12);
  ASSERT_EQ(together.size(), 12u);
  for (std::int64_t id = 0; id < 12; ++id) EXPECT_EQ(outputs(id, id + 1).at(id), together.at(id)) << id;
}

// Keys and values of 8 bits: other tokens now and then, but the same ones twice, and of the right length.
TEST_F(CudaEngine, EightBitKeysAndValuesAreNearlyTheSame) {
  const Model card = make(DeviceKind::kCuda);
  const Outputs exact = run(card, 24, 400, true, true);
  const Outputs rounded = run(card, 24, 400, true, true, nullptr, DType::kF8E4M3);
  EXPECT_EQ(run(card, 24, 400, true, true, nullptr, DType::kF8E4M3), rounded);
  std::size_t first_equal = 0;
  for (const auto& [id, output] : exact) {
    ASSERT_EQ(rounded.at(id).size(), output.size()) << id;
    first_equal += rounded.at(id).front() == output.front() ? 1 : 0;
  }
  EXPECT_GE(first_equal, exact.size() / 2);
}

TEST_F(CudaEngine, TwiceTheSameAndOfTheRightLength) {
  const Model card = make(DeviceKind::kCuda);
  const Outputs first = run(card, 40, 400, true, true);
  ASSERT_EQ(first.size(), 40u);
  for (const auto& [id, output] : first) {
    EXPECT_EQ(static_cast<std::int64_t>(output.size()), some_request(id).request.max_new_tokens) << id;
    for (const std::int32_t token : output) EXPECT_TRUE(token >= 0 && token < 1000) << id;
  }
  EXPECT_EQ(run(card, 40, 400, true, true), first);
}

// Another order of adding moves a logit by a rounding, which changes a token only where two are nearly equal;
// from there on outputs go apart. So: nearly all first tokens, and most of all others. A wrong page,
// position, scale or a token fed to the wrong sequence leaves one in a thousand.
void expect_mostly_equal(const Outputs& a, const Outputs& b) {
  std::int64_t first = 0, equal = 0, all = 0;
  for (const auto& [id, output] : b) {
    const std::vector<std::int32_t>& other = a.at(id);
    ASSERT_EQ(other.size(), output.size()) << id;
    first += other[0] == output[0] ? 1 : 0;
    for (std::size_t i = 0; i < output.size() && other[i] == output[i]; ++i) ++equal;
    all += static_cast<std::int64_t>(output.size());
  }
  EXPECT_GE(first, static_cast<std::int64_t>(b.size()) * 9 / 10);
  EXPECT_GE(equal, all / 3);
}

TEST_F(CudaEngine, GraphsOverlapAndPreemptionChangeNothingOfNote) {
  const Model card = make(DeviceKind::kCuda);
  const Outputs plain = run(card, 40, 400, false, false);
  expect_mostly_equal(run(card, 40, 400, false, true), plain);
  expect_mostly_equal(run(card, 40, 400, true, false), plain);
  std::int64_t preemptions = 0;
  expect_mostly_equal(run(card, 40, 30, true, true, &preemptions), plain);
  EXPECT_GT(preemptions, 0);
}

TEST_F(CudaEngine, AgreesWithTheCpu) {
  const Model cpu = make(DeviceKind::kCpu);
  const Model card = make(DeviceKind::kCuda);
  const Outputs expected = run(cpu, 24, 400, false, false);
  expect_mostly_equal(run(card, 24, 400, true, true), expected);
  // One request by itself, without the engine.
  Outputs alone, alone_expected;
  for (std::int64_t id = 0; id < 12; ++id) {
    const CoreRequest request = some_request(id);
    test::AloneOptions options;
    options.max_tokens = request.request.max_new_tokens;
    options.sampling = request.sampling;
    alone[id] = test::generate_alone(card, request.request.prompt, options).tokens;
    alone_expected[id] = expected.at(id);
  }
  expect_mostly_equal(alone, alone_expected);
}

// On a card the log probabilities of the tokens that it draws, greedily and not, with and without graphs, are
// those of its own logits; alternatives are as many as each request asks for.
TEST_F(CudaEngine, LogprobsAreThoseOfTheLogits) {
  const Model card = make(DeviceKind::kCuda);
  struct Case {
    bool graphs;
    std::int64_t sequences;
  };
  for (const Case& c : {Case{false, 12}, Case{true, 12}, Case{true, 1}}) {
    EngineCoreOptions options;
    options.scheduler.max_batched_tokens = 128;
    options.scheduler.max_sequences = c.sequences;
    options.scheduler.max_context = 160;
    options.pages = 400;
    options.page_size = 16;
    options.graphs = c.graphs;
    EngineCore engine(card, options);
    constexpr int kWanted[] = {-1, 0, 1, 5, kMostLogprobs};
    std::map<std::int64_t, int> wanted;
    for (std::int64_t id = 0; id < 20; ++id) {
      CoreRequest request = some_request(id);
      request.logprobs = wanted[id] = kWanted[id % 5];
      engine.submit(request);
    }
    std::int64_t first = 0, close = 0, told = 0;
    CoreSink sink;
    sink.on_token = [&](const NewToken& token, const RowLogprobs* logprobs) {
      ASSERT_EQ(logprobs != nullptr, wanted.at(token.id) >= 0);
      if (logprobs == nullptr) return;
      ++told;
      ASSERT_EQ(logprobs->top.size(), static_cast<std::size_t>(wanted.at(token.id)));
      EXPECT_LE(logprobs->logprob, 0);
      for (std::size_t i = 0; i < logprobs->top.size(); ++i) {
        const TokenLogprob& top = logprobs->top[i];
        EXPECT_TRUE(top.id >= 0 && top.id < 1000);
        if (i > 0) {
          EXPECT_LE(top.logprob, logprobs->top[i - 1].logprob);
        }
        if (top.id == token.token) {
          EXPECT_EQ(top.logprob, logprobs->logprob);
        }
      }
      // By itself a whole prompt is one step, which a forward pass repeats.
      if (token.index != 0 || c.sequences > 1) return;
      ++first;
      test::AloneOptions alone;
      alone.max_tokens = 1;
      const CoreRequest request = some_request(token.id);
      const auto expected = test::generate_alone(card, request.request.prompt, alone);
      if (std::abs(token_logprob(expected.logits[0], token.token) - logprobs->logprob) < 0.02f) ++close;
    };
    while (engine.turn(sink)) {
    }
    EXPECT_EQ(first, c.sequences > 1 ? 0 : 16);
    EXPECT_EQ(close, first);
    EXPECT_GT(told, 16);
  }
}

}  // namespace
}  // namespace slidesparse
