#pragma once

#include <cstdint>
#include <vector>

#include "io/tokenizer/json_node.h"
#include "io/tokenizer/vocabulary.h"

namespace slidesparse::tok {

// The "post_processor" of a tokenizer.json as it applies to the ids of one text: ByteLevel (changes no id),
// TemplateProcessing (one of them), Sequence.
class PostProcessor {
 public:
  void add(const JsonNode& node, const Vocabulary& vocabulary);
  std::vector<std::int32_t> apply(std::vector<std::int32_t> ids) const;

 private:
  // A part of a template: the text, or fixed ids.
  struct Part {
    bool text = false;
    std::vector<std::int32_t> ids;
  };
  std::vector<Part> template_;  // empty: the text alone
};

}  // namespace slidesparse::tok
