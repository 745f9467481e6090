#include "slidesparse/format/codes.h"

#include <bit>
#include <set>

#include "format/format_oracle.h"

namespace slidesparse {
namespace {

using namespace slidesparse::testing;

static_assert(encode_pair({0, 1}) == 0 && encode_pair({6, 7}) == 27 && encode_pair({1, 3}) == 4);
static_assert(decode_pair(27) == DroppedPair{6, 7});

TEST(Codes, AreABijectionOfTheDroppedPairs) {
  for (const Pattern pattern : sparse_patterns()) {
    std::set<int> codes;
    for (int b = 1; b < pattern.group(); ++b) {
      for (int a = 0; a < b; ++a) {
        const int code = encode_pair({a, b});
        EXPECT_EQ(decode_pair(code), (DroppedPair{a, b}));
        EXPECT_TRUE(codes.insert(code).second) << "code " << code << " twice";
      }
    }
    EXPECT_EQ(static_cast<int>(codes.size()), code_count(pattern));
    EXPECT_EQ(*codes.begin(), 0);
    EXPECT_EQ(*codes.rbegin(), code_count(pattern) - 1);
  }
  EXPECT_EQ(code_count(Pattern()), 0);
}

TEST(Codes, MasksKeepAllButThePair) {
  for (const Pattern pattern : sparse_patterns()) {
    const auto table = kept_mask_table(pattern);
    for (int code = 0; code < 128; ++code) {
      const std::uint32_t mask = table[static_cast<std::size_t>(code)];
      if (code >= code_count(pattern)) {
        EXPECT_EQ(mask, 0u);
        continue;
      }
      const DroppedPair pair = decode_pair(code);
      EXPECT_EQ(std::popcount(mask), pattern.kept());
      EXPECT_EQ(mask | 1u << pair.a | 1u << pair.b, (1u << pattern.group()) - 1);
      EXPECT_EQ(mask, kept_mask(pattern, code));
    }
  }
}

TEST(Codes, ReadsEveryPosition) {
  Random random(7);
  for (const Pattern pattern : sparse_patterns()) {
    const int bits = pattern.code_bits();
    std::vector<int> codes(41);
    Bytes packed(static_cast<std::size_t>((41 * bits + 7) / 8));
    for (std::size_t g = 0; g < codes.size(); ++g) {
      codes[g] = static_cast<int>(random.below(1 << bits));
      for (int bit = 0; bit < bits; ++bit) {
        const std::size_t at = g * static_cast<std::size_t>(bits) + static_cast<std::size_t>(bit);
        packed[at / 8] = static_cast<std::uint8_t>(packed[at / 8] | (codes[g] >> bit & 1) << at % 8);
      }
    }
    for (std::size_t g = 0; g < codes.size(); ++g) {
      EXPECT_EQ(read_code(packed.data(), bits, static_cast<std::int64_t>(g)), codes[g]);
    }
  }
}

}  // namespace
}  // namespace slidesparse
