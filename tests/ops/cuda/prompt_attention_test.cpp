#include "ops/prompt_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/numeric.h"
#include "core/random.h"
#include "kernels/cuda/device_test.h"

namespace slidesparse {
namespace {

// qkv of random prompts, and what attention makes of one row, in double.
struct Prompts {
  PromptShape shape;
  std::int64_t ld = 0;
  std::vector<std::uint16_t> qkv;

  Prompts(const PromptShape& wanted, std::int64_t pad, std::uint64_t seed)
      : shape(wanted), ld((wanted.heads + 2 * wanted.kv_heads) * wanted.head_dim + pad) {
    Random random(seed);
    for (std::int64_t i = 0; i < shape.sequences * shape.length * ld; ++i)
      qkv.push_back(float_to_bf16(1.5f * random.normal()));
  }

  double at(std::int64_t token, std::int64_t head, std::int64_t d) const {
    return bf16_to_float(qkv[static_cast<std::size_t>(token * ld + head * shape.head_dim + d)]);
  }

  // [head_dim] values, then as many sums of weighted magnitudes.
  std::vector<double> exact(std::int64_t token, std::int64_t head) const {
    const std::int64_t first = token / shape.length * shape.length;
    const std::int64_t key = shape.heads + head / (shape.heads / shape.kv_heads);
    const std::int64_t value = key + shape.kv_heads;
    std::vector<double> scores;
    double most = -1e300;
    for (std::int64_t t = first; t <= token; ++t) {
      double sum = 0;
      for (std::int64_t d = 0; d < shape.head_dim; ++d) sum += at(token, head, d) * at(t, key, d);
      scores.push_back(sum / std::sqrt(static_cast<double>(shape.head_dim)));
      most = std::max(most, scores.back());
    }
    double all = 0;
    for (double& score : scores) all += score = std::exp(score - most);
    std::vector<double> result(static_cast<std::size_t>(2 * shape.head_dim));
    for (std::int64_t t = first; t <= token; ++t) {
      for (std::int64_t d = 0; d < shape.head_dim; ++d) {
        const double part = scores[static_cast<std::size_t>(t - first)] / all * at(t, value, d);
        result[static_cast<std::size_t>(d)] += part;
        result[static_cast<std::size_t>(shape.head_dim + d)] += std::abs(part);
      }
    }
    return result;
  }
};

class CudaPromptAttention : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    if (!attention_.reason().empty()) GTEST_SKIP() << attention_.reason();
  }
  PromptAttention attention_;
};

// Weights of the sum are rounded to BF16 on the way, and so is the result: 2^-8 each.
constexpr double kRoundings = 0x1p-7;

TEST_F(CudaPromptAttention, IsCausalAttentionOfEverySequence) {
  const CudaStream stream;
  for (const PromptShape& shape : {PromptShape{1, 128, 2, 2, 64}, PromptShape{3, 192, 8, 2, 128},
                                   PromptShape{2, 1024, 28, 4, 128}, PromptShape{1, 2048, 9, 3, 64}}) {
    for (const std::int64_t pad : {0, 8}) {
      SCOPED_TRACE(testing::Message() << shape.sequences << " prompts of " << shape.length << ", "
                                      << shape.heads << " heads of " << shape.head_dim << ", pad " << pad);
      const Prompts prompts(shape, pad, 17);
      const std::int64_t ldout = shape.heads * shape.head_dim + pad;
      const std::int64_t tokens = shape.sequences * shape.length;
      ASSERT_TRUE(attention_.takes(shape, prompts.ld, ldout));
      OnDevice qkv(prompts.qkv, stream);
      DeviceBuffer workspace(kPromptWorkspace, "test");
      std::vector<std::uint16_t> got;
      for (int run = 0; run < 2; ++run) {
        OnDevice out(poison<std::uint16_t>((tokens + 1) * ldout), stream);
        attention_.run(shape, {qkv.data(), prompts.ld, out.data(), ldout, workspace.data()}, stream.handle());
        const auto bits = on_host(out.data(), (tokens + 1) * ldout, stream);
        if (run == 1) {
          ASSERT_TRUE(bits == got) << "a second run gives other bits";
        }
        got = bits;
      }
      EXPECT_TRUE(on_host(qkv.data(), static_cast<std::int64_t>(prompts.qkv.size()), stream) == prompts.qkv);
      for (std::int64_t t = 0; t <= tokens; ++t) {
        for (std::int64_t j = t < tokens ? shape.heads * shape.head_dim : 0; j < ldout; ++j)
          ASSERT_EQ(got[static_cast<std::size_t>(t * ldout + j)], 0xffff)
              << "token " << t << ", column " << j;
      }
      Random random(5);
      std::vector<std::int64_t> rows{0, shape.length - 1, tokens - 1};
      if (shape.sequences > 1) rows.push_back(shape.length);
      for (int i = 0; i < 20; ++i) rows.push_back(random.below(tokens));
      for (const std::int64_t token : rows) {
        const std::int64_t head = random.below(shape.heads);
        const std::vector<double> exact = prompts.exact(token, head);
        for (std::int64_t d = 0; d < shape.head_dim; ++d) {
          const double value =
              bf16_to_float(got[static_cast<std::size_t>(token * ldout + head * shape.head_dim + d)]);
          ASSERT_NEAR(value, exact[static_cast<std::size_t>(d)],
                      kRoundings * exact[static_cast<std::size_t>(shape.head_dim + d)])
              << "token " << token << ", head " << head << ", element " << d;
        }
      }
    }
  }
}

TEST_F(CudaPromptAttention, RefusesWhatItHasNoPlanFor) {
  // Heads that do not divide into groups.
  EXPECT_FALSE(attention_.takes({1, 128, 3, 2, 64}, 7 * 64, 3 * 64));
  EXPECT_ANY_THROW(attention_.run({1, 128, 3, 2, 64}, {}, nullptr));
}

// With or without a card, with or without the library.
TEST(PromptAttention, SaysWhyThereIsNone) {
  PromptAttention attention;
  if (!cuda_status().available) {
    EXPECT_FALSE(attention.reason().empty());
  }
  if (attention.reason().empty()) {
    EXPECT_EQ(attention.version().rfind("cuDNN 9.", 0), 0u) << attention.version();
  } else {
    EXPECT_FALSE(attention.takes({1, 128, 2, 2, 64}, 6 * 64, 2 * 64));
  }
}

}  // namespace
}  // namespace slidesparse
