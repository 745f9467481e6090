#include "core/buffer.h"

#include <gtest/gtest.h>

#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

TEST(Buffer, IsAligned) {
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{4097}, std::size_t{5} << 20}) {
    Buffer buffer(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % Buffer::kAlignment, 0u);
    EXPECT_EQ(buffer.size(), bytes);
  }
}

TEST(Buffer, RefusesWhatDoesNotExist) {
  EXPECT_THROW(Buffer(std::size_t{1} << 62), Error);
  try {
    const Buffer buffer(std::size_t{1} << 60);
  } catch (const Error& error) {
    ASSERT_NE(error.facts(), nullptr);
    EXPECT_EQ(error.facts()->needed_bytes, std::int64_t{1} << 60);
  }
}

TEST(Arena, GivesBackInStackOrder) {
  Arena arena(1024);
  void* first = nullptr;
  {
    Arena::Scope scope(arena);
    first = arena.allocate(100);
    arena.allocate(100);
    EXPECT_EQ(arena.used(), 256u);
  }
  EXPECT_EQ(arena.used(), 0u);
  EXPECT_EQ(arena.allocate(100), first);
  EXPECT_EQ(arena.peak(), 256u);
}

TEST(Arena, GrowsOnlyWhenEmpty) {
  Arena arena;
  EXPECT_NE(arena.allocate(100), nullptr);
  EXPECT_THROW(arena.allocate(1 << 20), Error);
  EXPECT_THROW(arena.reserve(1 << 20), Error);
}

}  // namespace
}  // namespace slidesparse
