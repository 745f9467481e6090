#include "core/text.h"

#include <gtest/gtest.h>

namespace slidesparse {
namespace {

TEST(FormatBytes, UsesDecimalUnits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1500), "1.50 kB");
  EXPECT_EQ(format_bytes(134.5e6), "134 MB");
  EXPECT_EQ(format_bytes(2.47e9), "2.47 GB");
}

TEST(ParseBytes, KnowsBothKindsOfUnits) {
  EXPECT_EQ(parse_bytes("4096"), 4096);
  EXPECT_EQ(parse_bytes("0"), 0);
  EXPECT_EQ(parse_bytes("1.5 kB"), 1500);
  EXPECT_EQ(parse_bytes("22.4GiB"), 24051816857);
  EXPECT_EQ(parse_bytes("80GB"), 80000000000);
  for (const char* text :
       {"", "GiB", "-1GB", "1 G", "1GB ", "1e3", "nan", "inf", "1gib", "5000000TiB", " 1", "1  kB"})
    EXPECT_EQ(parse_bytes(text), std::nullopt) << text;
}

TEST(Printable, DefusesControlCharactersAndBadUtf8) {
  EXPECT_EQ(printable("model.norm"), "model.norm");
  EXPECT_EQ(printable("a\x1b[31mb\n"), "a\\x1b[31mb\\x0a");
  EXPECT_EQ(printable("caf\xc3\xa9"), "caf\xc3\xa9");
  EXPECT_EQ(printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");  // a surrogate
  EXPECT_EQ(printable("\xc2\x9b"), "\\xc2\\x9b");           // C1 control: CSI
  EXPECT_EQ(printable("abcdef", 3), "abc...");
}

TEST(GlobMatch, StarCrossesDots) {
  EXPECT_TRUE(glob_match("*.down_proj", "model.layers.3.mlp.down_proj"));
  EXPECT_TRUE(glob_match("model.layers.[0-4].*", "model.layers.3.mlp.down_proj"));
  EXPECT_FALSE(glob_match("*.down_proj", "model.layers.3.mlp.up_proj"));
}

TEST(TextTable, PadsColumnsByCodePoints) {
  TextTable table({"name", "x"}, {TextTable::Align::kLeft});
  table.add_row({"\xc3\xa9", "1"});
  table.add_row({"long name", "12345"});
  EXPECT_EQ(table.to_string(),
            "| name      |     x |\n"
            "|-----------|------:|\n"
            "| \xc3\xa9         |     1 |\n"
            "| long name | 12345 |\n");
}

}  // namespace
}  // namespace slidesparse
