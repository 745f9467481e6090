#include "io/tokenizer/bpe.h"

#include <gtest/gtest.h>

#include "core/random.h"
#include "io/tokenizer/string_table.h"
#include "io_tokenizer/small_tokenizer.h"

namespace slidesparse {
namespace {

// The definition: apply the merge of the lowest rank at its leftmost place until there is none.
std::vector<std::int32_t> merge_by_definition(const nlohmann::json& model, const std::string& word) {
  std::vector<std::string> symbols;
  for (const char c : word) symbols.emplace_back(1, c);
  for (;;) {
    std::size_t best_rank = model["merges"].size(), at = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (std::size_t rank = 0; rank < best_rank; ++rank) {
        if (model["merges"][rank] == nlohmann::json{symbols[i], symbols[i + 1]}) best_rank = rank, at = i;
      }
    }
    if (best_rank == model["merges"].size()) break;
    symbols[at] += symbols[at + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  std::vector<std::int32_t> ids;
  ids.reserve(symbols.size());
  for (const std::string& symbol : symbols) ids.push_back(model["vocab"][symbol].get<std::int32_t>());
  return ids;
}

// A model over the letters a-d with `count` random merges of tokens that exist.
nlohmann::json random_model(std::uint32_t seed, std::size_t count) {
  std::uint32_t state = seed;
  const auto random = [&](std::size_t n) { return (state = state * 1664525u + 1013904223u) / 65536u % n; };
  std::vector<std::string> tokens{"a", "b", "c", "d"};
  nlohmann::json merges = nlohmann::json::array();
  for (std::size_t i = 0; i < count; ++i) {
    const std::string left = tokens[random(tokens.size())], right = tokens[random(tokens.size())];
    if (std::find(merges.begin(), merges.end(), nlohmann::json{left, right}) != merges.end()) continue;
    merges.push_back({left, right});
    if (std::find(tokens.begin(), tokens.end(), left + right) == tokens.end()) tokens.push_back(left + right);
  }
  nlohmann::json vocab;
  for (std::size_t i = 0; i < tokens.size(); ++i) vocab[tokens[i]] = i;
  return {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}};
}

TEST(Bpe, MergesAsDefinedForShortAndLongWords) {
  for (std::uint32_t seed = 1; seed <= 25; ++seed) {
    const nlohmann::json model = random_model(seed, 12 + seed);
    const tok::BpeModel bpe(tok::JsonNode(model, "t.json", "model"), true);
    tok::BpeScratch scratch;
    std::uint32_t state = seed * 77;
    for (std::size_t length = 1; length < 120; length += length < 52 ? 1 : 13) {
      std::string word;
      for (std::size_t i = 0; i < length; ++i)
        word += static_cast<char>('a' + (state = state * 1664525u + 1013904223u) / 65536u % 4);
      const auto expected = merge_by_definition(model, word);
      for (int repeat = 0; repeat < 2; ++repeat) {  // the second time from the cache
        std::vector<std::int32_t> ids;
        bpe.encode_word(word, scratch, ids);
        ASSERT_EQ(ids, expected) << "seed " << seed << " word " << word;
      }
    }
  }
}

TEST(Bpe, MergesInBothSpellingsAreTheSame) {
  auto strings = small_tokenizer();
  auto pairs = strings;
  pairs["model"]["merges"] = nlohmann::json::array();
  for (const auto& [left, right] : {std::pair{"a", "b"}, std::pair{"ab", "c"}, std::pair{"\u0120", "a"}}) {
    pairs["model"]["merges"].push_back(nlohmann::json::array({left, right}));
  }
  strings["model"]["merges"].insert(strings["model"]["merges"].begin(), "#version: 0.2");
  const std::string text = "abcab a abab cab";
  EXPECT_EQ(load(strings).encode(text), load(pairs).encode(text));
  EXPECT_EQ(load(strings).encode("abc a"), (std::vector<std::int32_t>{257, 258}));
}

TEST(Bpe, IgnoreMergesTakesWholeWords) {
  auto json = small_tokenizer();
  json["model"]["merges"] = nlohmann::json::array();
  EXPECT_EQ(load(json).encode("abc"), (std::vector<std::int32_t>{'a', 'b', 'c'}));
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(load(json).encode("abc"), (std::vector<std::int32_t>{257}));
}

TEST(StringTable, KeepsWhatWasInserted) {
  tok::StringTable table;
  EXPECT_EQ(table.find(""), -1);
  for (std::int32_t i = 0; i < 5000; ++i)
    ASSERT_TRUE(table.insert(std::string("k\0", 2) + std::to_string(i), i));
  EXPECT_FALSE(table.insert(std::string("k\0", 2) + "77", 1));
  EXPECT_EQ(table.size(), 5000u);
  for (std::int32_t i = 0; i < 5000; ++i) ASSERT_EQ(table.find(std::string("k\0", 2) + std::to_string(i)), i);
  EXPECT_EQ(table.find("k"), -1);
  EXPECT_EQ(table.find(std::string("k\0", 2) + "5000"), -1);
}

}  // namespace
}  // namespace slidesparse
