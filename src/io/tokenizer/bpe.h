#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/json_node.h"
#include "io/tokenizer/string_table.h"
#include "io/tokenizer/vocabulary.h"

namespace slidesparse::tok {

// What one encode call reuses from word to word.
struct BpeScratch {
  struct Span {
    std::size_t begin;
    std::size_t count;
  };
  StringTable words;        // word -> index into spans
  std::vector<Span> spans;  // of cached_ids
  std::vector<std::int32_t> cached_ids;
  std::vector<std::int32_t> symbols;
};

// The "model" of a tokenizer.json of type BPE: vocab, merges, unk_token, fuse_unk, byte_fallback,
// ignore_merges.
class BpeModel {
 public:
  // Reads `node`. With `byte_level`, words are raw bytes and vocabulary entries are spelled in the byte-level
  // alphabet; without, words are UTF-8 and symbols start as characters.
  BpeModel(const JsonNode& node, bool byte_level);

  // Tokens as the file spells them.
  const Vocabulary& vocabulary() const { return vocabulary_; }
  bool byte_fallback() const { return byte_fallback_; }

  // Appends the ids of one word.
  void encode_word(std::string_view word, BpeScratch& scratch, std::vector<std::int32_t>& out) const;

 private:
  struct Merge {
    std::uint64_t pair = kNoPair;  // left id << 32 | right id
    std::int32_t rank = 0;
    std::int32_t result = 0;
  };
  static constexpr std::uint64_t kNoPair = ~std::uint64_t{0};
  // What a unit (byte or character) without a token of its own becomes.
  struct Fallback {
    bool bytes = false;
    std::vector<std::int32_t> ids;
  };

  void read_vocabulary(const JsonNode& node);
  void read_merges(const JsonNode& node);
  void insert_merge(std::uint64_t pair, std::int32_t rank, std::int32_t result);
  const Merge* find_merge(std::int32_t left, std::int32_t right) const;
  Fallback fallback_of(std::string_view spelling) const;
  void first_symbols(std::string_view word, std::vector<std::int32_t>& symbols) const;
  void merge_short(std::vector<std::int32_t>& symbols) const;
  void merge_long(std::vector<std::int32_t>& symbols) const;

  bool byte_level_;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  bool fuse_unk_ = false;
  std::optional<std::int32_t> unk_;
  Vocabulary vocabulary_;
  StringTable words_;                         // byte_level: raw bytes -> id
  std::array<std::int32_t, 256> byte_ids_{};  // byte_level: id of each byte, -1 for none
  std::array<Fallback, 256> byte_fallbacks_;  // byte_level: for those of -1
  std::vector<Merge> merges_;                 // open addressing, at most half full
};

}  // namespace slidesparse::tok
