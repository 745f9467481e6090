#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/json_node.h"
#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/vocabulary.h"

namespace slidesparse::tok {

// One entry of "added_tokens".
struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool special = false;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it
  bool normalized = false;   // found in the normalised text instead of the text as given
};

// Reads "added_tokens" and enters them into `vocabulary`, which holds the model's tokens already. The ids are
// those of the file, also where it leaves gaps (the `tokenizers` library counts on from the vocabulary
// instead).
std::vector<AddedToken> read_added_tokens(const JsonNode& node, Vocabulary& vocabulary);

// Finds a set of added tokens in text: leftmost, then longest, not overlapping.
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  // `contents[i]` is what tokens[i] looks like in the text that is searched; empty ones are never found.
  AddedTokenFinder(std::vector<AddedToken> tokens, std::vector<std::string> contents);

  // Calls piece(text, id) for consecutive pieces of `text`; without id for what lies between tokens. Special
  // tokens are passed over when `parse_special` is false.
  using Piece = std::function<void(std::string_view, std::optional<std::int32_t>)>;
  void split(std::string_view text, bool parse_special, const Piece& piece) const;

 private:
  // Index of the longest token that starts at text[i], or nothing.
  std::optional<std::size_t> longest_at(std::string_view text, std::size_t i) const;

  std::vector<AddedToken> tokens_;
  std::vector<std::string> contents_;  // sorted, without duplicates; of tokens_ in the same order
  std::vector<bool> starts_ = std::vector<bool>(256, false);
};

}  // namespace slidesparse::tok
