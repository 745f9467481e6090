#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/json_node.h"
#include "io/tokenizer/regex.h"

namespace slidesparse::tok {

// The "decoder" of a tokenizer.json: ByteLevel, ByteFallback, Fuse, Replace, Strip, Sequence. Without one,
// tokens are put together with spaces between.
class Decoder {
 public:
  void add(const JsonNode& node);
  // Valid UTF-8 for tokens spelled as in the file.
  std::string decode(std::vector<std::string> tokens) const;
  // The bytes that one token stands for by itself; Fuse and Strip, which look at the whole text, left out.
  std::string token_bytes(std::string_view token) const;
  // ByteLevel and nothing else: a text is its tokens' bytes one after the other.
  bool only_bytes() const { return steps_.size() == 1 && steps_[0].kind == Step::kByteLevel; }
  bool joins_with_spaces() const { return !present_; }

 private:
  struct Step {
    enum Kind { kByteLevel, kByteFallback, kFuse, kReplace, kStrip } kind;
    std::string content = {};          // kReplace: what to put; kStrip: the character
    std::shared_ptr<Regex> what = {};  // kReplace
    std::int64_t start = 0, stop = 0;  // kStrip: at most so many at either end
  };

  std::vector<Step> steps_;
  bool present_ = false;
};

}  // namespace slidesparse::tok
