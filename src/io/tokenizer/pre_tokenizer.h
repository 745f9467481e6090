#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "io/tokenizer/json_node.h"
#include "io/tokenizer/regex.h"

namespace slidesparse::tok {

// The "pre_tokenizer" of a tokenizer.json: ByteLevel, Split, Digits, Sequence. It cuts text into the words
// that the model merges within. ByteLevel may only come last, because it changes the alphabet.
class PreTokenizer {
 public:
  using Sink = std::function<void(std::string_view)>;

  PreTokenizer() = default;
  void add(const JsonNode& node);
  // Words are bytes, not characters, for the model.
  bool byte_level() const { return byte_level_; }
  // Calls sink(word) for each word of `text` (valid UTF-8), in order; a word is valid until sink returns.
  void apply(std::string_view text, const Sink& sink) const { run(0, text, sink); }

 private:
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Step {
    enum Kind { kSplit, kDigits, kPrefixSpace } kind;
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;           // kSplit: what does not match is the separator
    std::shared_ptr<Regex> regex;  // kSplit
  };

  void add_byte_level(const JsonNode& node);
  void run(std::size_t step, std::string_view text, const Sink& sink) const;
  // Calls piece(start, end, is_separator) for consecutive pieces that cover `text`.
  using Piece = std::function<void(std::size_t, std::size_t, bool)>;
  static void cut(const Step& step, std::string_view text, const Piece& piece);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace slidesparse::tok
