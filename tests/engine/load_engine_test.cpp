#include <gmock/gmock.h>

#include <fstream>

#include "engine/engine_test_tools.h"
#include "engine/generate.h"

namespace slidesparse {
namespace {

using test::drain;
using testing::HasSubstr;

TEST(LoadEngine, ADirectoryRunsWithItsTokenizerOrAnother) {
  const std::string directory = test::golden("llama").string();
  Engine engine = Engine::load({.directory = directory, .device = "cpu"});
  EXPECT_FALSE(engine.has_tokenizer());
  EXPECT_EQ(engine.vocab(), 128);
  EXPECT_EQ(engine.max_model_len(), 257);  // 256 positions
  GenerationRequest request;
  request.tokens = {1, 17, 99};
  request.max_tokens = 9;
  engine.submit(request);
  const Model model = Model::load(test::golden("llama"));
  const test::AloneResult expected =
      test::generate_alone(model, request.tokens, {.max_tokens = 9, .sampling = {}, .stop_tokens = {2}});
  EXPECT_EQ(drain(engine).at(0).tokens, expected.tokens);

  const test::ScratchDirectory scratch("slidesparse_load_engine");
  const auto file = scratch.path() / "tokenizer.json";
  std::ofstream(file) << small_tokenizer().dump();
  Engine with_text = Engine::load({.directory = directory, .tokenizer = file.string(), .device = "cpu"});
  EXPECT_TRUE(with_text.has_tokenizer());
  GenerationRequest text;
  text.text = "xyz";
  with_text.submit(text);
  EXPECT_EQ(with_text.metrics().prompt_tokens, 3);

  // Its own, and what its generation_config.json says.
  std::filesystem::copy(directory, scratch.path(), std::filesystem::copy_options::recursive);
  std::ofstream(scratch.path() / "generation_config.json")
      << R"({"eos_token_id": )" << expected.tokens[0] << "}";
  Engine own = Engine::load({.directory = scratch.path().string(), .device = "cpu"});
  EXPECT_TRUE(own.has_tokenizer());
  own.submit(request);
  EXPECT_TRUE(drain(own).at(0).tokens.empty());
}

TEST(LoadEngine, APresetGetsRandomWeightsOfASeed) {
  GenerationRequest request;
  request.tokens = {5, 4321, 17};
  request.max_tokens = 8;
  const auto run = [&](std::uint64_t seed) {
    Engine engine = Engine::load({.preset = "smollm2-135m", .layers = 1, .seed = seed, .device = "cpu"},
                                 {.max_num_seqs = 2, .max_model_len = 100});
    EXPECT_EQ(engine.vocab(), 49152);
    EXPECT_EQ(engine.max_model_len(), 100);
    engine.submit(request);
    return drain(engine).at(0).tokens;
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
}

// A head in 8 bits rounds logits: log probabilities move, and not far.
TEST(LoadEngine, TheHeadMayBeQuantised) {
  GenerationRequest request;
  request.tokens = {1, 17, 99};
  request.max_tokens = 1;
  request.logprobs = 0;
  const auto logprob = [&](const std::string& head) {
    Engine engine =
        Engine::load({.directory = test::golden("qwen2").string(), .head = head, .device = "cpu"});
    engine.submit(request);
    return engine.next()->logprob;
  };
  const float plain = logprob("");
  EXPECT_EQ(logprob("bf16"), plain);
  for (const char* head : {"int8", "fp8"}) {
    EXPECT_NE(logprob(head), plain);
    EXPECT_NEAR(logprob(head), plain, 0.2);
  }
}

TEST(LoadEngine, SaysWhatIsWrong) {
  const auto error = [](const ModelSource& source, const EngineOptions& options = {}) -> std::string {
    try {
      Engine::load(source, options);
    } catch (const Error& failure) {
      return failure.what();
    }
    return "";
  };
  const std::string directory = test::golden("llama").string();
  EXPECT_THAT(error({}), HasSubstr("a directory or a preset"));
  EXPECT_THAT(error({.directory = directory, .preset = "smollm2-135m"}), HasSubstr("one of both"));
  EXPECT_THAT(error({.preset = "gpt-17", .device = "cpu"}), HasSubstr("\"gpt-17\" is no model"));
  EXPECT_THAT(error({.preset = "smollm2-135m", .dtype = DType::kF32, .device = "cpu"}), HasSubstr("F32"));
  EXPECT_THAT(error({.preset = "smollm2-135m", .layers = -1, .device = "cpu"}), HasSubstr("-1 layers"));
  EXPECT_THAT(error({.directory = "/nowhere/at/all", .device = "cpu"}), HasSubstr("/nowhere/at/all"));
  EXPECT_THAT(error({.directory = directory, .device = "tpu"}), HasSubstr("tpu: possible are cpu, cuda"));
  EXPECT_THAT(error({.directory = directory, .device = "cpu", .backends = {"blas"}}), HasSubstr("blas"));
  EXPECT_THAT(error({.directory = directory, .device = "cpu", .tuning_cache = "/nowhere/tuning.json"}),
              HasSubstr("/nowhere/tuning.json: there is no such file"));
  EXPECT_THAT(error({.directory = directory, .head = "fp4", .device = "cpu"}),
              HasSubstr("--head fp4: possible are bf16, int8, fp8"));
  EXPECT_THAT(error({.directory = directory, .device = "cpu", .weights = "tiny"}), HasSubstr("tiny"));
  EXPECT_THAT(error({.directory = directory, .device = "cpu", .memory_limit = 1 << 30}),
              HasSubstr("goes with a model on a card"));
  EXPECT_THAT(error({.directory = directory, .tokenizer = "/nowhere/tokenizer.json", .device = "cpu"}),
              HasSubstr("/nowhere/tokenizer.json"));
  EXPECT_THAT(error({.directory = directory, .device = "cpu"}, {.max_model_len = 258}),
              HasSubstr("max_model_len 258: a model of 256 positions"));
  EXPECT_THAT(error({.directory = directory, .device = "cpu"}, {.max_num_seqs = 0}),
              HasSubstr("max_num_seqs 0"));
}

}  // namespace
}  // namespace slidesparse
