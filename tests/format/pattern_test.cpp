#include "slidesparse/format/pattern.h"

#include "format/format_oracle.h"

namespace slidesparse {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using namespace slidesparse::testing;

TEST(Pattern, ParsesWhatItPrints) {
  for (const Pattern pattern : all_patterns()) EXPECT_EQ(Pattern::parse(pattern.to_string()), pattern);
  EXPECT_EQ(Pattern::parse("6:8"), Pattern::of_half_group(4));
  EXPECT_EQ(Pattern::parse("dense"), Pattern());
  EXPECT_EQ(Pattern::of_half_group(4).to_string(), "6:8");
  EXPECT_EQ(Pattern().to_string(), "dense");
}

TEST(Pattern, RefusesTheRestWithTheList) {
  EXPECT_EQ(pattern_list(), "dense, 2:4, 4:6, 6:8, 8:10, 10:12, 12:14, 14:16");
  for (const char* text : {"", "6:9", "3:4", "8:6", "16:18", "0:2", "-2:4", "6:8 ", " 6:8", "6:", ":8", "68",
                           "06:08", "1:1", "Dense", "6:8:10", "99999999999999999999:8", "6/8"}) {
    EXPECT_THAT(refusal([&] { Pattern::parse(text); }), HasSubstr(pattern_list())) << text;
  }
}

TEST(Pattern, HintsAtZerosPerLength) {
  EXPECT_THAT(refusal([] { Pattern::parse("2:8"); }), HasSubstr("zeros:length 2:8 means kept 6:8"));
  EXPECT_THAT(refusal([] { Pattern::parse("2:16"); }), HasSubstr("means kept 14:16"));
  EXPECT_THAT(refusal([] { Pattern::parse("2:18"); }), Not(HasSubstr("means kept")));
}

TEST(Pattern, MakesForeignTextHarmless) {
  const std::string message = refusal([] { Pattern::parse("\x1b[2J\n" + std::string(5000, 'x')); });
  EXPECT_THAT(message, AllOf(Not(HasSubstr("\x1b")), HasSubstr("\\x1b")));
  EXPECT_LT(message.size(), 300u);
}

TEST(Pattern, Counts) {
  const int bits[] = {3, 4, 5, 6, 7, 7, 7};
  for (int n = 2; n <= 8; ++n) {
    const Pattern pattern = Pattern::of_half_group(n);
    EXPECT_EQ(pattern.kept(), 2 * n - 2);
    EXPECT_EQ(pattern.group(), 2 * n);
    EXPECT_EQ(pattern.zeroed(), 2);
    EXPECT_EQ(pattern.half_group(), n);
    EXPECT_EQ(pattern.code_bits(), bits[n - 2]);
    EXPECT_GE(1 << pattern.code_bits(), code_count(pattern));
    EXPECT_LT(1 << (pattern.code_bits() - 1), code_count(pattern));
    for (const std::int64_t k : awkward_lengths()) {
      std::int64_t groups = 0;
      while (groups * 2 * n < k) ++groups;
      EXPECT_EQ(pattern.groups(k), groups);
      EXPECT_EQ(pattern.values_per_row(k), groups * (2 * n - 2));
      EXPECT_EQ(pattern.lifted_k(k), groups * 4 * (n - 1));
    }
    EXPECT_EQ(pattern.groups(0), 0);
    // K' = K * 2 (N - 1) / N where the groups come out even.
    EXPECT_EQ(pattern.lifted_k(2 * n * 100), 2 * n * 100 * 2 * (n - 1) / n);
  }
  EXPECT_EQ(Pattern().code_bits(), 0);
  EXPECT_EQ(Pattern().values_per_row(577), 577);
  EXPECT_EQ(Pattern().code_bytes_per_row(577), 0);
  EXPECT_EQ(Pattern().lifted_k(577), 577);
  EXPECT_EQ(Pattern().density(), 1.0);
}

}  // namespace
}  // namespace slidesparse
