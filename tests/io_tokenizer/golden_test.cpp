// Ids and texts of the `tokenizers` library, recorded by tests/oracle/tokenizer_golden.py.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "io/tokenizer/tokenizer.h"

namespace slidesparse {
namespace {

using Ids = std::vector<std::int32_t>;

nlohmann::json read_golden(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  return nlohmann::json::parse(file);
}

std::string stream_decode(const Tokenizer& tokenizer, const Ids& ids, bool skip_special) {
  StreamDecoder decoder(tokenizer, skip_special);
  std::string text;
  for (const std::int32_t id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

// How texts are compared on the way back.
enum class Back { kNone, kDecode, kDecodeAndStream };

// Returns the number of texts compared.
std::size_t check_cases(const Tokenizer& tokenizer, const nlohmann::json& cases, Back back) {
  for (const nlohmann::json& entry : cases) {
    const auto text = entry.at("text").get<std::string>();
    SCOPED_TRACE(entry.at("text").dump().substr(0, 300));
    const auto ids = entry.at("ids").get<Ids>();
    EXPECT_EQ(tokenizer.encode(text), ids);
    EXPECT_EQ(tokenizer.encode(text, true), entry.contains("special") ? entry["special"].get<Ids>() : ids);
    EXPECT_EQ(tokenizer.encode(text, false, false),
              entry.contains("plain") ? entry["plain"].get<Ids>() : ids);
    if (back == Back::kNone) continue;
    const std::string decoded = entry.value("decoded", text);
    const std::string skipped = entry.value("skipped", text);
    EXPECT_EQ(tokenizer.decode(ids), decoded);
    EXPECT_EQ(tokenizer.decode(ids, true), skipped);
    if (back == Back::kDecodeAndStream) {
      EXPECT_EQ(stream_decode(tokenizer, ids, false), decoded);
      EXPECT_EQ(stream_decode(tokenizer, ids, true), skipped);
    }
  }
  return cases.size();
}

class TokenizerGolden : public testing::TestWithParam<const char*> {
 protected:
  nlohmann::json golden_ =
      read_golden(SLIDESPARSE_TEST_DATA "/io_tokenizer/golden/" + std::string(GetParam()) + ".json");
  Back back_ = std::string(GetParam()) == "sentencepiece" ? Back::kDecode : Back::kDecodeAndStream;
};

TEST_P(TokenizerGolden, Family) {
  const Tokenizer tokenizer = Tokenizer::from_json(golden_.at("tokenizer").dump(), GetParam());
  EXPECT_GE(check_cases(tokenizer, golden_.at("cases"), back_), 60u);
}

TEST_P(TokenizerGolden, Variants) {
  for (const nlohmann::json& variant : golden_.at("variants")) {
    SCOPED_TRACE(variant.at("name").get<std::string>());
    nlohmann::json tokenizer_json = golden_.at("tokenizer");
    tokenizer_json.merge_patch(variant.at("patch"));
    const Tokenizer tokenizer = Tokenizer::from_json(tokenizer_json.dump(), GetParam());
    const Back back = variant.at("decode").get<bool>() ? back_ : Back::kNone;
    EXPECT_GE(check_cases(tokenizer, variant.at("cases"), back), 20u);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, TokenizerGolden,
                         testing::Values("llama3", "qwen", "smollm2", "sentencepiece"),
                         [](const auto& family) { return std::string(family.param); });

// For a tokenizer.json of full size, which cannot be committed.
TEST(TokenizerReal, MatchesRecordedIds) {
  const char* path = std::getenv("SLIDESPARSE_TOKENIZER_GOLDEN");
  if (path == nullptr)
    GTEST_SKIP() << "SLIDESPARSE_TOKENIZER_GOLDEN names no file of tests/oracle/tokenizer_golden.py";
  const nlohmann::json golden = read_golden(path);
  const Tokenizer tokenizer = Tokenizer::from_file(golden.at("file").get<std::string>());
  EXPECT_GT(check_cases(tokenizer, golden.at("cases"), Back::kDecodeAndStream), 0u);
}

}  // namespace
}  // namespace slidesparse
