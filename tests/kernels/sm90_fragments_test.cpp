#include "kernels/sm90/sm90_fragments.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>
#include <vector>

#include "slidesparse/format/split.h"

namespace slidesparse::sm90 {
namespace {

// wgmma's A operand as the instruction set's description draws it: 32 bytes of each of 64 rows; register a0
// holds the upper eight rows of a warp's sixteen, a1 the lower ones, a2 and a3 the same 16 bytes further on.
TEST(Sm90Fragments, EveryByteOfAHasOnePlace) {
  std::set<std::pair<int, int>> seen;
  for (int thread = 0; thread < kWarpgroup; ++thread) {
    for (int reg = 0; reg < 4; ++reg) {
      const int row = fragment_row(thread, reg), byte = fragment_byte(thread, reg);
      EXPECT_EQ(row / 16, thread / 32) << "a warp has 16 rows";
      EXPECT_EQ(row % 8, thread % 32 / 4);
      EXPECT_EQ(row % 16 / 8, reg % 2);
      EXPECT_EQ(byte / 16, reg / 2);
      for (int i = 0; i < 4; ++i) EXPECT_TRUE(seen.emplace(row, byte + i).second) << thread << " " << reg;
    }
  }
  EXPECT_EQ(seen.size(), 64u * 32u);
  EXPECT_EQ(seen.begin()->first, 0);
  EXPECT_EQ(seen.rbegin()->first, 63);
  EXPECT_EQ(seen.rbegin()->second, 31);
}

TEST(Sm90Fragments, EveryQuadHasOneIndexPair) {
  std::set<std::pair<int, int>> seen;
  for (int thread = 0; thread < kWarpgroup; ++thread) {
    EXPECT_EQ(metadata_row(thread) / 16, thread / 32);
    for (int i = 0; i < 8; ++i)
      EXPECT_TRUE(seen.emplace(metadata_row(thread), metadata_quad(thread) + i).second) << thread;
  }
  EXPECT_EQ(seen.size(), 64u * 16u);
  EXPECT_EQ(seen.rbegin()->second, kQuadsOfStep - 1);
}

// What the tensor cores are given is what was packed: one step of a row, multiplied by hand from fragments.
TEST(Sm90Fragments, KeptValuesMeetTheirLanes) {
  // A thread's quads (8 of 16, by metadata_quad) cover 16 kept bytes: those of registers a0/a1 or a2/a3.
  for (int thread = 0; thread < kWarpgroup; ++thread) {
    const int row = metadata_row(thread), quad = metadata_quad(thread);
    for (int other = 0; other < kWarpgroup; ++other) {
      for (int reg = 0; reg < 4; ++reg) {
        if (fragment_row(other, reg) != row) continue;
        const int first_quad = fragment_byte(other, reg) / 2;
        const bool mine = first_quad >= quad && first_quad < quad + 8;
        EXPECT_EQ(mine, fragment_byte(other, reg) / 16 == quad / 8);
        EXPECT_EQ(thread / 32, other / 32) << "within one warp";
      }
    }
  }
}

void expect_schedule(std::int64_t sparse, std::int64_t dense) {
  const Schedule schedule = schedule_of(sparse, dense);
  SCOPED_TRACE(testing::Message() << sparse << " sparse and " << dense << " dense lanes");
  ASSERT_GE(schedule.both, 0);
  ASSERT_GE(schedule.mixed, 0);
  ASSERT_GE(schedule.dense, 0);
  ASSERT_GE(schedule.stages(), 1);
  EXPECT_LT(schedule.lanes(), sparse + dense + 3 * kStepLanes);
  std::int64_t offset = 0;
  int sparse_steps = 0, dense_steps = 0;
  bool padded = false;  // nothing real behind padding
  for (int i = 0; i < 2 * schedule.stages(); ++i) {
    const Step step = step_at(schedule, i);
    EXPECT_EQ(step.offset, offset) << i;
    EXPECT_EQ(step.number, step.sparse ? sparse_steps : dense_steps) << i;
    offset += step.sparse ? kSparseStepBytes : kDenseStepBytes;
    (step.sparse ? sparse_steps : dense_steps) += 1;
    const std::int64_t left = (step.sparse ? sparse : dense) - std::int64_t{step.number} * kStepLanes;
    if (left > 0) {
      EXPECT_FALSE(padded) << "step " << i << " has channels behind padding";
    }
    padded = padded || left < kStepLanes;
  }
  EXPECT_EQ(offset, schedule.block_bytes());
  EXPECT_EQ(sparse_steps, schedule.sparse_steps());
  EXPECT_GE(std::int64_t{sparse_steps} * kStepLanes, sparse);
  EXPECT_GE(std::int64_t{dense_steps} * kStepLanes, dense);
}

TEST(Sm90Schedule, TakesEveryLaneOnceAndPadsAtTheEnd) {
  for (std::int64_t sparse = 0; sparse <= 640; sparse += 64) {
    for (std::int64_t dense = 0; dense <= 640; dense += 16) {
      if (sparse + dense > 0) expect_schedule(sparse, dense);
    }
  }
  // Lifted lanes end anywhere.
  for (std::int64_t sparse = 4; sparse <= 600; sparse += 4) expect_schedule(sparse, 0);
}

TEST(Sm90Schedule, BytesOfAWeight) {
  const auto bytes = [](int half_group, std::int64_t k) {
    const SplitShape shape = split_shape(Pattern::of_half_group(half_group), k);
    const Schedule schedule = schedule_of(shape.sparse, shape.dense);
    EXPECT_EQ(schedule.lanes(), k);
    return static_cast<double>(schedule.block_bytes()) / static_cast<double>(kBlockRows * k);
  };
  EXPECT_EQ(bytes(2, 3584), .625);
  EXPECT_EQ(bytes(3, 3072), .75);
  EXPECT_EQ(bytes(4, 3584), .8125);
  EXPECT_EQ(bytes(4, 18944), .8125);
  EXPECT_EQ(bytes(5, 3200), .85);
  EXPECT_EQ(schedule_of(0, 3584).block_bytes(), 64 * 3584);
}

}  // namespace
}  // namespace slidesparse::sm90
