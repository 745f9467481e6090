#include "io/json.h"

#include <fmt/core.h>
#include <gmock/gmock.h>

#include "test_files.h"

namespace slidesparse::testing {
namespace {

using ::testing::HasSubstr;

TEST(ParseJson, Accepts) {
  const Json value = parse_json(R"({"a": [1, {"b": "\u00e9"}], "c": {"a": null}})", "f");
  EXPECT_EQ(value["a"][1]["b"], "\xc3\xa9");
  EXPECT_TRUE(value["c"]["a"].is_null());
}

TEST(ParseJson, RefusesWhatIsNotJson) {
  for (const char* text :
       {"", "{", "{\"a\":}", "[1,]", "{\"a\": NaN}", "{} x", "{\"a\": 1e999}", "{'a': 1}", "\xff", "nul"}) {
    EXPECT_THAT(error_of([&] { parse_json(text, "c.json"); }), HasSubstr("c.json: not valid JSON: ")) << text;
  }
  EXPECT_THAT(error_of([&] { parse_json("{\"a\": \"\xc3\x28\"}", "c.json"); }), HasSubstr("UTF-8"));
}

TEST(ParseJson, RefusesRepeatedKeys) {
  EXPECT_THAT(error_of([] { parse_json(R"({"a": {"x": 1, "y": 2, "x": 3}})", "c.json"); }),
              HasSubstr("key \"x\" stands twice"));
  EXPECT_NO_THROW(parse_json(R"([{"a": 1}, {"a": 1}, {"b": {"a": 2}, "a": 1}])", "c.json"));
}

TEST(ParseJson, BoundsTheDepth) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(parse_json(nested(64), "c.json"));
  EXPECT_THAT(error_of([&] { parse_json(nested(65), "c.json"); }), HasSubstr("deeper than 64"));
  EXPECT_THAT(error_of([&] { parse_json(std::string(1'000'000, '['), "c.json"); }),
              HasSubstr("deeper than 64"));
}

TEST(JsonAccess, Integers) {
  const Json object = parse_json(
      R"({"i": 7, "neg": -1, "f": 3.0, "s": "x\u001b", "big": 18446744073709551615, "null": null, "b": true})",
      "f");
  EXPECT_EQ(json_int(object, "i", "w", 0, 10), 7);
  EXPECT_EQ(json_int_or(object, "missing", "w", 0, 10, 5), 5);
  EXPECT_EQ(json_int_or(object, "null", "w", 0, 10, 5), 5);
  EXPECT_EQ(error_of([&] { json_int(object, "neg", "w", 0, 10); }),
            "w: \"neg\" must be between 0 and 10, found -1");
  EXPECT_EQ(error_of([&] { json_int(object, "f", "w", 0, 10); }), "w: \"f\" must be an integer, found 3.0");
  EXPECT_THAT(error_of([&] { json_int(object, "big", "w", 0, INT64_MAX); }),
              HasSubstr("found 18446744073709551615"));
  EXPECT_EQ(error_of([&] { json_int(object, "b", "w", 0, 10); }), "w: \"b\" must be an integer, found true");
  EXPECT_EQ(error_of([&] { json_int(object, "gone", "w", 0, 10); }), "w: key \"gone\" is missing");
  EXPECT_EQ(error_of([&] { json_int(Json::array(), "gone", "w", 0, 10); }),
            "w: expected an object, found a list");
}

TEST(JsonAccess, OtherTypes) {
  const Json object =
      parse_json(R"({"i": 7, "f": 1e-5, "s": "x", "b": true, "o": {"a": 1}, "null": null})", "f");
  EXPECT_EQ(json_number(object, "f", "w", 0, 1), 1e-5);
  EXPECT_EQ(json_number(object, "i", "w", 0, 10), 7.0);
  EXPECT_EQ(json_number_or(object, "null", "w", 0, 10, 2.5), 2.5);
  EXPECT_TRUE(json_bool_or(object, "b", "w", false));
  EXPECT_EQ(json_string(object, "s", "w"), "x");
  EXPECT_EQ(json_string_or(object, "null", "w", "y"), "y");
  EXPECT_EQ(json_object_or_null(object, "null", "w"), nullptr);
  EXPECT_EQ(json_object_or_null(object, "gone", "w"), nullptr);
  ASSERT_NE(json_object_or_null(object, "o", "w"), nullptr);
  EXPECT_THAT(error_of([&] { json_number(object, "s", "w", 0, 1); }),
              HasSubstr("must be a number, found \"x\""));
  EXPECT_THAT(error_of([&] { json_number(object, "i", "w", 0, 1); }),
              HasSubstr("must be between 0 and 1, found 7"));
  EXPECT_THAT(error_of([&] { json_bool_or(object, "i", "w", true); }),
              HasSubstr("must be true or false, found 7"));
  EXPECT_THAT(error_of([&] { json_string(object, "b", "w"); }), HasSubstr("must be a string, found true"));
  EXPECT_THAT(error_of([&] { json_object_or_null(object, "s", "w"); }),
              HasSubstr("must be an object, found \"x\""));
}

TEST(ParseOrderedObject, KeepsTheOrderAndBoundsTheKeys) {
  EXPECT_EQ(parse_ordered_object(R"({"b": 1, "a": {"d": 2, "c": 3}})", "f").dump(),
            R"({"b":1,"a":{"d":2,"c":3}})");
  EXPECT_THAT(error_of([] { parse_ordered_object("[]", "c.json"); }),
              HasSubstr("c.json: expected an object, found a list"));
  EXPECT_THAT(error_of([] { parse_ordered_object(R"({"a": 1, "a": 2})", "c.json"); }),
              HasSubstr("stands twice"));
  std::string text = R"({"deep": [{)";
  for (int i = 0; i < 10'001; ++i) text += fmt::format("{}\"k{}\": 0", i == 0 ? "" : ",", i);
  EXPECT_THAT(error_of([&] { parse_ordered_object(text + "}]}", "c.json"); }),
              HasSubstr("an object has 10001 keys, at most 10000"));
}

TEST(ReadTextFile, ReadsAndBounds) {
  const TempDir dir;
  write_text(dir / "a", "12345");
  EXPECT_EQ(read_text_file(dir / "a"), "12345");
  EXPECT_THAT(error_of([&] { read_text_file(dir / "a", 4); }), HasSubstr("5 bytes long, at most 4"));
  EXPECT_EQ(kind_of([&] { read_text_file(dir / "b"); }), ErrorKind::kIo);
  EXPECT_THAT(error_of([&] { read_text_file(dir.path()); }), HasSubstr("not a regular file"));
}

}  // namespace
}  // namespace slidesparse::testing
