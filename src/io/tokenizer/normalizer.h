#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/tokenizer/json_node.h"
#include "io/tokenizer/regex.h"

namespace slidesparse::tok {

// The "normalizer" of a tokenizer.json: NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence.
class Normalizer {
 public:
  Normalizer() = default;
  // Appends the steps that `node` describes.
  void add(const JsonNode& node);
  bool empty() const { return steps_.empty(); }
  // `text` is valid UTF-8, and so is the result.
  std::string apply(std::string text) const;

 private:
  struct Step {
    enum Kind { kUnicode, kPrepend, kReplace } kind;
    const void* form = nullptr;   // kUnicode: the ICU normalizer, owned by ICU
    std::string content;          // kPrepend, kReplace
    std::shared_ptr<Regex> what;  // kReplace
  };
  std::vector<Step> steps_;
};

// "pattern" of Replace and Split: {"String": text} or {"Regex": pattern}.
Regex read_pattern(const JsonNode& node);

}  // namespace slidesparse::tok
