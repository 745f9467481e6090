#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "io/tokenizer/tokenizer.h"
#include "io/tokenizer/unicode.h"

namespace slidesparse {

// A valid byte-level tokenizer.json: the 256 bytes have ids 0..255, then "ab" 256, "abc" 257, "Ġa" 258, and
// the added tokens <s> 259 (special) and <t> 260.
inline nlohmann::json small_tokenizer() {
  nlohmann::json vocab;
  for (int b = 0; b < 256; ++b) vocab[tok::byte_level_spelling(std::string(1, static_cast<char>(b)))] = b;
  vocab["ab"] = 256;
  vocab["abc"] = 257;
  vocab["\u0120a"] = 258;
  const auto added = [](const char* content, int id, bool special) {
    return nlohmann::json{{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                          {"rstrip", false}, {"normalized", false}, {"special", special}};
  };
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", {added("<s>", 259, true), added("<t>", 260, false)}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b", "ab c", "\u0120 a"}}}}};
}

inline Tokenizer load(const nlohmann::json& tokenizer_json) {
  return Tokenizer::from_json(tokenizer_json.dump(), "t.json");
}

}  // namespace slidesparse
