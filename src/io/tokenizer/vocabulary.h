#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/string_table.h"

namespace slidesparse::tok {

// Token texts by id and ids by text. Ids may have gaps.
class Vocabulary {
 public:
  enum class Added { kYes, kTextTaken, kIdTaken };
  Added add(std::string_view text, std::int32_t id) {
    const auto at = static_cast<std::size_t>(id);
    if (at < spans_.size() && spans_[at].length >= 0) return Added::kIdTaken;
    if (!ids_.insert(text, id)) return Added::kTextTaken;
    if (at >= spans_.size()) spans_.resize(at + 1);
    spans_[at] = {text_.size(), static_cast<std::int64_t>(text.size())};
    text_ += text;
    return Added::kYes;
  }

  // -1 when there is no such token.
  std::int32_t id(std::string_view text) const { return ids_.find(text); }
  bool has(std::int32_t id) const {
    return id >= 0 && static_cast<std::size_t>(id) < spans_.size() &&
           spans_[static_cast<std::size_t>(id)].length >= 0;
  }
  // Empty when there is no such token.
  std::string_view text(std::int32_t id) const {
    if (!has(id)) return {};
    const Span& span = spans_[static_cast<std::size_t>(id)];
    return std::string_view(text_).substr(span.offset, static_cast<std::size_t>(span.length));
  }
  std::int64_t size() const { return static_cast<std::int64_t>(spans_.size()); }  // largest id + 1
  std::size_t count() const { return ids_.size(); }

 private:
  struct Span {
    std::size_t offset = 0;
    std::int64_t length = -1;
  };
  StringTable ids_;
  std::vector<Span> spans_;
  std::string text_;
};

}  // namespace slidesparse::tok
