#include <gtest/gtest.h>

#include <set>

#include "ops/prompt_attention.h"

namespace slidesparse {
namespace {

TEST(PromptShapes, FewPlansServeAllLengths) {
  std::set<PromptShape> plans;
  for (std::int64_t sequences = 1; sequences <= 256; ++sequences) {
    for (std::int64_t longest = 1; longest <= 32768; longest += 1 + longest / 3) {
      const PromptShape shape = unequal_prompts(sequences, longest, 28, 4, 128);
      EXPECT_TRUE(shape.unequal);
      EXPECT_GE(shape.sequences, sequences);
      EXPECT_GE(shape.length, longest);
      EXPECT_LT(shape.sequences, std::max<std::int64_t>(5, 4 * sequences));
      EXPECT_LT(shape.length, std::max<std::int64_t>(513, 4 * longest));
      plans.insert(shape);
    }
  }
  EXPECT_EQ(plans.size(), 4u * 4u);
  const PromptShape one = unequal_prompts(5, 513, 8, 2, 64);
  EXPECT_EQ(one, (PromptShape{16, 2048, 8, 2, 64, true}));
  EXPECT_NE(one, (PromptShape{16, 2048, 8, 2, 64}));
}

TEST(PromptShapes, BytesOfOffsets) {
  EXPECT_EQ(prompt_offsets_bytes(1), 3 * 256);
  EXPECT_EQ(prompt_offsets_bytes(65), 1024 + 2 * (2048 + 256));
  std::int64_t last = 0;
  for (std::int64_t sequences = 1; sequences < 600; ++sequences) {
    EXPECT_GE(prompt_offsets_bytes(sequences), last);
    last = prompt_offsets_bytes(sequences);
  }
}

}  // namespace
}  // namespace slidesparse
