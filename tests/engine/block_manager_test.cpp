#include "engine/block_manager.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

TEST(BlockManager, CountsPagesAndNeverHandsOutOneTwice) {
  BlockManager blocks(7, 4);
  BlockTable a;
  BlockTable b;
  EXPECT_TRUE(blocks.grow(a, 1));
  EXPECT_TRUE(blocks.grow(b, 9));
  EXPECT_TRUE(blocks.grow(a, 4));  // still one page
  EXPECT_EQ(a.size(), 1u);
  EXPECT_TRUE(blocks.grow(a, 5));
  EXPECT_EQ(a.size(), 2u);
  EXPECT_EQ(b.size(), 3u);
  EXPECT_EQ(blocks.used(), 5);
  EXPECT_EQ(blocks.free(), 2);
  EXPECT_TRUE(blocks.grow(a, 16));
  EXPECT_EQ(blocks.free(), 0);
  std::set<std::int32_t> owned(a.begin(), a.end());
  owned.insert(b.begin(), b.end());
  EXPECT_EQ(owned.size(), 7u);
  EXPECT_EQ(*owned.begin(), 0);
  EXPECT_EQ(*owned.rbegin(), 6);
}

TEST(BlockManager, ARefusalChangesNothing) {
  BlockManager blocks(4, 2);
  BlockTable a;
  BlockTable b;
  ASSERT_TRUE(blocks.grow(a, 3));
  ASSERT_TRUE(blocks.grow(b, 2));
  const BlockTable before = b;
  EXPECT_FALSE(blocks.grow(b, 5));
  EXPECT_EQ(b, before);
  EXPECT_EQ(blocks.free(), 1);
  EXPECT_TRUE(blocks.grow(b, 4));
  EXPECT_FALSE(blocks.grow(a, 5));
  EXPECT_TRUE(blocks.grow(a, 0));
  EXPECT_EQ(a.size(), 2u);
}

TEST(BlockManager, TakesPagesBackAndRemembersThePeak) {
  BlockManager blocks(5, 1);
  BlockTable a;
  ASSERT_TRUE(blocks.grow(a, 4));
  blocks.release(a);
  EXPECT_TRUE(a.empty());
  EXPECT_EQ(blocks.used(), 0);
  EXPECT_EQ(blocks.peak(), 4);
  ASSERT_TRUE(blocks.grow(a, 5));
  EXPECT_EQ(std::set<std::int32_t>(a.begin(), a.end()).size(), 5u);
  EXPECT_EQ(blocks.peak(), 5);
}

TEST(BlockManager, RefusesPagesThatNobodyOwns) {
  BlockManager blocks(3, 1);
  BlockTable a;
  ASSERT_TRUE(blocks.grow(a, 1));
  BlockTable copy = a;
  blocks.release(a);
  EXPECT_THROW(blocks.release(copy), Error);
  BlockTable invented{3};
  EXPECT_THROW(blocks.release(invented), Error);
  EXPECT_EQ(blocks.free(), 3);
}

TEST(BlockManager, RefusesNonsense) {
  EXPECT_THROW(BlockManager(0, 16), Error);
  EXPECT_THROW(BlockManager(4, 0), Error);
  EXPECT_THROW(BlockManager(std::int64_t{1} << 31, 16), Error);
  EXPECT_THROW(BlockManager(4, std::numeric_limits<std::int64_t>::max() / 2), Error);
}

}  // namespace
}  // namespace slidesparse
