// Broken tokenizer.json files: each is refused with one line that names the file and the place.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "io_tokenizer/small_tokenizer.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using Json = nlohmann::json;

std::string error_of(const std::function<void()>& action, ErrorKind kind = ErrorKind::kInput) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  return "no error";
}

std::string error_of_text(const std::string& text) {
  return error_of([&] { Tokenizer::from_json(text, "t.json"); });
}

// The error for the small tokenizer after `spoil`.
std::string error_after(const std::function<void(Json&)>& spoil) {
  Json json = small_tokenizer();
  spoil(json);
  return error_of([&] { load(json); });
}

TEST(TokenizerErrors, TheSmallTokenizerItselfIsFine) {
  EXPECT_EQ(error_after([](Json&) {}), "no error");
}

TEST(TokenizerErrors, Ids) {
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"]["ab"] = -1; }),
            "t.json: model.vocab: id -1 of \"ab\" is outside 0..69680 (the limit for 259 tokens)");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"]["ab"] = 2147483648u; }),
            "t.json: model.vocab: id 2147483648 of \"ab\" is outside 0..69680 (the limit for 259 tokens)");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"]["ab"] = 2000000000; }),
            "t.json: model.vocab: id 2000000000 of \"ab\" is outside 0..69680 (the limit for 259 tokens)");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"]["ab"] = 18446744073709551615u; }),
            "t.json: model.vocab: id 18446744073709551615 of \"ab\" is outside 0..69680 (the limit for 259 "
            "tokens)");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"]["ab"] = 1.5; }),
            "t.json: model.vocab: id of \"ab\" is number, expected an integer");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"]["ab"] = "256"; }),
            "t.json: model.vocab: id of \"ab\" is string, expected an integer");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"]["ab"] = 257; }),
            "t.json: model.vocab: id 257 belongs to both \"ab\" and \"abc\"");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"]["\x1b[31m"] = 0; }),
            "t.json: model.vocab: id 0 belongs to both \"\\x1b[31m\" and \"\u0100\"");
}

TEST(TokenizerErrors, Vocabulary) {
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"] = Json::object(); }),
            "t.json: model.vocab: the vocabulary is empty");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"] = Json::array(); }),
            "t.json: model.vocab: expected an object, found array");
  EXPECT_EQ(error_after([](Json& j) { j["model"].erase("vocab"); }), "t.json: model: \"vocab\" is missing");
  EXPECT_EQ(error_after([](Json& j) { j.erase("model"); }), "t.json: top level: \"model\" is missing");
  for (const char* token : {"<0x-1>", "<0x100>", "<0x>", "<0xG0>", "<0x+1>", "<0x 1>", "<0x1>"}) {
    EXPECT_EQ(error_after([&](Json& j) {
                j["model"]["byte_fallback"] = true;
                j["model"]["vocab"][token] = 300;
              }),
              "t.json: model.vocab: \"" + std::string(token) + "\" is no byte token: <0x00> to <0xFF> are");
  }
}

TEST(TokenizerErrors, Merges) {
  EXPECT_EQ(error_after([](Json& j) { j["model"]["merges"][1] = "ab zz"; }),
            "t.json: model.merges[1]: token \"zz\" is not in the vocabulary");
  EXPECT_EQ(error_after([](Json& j) {
              j["model"]["merges"][0] = {"b", "c"};
            }),
            "t.json: model.merges[0]: token \"bc\" is not in the vocabulary");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["merges"][0] = "a b c"; }),
            "t.json: model.merges[0]: \"a b c\" is not two tokens with one space between");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["merges"][0] = "ab"; }),
            "t.json: model.merges[0]: \"ab\" is not two tokens with one space between");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["merges"][0] = "ab "; }),
            "t.json: model.merges[0]: an empty token cannot be merged");
  EXPECT_EQ(error_after([](Json& j) {
              j["model"]["merges"][2] = {"a", "b", "c"};
            }),
            "t.json: model.merges[2]: expected \"LEFT RIGHT\" or [\"LEFT\", \"RIGHT\"], found array");
  EXPECT_EQ(error_after([](Json& j) {
              j["model"]["merges"][2] = {97, 2147483648u};
            }),
            "t.json: model.merges[2]: expected \"LEFT RIGHT\" or [\"LEFT\", \"RIGHT\"], found array");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["merges"][2] = 7; }),
            "t.json: model.merges[2]: expected \"LEFT RIGHT\" or [\"LEFT\", \"RIGHT\"], found number");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["merges"] = "a b"; }),
            "t.json: model.merges: expected an array, found string");
}

TEST(TokenizerErrors, ModelOptions) {
  EXPECT_EQ(error_after([](Json& j) { j["model"]["type"] = "Unigram"; }),
            "t.json: model: model \"Unigram\" is not supported; supported are BPE");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["dropout"] = 0.1; }),
            "t.json: model.dropout: random merges are not supported: set it to null");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }),
            "t.json: model.end_of_word_suffix: \"</w>\" is not supported: only empty or null");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["unk_token"] = "<unk>"; }),
            "t.json: model.unk_token: \"<unk>\" is not in the vocabulary");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["byte_fallback"] = 1; }),
            "t.json: model.byte_fallback: expected true or false, found number");
  EXPECT_EQ(error_after([](Json& j) { j["version"] = "2.0"; }),
            "t.json: version: \"2.0\" is not supported, only \"1.0\"");
}

TEST(TokenizerErrors, AddedTokens) {
  EXPECT_EQ(error_after([](Json& j) { j["added_tokens"][0]["id"] = -1; }),
            "t.json: added_tokens[0].id: expected an integer from 0 to 69712, found -1");
  EXPECT_EQ(error_after([](Json& j) { j["added_tokens"][0]["id"] = 2147483648u; }),
            "t.json: added_tokens[0].id: expected an integer from 0 to 69712, found 2147483648");
  EXPECT_EQ(error_after([](Json& j) { j["added_tokens"][0]["id"] = "259"; }),
            "t.json: added_tokens[0].id: expected an integer from 0 to 69712, found \"259\"");
  EXPECT_EQ(error_after([](Json& j) { j["added_tokens"][1]["id"] = 259; }),
            "t.json: added_tokens[1]: id 259 belongs to both \"<s>\" and \"<t>\"");
  EXPECT_EQ(error_after([](Json& j) { j["added_tokens"][1]["id"] = 97; }),
            "t.json: added_tokens[1]: id 97 belongs to both \"a\" and \"<t>\"");
  EXPECT_EQ(error_after([](Json& j) { j["added_tokens"][1]["content"] = "ab"; }),
            "t.json: added_tokens[1]: \"ab\" has id 260 here and 256 in the vocabulary");
  EXPECT_EQ(error_after([](Json& j) { j["added_tokens"][1] = j["added_tokens"][0]; }),
            "t.json: added_tokens[1].content: \"<s>\" is listed twice");
  EXPECT_EQ(error_after([](Json& j) { j["added_tokens"][1]["content"] = ""; }),
            "t.json: added_tokens[1].content: the text of an added token is empty");
  EXPECT_EQ(
      error_after([](Json& j) { j["added_tokens"][1]["content"] = std::string(2000, 'x'); }),
      "t.json: added_tokens[1].content: 2000 bytes are more than the 1024 that an added token may have");
  EXPECT_EQ(error_after([](Json& j) { j["added_tokens"] = Json::object(); }),
            "t.json: added_tokens: expected an array, found object");
  EXPECT_EQ(error_after([](Json& j) { j["added_tokens"][0]["lstrip"] = "yes"; }),
            "t.json: added_tokens[0].lstrip: expected true or false, found string");
}

TEST(TokenizerErrors, UnknownComponentsAreNamedWithWhatIsSupported) {
  EXPECT_EQ(error_after([](Json& j) {
              j["normalizer"] = {{"type", "BertNormalizer"}};
            }),
            "t.json: normalizer: normalizer \"BertNormalizer\" is not supported; supported are NFC, NFD, "
            "NFKC, NFKD, "
            "Prepend, Replace, Sequence");
  EXPECT_EQ(
      error_after([](Json& j) {
        j["pre_tokenizer"] = {{"type", "Metaspace"}};
      }),
      "t.json: pre_tokenizer: pre_tokenizer \"Metaspace\" is not supported; supported are ByteLevel, Digits, "
      "Split, Sequence");
  EXPECT_EQ(error_after([](Json& j) {
              j["post_processor"] = {{"type", "RobertaProcessing"}};
            }),
            "t.json: post_processor: post_processor \"RobertaProcessing\" is not supported; supported are "
            "ByteLevel, "
            "TemplateProcessing, Sequence");
  EXPECT_EQ(error_after([](Json& j) {
              j["decoder"] = {{"type", "Sequence"}, {"decoders", {{{"type", "WordPiece"}}}}};
            }),
            "t.json: decoder.decoders[0]: decoder \"WordPiece\" is not supported; supported are ByteLevel, "
            "ByteFallback, Fuse, Replace, Strip, Sequence");
  EXPECT_EQ(error_after([](Json& j) {
              j["decoder"] = {{"type", 3}};
            }),
            "t.json: decoder.type: expected a string, found number");
  EXPECT_EQ(error_after([](Json& j) { j["decoder"] = "ByteLevel"; }),
            "t.json: decoder: expected an object, found string");
}

TEST(TokenizerErrors, PreTokenizers) {
  const auto split = [](Json pattern, const char* behavior) {
    return [=](Json& j) {
      j["pre_tokenizer"] = {
          {"type", "Split"}, {"pattern", pattern}, {"behavior", behavior}, {"invert", false}};
    };
  };
  EXPECT_EQ(error_after(split({{"Regex", "a"}}, "Kept")),
            "t.json: pre_tokenizer.behavior: \"Kept\" is not a behaviour; supported are Isolated, Removed, "
            "MergedWithPrevious, MergedWithNext, Contiguous");
  EXPECT_EQ(error_after(split({{"Glob", "a"}}, "Isolated")),
            "t.json: pre_tokenizer.pattern: expected {\"String\": ...} or {\"Regex\": ...}");
  EXPECT_EQ(error_after(split({{"Regex", "(a"}}, "Isolated")),
            "t.json: pre_tokenizer.pattern.Regex: pattern \"(a\" does not compile: missing closing "
            "parenthesis at byte "
            "2 of \"(a\"");
  EXPECT_EQ(
      error_after([](Json& j) {
        const Json level = j["pre_tokenizer"];
        j["pre_tokenizer"] = {{"type", "Sequence"},
                              {"pretokenizers", {level, {{"type", "Digits"}, {"individual_digits", true}}}}};
      }),
      "t.json: pre_tokenizer.pretokenizers[1]: pre_tokenizer \"Digits\" behind ByteLevel is not supported: "
      "ByteLevel must be last");
}

TEST(TokenizerErrors, Templates) {
  const auto with = [](Json single, Json special) {
    return [=](Json& j) {
      j["post_processor"] = {{"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", special}};
    };
  };
  const Json text = {{"Sequence", {{"id", "A"}}}};
  const Json begin = {{"SpecialToken", {{"id", "<s>"}}}};
  EXPECT_EQ(error_after(with({begin, text}, {{"<s>", {{"ids", {259}}}}})), "no error");
  EXPECT_EQ(error_after(with({begin, text}, {{"<s>", {{"ids", {261}}}}})),
            "t.json: post_processor.special_tokens.<s>.ids[0]: expected an integer from 0 to 260, found 261");
  EXPECT_EQ(
      error_after(with({begin, text}, Json::object())),
      "t.json: post_processor.single[0].SpecialToken.id: \"<s>\" is not among the template's special_tokens");
  EXPECT_EQ(error_after(with({begin}, {{"<s>", {{"ids", {259}}}}})),
            "t.json: post_processor: the template of a single text names the text 0 times, expected once");
  EXPECT_EQ(
      error_after(with({{{"Sequence", {{"id", "B"}}}}}, Json::object())),
      "t.json: post_processor.single[0].Sequence.id: \"B\" in the template of a single text; only A can be");
}

TEST(TokenizerErrors, SecondTemplate) {
  EXPECT_EQ(error_after([](Json& j) {
              const Json one = {{"type", "TemplateProcessing"}, {"single", {{{"Sequence", {{"id", "A"}}}}}}};
              j["post_processor"] = {{"type", "Sequence"}, {"processors", {one, one}}};
            }),
            "t.json: post_processor.processors[1]: a second TemplateProcessing is not supported");
}

TEST(TokenizerErrors, TextThatIsNoJson) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("{\"model\": {\"vocab\": {\"a\": 0"),
        std::string("[1, 2"), std::string("{} {}"), std::string("{\"a\": 01}"),
        std::string("{\"a\": \"\\ud800\"}"), std::string("{\"a\": \"\xff\xfe\"}"),
        std::string("\xff\xfe{\0}\0", 6), std::string(4, '\0')}) {
    EXPECT_EQ(error_of_text(text).substr(0, 24), "t.json: not valid JSON: ") << text;
  }
  for (const char* text : {"null", "[]", "3", "\"x\""}) {
    EXPECT_EQ(error_of_text(text).substr(0, 42), "t.json: top level: expected an object, fou") << text;
  }
  for (const char* open : {"[", "{\"a\":"}) {
    std::string deep;
    for (int i = 0; i < 100000; ++i) deep += open;
    EXPECT_NE(error_of_text(deep).find("deeper than 64 levels"), std::string::npos);
  }
  EXPECT_NE(error_of_text("{\"model\": {\"vocab\": {\"a\": 0, \"a\": 1}}}").find("\"a\" stands twice"),
            std::string::npos);
}

TEST(TokenizerErrors, EveryTruncationOfAFileIsRefused) {
  Json json = small_tokenizer();
  const std::string text = json.dump();
  ASSERT_EQ(error_of_text(text), "no error");
  for (std::size_t size = 0; size < text.size(); size += 1 + size / 50) {
    EXPECT_EQ(error_of_text(text.substr(0, size)).substr(0, 7), "t.json:") << size;
  }
}

// Every value of the document, one after the other, replaced by one of another type.
TEST(TokenizerErrors, WrongTypesNeverCrash) {
  const Json original = small_tokenizer();
  std::vector<Json::json_pointer> places;
  const Json flat = original.flatten();
  for (const auto& [place, value] : flat.items()) {
    for (Json::json_pointer p(place); !p.empty(); p = p.parent_pointer()) places.push_back(p);
  }
  std::sort(places.begin(), places.end());
  places.erase(std::unique(places.begin(), places.end()), places.end());
  std::size_t refused = 0;
  for (std::size_t i = 0; i < places.size(); i += places[i].to_string().find("/vocab/") == 6 ? 16 : 1) {
    for (const Json& value : {Json(), Json(-3), Json(1.5), Json("x"), Json(true), Json::array(),
                              Json::object(), Json(18446744073709551615u), Json::array({Json::array()})}) {
      Json json = original;
      json[places[i]] = value;
      refused += error_of([&] { load(json).encode("abc <s> 12"); }) != "no error";
    }
  }
  EXPECT_GT(refused, places.size());
}

TEST(TokenizerErrors, Files) {
  const auto folder = std::filesystem::temp_directory_path();
  EXPECT_NE(error_of([&] { Tokenizer::from_file(folder / "no-such-tokenizer.json"); }, ErrorKind::kIo)
                .find("no-such-tokenizer.json"),
            std::string::npos);
  EXPECT_NE(error_of([&] { Tokenizer::from_file(folder); }, ErrorKind::kIo).find(folder.string()),
            std::string::npos);
}

}  // namespace
}  // namespace slidesparse
