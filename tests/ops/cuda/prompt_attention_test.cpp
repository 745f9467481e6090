#include "ops/prompt_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/numeric.h"
#include "core/random.h"
#include "kernels/cuda/device_test.h"
#include "kernels/cuda/prompt_offsets.h"

namespace slidesparse {
namespace {

// qkv of random prompts, and what attention makes of one row, in double.
struct Prompts {
  PromptShape shape;
  std::int64_t ld = 0;
  std::vector<std::int32_t> starts{0};  // of each prompt, and the end of the last one
  std::vector<std::uint16_t> qkv;

  Prompts(const PromptShape& wanted, std::int64_t pad, std::uint64_t seed,
          const std::vector<std::int32_t>& lengths = {})
      : shape(wanted), ld((wanted.heads + 2 * wanted.kv_heads) * wanted.head_dim + pad) {
    for (const std::int32_t length : lengths) starts.push_back(starts.back() + length);
    while (lengths.empty() && static_cast<std::int64_t>(starts.size()) <= shape.sequences)
      starts.push_back(starts.back() + static_cast<std::int32_t>(shape.length));
    Random random(seed);
    for (std::int64_t i = 0; i < tokens() * ld; ++i) qkv.push_back(float_to_bf16(1.5f * random.normal()));
  }

  std::int64_t tokens() const { return starts.back(); }

  double at(std::int64_t token, std::int64_t head, std::int64_t d) const {
    return bf16_to_float(qkv[static_cast<std::size_t>(token * ld + head * shape.head_dim + d)]);
  }

  // [head_dim] values, then as many sums of weighted magnitudes.
  std::vector<double> exact(std::int64_t token, std::int64_t head) const {
    const std::int64_t first = *(std::ranges::upper_bound(starts, token) - 1);
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

// Weights of the sum are rounded to BF16 on the way, and so is the result: 2^-8 each.
constexpr double kRoundings = 0x1p-7;

// Those rows and 20 more, a head of each.
void expect_exact(const Prompts& prompts, const std::vector<std::uint16_t>& got, std::int64_t ldout,
                  std::vector<std::int64_t> rows) {
  const PromptShape& shape = prompts.shape;
  Random random(5);
  for (int i = 0; i < 20; ++i) rows.push_back(random.below(prompts.tokens()));
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

class CudaPromptAttention : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    if (!attention_.reason().empty()) GTEST_SKIP() << attention_.reason();
  }
  PromptAttention attention_;
};

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
      std::vector<std::int64_t> rows{0, shape.length - 1, tokens - 1};
      if (shape.sequences > 1) rows.push_back(shape.length);
      expect_exact(prompts, got, ldout, rows);
    }
  }
}

// Lengths of every kind - one token, around tiles of 64 and 128, the longest of a class - among prompts that
// are not there; the same plan for other lengths.
TEST_F(CudaPromptAttention, PromptsOfUnequalLengths) {
  if (cuda_status().devices.front().compute_capability() < 90) GTEST_SKIP() << "for Hopper and later";
  const CudaStream stream;
  struct Case {
    std::int64_t heads, kv_heads, head_dim;
    std::vector<std::int32_t> lengths;
  };
  for (const Case& c : {Case{4, 2, 64, {1, 300, 64, 65}}, Case{4, 2, 64, {512}}, Case{4, 2, 64, {257, 3}},
                        Case{28, 4, 128, {777, 1, 128, 127, 129, 2048, 5}}, Case{9, 3, 64, {1500}},
                        Case{8, 8, 128, std::vector<std::int32_t>(17, 130)}}) {
    const auto sequences = static_cast<std::int64_t>(c.lengths.size());
    const PromptShape shape =
        unequal_prompts(sequences, *std::ranges::max_element(c.lengths), c.heads, c.kv_heads, c.head_dim);
    for (const std::int64_t pad : {0, 8}) {
      SCOPED_TRACE(testing::Message() << sequences << " prompts, the first of " << c.lengths[0] << ", "
                                      << shape.heads << " heads of " << shape.head_dim << ", pad " << pad);
      const Prompts prompts(shape, pad, 23, c.lengths);
      const std::int64_t ldout = shape.heads * shape.head_dim + pad;
      ASSERT_TRUE(attention_.takes(shape, prompts.ld, ldout));
      OnDevice qkv(prompts.qkv, stream);
      OnDevice starts(prompts.starts, stream);
      OnDevice lengths(std::vector<std::int32_t>(static_cast<std::size_t>(shape.sequences), -1), stream);
      const std::vector<std::int64_t> unset(static_cast<std::size_t>(shape.sequences) + 1, -1);
      OnDevice offsets(unset, stream), offsets_out(unset, stream);
      cuda::PromptOffsetsArgs places;
      places.cu_seqlens = starts.data();
      places.sequences = sequences;
      places.most = shape.sequences;
      places.ld = prompts.ld;
      places.ldout = ldout;
      places.lengths = lengths.data();
      places.offsets = offsets.data();
      places.offsets_out = offsets_out.data();
      ASSERT_EQ(cuda::prompt_offsets(places, stream.handle()), 0);
      const auto got_lengths = on_host(lengths.data(), shape.sequences, stream);
      const auto got_offsets = on_host(offsets.data(), shape.sequences + 1, stream);
      const auto got_offsets_out = on_host(offsets_out.data(), shape.sequences + 1, stream);
      for (std::int64_t i = 0; i <= shape.sequences; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const std::int64_t start = prompts.starts[static_cast<std::size_t>(std::min(i, sequences))];
        ASSERT_EQ(got_offsets[at], start * prompts.ld);
        ASSERT_EQ(got_offsets_out[at], start * ldout);
        if (i < shape.sequences) {
          ASSERT_EQ(got_lengths[at], i < sequences ? c.lengths[at] : 0);
        }
      }
      DeviceBuffer workspace(kPromptWorkspace, "test");
      std::vector<std::uint16_t> got;
      for (int run = 0; run < 2; ++run) {
        OnDevice out(poison<std::uint16_t>((prompts.tokens() + 1) * ldout), stream);
        attention_.run(shape,
                       {qkv.data(), prompts.ld, out.data(), ldout, workspace.data(), lengths.data(),
                        offsets.data(), offsets_out.data()},
                       stream.handle());
        const auto bits = on_host(out.data(), (prompts.tokens() + 1) * ldout, stream);
        if (run == 1) {
          ASSERT_TRUE(bits == got) << "a second run gives other bits";
        }
        got = bits;
      }
      for (std::int64_t t = 0; t <= prompts.tokens(); ++t) {
        for (std::int64_t j = t < prompts.tokens() ? shape.heads * shape.head_dim : 0; j < ldout; ++j)
          ASSERT_EQ(got[static_cast<std::size_t>(t * ldout + j)], 0xffff)
              << "token " << t << ", column " << j;
      }
      std::vector<std::int64_t> rows;
      for (std::int64_t s = 0; s < sequences; ++s) {
        rows.push_back(prompts.starts[static_cast<std::size_t>(s)]);
        rows.push_back(prompts.starts[static_cast<std::size_t>(s) + 1] - 1);
      }
      expect_exact(prompts, got, ldout, rows);
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
