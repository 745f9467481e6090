#include "io/tokenizer/added_tokens.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/text.h"
#include "io/tokenizer/unicode.h"

namespace slidesparse::tok {
namespace {

// Longer ones would make the search quadratic; real ones have up to 40 bytes.
constexpr std::size_t kMaxContentBytes = 1024;

// Where the white space that ends at text[end] begins.
std::size_t white_space_before(std::string_view text, std::size_t end) {
  while (end > 0) {
    const std::size_t start = previous_character(text, end);
    if (!is_white_space(code_point_at(text, start))) break;
    end = start;
  }
  return end;
}

// Where the white space that begins at text[i] ends.
std::size_t white_space_behind(std::string_view text, std::size_t i) {
  while (i < text.size() && is_white_space(code_point_at(text, i))) i += utf8_length(text[i]);
  return i;
}

bool touches_word(std::string_view text, std::size_t start, std::size_t end) {
  return (start > 0 && is_word(code_point_at(text, previous_character(text, start)))) ||
         (end < text.size() && is_word(code_point_at(text, end)));
}

}  // namespace

std::vector<AddedToken> read_added_tokens(const JsonNode& node, Vocabulary& vocabulary) {
  std::vector<AddedToken> tokens;
  StringTable seen;
  const auto entries = node.elements();
  const auto limit = static_cast<std::int64_t>(std::min<std::size_t>(
      16 * (vocabulary.count() + entries.size()) + 65536, std::numeric_limits<std::int32_t>::max() - 1));
  for (const JsonNode& entry : entries) {
    AddedToken token;
    const JsonNode content = entry.at("content");
    token.content = content.string();
    token.id = static_cast<std::int32_t>(entry.at("id").integer(limit));
    token.special = entry.boolean_or("special", false);
    token.single_word = entry.boolean_or("single_word", false);
    token.lstrip = entry.boolean_or("lstrip", false);
    token.rstrip = entry.boolean_or("rstrip", false);
    token.normalized = entry.boolean_or("normalized", !token.special);
    if (token.content.empty()) content.refuse("the text of an added token is empty");
    if (token.content.size() > kMaxContentBytes) {
      content.refuse("{} bytes are more than the {} that an added token may have", token.content.size(),
                     kMaxContentBytes);
    }
    if (!seen.insert(token.content, 0)) {
      content.refuse("\"{}\" is listed twice", printable(token.content, 60));
    }
    const std::int32_t known = vocabulary.id(token.content);
    if (known >= 0 && known != token.id) {
      entry.refuse("\"{}\" has id {} here and {} in the vocabulary", printable(token.content, 60), token.id,
                   known);
    }
    if (known < 0 && vocabulary.add(token.content, token.id) == Vocabulary::Added::kIdTaken) {
      entry.refuse("id {} belongs to both \"{}\" and \"{}\"", token.id,
                   printable(vocabulary.text(token.id), 60), printable(token.content, 60));
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens, std::vector<std::string> contents) {
  std::vector<std::size_t> order(tokens.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  // Of tokens that look the same after normalisation the special one counts, then the first.
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return contents[a] != contents[b] ? contents[a] < contents[b] : tokens[a].special && !tokens[b].special;
  });
  for (const std::size_t i : order) {
    if (contents[i].empty() || (!contents_.empty() && contents_.back() == contents[i])) continue;
    starts_[static_cast<unsigned char>(contents[i].front())] = true;
    contents_.push_back(std::move(contents[i]));
    tokens_.push_back(std::move(tokens[i]));
  }
}

std::optional<std::size_t> AddedTokenFinder::longest_at(std::string_view text, std::size_t i) const {
  // The sorted contents that agree with the text so far are a range, which narrows with every byte.
  auto low = contents_.begin();
  auto high = contents_.end();
  std::optional<std::size_t> longest;
  for (std::size_t depth = 0; low != high; ++depth) {
    if (low->size() == depth) {  // a prefix sorts first
      longest = static_cast<std::size_t>(low - contents_.begin());
      ++low;
    }
    if (i + depth >= text.size()) break;
    const auto byte = static_cast<unsigned char>(text[i + depth]);
    const auto at = [&](const std::string& content) { return static_cast<unsigned char>(content[depth]); };
    low = std::partition_point(low, high, [&](const std::string& content) { return at(content) < byte; });
    high = std::partition_point(low, high, [&](const std::string& content) { return at(content) == byte; });
  }
  return longest;
}

void AddedTokenFinder::split(std::string_view text, bool parse_special, const Piece& piece) const {
  std::size_t done = 0;
  for (std::size_t i = contents_.empty() ? text.size() : 0; i < text.size();) {
    const auto match = starts_[static_cast<unsigned char>(text[i])] ? longest_at(text, i) : std::nullopt;
    if (!match) {
      ++i;
      continue;
    }
    const AddedToken& token = tokens_[*match];
    std::size_t start = i;
    std::size_t end = i + contents_[*match].size();
    i = end;  // whatever becomes of the match, the search goes on behind it
    if (!parse_special && token.special) continue;
    if (token.single_word && touches_word(text, start, end)) continue;
    if (token.lstrip) start = std::min(std::max(white_space_before(text, start), done), end);
    if (token.rstrip) end = white_space_behind(text, end);
    if (done < start) piece(text.substr(done, start - done), std::nullopt);
    piece(text.substr(start, end - start), token.id);
    done = end;
  }
  if (done < text.size()) piece(text.substr(done), std::nullopt);
}

}  // namespace slidesparse::tok
