// Logits against transformers (tests/oracle/model_golden.py).
#include <gtest/gtest.h>

#include <cmath>

#include "core/cpu.h"
#include "core/numeric.h"
#include "model/model_test_tools.h"

namespace slidesparse {
namespace {

using test::Rows;

struct Expected {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> rows;
  test::TensorFile file;
  explicit Expected(const std::string& family) : file(test::golden(family) / "expected.safetensors") {
    const auto read = [&](const char* name) {
      const TensorView& view = file.at(name);
      return std::vector<std::int32_t>(view.as<const std::int32_t>(),
                                       view.as<const std::int32_t>() + view.dim(0));
    };
    tokens = read("tokens");
    rows = read("rows");
  }
  // Root mean square of got - FP32 reference over the expected rows.
  double distance(const Rows& got) const {
    const TensorView& exact = file.at("logits_f32");
    double sum = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      for (std::int64_t j = 0; j < exact.dim(1); ++j) {
        const double reference = exact.as<const float>()[static_cast<std::int64_t>(i) * exact.dim(1) + j];
        const double value = got[static_cast<std::size_t>(rows[i])][static_cast<std::size_t>(j)];
        sum += (value - reference) * (value - reference);
      }
    }
    return std::sqrt(sum / static_cast<double>(exact.shape.count()));
  }
  // The same for transformers' own BF16 run.
  double torch_distance() const {
    const TensorView& rounded = file.at("logits_bf16");
    Rows got(tokens.size(), std::vector<float>(static_cast<std::size_t>(rounded.dim(1))));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      for (std::int64_t j = 0; j < rounded.dim(1); ++j) {
        got[static_cast<std::size_t>(rows[i])][static_cast<std::size_t>(j)] = bf16_to_float(
            rounded.as<const std::uint16_t>()[static_cast<std::int64_t>(i) * rounded.dim(1) + j]);
      }
    }
    return distance(got);
  }
};

class Golden : public testing::TestWithParam<std::tuple<std::string, Isa>> {
 protected:
  void SetUp() override {
    if (std::get<1>(GetParam()) > detected_isa()) GTEST_SKIP() << "this processor has less";
    force_isa(std::get<1>(GetParam()));
  }
  void TearDown() override { force_isa(std::nullopt); }
};

// We round in fewer places than PyTorch's BF16 (rotary and SiLU stay in FP32), so the distance to the FP32
// reference may not be larger than PyTorch's own but for chance.
TEST_P(Golden, LogitsAreAsCloseToFp32AsPyTorchBf16) {
  const std::string& family = std::get<0>(GetParam());
  const Expected expected(family);
  const Model model = Model::load(test::golden(family));
  const double ours = expected.distance(test::run_whole(model, expected.tokens));
  const double theirs = expected.torch_distance();
  RecordProperty("ours", std::to_string(ours));
  RecordProperty("torch", std::to_string(theirs));
  EXPECT_GT(theirs, 0.0);
  EXPECT_LE(ours, 1.15 * theirs);
}

// One token at a time through the cache: every position is as close as in one step.
TEST_P(Golden, DecodingAgreesToo) {
  const std::string& family = std::get<0>(GetParam());
  const Expected expected(family);
  const Model model = Model::load(test::golden(family));
  const KvCache cache(model.config(), 20, 4);
  std::vector<std::int32_t> table;  // pages in no order
  table.reserve(20);
  for (std::int32_t i = 0; i < 20; ++i) table.push_back((7 * i + 3) % 20);
  Rows rows;
  for (std::size_t i = 0; i < expected.tokens.size(); ++i) {
    rows.push_back(
        test::run_step(model, cache, {{{expected.tokens[i]}, static_cast<std::int64_t>(i), table}}).front());
  }
  EXPECT_LE(expected.distance(rows), 1.15 * expected.torch_distance());
}

INSTANTIATE_TEST_SUITE_P(Families, Golden,
                         testing::Combine(testing::Values("llama", "qwen2", "qwen3"),
                                          testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512)),
                         [](const auto& instance) {
                           return std::get<0>(instance.param) + "_" +
                                  std::string(isa_name(std::get<1>(instance.param)));
                         });

}  // namespace
}  // namespace slidesparse
