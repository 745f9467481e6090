#include "io/compressed_tensors.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "test_files.h"

namespace slidesparse::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// As published: FP8-dynamic (llm-compressor 0.6) and INT8 W8A8 (llm-compressor 0.1).
constexpr const char* kFp8 = R"({"architectures": ["LlamaForCausalLM"], "quantization_config": {
  "config_groups": {"group_0": {
    "input_activations": {"actorder": null, "block_structure": null, "dynamic": true, "group_size": null, "num_bits": 8,
                          "observer": null, "observer_kwargs": {}, "strategy": "token", "symmetric": true, "type": "float"},
    "output_activations": null, "targets": ["Linear"],
    "weights": {"actorder": null, "block_structure": null, "dynamic": false, "group_size": null, "num_bits": 8,
                "observer": "minmax", "observer_kwargs": {}, "strategy": "channel", "symmetric": true, "type": "float"}}},
  "format": "float-quantized", "global_compression_ratio": null, "ignore": ["lm_head"], "kv_cache_scheme": null,
  "quant_method": "compressed-tensors", "quantization_status": "compressed", "sparsity_config": {}, "transform_config": {},
  "version": "0.10.3"}})";
constexpr const char* kInt8 = R"({"quantization_config": {
  "config_groups": {"group_0": {
    "input_activations": {"block_structure": null, "dynamic": true, "group_size": null, "num_bits": 8, "observer": "memoryless",
                          "observer_kwargs": {}, "strategy": "token", "symmetric": true, "type": "int"},
    "output_activations": null, "targets": ["Linear"],
    "weights": {"block_structure": null, "dynamic": false, "group_size": null, "num_bits": 8, "observer": "mse",
                "observer_kwargs": {}, "strategy": "channel", "symmetric": true, "type": "int"}}},
  "format": "int-quantized", "global_compression_ratio": 1.46, "ignore": ["lm_head", "re:.*layers\\.[12]\\.mlp.*"],
  "kv_cache_scheme": null, "quant_method": "compressed-tensors", "quantization_status": "frozen",
  "sparsity_config": {"format": "dense", "global_sparsity": 0.1, "ignore": [], "sparsity_structure": "unstructured"}}})";

TEST(CompressedTensors, ReadsPublishedForms) {
  const auto fp8 = parse_compressed_tensors(kFp8, "config.json");
  ASSERT_TRUE(fp8);
  EXPECT_EQ(fp8->dtype(), DType::kF8E4M3);
  EXPECT_TRUE(fp8->quantises("model.layers.0.mlp.up_proj"));
  EXPECT_FALSE(fp8->quantises("lm_head"));
  const auto int8 = parse_compressed_tensors(kInt8, "config.json");
  ASSERT_TRUE(int8);
  EXPECT_EQ(int8->dtype(), DType::kI8);
  EXPECT_TRUE(int8->quantises("model.layers.0.mlp.up_proj"));
  EXPECT_FALSE(int8->quantises("model.layers.1.mlp.up_proj"));
  EXPECT_TRUE(int8->quantises("model.layers.1.self_attn.q_proj"));
  EXPECT_TRUE(int8->quantises("model.layers.11.mlp.up_proj"));
  EXPECT_EQ(parse_compressed_tensors("{}", "config.json").has_value(), false);
}

TEST(CompressedTensors, NamesMatchAsPythonsReMatchDoes) {
  const CompressedTensorsConfig config(
      DType::kI8, {"Linear"}, {"re:model\\.layers\\.0", "a.b", "re:.*o_proj$", "re:(?P<x>q)\\d"}, "w");
  EXPECT_FALSE(config.quantises("model.layers.0.mlp.up_proj"));  // a prefix is enough
  EXPECT_TRUE(config.quantises("x.model.layers.0"));             // at the start only
  EXPECT_FALSE(config.quantises("a.b"));
  EXPECT_TRUE(config.quantises("a.b.c"));  // names match whole
  EXPECT_FALSE(config.quantises("x.o_proj"));
  EXPECT_TRUE(config.quantises("x.o_proj2"));
  EXPECT_FALSE(config.quantises("q7"));
  EXPECT_FALSE(CompressedTensorsConfig(DType::kI8, {"re:.*mlp.*"}, {}, "w").quantises("self_attn"));
}

TEST(CompressedTensors, HostileExpressionsEnd) {
  EXPECT_THAT(error_of([] { CompressedTensorsConfig(DType::kI8, {"Linear"}, {"re:(("}, "c.json"); }),
              HasSubstr("c.json: ignore: \"re:((\" is no valid regular expression"));
  const CompressedTensorsConfig config(DType::kI8, {"Linear"}, {"re:(x+x+)+y"}, "c.json");
  EXPECT_THAT(error_of([&] { config.quantises(std::string(60, 'x') + "zy"); }),
              HasSubstr("match limit exceeded"));
}

TEST(CompressedTensors, RefusesWhatIsNotComputed) {
  const auto changed = [](const char* pointer, const json& value) {
    json config = json::parse(kFp8);
    config[json::json_pointer(std::string("/quantization_config") + pointer)] = value;
    const std::string text = config.dump();
    return error_of([&] { parse_compressed_tensors(text, "config.json"); });
  };
  const std::string weights = "/config_groups/group_0/weights";
  const std::string inputs = "/config_groups/group_0/input_activations";
  EXPECT_THAT(changed("/quant_method", "gptq"),
              HasSubstr("quant_method is \"gptq\"; \"compressed-tensors\" is what can be computed with"));
  EXPECT_THAT(changed("/format", "pack-quantized"), HasSubstr("format is \"pack-quantized\""));
  EXPECT_THAT(changed("/format", "int-quantized"),
              HasSubstr("format is \"int-quantized\"; \"float-quantized\""));
  EXPECT_THAT(changed("/quantization_status", "calibration"),
              HasSubstr("quantization_status is \"calibration\""));
  EXPECT_THAT(changed("/kv_cache_scheme", {{"num_bits", 8}}),
              HasSubstr("kv_cache_scheme is {\"num_bits\":8}"));
  EXPECT_THAT(changed("/sparsity_config", {{"format", "sparse-24-bitmask"}}),
              HasSubstr("format is \"sparse-24-bitmask\""));
  EXPECT_THAT(changed((weights + "/num_bits").c_str(), 4), HasSubstr("weights: num_bits is 4; 8"));
  EXPECT_THAT(changed((weights + "/symmetric").c_str(), false), HasSubstr("symmetric is false"));
  EXPECT_THAT(changed((weights + "/group_size").c_str(), 128), HasSubstr("group_size is 128"));
  EXPECT_THAT(changed((weights + "/strategy").c_str(), "block"), HasSubstr("strategy is \"block\""));
  EXPECT_THAT(changed((weights + "/type").c_str(), "int"),
              HasSubstr("type is \"float\"; the type of the weights"));
  EXPECT_THAT(changed((inputs + "/dynamic").c_str(), false),
              HasSubstr("input_activations: dynamic is false (static scales)"));
  EXPECT_THAT(changed((inputs + "/dynamic").c_str(), "local"), HasSubstr("dynamic is \"local\""));
  EXPECT_THAT(changed((inputs + "/strategy").c_str(), "tensor"),
              HasSubstr("strategy is \"tensor\"; \"token\""));
  EXPECT_THAT(changed(inputs.c_str(), nullptr), HasSubstr("input_activations is missing (weights only)"));
  EXPECT_THAT(changed("/config_groups", json::object()), HasSubstr("names no group"));
  EXPECT_THAT(changed("/config_groups/group_0", nullptr), HasSubstr("group_0: expected an object"));
  EXPECT_THAT(changed("/ignore", "lm_head"), HasSubstr("\"ignore\" must be a list"));
  EXPECT_THAT(changed("/ignore", {1}), HasSubstr("must hold strings only"));
}

TEST(CompressedTensors, WritesWhatItReads) {
  const std::string source =
      R"({"b": 1, "slidesparse": {"x": 1}, "a": 0.5, "quantization_config": {"old": true}})";
  for (const DType dtype : {DType::kI8, DType::kF8E4M3}) {
    const std::string text =
        config_with_compressed_tensors(source, dtype, {"lm_head", "model.layers.1.mlp.up_proj"});
    EXPECT_EQ(text, config_with_compressed_tensors(text, dtype, {"lm_head", "model.layers.1.mlp.up_proj"}));
    EXPECT_THAT(text, ::testing::StartsWith("{\n  \"b\": 1,\n  \"a\": 0.5,\n  \"quantization_config\": {"));
    EXPECT_THAT(text, ::testing::Not(HasSubstr("slidesparse")));
    const auto config = parse_compressed_tensors(text, "config.json");
    ASSERT_TRUE(config);
    EXPECT_EQ(config->dtype(), dtype);
    EXPECT_FALSE(config->quantises("lm_head"));
    EXPECT_FALSE(config->quantises("model.layers.1.mlp.up_proj"));
    EXPECT_TRUE(config->quantises("model.layers.1.mlp.down_proj"));
  }
  EXPECT_EQ(config_with_compressed_tensors(source, DType::kBF16, {}), "{\n  \"b\": 1,\n  \"a\": 0.5\n}\n");
}

}  // namespace
}  // namespace slidesparse::testing
