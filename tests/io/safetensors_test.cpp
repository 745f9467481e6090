#include "io/safetensors.h"

#include <gmock/gmock.h>

#include "test_files.h"

namespace slidesparse::testing {
namespace {

using ::testing::HasSubstr;

// Parses a header over `data_bytes` bytes of data that need not be there.
SafetensorsHeader parse(std::string_view json, std::int64_t data_bytes) {
  const std::string text = with_length(json);
  return parse_safetensors_header(std::as_bytes(std::span(text.data(), text.size())),
                                  static_cast<std::int64_t>(text.size()) + data_bytes, "f.safetensors");
}

std::string parse_error(std::string_view json, std::int64_t data_bytes) {
  std::string message = error_of([&] { parse(json, data_bytes); });
  EXPECT_THAT(message, ::testing::StartsWith("f.safetensors: "));
  return message;
}

TEST(Safetensors, ReadsTensorsInTheOrderOfTheirData) {
  const SafetensorsHeader header = parse(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"I8","shape":[3],"data_offsets":[8,11]},
         "a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},"e":{"dtype":"F32","shape":[0,4],"data_offsets":[8,8]}}   )",
      11);
  ASSERT_EQ(header.tensors.size(), 3u);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[0].shape, (Shape{2, 2}));
  EXPECT_EQ(header.tensors[0].dtype, DType::kBF16);
  EXPECT_EQ(header.tensors[1].name, "e");
  EXPECT_EQ(header.tensors[2].name, "b");
  EXPECT_EQ(header.tensors[2].begin, 8);
  EXPECT_EQ(header.tensors[2].bytes(), 3);
  EXPECT_EQ(header.metadata.at("format"), "pt");
}

TEST(Safetensors, ScalarsAndNoTensors) {
  EXPECT_EQ(parse(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4).tensors.size(), 1u);
  EXPECT_TRUE(parse("{}", 0).tensors.empty());
}

TEST(Safetensors, RefusesLengthsThatLie) {
  const auto parse_bytes = [](const std::string& text, std::int64_t size) {
    parse_safetensors_header(std::as_bytes(std::span(text.data(), text.size())), size, "f");
  };
  EXPECT_THAT(error_of([&] { parse_bytes("abc", 3); }), HasSubstr("3 bytes long: not a safetensors file"));
  EXPECT_THAT(error_of([&] { parse_bytes(std::string(8, '\xff'), 8); }),
              HasSubstr("header length 18446744073709551615 exceeds"));
  std::string text = with_length("{}");
  text[1] = 1;
  EXPECT_THAT(error_of([&] { parse_bytes(text, 10); }),
              HasSubstr("header length 258 does not fit into the file of 10 bytes"));
  text[3] = 6;  // 2 + 256 + 6 * 2^24 > 10^8
  EXPECT_THAT(error_of([&] { parse_bytes(text, INT64_MAX); }), HasSubstr("exceeds the 100000000 bytes"));
  EXPECT_THAT(error_of([&] { parse_bytes(with_length(""), 8); }), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(error_of([&] { parse_bytes(with_length(" {}"), 11); }), HasSubstr("does not begin with '{'"));
}

TEST(Safetensors, RefusesRangesThatLie) {
  const auto one = [](const char* shape, const char* offsets, const char* dtype = "BF16") {
    return std::string(R"({"w":{"dtype":")") + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
           offsets + "}}";
  };
  EXPECT_NO_THROW(parse(one("[2]", "[0,4]"), 4));
  EXPECT_THAT(parse_error(one("[2]", "[0,4]"), 5), HasSubstr("the tensors end at byte 4 of 5 bytes of data"));
  EXPECT_THAT(parse_error(one("[2]", "[0,4]"), 3),
              HasSubstr("data_offsets [0, 4] do not lie within the 3 bytes"));
  EXPECT_THAT(parse_error(one("[2]", "[4,0]"), 4), HasSubstr("data_offsets [4, 0] do not lie"));
  EXPECT_THAT(parse_error(one("[2]", "[2,6]"), 6), HasSubstr("leaving a hole"));
  EXPECT_THAT(parse_error(one("[3]", "[0,4]"), 4),
              HasSubstr("BF16 [3] takes 6 bytes, data_offsets [0, 4] hold 4"));
  EXPECT_THAT(parse_error(one("[9223372036854775807,2]", "[0,4]"), 4),
              HasSubstr("more bytes than 63 bits count"));
  EXPECT_THAT(parse_error(one("[4294967296,4294967296,0]", "[0,0]"), 0),
              HasSubstr("more bytes than 63 bits"));
  EXPECT_THAT(parse_error(one("[-2]", "[0,4]"), 4),
              HasSubstr("tensor w: shape holds the negative number -2"));
  EXPECT_THAT(parse_error(one("[18446744073709551615]", "[0,4]"), 4), HasSubstr("beyond 63 bits"));
  EXPECT_THAT(parse_error(one("[1,1,1,1,1,1,1,1,2]", "[0,4]"), 4),
              HasSubstr("shape has more than 8 numbers"));
  EXPECT_THAT(parse_error(one("[2]", "[0]"), 4), HasSubstr("data_offsets has 1 numbers"));
  EXPECT_THAT(parse_error(one("[2]", "[0,4,4]"), 4), HasSubstr("more than 2 numbers"));
  EXPECT_THAT(parse_error(one("[2.0]", "[0,4]"), 4), HasSubstr("cannot be 2.0"));
  EXPECT_THAT(parse_error(one("[2]", "[0,4]", "F4"), 4), HasSubstr("dtype \"F4\" is not one of F64, F32"));
  EXPECT_THAT(
      parse_error(
          R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"I8","shape":[4],"data_offsets":[2,6]}})",
          6),
      HasSubstr("tensor b begins at byte 2 of the data, overlapping the tensor that ends at byte 4"));
}

TEST(Safetensors, RefusesOtherForms) {
  EXPECT_THAT(parse_error("{\"w\":1}", 0),
              HasSubstr("\"w\" in the header must be an object, found a number"));
  EXPECT_THAT(parse_error("{\"w\":[]}", 0), HasSubstr("must be an object, found a list"));
  EXPECT_THAT(parse_error("{\"w\":{\"dtype\":{}}}", 0), HasSubstr("cannot be an object"));
  EXPECT_THAT(parse_error("{\"w\":{\"dtype\":[]}}", 0), HasSubstr("cannot be a list"));
  EXPECT_THAT(parse_error("{\"w\":{\"shape\":\"x\"}}", 0), HasSubstr("cannot be a string"));
  EXPECT_THAT(parse_error("{\"w\":{\"shape\":[[1]]}}", 0), HasSubstr("cannot be a list"));
  EXPECT_THAT(parse_error("{\"w\":{\"shape\":3}}", 0), HasSubstr("cannot be a number"));
  EXPECT_THAT(parse_error("{\"w\":{}}", 0), HasSubstr("tensor w: dtype is missing"));
  EXPECT_THAT(parse_error("{\"w\":{\"dtype\":\"I8\",\"shape\":[0]}}", 0),
              HasSubstr("data_offsets is missing"));
  EXPECT_THAT(parse_error("{\"w\":{\"color\":1}}", 0), HasSubstr("unknown key \"color\""));
  EXPECT_THAT(parse_error("{\"w\":{\"dtype\":\"I8\",\"dtype\":\"I8\"}}", 0),
              HasSubstr("key \"dtype\" stands twice"));
  EXPECT_THAT(parse_error("{\"__metadata__\":{\"a\":1}}", 0), HasSubstr("cannot be a number"));
  EXPECT_THAT(parse_error("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0),
              HasSubstr("metadata key \"a\" stands twice"));
  EXPECT_THAT(parse_error("{\"w\"", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(parse_error("{}{}", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(parse_error("{" + std::string(10'000, '['), 0), HasSubstr("not valid JSON"));
  const char* twice =
      R"({"w":{"dtype":"I8","shape":[0],"data_offsets":[0,0]},"w":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}})";
  EXPECT_THAT(parse_error(twice, 0), HasSubstr("\"w\" stands twice in the header"));
  EXPECT_THAT(parse_error("{\"a\\u001b[2J\":1}", 0), HasSubstr("a\\x1b[2J"));
}

TEST(Safetensors, BuildsWhatItReads) {
  std::vector<TensorEntry> tensors{
      {"a.codes", DType::kU8, Shape{3, 5}}, {"a.scale", DType::kBF16, Shape{3, 1}},
      {"a.perm", DType::kI32, Shape{7}},    {"z", DType::kF64, Shape{}},
      {"empty", DType::kI8, Shape{0}},      {"a.values", DType::kI8, Shape{3, 6}}};
  sort_for_alignment(tensors);
  const std::string text = build_safetensors_header(tensors, {{"format", "pt"}});
  EXPECT_EQ(text.size() % 8, 0u);
  const std::int64_t data = 15 + 6 + 28 + 8 + 18;
  const SafetensorsHeader header = parse_safetensors_header(
      std::as_bytes(std::span(text.data(), text.size())), static_cast<std::int64_t>(text.size()) + data, "f");
  ASSERT_EQ(header.tensors.size(), tensors.size());
  EXPECT_EQ(header.data_begin, static_cast<std::int64_t>(text.size()));
  for (const TensorEntry& expected : tensors) {
    const auto found = std::find_if(header.tensors.begin(), header.tensors.end(),
                                    [&](const TensorEntry& entry) { return entry.name == expected.name; });
    ASSERT_NE(found, header.tensors.end());
    EXPECT_EQ(found->begin, expected.begin);
    EXPECT_EQ(found->end, expected.end);
    EXPECT_EQ(found->dtype, expected.dtype);
    EXPECT_EQ(found->shape, expected.shape);
    EXPECT_EQ(found->begin % static_cast<std::int64_t>(dtype_size(found->dtype)), 0);
  }
}

TEST(Safetensors, BuildRefusesWhatCannotBeRead) {
  std::vector<TensorEntry> misaligned{{"a", DType::kI8, Shape{3}}, {"b", DType::kBF16, Shape{1}}};
  EXPECT_THAT(error_of([&] { build_safetensors_header(misaligned, {}); }),
              HasSubstr("would start at byte 3"));
  std::vector<TensorEntry> twice{{"a", DType::kI8, Shape{3}}, {"a", DType::kI8, Shape{1}}};
  EXPECT_THAT(error_of([&] { build_safetensors_header(twice, {}); }),
              HasSubstr("tensor name a cannot be written"));
  std::vector<TensorEntry> huge{{"a", DType::kF32, Shape{INT64_MAX}}};
  EXPECT_THAT(error_of([&] { build_safetensors_header(huge, {}); }), HasSubstr("63 bits"));
  std::vector<TensorEntry> binary{{"a\xff", DType::kI8, Shape{1}}};
  EXPECT_THAT(error_of([&] { build_safetensors_header(binary, {}); }), HasSubstr("not UTF-8"));
}

}  // namespace
}  // namespace slidesparse::testing
