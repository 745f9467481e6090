#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "io/json.h"
#include "model/rotary_frequencies.h"
#include "model/weights.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using testing::HasSubstr;

nlohmann::json stored(const std::string& name) {
  const std::filesystem::path path =
      std::filesystem::path(SLIDESPARSE_TEST_DATA) / "model/configs" / (name + ".json");
  return nlohmann::json::parse(read_text_file(path));
}

ModelConfig parse(const nlohmann::json& json) {
  return parse_model_config(json.dump(), "config.json");
}

// The message that a changed config is refused with; empty when it is accepted.
std::string refusal(const nlohmann::json& json) {
  try {
    parse(json);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "";
}

nlohmann::json with(nlohmann::json base, const char* key, const nlohmann::json& value) {
  base[key] = value;
  return base;
}
nlohmann::json without(nlohmann::json base, const char* key) {
  base.erase(key);
  return base;
}

TEST(Config, Llama32OneBillion) {
  const ModelConfig c = parse(stored("llama3.2-1b"));
  EXPECT_EQ(c.family, Family::kLlama);
  EXPECT_EQ(c.hidden, 2048);
  EXPECT_EQ(c.intermediate, 8192);
  EXPECT_EQ(c.layers, 16);
  EXPECT_EQ(c.heads, 32);
  EXPECT_EQ(c.kv_heads, 8);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.vocab, 128256);
  EXPECT_EQ(c.max_position, 131072);
  EXPECT_EQ(c.rope.scaling, RopeConfig::Scaling::kLlama3);
  EXPECT_EQ(c.rope.factor, 32.0);
  EXPECT_EQ(c.rope.theta, 500000.0);
  EXPECT_EQ(c.rope.original_max_position, 8192);
  EXPECT_TRUE(c.tied_embeddings);
  EXPECT_FALSE(c.qkv_bias);
  EXPECT_FALSE(c.qk_norm);
  EXPECT_THAT(c.eos_tokens, testing::ElementsAre(128001, 128008, 128009));
  EXPECT_TRUE(c.unknown_keys.empty());
}

TEST(Config, Llama32ThreeBillionAsTransformers5WritesIt) {
  const ModelConfig c = parse(stored("llama3.2-3b.transformers5"));
  EXPECT_EQ(c.rope.theta, 500000.0);
  EXPECT_EQ(c.rope.scaling, RopeConfig::Scaling::kLlama3);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.dtype, DType::kBF16);
  EXPECT_TRUE(c.unknown_keys.empty());
}

TEST(Config, Qwen25WithSlidingWindowSwitchedOff) {
  const ModelConfig c = parse(stored("qwen2.5-7b-instruct"));
  EXPECT_EQ(c.family, Family::kQwen2);
  EXPECT_TRUE(c.qkv_bias);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.rope.theta, 1e6);
  EXPECT_FALSE(c.tied_embeddings);
  EXPECT_TRUE(c.unknown_keys.empty());
}

TEST(Config, Qwen3) {
  const ModelConfig small = parse(stored("qwen3-0.6b"));
  EXPECT_TRUE(small.qk_norm);
  EXPECT_EQ(small.head_dim, 128);
  EXPECT_TRUE(small.tied_embeddings);
  const ModelConfig large = parse(stored("qwen3-8b.transformers5"));
  EXPECT_EQ(large.hidden, 4096);
  EXPECT_EQ(large.rope.theta, 1e6);
  EXPECT_TRUE(large.unknown_keys.empty());
  EXPECT_EQ(parse(without(stored("qwen3-0.6b"), "head_dim")).head_dim, 128);
}

TEST(Config, SmolLM2) {
  const ModelConfig c = parse(stored("smollm2-135m-instruct"));
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.rope.theta, 100000.0);
  EXPECT_EQ(c.rope.scaling, RopeConfig::Scaling::kDefault);
  EXPECT_TRUE(c.unknown_keys.empty());
}

TEST(Config, UnknownKeysAreNamed) {
  const ModelConfig c = parse(with(stored("qwen3-0.6b"), "flux_capacitor", 1));
  EXPECT_THAT(c.unknown_keys, testing::ElementsAre("flux_capacitor"));
}

TEST(Config, RefusesOnlyWhatChangesTheComputation) {
  const auto llama = stored("llama3.2-1b");
  const auto qwen2 = stored("qwen2.5-7b-instruct");
  const auto qwen3 = stored("qwen3-0.6b");
  // Effective values.
  EXPECT_THAT(refusal(with(llama, "hidden_act", "gelu")), HasSubstr("hidden_act = \"gelu\""));
  EXPECT_THAT(refusal(with(llama, "attention_bias", true)), HasSubstr("attention_bias"));
  EXPECT_THAT(refusal(with(qwen3, "attention_bias", true)), HasSubstr("attention_bias"));
  EXPECT_EQ(refusal(with(qwen2, "attention_bias", true)), "");
  EXPECT_THAT(refusal(with(llama, "mlp_bias", true)), HasSubstr("mlp_bias"));
  EXPECT_THAT(refusal(with(llama, "partial_rotary_factor", 0.5)), HasSubstr("partial_rotary_factor"));
  EXPECT_EQ(refusal(with(llama, "partial_rotary_factor", 1.0)), "");
  EXPECT_EQ(refusal(with(llama, "pretraining_tp", 2)), "");
  EXPECT_EQ(refusal(with(llama, "attention_dropout", 0.1)), "");
  EXPECT_EQ(refusal(with(llama, "hidden_act", nullptr)), "");
  // Other models.
  EXPECT_THAT(refusal(with(llama, "architectures", {"MistralForCausalLM"})), HasSubstr("MistralForCausalLM"));
  EXPECT_THAT(refusal(without(llama, "architectures")), HasSubstr("architectures"));
  EXPECT_THAT(refusal(with(llama, "model_type", "qwen2")), HasSubstr("model_type"));
}

TEST(Config, RotaryTypes) {
  const auto llama = stored("llama3.2-1b");
  const auto rope = [&](const nlohmann::json& value) { return refusal(with(llama, "rope_scaling", value)); };
  EXPECT_EQ(rope(nullptr), "");
  EXPECT_EQ(rope({{"type", "default"}}), "");
  EXPECT_EQ(rope({{"type", "linear"}, {"factor", 1.0}}), "");
  EXPECT_THAT(rope({{"type", "linear"}, {"factor", 2.0}}), HasSubstr("rope type \"linear\" with factor 2"));
  EXPECT_THAT(rope({{"rope_type", "dynamic"}, {"factor", 4.0}}), HasSubstr("dynamic"));
  EXPECT_THAT(rope({{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}}),
              HasSubstr("yarn"));
  EXPECT_THAT(rope({{"rope_type", "llama3"}, {"type", "yarn"}, {"factor", 4.0}}), HasSubstr("contradict"));
  EXPECT_THAT(
      rope({{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 4.0}, {"high_freq_factor", 4.0}}),
      HasSubstr("high_freq_factor"));
  EXPECT_THAT(rope({{"rope_type", "llama3"}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}}),
              HasSubstr("factor"));
  EXPECT_THAT(rope({{"full_attention", {{"rope_type", "default"}}}}), HasSubstr("differ between layers"));
  EXPECT_THAT(rope("linear"), HasSubstr("rope_scaling"));
  auto both = llama;
  both["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  EXPECT_THAT(refusal(both), HasSubstr("contradict"));
  both["rope_scaling"] = nullptr;
  EXPECT_EQ(refusal(both), "");
  both["rope_parameters"]["rope_theta"] = 10000.0;
  EXPECT_THAT(refusal(both), HasSubstr("rope_theta is 500000"));
}

TEST(Config, SlidingWindows) {
  const auto qwen = stored("qwen2.5-7b-instruct");
  auto on = with(qwen, "use_sliding_window", true);
  EXPECT_EQ(refusal(on), "");  // 131072 is longer than any sequence
  on["sliding_window"] = 4096;
  EXPECT_EQ(refusal(on), "");  // no layer from 28 on
  on["max_window_layers"] = 20;
  EXPECT_THAT(refusal(on), HasSubstr("layers 20 to 27 attend to 4096 tokens only"));
  auto listed = with(qwen, "layer_types", std::vector<std::string>(28, "full_attention"));
  EXPECT_EQ(refusal(listed), "");
  listed["layer_types"][3] = "sliding_attention";
  listed["sliding_window"] = 4096;
  EXPECT_THAT(refusal(listed), HasSubstr("layer_types[3]"));
  EXPECT_THAT(refusal(with(qwen, "layer_types", {"full_attention"})), HasSubstr("layer_types"));
  EXPECT_EQ(refusal(with(stored("llama3.2-1b"), "sliding_window", 16)), "");  // Llama does not look at it
}

TEST(Config, IntegersThatCannotBe) {
  const auto base = stored("llama3.2-1b");
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "vocab_size", "max_position_embeddings", "head_dim"}) {
    for (const nlohmann::json& value :
         {nlohmann::json(0), nlohmann::json(-1), nlohmann::json(3.5), nlohmann::json(64.0),
          nlohmann::json("64"), nlohmann::json(true), nlohmann::json(std::int64_t{1} << 62),
          nlohmann::json(~std::uint64_t{0}), nlohmann::json(1e300), nlohmann::json::array()}) {
      EXPECT_THAT(refusal(with(base, key, value)), HasSubstr(key)) << key << " = " << value;
    }
  }
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    EXPECT_THAT(refusal(without(base, key)), HasSubstr(key));
  }
  EXPECT_THAT(refusal(with(base, "num_key_value_heads", 5)),
              HasSubstr("32 is no multiple of num_key_value_heads 5"));
  EXPECT_THAT(refusal(with(base, "head_dim", 63)), HasSubstr("head_dim 63"));
  EXPECT_EQ(parse(without(base, "head_dim")).head_dim, 64);
  EXPECT_THAT(refusal(with(without(base, "head_dim"), "hidden_size", 2050)), HasSubstr("no multiple"));
  EXPECT_EQ(parse(without(base, "num_key_value_heads")).kv_heads, 32);
  EXPECT_THAT(refusal(without(stored("qwen3-0.6b"), "num_key_value_heads")),
              HasSubstr("num_key_value_heads"));
  for (const nlohmann::json& value : {nlohmann::json(-1e-6), nlohmann::json("x"), nlohmann::json(2.0)}) {
    EXPECT_THAT(refusal(with(base, "rms_norm_eps", value)), HasSubstr("rms_norm_eps"));
  }
  EXPECT_THAT(refusal(with(base, "rope_theta", -1.0)), HasSubstr("rope_theta"));
}

TEST(Config, TextThatIsNoConfig) {
  for (const char* text :
       {"", "{", "[]", "null", "{\"hidden_size\": NaN}", "\xff\xfe", "{\"a\":1,\"a\":2}"}) {
    EXPECT_THROW(parse_model_config(text, "config.json"), Error) << text;
  }
}

TEST(Config, Tokens) {
  const auto base = stored("llama3.2-1b");
  EXPECT_THAT(parse(with(base, "eos_token_id", 7)).eos_tokens, testing::ElementsAre(7));
  EXPECT_THAT(parse(with(base, "eos_token_id", nullptr)).eos_tokens, testing::IsEmpty());
  EXPECT_THAT(parse(with(base, "eos_token_id", {3, 3, -1, 4})).eos_tokens, testing::ElementsAre(3, 4));
  EXPECT_EQ(parse(with(base, "bos_token_id", nullptr)).bos_token, -1);
  EXPECT_THAT(refusal(with(base, "eos_token_id", "end")), HasSubstr("eos_token_id"));
  EXPECT_THAT(refusal(with(base, "eos_token_id", 1.5)), HasSubstr("eos_token_id"));
  EXPECT_THAT(refusal(with(base, "eos_token_id", std::int64_t{1} << 40)), HasSubstr("eos_token_id"));
  EXPECT_THAT(parse_generation_eos("{\"eos_token_id\": [1, 2]}", "g"), testing::ElementsAre(1, 2));
  EXPECT_THAT(parse_generation_eos("{}", "g"), testing::IsEmpty());
}

TEST(Config, DTypes) {
  const auto base = without(stored("llama3.2-1b"), "torch_dtype");
  EXPECT_EQ(parse(base).dtype, DType::kBF16);
  EXPECT_EQ(parse(with(base, "dtype", "float16")).dtype, DType::kF16);
  EXPECT_EQ(parse(with(base, "torch_dtype", "torch.float32")).dtype, DType::kF32);
  EXPECT_THAT(refusal(with(base, "dtype", "int4")), HasSubstr("int4"));
  EXPECT_THAT(refusal(with(with(base, "dtype", "float16"), "torch_dtype", "bfloat16")),
              HasSubstr("contradict"));
}

TEST(Weights, TableOfQwen2) {
  const ModelConfig c = parse(stored("qwen2.5-7b-instruct"));
  const WeightTable table = weight_table(c);
  ASSERT_EQ(table.groups.size(), 28u * 4u);
  const FusedGroup& qkv = table.groups[0];
  ASSERT_EQ(qkv.members.size(), 3u);
  EXPECT_EQ(qkv.members[1].name, "model.layers.0.self_attn.k_proj");
  EXPECT_EQ(qkv.members[1].n, 512);
  EXPECT_TRUE(qkv.members[1].bias);
  EXPECT_EQ(table.groups[2].members.size(), 2u);
  EXPECT_EQ(table.groups[3].members[0].k, 18944);
  EXPECT_EQ(table.groups[2].perm_name, "model.layers.0.mlp.gate_up.perm");
  // Embedding, two norms and three biases a layer, the last norm.
  EXPECT_EQ(table.plain.size(), 1u + 28u * 5u + 1u);
}

TEST(Rotary, Llama3ScalesLongWavelengthsOnly) {
  const ModelConfig c = parse(stored("llama3.2-1b"));
  RopeConfig plain = c.rope;
  plain.scaling = RopeConfig::Scaling::kDefault;
  const std::vector<float> scaled = rotary_frequencies(c.rope, 64);
  const std::vector<float> original = rotary_frequencies(plain, 64);
  ASSERT_EQ(scaled.size(), 32u);
  EXPECT_EQ(original[0], 1.0f);
  EXPECT_EQ(scaled[0], original[0]);
  EXPECT_FLOAT_EQ(scaled[31], original[31] / 32.0f);
  int between = 0;
  for (std::size_t i = 0; i < 32; ++i) {
    EXPECT_LE(scaled[i], original[i]);
    between += scaled[i] != original[i] && scaled[i] > original[i] / 31.9f;
  }
  EXPECT_GT(between, 0);
}

}  // namespace
}  // namespace slidesparse
