#include "convert/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/numeric.h"
#include "core/parallel.h"
#include "io/compressed_tensors.h"
#include "io/digest.h"
#include "io/json.h"
#include "io/model_directory.h"
#include "model/weights.h"
#include "quant/weights.h"
#include "slidesparse/format/pack.h"
#include "support.h"

namespace slidesparse {
namespace {

using namespace testing_support;
using ::testing::HasSubstr;

// What a linear must become, done plainly on the whole matrix.
struct Expected {
  std::string values, codes, scale;
};

Expected plain_conversion(RawTensor weight, Pattern pattern, DType target) {
  const std::int64_t n = weight.shape[0], k = weight.shape[1];
  prune_rows(pattern, PruneMethod::kMagnitude, weight.dtype, weight.bytes.data(), n, k, k);
  Expected expected;
  std::string codes8(static_cast<std::size_t>(n * k), '\0');
  const char* dense = weight.bytes.data();
  if (target == DType::kBF16) {
    if (weight.dtype != DType::kBF16) {
      codes8.resize(static_cast<std::size_t>(n * k * 2));
      auto* out = reinterpret_cast<std::uint16_t*>(codes8.data());
      for (std::int64_t i = 0; i < n * k; ++i) {
        const float value =
            weight.dtype == DType::kF32
                ? reinterpret_cast<const float*>(weight.bytes.data())[i]
                : f16_to_float(reinterpret_cast<const std::uint16_t*>(weight.bytes.data())[i]);
        out[i] = float_to_bf16(value);
      }
      dense = codes8.data();
    }
  } else {
    expected.scale.resize(static_cast<std::size_t>(n) * dtype_size(weight.dtype));
    quantise_weight_rows(weight.dtype, weight.bytes.data(), n, k, k, target, codes8.data(),
                         expected.scale.data());
    dense = codes8.data();
  }
  expected.values.resize(static_cast<std::size_t>(n * pattern.values_per_row(k)) * dtype_size(target));
  expected.codes.resize(static_cast<std::size_t>(n * pattern.code_bytes_per_row(k)));
  pack_rows(pattern, target, dense, n, k, k, expected.values.data(),
            reinterpret_cast<std::uint8_t*>(expected.codes.data()));
  return expected;
}

std::string bytes_of(std::vector<RawTensor>& tensors, const std::string& name) {
  return find_tensor(tensors, name).bytes;
}

struct Case {
  Family family;
  DType source;
  bool tied;
  const char* pattern;
  DType target;
};

class ConvertAll : public ::testing::TestWithParam<Case> {};

TEST_P(ConvertAll, EqualsThePlainPipeline) {
  const Case& c = GetParam();
  const Workspace space;
  const ModelConfig config = small_config(c.family, c.source, c.tied);
  make_model(space / "in", config);
  const auto before = snapshot(space / "in");
  const ConvertReport report = convert_model(options_for(space / "in", space / "out", c.pattern, c.target));
  EXPECT_EQ(snapshot(space / "in"), before);
  EXPECT_FALSE(std::filesystem::exists(space / "out.partial"));

  auto in = load_tensors(space / "in");
  auto out = load_tensors(space / "out");
  const WeightTable table = weight_table(config);
  const Pattern pattern = Pattern::parse(c.pattern);
  std::size_t expected_tensors = table.plain.size() + (c.tied ? 0 : 1);
  for (const PlainSpec& plain : table.plain) EXPECT_EQ(bytes_of(out, plain.name), bytes_of(in, plain.name));
  for (const FusedGroup& group : table.groups) {
    for (const LinearSpec& linear : group.members) {
      SCOPED_TRACE(linear.name);
      const Expected want = plain_conversion(find_tensor(in, linear.name + ".weight"), pattern, c.target);
      EXPECT_EQ(bytes_of(out, linear.name + ".values"), want.values);
      ++expected_tensors;
      if (!pattern.is_dense()) {
        EXPECT_EQ(bytes_of(out, linear.name + ".codes"), want.codes);
        ++expected_tensors;
      }
      if (c.target != DType::kBF16) {
        EXPECT_EQ(bytes_of(out, linear.name + ".scale"), want.scale);
        EXPECT_EQ(find_tensor(out, linear.name + ".scale").shape, (std::vector<std::int64_t>{linear.n, 1}));
        ++expected_tensors;
      }
    }
  }
  EXPECT_EQ(out.size(), expected_tensors);
  EXPECT_EQ(report.layers.size(), 14u);
  const double zeros =
      static_cast<double>(report.total().zeros) / static_cast<double>(report.total().elements);
  EXPECT_GE(zeros, 0.9 * (1 - pattern.density()) - 0.03);
  EXPECT_LE(report.total().energy_kept, report.total().energy);
  EXPECT_GT(report.total().energy_kept, 0.5 * report.total().energy);

  // It opens as a packed directory, and the section says how it was made.
  const ModelDirectory directory(space / "out");
  const auto info = parse_packed_info(directory.config_text(), "config.json");
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->pattern, pattern);
  EXPECT_EQ(info->dtype, c.target);
  EXPECT_EQ(info->source_sha256, report.source_sha256);
  const auto files = snapshot(space / "out");
  EXPECT_EQ(files.at("tokenizer.json"), before.at("tokenizer.json"));
  EXPECT_EQ(report_to_json(report_from_json(files.at(kReportFile), "report")), files.at(kReportFile));
}

INSTANTIATE_TEST_SUITE_P(Models, ConvertAll,
                         ::testing::Values(Case{Family::kLlama, DType::kBF16, true, "6:8", DType::kF8E4M3},
                                           Case{Family::kLlama, DType::kBF16, false, "2:4", DType::kI8},
                                           Case{Family::kQwen2, DType::kF16, false, "8:10", DType::kI8},
                                           Case{Family::kQwen3, DType::kF32, true, "4:6", DType::kF8E4M3},
                                           Case{Family::kQwen3, DType::kBF16, true, "14:16", DType::kBF16},
                                           Case{Family::kQwen2, DType::kF32, false, "6:8", DType::kBF16},
                                           Case{Family::kLlama, DType::kF16, true, "6:8", DType::kBF16},
                                           Case{Family::kLlama, DType::kBF16, true, "dense", DType::kI8}));

TEST(Convert, SourceDigestFollowsItsDefinition) {
  const Workspace space;
  make_model(space / "in");
  const ConvertReport report = convert_model(options_for(space / "in", space / "out"));
  std::string text;
  for (const RawTensor& tensor : load_tensors(space / "in")) {
    text += tensor.name + " BF16 " + Shape(tensor.shape).to_string() + " " + sha256_hex(tensor.bytes) + "\n";
  }
  text += "config.json " + sha256_hex(read_file(space / "in" / "config.json")) + "\n";
  EXPECT_EQ(report.source_sha256, sha256_hex(text));
}

TEST(Convert, ThreadsAndShardsDoNotChangeTensors) {
  const Workspace space;
  make_model(space / "in");
  convert_model(options_for(space / "in", space / "one"));
  set_thread_count(7);
  ConvertOptions options = options_for(space / "in", space / "many");
  options.shard_bytes = 20'000;
  convert_model(options);
  set_thread_count(0);
  EXPECT_TRUE(std::filesystem::exists(space / "many" / "model.safetensors.index.json"));
  EXPECT_TRUE(std::filesystem::exists(space / "many" / "model-00002-of-00003.safetensors") ||
              std::filesystem::exists(space / "many" / "model-00002-of-00004.safetensors"));
  const auto one = load_tensors(space / "one");
  const auto many = load_tensors(space / "many");
  ASSERT_EQ(one.size(), many.size());
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(one[i].bytes == many[i].bytes) << one[i].name;
}

TEST(Convert, SkipTakesWholeFusedGroupsAndSaysSo) {
  const Workspace space;
  make_model(space / "in");
  ConvertOptions options = options_for(space / "in", space / "out");
  options.skip = {"*.1.self_attn.k_proj", "model.layers.0.mlp.down"};
  const ConvertReport report = convert_model(options);
  const ModelDirectory directory(space / "out");
  const auto info = parse_packed_info(directory.config_text(), "config.json");
  EXPECT_EQ(info->exceptions.size(), 4u);
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
    const std::string linear = std::string("model.layers.1.self_attn.") + name;
    EXPECT_TRUE(info->pattern_of(linear).is_dense());
    EXPECT_FALSE(directory.contains(linear + ".codes"));
    EXPECT_THAT(info->exceptions.at(linear).reason,
                HasSubstr("the fused group model.layers.1.self_attn.qkv is skipped as a whole"));
  }
  EXPECT_EQ(info->exceptions.at("model.layers.0.mlp.down_proj").reason, "--skip model.layers.0.mlp.down");
  EXPECT_THAT(report_to_text(report), HasSubstr("model.layers.1.self_attn.q_proj: dense (--skip"));
  options.target = space / "none";
  options.skip = {"*.nothing"};
  EXPECT_THAT(error_of([&] { convert_model(options); }), HasSubstr("--skip *.nothing: matches no linear"));
  EXPECT_FALSE(std::filesystem::exists(space / "none.partial"));
}

TEST(Convert, Int8HeadOfTiedAndUntiedModels) {
  for (const bool tied : {true, false}) {
    const Workspace space;
    make_model(space / "in", small_config(Family::kLlama, DType::kBF16, tied));
    ConvertOptions options = options_for(space / "in", space / "out");
    options.head = DType::kI8;
    convert_model(options);
    auto in = load_tensors(space / "in");
    auto out = load_tensors(space / "out");
    const std::string from = tied ? "model.embed_tokens.weight" : "lm_head.weight";
    const Expected want = plain_conversion(find_tensor(in, from), Pattern(), DType::kI8);
    EXPECT_EQ(bytes_of(out, "lm_head.values"), want.values);
    EXPECT_EQ(bytes_of(out, "lm_head.scale"), want.scale);
    EXPECT_EQ(bytes_of(out, "model.embed_tokens.weight"), bytes_of(in, "model.embed_tokens.weight"));
    EXPECT_THROW(find_tensor(out, "lm_head.weight"), std::runtime_error);
  }
}

// A compressed-tensors source: codes are pruned as they are, scales kept; a scale for the whole tensor is
// repeated.
TEST(Convert, TakesQuantisedSources) {
  for (const bool per_tensor : {false, true}) {
    const Workspace space;
    make_model(space / "bf16");
    std::vector<RawTensor> tensors;
    for (RawTensor& tensor : load_tensors(space / "bf16")) {
      if (!tensor.name.ends_with("_proj.weight")) {
        tensors.push_back(tensor);
        continue;
      }
      const std::int64_t n = tensor.shape[0], k = tensor.shape[1];
      RawTensor codes{tensor.name, DType::kI8, tensor.shape,
                      std::string(static_cast<std::size_t>(n * k), '\0')};
      RawTensor scale{
          tensor.name + "_scale", DType::kBF16, {n, 1}, std::string(static_cast<std::size_t>(n * 2), '\0')};
      quantise_weight_rows(DType::kBF16, tensor.bytes.data(), n, k, k, DType::kI8, codes.bytes.data(),
                           scale.bytes.data());
      if (per_tensor) scale = {scale.name, DType::kBF16, {1}, scale.bytes.substr(0, 2)};
      tensors.push_back(codes);
      tensors.push_back(scale);
    }
    const std::string config =
        config_with_compressed_tensors(read_file(space / "bf16" / "config.json"), DType::kI8, {"lm_head"});
    save_model(space / "in", config, tensors);
    convert_model(options_for(space / "in", space / "out", "6:8", DType::kI8));
    auto out = load_tensors(space / "out");
    const std::string name = "model.layers.1.mlp.up_proj";
    RawTensor weight = find_tensor(tensors, name + ".weight");
    prune_rows(Pattern::parse("6:8"), PruneMethod::kMagnitude, DType::kI8, weight.bytes.data(), 72, 40, 40);
    std::string values(72 * 30, '\0');
    std::string codes(static_cast<std::size_t>(72 * Pattern::parse("6:8").code_bytes_per_row(40)), '\0');
    pack_rows(Pattern::parse("6:8"), DType::kI8, weight.bytes.data(), 72, 40, 40, values.data(),
              reinterpret_cast<std::uint8_t*>(codes.data()));
    EXPECT_EQ(bytes_of(out, name + ".values"), values);
    EXPECT_EQ(bytes_of(out, name + ".codes"), codes);
    const std::string scale = bytes_of(tensors, name + ".weight_scale");
    std::string want_scale;
    for (std::size_t r = 0; r < 72; ++r) want_scale += per_tensor ? scale : scale.substr(2 * r, 2);
    EXPECT_EQ(bytes_of(out, name + ".scale"), want_scale);
    EXPECT_THAT(error_of([&] { convert_model(options_for(space / "in", space / "fp8")); }),
                HasSubstr("holds I8 codes, which cannot become F8_E4M3"));
  }
}

}  // namespace
}  // namespace slidesparse
