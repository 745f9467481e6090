// A head that is quantised when a model is loaded, on the CPU: against the BF16 head of the same weights.
#include "model/head_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/numeric.h"
#include "core/random.h"
#include "io/json.h"
#include "io/packed_directory.h"
#include "model/model_test_tools.h"
#include "quant/weights.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using test::Rows;
using testing::HasSubstr;

std::vector<std::int32_t> some_tokens(std::int64_t count) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::int32_t>(random_bits(1, static_cast<std::uint64_t>(i)) % 128));
  return tokens;
}

// |a - b| / |b|.
double relative_distance(const Rows& a, const Rows& b) {
  double apart = 0, all = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    for (std::size_t j = 0; j < b[i].size(); ++j) {
      apart += std::pow(static_cast<double>(a.at(i).at(j)) - b[i][j], 2);
      all += std::pow(static_cast<double>(b[i][j]), 2);
    }
  }
  return std::sqrt(apart / all);
}

ModelOptions with_head(DType head) {
  ModelOptions options;
  options.head = head;
  return options;
}

ModelConfig config_of(const char* family) {
  return parse_model_config(read_text_file(test::golden(family) / "config.json"), "config.json");
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Rounding moves a code by half a step at most: of 127.5 for INT8, with rows and tokens whose largest is
// about three deviations 1 % over all in the root mean square; of E4M3, 2^-4 of the number at most and
// 2.6 % in the root mean square for weights and activations each. A wrong scale or row gives 10 % and more.
TEST(Head, QuantisedLogitsAreCloseToTheBf16Heads) {
  for (const char* family : {"llama", "qwen2", "qwen3"}) {  // untied, tied, tied
    const Rows expected = test::run_whole(Model::load(test::golden(family)), some_tokens(40));
    EXPECT_EQ(test::run_whole(Model::load(test::golden(family), with_head(DType::kBF16)), some_tokens(40)),
              expected);
    for (const auto& [head, limit] : {std::pair{DType::kI8, 0.02}, {DType::kF8E4M3, 0.06}}) {
      const Model model = Model::load(test::golden(family), with_head(head));
      const double apart = relative_distance(test::run_whole(model, some_tokens(40)), expected);
      EXPECT_LT(apart, limit) << family << " " << dtype_name(head);
      EXPECT_GT(apart, 1e-4) << family << " " << dtype_name(head) << ": it is not quantised";
    }
  }
}

TEST(Head, QuantisedIsBesideTheEmbedding) {
  for (const char* family : {"llama", "qwen2"}) {
    const ModelSummary plain = Model::load(test::golden(family)).summary();
    const ModelSummary summary = Model::load(test::golden(family), with_head(DType::kF8E4M3)).summary();
    EXPECT_EQ(summary.embedding_bytes, plain.embedding_bytes);
    EXPECT_EQ(summary.linear_bytes, plain.linear_bytes);
    EXPECT_EQ(summary.head_bytes, 128 * (48 + 2));
    EXPECT_EQ(plain.head_bytes, std::string(family) == "llama" ? 128 * 48 * 2 : 0);
    const auto uses = Model::load(test::golden(family), with_head(DType::kI8)).linears_at(3, 2);
    EXPECT_EQ(uses.back().dtype, DType::kI8);
    EXPECT_EQ(uses.back().out, DType::kF32);
    EXPECT_EQ(uses.back().m, 2);
    EXPECT_EQ(uses.front().dtype, DType::kBF16);
  }
}

// One scale a channel, by the rules of the linears; the shape is known without reading anything.
TEST(Head, CodesAndScalesAreTheLinears) {
  const ModelConfig config = config_of("qwen2");
  const WeightTable table = weight_table(config);
  const LinearSpec spec{table.head, config.vocab, config.hidden};
  const auto stored = open_weights(test::golden("qwen2"), config, false);
  const TensorView embedding = stored->plain({table.embedding, {config.vocab, config.hidden}});
  for (const DType dtype : {DType::kI8, DType::kF8E4M3}) {
    HeadReader reader(*stored, dtype);
    EXPECT_EQ(reader.head_shape(spec).dtype, dtype);
    EXPECT_EQ(reader.head_shape(spec).values, nullptr);
    const WeightSource head = reader.head(spec, embedding);
    std::vector<std::byte> codes(static_cast<std::size_t>(spec.n * spec.k));
    std::vector<std::uint16_t> scales(static_cast<std::size_t>(spec.n));
    quantise_weight_rows(DType::kBF16, embedding.data, spec.n, spec.k, spec.k, dtype, codes.data(),
                         scales.data());
    EXPECT_EQ(std::memcmp(head.values, codes.data(), codes.size()), 0);
    EXPECT_EQ(head.scale_dtype, DType::kBF16);
    EXPECT_EQ(std::memcmp(head.scales, scales.data(), 2 * scales.size()), 0);
    EXPECT_EQ(reader.plain({table.embedding, {config.vocab, config.hidden}}).data, embedding.data);
  }
}

TEST(Head, RandomOnesComeInEveryType) {
  const ModelConfig config = config_of("qwen2");
  for (const DType dtype : {DType::kI8, DType::kF8E4M3}) {
    const Model model = Model::random(config, DType::kI8, Pattern::parse("6:8"), dtype, 1);
    EXPECT_EQ(model.linears_at(1, 1).back().dtype, dtype);
    EXPECT_EQ(model.summary().head_bytes, 128 * (48 + 2));
    for (const auto& row : test::run_whole(model, some_tokens(6))) {
      for (const float value : row) ASSERT_TRUE(std::isfinite(value));
    }
    // Made so, or made so when it is loaded: what is there already is taken as it is.
    EXPECT_EQ(
        test::run_whole(Model::random(config, DType::kI8, Pattern::parse("6:8"), dtype, 1, with_head(dtype)),
                        some_tokens(6)),
        test::run_whole(model, some_tokens(6)));
  }
}

TEST(Head, WhatIsQuantisedIsNotQuantisedAgain) {
  const ModelConfig config = config_of("llama");
  for (const DType asked : {DType::kF8E4M3, DType::kBF16}) {
    EXPECT_THAT(
        error_of([&] { Model::random(config, DType::kI8, Pattern(), DType::kI8, 1, with_head(asked)); }),
        testing::AllOf(HasSubstr(asked == DType::kBF16 ? "--head bf16" : "--head fp8"), HasSubstr("in int8"),
                       HasSubstr("leave --head out")));
  }
}

}  // namespace
}  // namespace slidesparse
