// The worked examples of docs/format.md, byte for byte.
#include "format/format_oracle.h"
#include "slidesparse/format/slide.h"
#include "slidesparse/format/split.h"

namespace slidesparse {
namespace {

using namespace slidesparse::testing;

TEST(FormatDocument, ExampleOfARow) {
  const Pattern pattern = Pattern::parse("6:8");
  const Bytes row{5, 0, 0xfd, 0, 7, 1, 0x80, 2, 9, 0, 0, 4};
  const Packed packed = pack(pattern, DType::kI8, row, 1, 12);
  EXPECT_EQ(packed.values, (Bytes{0x05, 0xfd, 0x07, 0x01, 0x80, 0x02, 0x09, 0x00, 0x00, 0x04, 0x00, 0x00}));
  EXPECT_EQ(packed.codes, (Bytes{0x64, 0x03}));

  Bytes metadata(3);
  slide_metadata(packed.view(pattern, DType::kI8, 1, 12), metadata.data());
  EXPECT_EQ(metadata, (Bytes{0xe8, 0x4e, 0x44}));

  Bytes slid(24);
  expand_slid(pattern, DType::kI8, 1, 12, packed.values.data(), metadata.data(), slid.data());
  EXPECT_EQ(slid, (Bytes{5, 0, 0xfd, 0, 0, 0, 7, 1, 0, 0, 0x80, 2, 9, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0}));

  const Bytes x{10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21};
  Bytes lifted(24, 0xff);
  lift_rows(pattern, DType::kI8, x.data(), 1, 12, 12, lifted.data());
  EXPECT_EQ(lifted, (Bytes{10, 11, 12, 13, 12, 13, 14, 15, 14, 15, 16, 17,
                           18, 19, 20, 21, 20, 21, 0,  0,  0,  0,  0,  0}));
}

TEST(FormatDocument, ExampleOfNegativeZeros) {
  const Pattern pattern = Pattern::parse("2:4");
  const Packed packed = pack(pattern, DType::kF8E4M3, {0x80, 0x00, 0x80, 0x38}, 1, 4);
  EXPECT_EQ(packed.values, (Bytes{0x80, 0x38}));
  EXPECT_EQ(packed.codes, (Bytes{0x02}));
  Bytes out(4);
  unpack_rows(packed.view(pattern, DType::kF8E4M3, 1, 4), 0, 1, out.data(), 4);
  EXPECT_EQ(out, (Bytes{0x80, 0x00, 0x00, 0x38}));
}

}  // namespace
}  // namespace slidesparse
