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

// With BF16 two threads hold the same word, of which the instruction reads one.
TEST(Sm90Fragments, EveryQuadHasOneIndexPair) {
  for (const int element_bytes : {1, 2}) {
    std::set<std::pair<int, int>> seen;
    std::set<int> words;
    for (int thread = 0; thread < kWarpgroup; ++thread) {
      const MetadataPlace place = metadata_place(thread, element_bytes);
      const bool new_word = words.insert(metadata_word(thread, element_bytes)).second;
      EXPECT_EQ(new_word, element_bytes == 1 || thread % 4 < 2) << thread;
      for (int half = 0; half < 2; ++half) {
        EXPECT_EQ(place.row[half] / 16, thread / 32) << "of its own warp";
        for (int i = 0; i < 4; ++i) {
          EXPECT_EQ(seen.emplace(place.row[half], place.quad[half] + i).second, new_word) << thread;
        }
      }
    }
    EXPECT_EQ(seen.size(), 64u * 16u / static_cast<unsigned>(element_bytes));
    EXPECT_EQ(seen.rbegin()->second, 16 / element_bytes - 1);
    EXPECT_EQ(static_cast<int>(words.size()) * 4 + kValueBytes, sparse_step_bytes(element_bytes));
    EXPECT_EQ(*words.rbegin() + 1, static_cast<int>(words.size()));
  }
}

// What the tensor cores are given is what was packed: the quads of half a word meet the kept values that
// their own warp holds of that row, two of each.
TEST(Sm90Fragments, KeptValuesMeetTheirLanes) {
  for (const int element_bytes : {1, 2}) {
    for (int thread = 0; thread < kWarpgroup; ++thread) {
      const MetadataPlace place = metadata_place(thread, element_bytes);
      for (int half = 0; half < 2; ++half) {
        const int first = place.quad[half] * 2 * element_bytes, end = first + 4 * 2 * element_bytes;
        int bytes = 0;
        for (int other = 0; other < kWarpgroup; ++other) {
          for (int reg = 0; reg < 4; ++reg) {
            const int byte = fragment_byte(other, reg);
            if (fragment_row(other, reg) != place.row[half] || byte < first || byte >= end) continue;
            bytes += 4;
            EXPECT_LE(byte + 4, end);
            EXPECT_EQ(thread / 32, other / 32) << "within one warp";
            EXPECT_EQ(byte / 16, element_bytes == 1 ? place.quad[half] / 8 : thread % 2) << "of one register";
          }
        }
        EXPECT_EQ(bytes, end - first) << thread;
      }
    }
  }
}

void expect_schedule(std::int64_t sparse, std::int64_t dense, int element_bytes) {
  const Schedule schedule = schedule_of(sparse, dense, element_bytes);
  const int step_lanes = 64 / element_bytes;
  SCOPED_TRACE(testing::Message() << sparse << " sparse and " << dense << " dense lanes of " << element_bytes
                                  << " bytes");
  ASSERT_GE(schedule.both, 0);
  ASSERT_GE(schedule.mixed, 0);
  ASSERT_GE(schedule.dense, 0);
  ASSERT_GE(schedule.stages(), 1);
  EXPECT_LT(schedule.lanes(), sparse + dense + 3 * step_lanes);
  std::int64_t offset = 0;
  int sparse_steps = 0, dense_steps = 0;
  bool padded = false;  // nothing real behind padding
  for (int i = 0; i < 2 * schedule.stages(); ++i) {
    const Step step = step_at(schedule, i);
    EXPECT_EQ(step.offset, offset) << i;
    EXPECT_EQ(step.number, step.sparse ? sparse_steps : dense_steps) << i;
    offset += step.sparse ? sparse_step_bytes(element_bytes) : kDenseStepBytes;
    (step.sparse ? sparse_steps : dense_steps) += 1;
    const std::int64_t left = (step.sparse ? sparse : dense) - std::int64_t{step.number} * step_lanes;
    if (left > 0) {
      EXPECT_FALSE(padded) << "step " << i << " has channels behind padding";
    }
    padded = padded || left < step_lanes;
  }
  EXPECT_EQ(offset, schedule.block_bytes());
  EXPECT_EQ(sparse_steps, schedule.sparse_steps());
  EXPECT_GE(std::int64_t{sparse_steps} * step_lanes, sparse);
  EXPECT_GE(std::int64_t{dense_steps} * step_lanes, dense);
}

TEST(Sm90Schedule, TakesEveryLaneOnceAndPadsAtTheEnd) {
  for (const int element_bytes : {1, 2}) {
    for (std::int64_t sparse = 0; sparse <= 640; sparse += 64) {
      for (std::int64_t dense = 0; dense <= 640; dense += 16) {
        if (sparse + dense > 0) expect_schedule(sparse, dense, element_bytes);
      }
    }
    // Lifted lanes end anywhere.
    for (std::int64_t sparse = 4; sparse <= 600; sparse += 4) expect_schedule(sparse, 0, element_bytes);
  }
}

TEST(Sm90Schedule, BytesOfAWeight) {
  const auto bytes = [](int half_group, std::int64_t k, int element_bytes = 1) {
    const SplitShape shape = split_shape(Pattern::of_half_group(half_group), k);
    const Schedule schedule = schedule_of(shape.sparse, shape.dense, element_bytes);
    EXPECT_EQ(schedule.lanes(), k);
    return static_cast<double>(schedule.block_bytes()) / static_cast<double>(kBlockRows * k);
  };
  EXPECT_EQ(bytes(2, 3584), .625);
  EXPECT_EQ(bytes(3, 3072), .75);
  EXPECT_EQ(bytes(4, 3584), .8125);
  EXPECT_EQ(bytes(4, 18944), .8125);
  EXPECT_EQ(bytes(5, 3200), .85);
  EXPECT_EQ(schedule_of(0, 3584).block_bytes(), 64 * 3584);
  // BF16: metadata is half as much beside the values.
  EXPECT_EQ(bytes(2, 3584, 2), 1.125);
  EXPECT_EQ(bytes(3, 3072, 2), 1.416666666666666666);
  EXPECT_EQ(bytes(4, 3584, 2), 1.5625);
  EXPECT_EQ(bytes(5, 3200, 2), 1.65);
  EXPECT_EQ(schedule_of(0, 3584, 2).block_bytes(), 2 * 64 * 3584);
}

}  // namespace
}  // namespace slidesparse::sm90
