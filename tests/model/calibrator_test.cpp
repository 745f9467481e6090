#include "model/calibrator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/numeric.h"
#include "core/random.h"
#include "io/model_directory.h"
#include "model/weight_reader.h"
#include "model/weights.h"
#include "model_test_tools.h"
#include "ops/elementwise.h"

namespace slidesparse {
namespace {

using namespace test;

ModelConfig config_of(const std::filesystem::path& directory) {
  const ModelDirectory model(directory);
  return parse_model_config(model.config_text(), (directory / "config.json").string());
}

std::vector<std::int32_t> random_tokens(std::int64_t count, std::int64_t vocab) {
  Random random(5);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (std::int32_t& token : tokens) token = static_cast<std::int32_t>(random.below(vocab));
  return tokens;
}

class EveryFamily : public ::testing::TestWithParam<const char*> {
 protected:
  const std::filesystem::path directory_ = golden(GetParam());
  const ModelConfig config_ = config_of(directory_);
};

// Through the calibrator the model computes what it computes by itself: the logits of the residual stream
// behind the last layer are those of forward(), bit for bit.
TEST_P(EveryFamily, EndsInTheModelsOwnOutputs) {
  const std::int64_t samples = 3, length = 21;
  const std::vector<std::int32_t> tokens = random_tokens(samples * length, config_.vocab);
  Calibrator calibrator(config_, directory_, tokens, length);
  std::int64_t steps = 0;
  const auto count = [&](std::int64_t done) { steps += done; };
  for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
    EXPECT_EQ(calibrator.layer(), layer);
    for (int group = 0; group < kGroupsPerLayer; ++group) calibrator.collect({}, count);
    calibrator.end_layer(count);
  }
  EXPECT_EQ(steps, config_.layers * (kGroupsPerLayer + 1) * samples);

  const Model model = Model::load(directory_);
  const KvCache cache(config_, samples * 2, 16);
  std::vector<SequenceStep> sequences;
  for (std::int64_t s = 0; s < samples; ++s) {
    const auto first = tokens.begin() + s * length;
    sequences.push_back({{first, first + length}, 0, pages_from(static_cast<std::int32_t>(2 * s), 2)});
  }
  const Rows want = run_step(model, cache, sequences);

  Arena arena(1 << 20);
  Context context;
  context.arena = &arena;
  const auto reader = open_weights(directory_, config_, false);
  const TensorView embedding = reader->plain({"model.embed_tokens.weight", {config_.vocab, config_.hidden}});
  const Linear head("lm_head", reader->head({"lm_head", config_.vocab, config_.hidden}, embedding), {});
  std::vector<std::uint16_t> stream(static_cast<std::size_t>(samples * length * config_.hidden));
  ASSERT_EQ(calibrator.state().size(), 2 * stream.size());
  std::memcpy(stream.data(), calibrator.state().data(), 2 * stream.size());
  std::vector<std::uint16_t> normed(stream.size());
  const Shape shape{samples * length, config_.hidden};
  rms_norm(context, TensorView::contiguous(static_cast<void*>(stream.data()), DType::kBF16, shape),
           reader->plain({"model.norm.weight", {config_.hidden}}), config_.rms_eps,
           TensorView::contiguous(static_cast<void*>(normed.data()), DType::kBF16, shape));
  std::vector<float> logits(static_cast<std::size_t>(samples * length * config_.vocab));
  head.run(context, {TensorView::contiguous(static_cast<void*>(normed.data()), DType::kBF16, shape), nullptr},
           TensorView::contiguous(static_cast<void*>(logits.data()), DType::kF32,
                                  {samples * length, config_.vocab}));
  for (std::size_t row = 0; row < want.size(); ++row) {
    const auto first = logits.begin() + static_cast<std::ptrdiff_t>(row) * config_.vocab;
    ASSERT_EQ(std::vector<float>(first, first + config_.vocab), want[row]) << "token " << row;
  }
}

// The input of q, k and v of the first layer is the normed embedding.
TEST_P(EveryFamily, CollectsMomentsOfTheInput) {
  const std::int64_t length = 7, samples = 4, k = config_.hidden;
  const std::vector<std::int32_t> tokens = random_tokens(samples * length, config_.vocab);
  std::vector<double> want(static_cast<std::size_t>(k * k), 0.0);
  const auto reader = open_weights(directory_, config_, false);
  const TensorView embedding = reader->plain({"model.embed_tokens.weight", {config_.vocab, k}});
  const TensorView norm = reader->plain({"model.layers.0.input_layernorm.weight", {k}});
  for (const std::int32_t token : tokens) {
    std::vector<double> x;
    double squares = 0;
    for (std::int64_t c = 0; c < k; ++c) {
      x.push_back(static_cast<double>(bf16_to_float(embedding.as<const std::uint16_t>()[token * k + c])));
      squares += x.back() * x.back();
    }
    for (std::int64_t c = 0; c < k; ++c) {
      x[static_cast<std::size_t>(c)] *=
          static_cast<double>(bf16_to_float(norm.as<const std::uint16_t>()[c])) /
          std::sqrt(squares / static_cast<double>(k) + config_.rms_eps);
    }
    for (std::size_t i = 0; i < x.size(); ++i) {
      for (std::size_t j = 0; j <= i; ++j)
        want[i * x.size() + j] += x[i] * x[j] / static_cast<double>(tokens.size());
    }
  }
  std::vector<float> full(static_cast<std::size_t>(k * k)), diagonal(static_cast<std::size_t>(k));
  Calibrator(config_, directory_, tokens, length).collect(full);
  Calibrator(config_, directory_, tokens, length).collect(diagonal);
  for (std::int64_t i = 0; i < k; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) {
      const auto at = static_cast<std::size_t>(i * k + j);
      EXPECT_NEAR(static_cast<double>(full[at]), want[at],
                  0.01 * std::sqrt(want[static_cast<std::size_t>(i * k + i)] *
                                   want[static_cast<std::size_t>(j * k + j)]));
    }
    EXPECT_NEAR(static_cast<double>(diagonal[static_cast<std::size_t>(i)]),
                static_cast<double>(full[static_cast<std::size_t>(i * k + i)]), 1e-5);
  }
}

// Weights that were set count from then on: with q, k, v of zeros attention gives zeros.
TEST_P(EveryFamily, SeesTheWeightsThatWereSet) {
  if (config_.qkv_bias) GTEST_SKIP() << "biases are added to outputs of zero weights";
  const std::vector<std::int32_t> tokens = random_tokens(20, config_.vocab);
  Calibrator calibrator(config_, directory_, tokens, 10);
  const FusedGroup qkv = weight_table(config_).groups.front();
  std::vector<std::vector<std::uint16_t>> zeros;
  std::vector<const std::uint16_t*> pointers;
  for (const LinearSpec& member : qkv.members)
    zeros.emplace_back(static_cast<std::size_t>(member.n * member.k), 0);
  pointers.reserve(zeros.size());
  for (const auto& weights : zeros) pointers.push_back(weights.data());
  calibrator.collect({});
  calibrator.set_weights(pointers);
  std::vector<float> moments(static_cast<std::size_t>(config_.heads * config_.head_dim), -1.0f);
  calibrator.collect(moments);
  EXPECT_THAT(moments, ::testing::Each(0.0f));
}

TEST_P(EveryFamily, GoesOnFromASavedLayer) {
  const std::vector<std::int32_t> tokens = random_tokens(36, config_.vocab);
  ASSERT_GE(config_.layers, 2);
  Calibrator whole(config_, directory_, tokens, 12);
  for (int group = 0; group < kGroupsPerLayer; ++group) whole.collect({});
  whole.end_layer();
  const std::vector<std::byte> saved(whole.state().begin(), whole.state().end());
  Calibrator resumed(config_, directory_, tokens, 12);
  resumed.restore(1, saved);
  EXPECT_EQ(resumed.layer(), 1);
  for (int group = 0; group < kGroupsPerLayer; ++group) {
    const std::int64_t k =
        weight_table(config_)
            .groups[static_cast<std::size_t>(kGroupsPerLayer) + static_cast<std::size_t>(group)]
            .members.front()
            .k;
    std::vector<float> one(static_cast<std::size_t>(k * k)), two(one.size());
    whole.collect(one);
    resumed.collect(two);
    EXPECT_EQ(one, two);
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, EveryFamily, ::testing::Values("llama", "qwen2", "qwen3"),
                         [](const auto& name) { return std::string(name.param); });

TEST(Calibrator, RefusesWhatTheModelCannotTake) {
  const std::filesystem::path directory = golden("llama");
  const ModelConfig config = config_of(directory);
  expect_tokens_are_checked(config, [&](const std::vector<std::int32_t>& tokens, std::int64_t length) {
    const Calibrator calibrator(config, directory, tokens, length);
  });
}

}  // namespace
}  // namespace slidesparse
