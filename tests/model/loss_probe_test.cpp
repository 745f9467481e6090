#include "model/loss_probe.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/numeric.h"
#include "core/random.h"
#include "io/model_directory.h"
#include "model/weights.h"
#include "model_test_tools.h"

namespace slidesparse {
namespace {

using namespace test;

constexpr std::int64_t kSamples = 3;
constexpr std::int64_t kLength = 14;

class LossProbeOf : public ::testing::TestWithParam<const char*> {
 protected:
  LossProbeOf() {
    const ModelDirectory model(directory_);
    config_ = parse_model_config(model.config_text(), "config.json");
    Random random(5);
    for (std::int64_t i = 0; i < kSamples * kLength; ++i)
      tokens_.push_back(static_cast<std::int32_t>(random.below(config_.vocab)));
  }

  const FusedGroup& group(std::int64_t layer, GroupInput input) {
    return table().groups[static_cast<std::size_t>(layer * kGroupsPerLayer + static_cast<int>(input))];
  }

  const WeightTable& table() {
    if (table_.groups.empty()) table_ = weight_table(config_);
    return table_;
  }

  // The group's weights, each 1 / 8 smaller or larger.
  std::vector<std::vector<std::uint16_t>> changed(const FusedGroup& of) {
    const TensorFile file(directory_ / "model.safetensors");
    std::vector<std::vector<std::uint16_t>> members;
    for (const LinearSpec& spec : of.members) {
      const TensorView view = file.at(spec.name + ".weight");
      std::vector<std::uint16_t> bits(static_cast<std::size_t>(spec.n * spec.k));
      for (std::size_t i = 0; i < bits.size(); ++i) {
        const auto at = static_cast<std::int64_t>(i);
        const float weight = view.dtype == DType::kF32 ? view.as<const float>()[at]
                                                       : bf16_to_float(view.as<const std::uint16_t>()[at]);
        bits[i] = float_to_bf16(weight * (i % 3 == 0 ? 0.875f : 1.125f));
      }
      members.push_back(std::move(bits));
    }
    return members;
  }

  static std::vector<const std::uint16_t*> pointers(const std::vector<std::vector<std::uint16_t>>& members) {
    std::vector<const std::uint16_t*> result;
    result.reserve(members.size());
    for (const auto& member : members) result.push_back(member.data());
    return result;
  }

  // Logits of every token, of a directory that differs from the golden one in the group's weights.
  Rows logits(const FusedGroup* of, const std::vector<std::vector<std::uint16_t>>& members) {
    const ScratchDirectory scratch("loss_probe");
    const TensorFile file(directory_ / "model.safetensors");
    std::vector<NewTensor> tensors;
    for (const auto& [name, view] : file.all()) {
      NewTensor tensor{name, view.dtype, {view.shape.dims().begin(), view.shape.dims().end()}, {}};
      const auto* bytes = view.as<const std::byte>();
      tensor.bytes.assign(bytes, bytes + view.byte_size());
      for (std::size_t i = 0; of != nullptr && i < of->members.size(); ++i) {
        if (name != of->members[i].name + ".weight") continue;
        tensor.dtype = DType::kBF16;
        const auto* data = reinterpret_cast<const std::byte*>(members[i].data());
        tensor.bytes.assign(data, data + 2 * members[i].size());
      }
      tensors.push_back(std::move(tensor));
    }
    write_model_directory(scratch.path(), ModelDirectory(directory_).config_text(), tensors);
    const Model model = Model::load(scratch.path());
    const KvCache cache(config_, kSamples, 16);
    std::vector<SequenceStep> sequences;
    for (std::int64_t s = 0; s < kSamples; ++s) {
      const auto first = tokens_.begin() + s * kLength;
      sequences.push_back({{first, first + kLength}, 0, pages_from(static_cast<std::int32_t>(s), 1)});
    }
    return run_step(model, cache, sequences);
  }

  // Mean over every third token.
  static double divergence(const Rows& p, const Rows& q) {
    double sum = 0;
    int count = 0;
    for (std::size_t row = 2; row < p.size(); row += 3, ++count) {
      double of_p = 0, of_q = 0;
      for (const float logit : p[row]) of_p += std::exp(static_cast<double>(logit));
      for (const float logit : q[row]) of_q += std::exp(static_cast<double>(logit));
      for (std::size_t i = 0; i < p[row].size(); ++i) {
        const double log_p = static_cast<double>(p[row][i]) - std::log(of_p);
        const double log_q = static_cast<double>(q[row][i]) - std::log(of_q);
        sum += std::exp(log_p) * (log_p - log_q);
      }
    }
    return sum / count;
  }

  const std::filesystem::path directory_ = golden(GetParam());
  ModelConfig config_;
  WeightTable table_;
  std::vector<std::int32_t> tokens_;
};

// The divergence is that of two whole models, one of which has the changed weights.
TEST_P(LossProbeOf, IsTheDivergenceOfTheWholeModels) {
  const Rows before = logits(nullptr, {});
  LossProbe probe(config_, directory_, tokens_, kLength, kSamples * kLength / 3);
  for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
    EXPECT_EQ(probe.layer(), layer);
    for (int g = 0; g < kGroupsPerLayer; ++g) {
      const auto input = static_cast<GroupInput>(g);
      const FusedGroup& of = group(layer, input);
      const auto members = changed(of);
      const double want = divergence(before, logits(&of, members));
      ASSERT_GT(want, 0) << of.name;
      EXPECT_NEAR(probe.divergence(input, pointers(members)), want, 1e-3 * want + 1e-7) << of.name;
    }
    probe.end_layer();
  }
}

// A trial leaves nothing behind.
TEST_P(LossProbeOf, UnchangedWeightsDivergeByNothing) {
  LossProbe probe(config_, directory_, tokens_, kLength, 1000);
  const FusedGroup& of = group(0, GroupInput::kGateUp);
  const auto other = changed(of);
  const double first = probe.divergence(GroupInput::kGateUp, pointers(other));
  EXPECT_GT(first, 0);
  const TensorFile file(directory_ / "model.safetensors");
  std::vector<std::vector<std::uint16_t>> same;
  for (const LinearSpec& spec : of.members) {
    const TensorView view = file.at(spec.name + ".weight");
    same.emplace_back();
    for (std::int64_t i = 0; i < spec.n * spec.k; ++i) {
      same.back().push_back(view.dtype == DType::kF32 ? float_to_bf16(view.as<const float>()[i])
                                                      : view.as<const std::uint16_t>()[i]);
    }
  }
  EXPECT_NEAR(probe.divergence(GroupInput::kGateUp, pointers(same)), 0, 1e-9);
  // What rounding alone does is more than nothing, and little beside weights that are an eighth off.
  const double rounding = probe.rounding();
  EXPECT_GT(rounding, 0);
  EXPECT_LT(rounding,
            0.2 * probe.divergence(GroupInput::kQkv, pointers(changed(group(0, GroupInput::kQkv)))));
  EXPECT_EQ(probe.divergence(GroupInput::kGateUp, pointers(other)), first);
}

INSTANTIATE_TEST_SUITE_P(Golden, LossProbeOf, ::testing::Values("llama", "qwen2", "qwen3"),
                         [](const auto& name) { return std::string(name.param); });

TEST(LossProbe, RefusesWhatTheModelCannotTake) {
  const std::filesystem::path directory = golden("llama");
  const ModelConfig config = parse_model_config(ModelDirectory(directory).config_text(), "config.json");
  expect_tokens_are_checked(config, [&](const std::vector<std::int32_t>& tokens, std::int64_t length) {
    const LossProbe probe(config, directory, tokens, length, 2);
  });
}

}  // namespace
}  // namespace slidesparse
