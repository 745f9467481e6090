#include "io/tokenizer/bpe.h"

#include <queue>

#include "core/text.h"
#include "io/tokenizer/unicode.h"

namespace slidesparse::tok {
namespace {

// Words up to this many symbols are merged by scanning; longer ones through a heap (n log n).
constexpr std::size_t kShortWord = 48;
// Words worth remembering within a call, and how many: those of a language fit, those of noise must not pile
// up.
constexpr std::size_t kCachedWordBytes = 64;
constexpr std::size_t kCachedWords = std::size_t{1} << 16;

std::size_t hash_pair(std::uint64_t pair) {
  pair *= 0x9e3779b97f4a7c15u;
  return static_cast<std::size_t>(pair ^ pair >> 32);
}

std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

}  // namespace

BpeModel::BpeModel(const JsonNode& node, bool byte_level) : byte_level_(byte_level) {
  if (const auto type = node.find("type"); type && type->string() != "BPE") node.refuse_type("model", "BPE");
  if (const auto dropout = node.find("dropout"); dropout && dropout->value() != 0) {
    dropout->refuse("random merges are not supported: set it to null");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (const auto affix = node.find(key); affix && !affix->string().empty()) {
      affix->refuse("\"{}\" is not supported: only empty or null", printable(affix->string(), 40));
    }
  }
  byte_fallback_ = node.boolean_or("byte_fallback", false);
  ignore_merges_ = node.boolean_or("ignore_merges", false);
  fuse_unk_ = node.boolean_or("fuse_unk", false);
  read_vocabulary(node.at("vocab"));
  read_merges(node.at("merges"));
  if (const auto unk = node.find("unk_token")) {
    const std::int32_t id = vocabulary_.id(unk->string());
    if (id < 0) unk->refuse("\"{}\" is not in the vocabulary", printable(unk->string(), 60));
    unk_ = id;
  }
  for (unsigned b = 0; byte_level_ && b < 256; ++b) {
    const std::string spelling = byte_level_spelling(std::string(1, static_cast<char>(b)));
    byte_ids_[b] = vocabulary_.id(spelling);
    if (byte_ids_[b] < 0) byte_fallbacks_[b] = fallback_of(spelling);
  }
}

void BpeModel::read_vocabulary(const JsonNode& node) {
  node.expect_object();
  const nlohmann::json& entries = node.value();
  // Tokens are looked up by id in a plain array, so ids far beyond their number are a mistake or an attack.
  const auto limit = static_cast<std::int64_t>(
      std::min<std::size_t>(16 * entries.size() + 65536, std::numeric_limits<std::int32_t>::max() - 1));
  for (const auto& [text, value] : entries.items()) {
    if (!value.is_number_integer()) {
      node.refuse("id of \"{}\" is {}, expected an integer", printable(text, 60), value.type_name());
    }
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > static_cast<std::uint64_t>(limit)) {
      node.refuse("id {} of \"{}\" is outside 0..{} (the limit for {} tokens)", value.dump(),
                  printable(text, 60), limit, entries.size());
    }
    const auto id = value.get<std::int32_t>();
    if (vocabulary_.add(text, id) != Vocabulary::Added::kYes) {
      node.refuse("id {} belongs to both \"{}\" and \"{}\"", id, printable(vocabulary_.text(id), 60),
                  printable(text, 60));
    }
    if (byte_fallback_ && text.size() >= 4 && text.compare(0, 3, "<0x") == 0 && text.back() == '>' &&
        (text.size() != 6 || text.find_first_not_of("0123456789ABCDEFabcdef", 3) != 5)) {
      node.refuse("\"{}\" is no byte token: <0x00> to <0xFF> are", printable(text, 60));
    }
    if (!byte_level_) continue;
    if (const auto bytes = byte_level_bytes(text)) words_.insert(*bytes, id);
  }
  if (vocabulary_.count() == 0) node.refuse("the vocabulary is empty");
}

void BpeModel::read_merges(const JsonNode& node) {
  if (!node.value().is_array()) node.refuse("expected an array, found {}", node.value().type_name());
  const std::size_t count = node.value().size();
  if (count > std::numeric_limits<std::int32_t>::max())
    node.refuse("{} merges are more than 2^31 - 1", count);
  std::size_t slots = 16;
  while (slots < 2 * count + 2) slots *= 2;
  merges_.resize(slots);
  std::int32_t rank = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const nlohmann::json& entry = node.value()[i];
    std::string left, right;
    if (entry.is_string()) {
      const auto& text = entry.get_ref<const std::string&>();
      if (text.rfind("#version", 0) == 0) continue;
      const std::size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        node.element(i).refuse("\"{}\" is not two tokens with one space between", printable(text, 60));
      }
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
      left = entry[0].get<std::string>();
      right = entry[1].get<std::string>();
    } else {
      node.element(i).refuse("expected \"LEFT RIGHT\" or [\"LEFT\", \"RIGHT\"], found {}", entry.type_name());
    }
    const auto id_of = [&](const std::string& token) {
      const std::int32_t id = vocabulary_.id(token);
      if (id < 0) node.element(i).refuse("token \"{}\" is not in the vocabulary", printable(token, 60));
      return id;
    };
    if (left.empty() || right.empty()) node.element(i).refuse("an empty token cannot be merged");
    const std::int32_t left_id = id_of(left);
    const std::int32_t right_id = id_of(right);
    insert_merge(pair_of(left_id, right_id), rank++, id_of(left + right));
  }
}

void BpeModel::insert_merge(std::uint64_t pair, std::int32_t rank, std::int32_t result) {
  const std::size_t mask = merges_.size() - 1;
  std::size_t i = hash_pair(pair) & mask;
  while (merges_[i].pair != kNoPair && merges_[i].pair != pair) i = (i + 1) & mask;
  merges_[i] = {pair, rank, result};  // of a pair given twice the last rank counts
}

const BpeModel::Merge* BpeModel::find_merge(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_of(left, right);
  const std::size_t mask = merges_.size() - 1;
  for (std::size_t i = hash_pair(pair) & mask;; i = (i + 1) & mask) {
    if (merges_[i].pair == pair) return &merges_[i];
    if (merges_[i].pair == kNoPair) return nullptr;
  }
}

BpeModel::Fallback BpeModel::fallback_of(std::string_view spelling) const {
  Fallback result;
  if (!byte_fallback_) return result;
  for (const char byte : spelling) {
    const std::int32_t id = vocabulary_.id(fmt::format("<0x{:02X}>", static_cast<unsigned char>(byte)));
    if (id < 0) return {};
    result.ids.push_back(id);
  }
  result.bytes = true;
  return result;
}

void BpeModel::first_symbols(std::string_view word, std::vector<std::int32_t>& symbols) const {
  symbols.clear();
  bool unknown = false;  // an unknown token waits, so that the next may fuse with it
  const auto flush = [&] {
    if (unknown) symbols.push_back(*unk_);
    unknown = false;
  };
  const auto place = [&](const Fallback& fallback) {
    // Byte tokens do not flush: the order is that of the `tokenizers` library.
    if (fallback.bytes) {
      symbols.insert(symbols.end(), fallback.ids.begin(), fallback.ids.end());
    } else if (unk_) {
      if (!fuse_unk_) flush();
      unknown = true;
    }
  };
  for (std::size_t i = 0; i < word.size();) {
    const std::size_t length = byte_level_ ? 1 : utf8_length(word[i]);
    const std::string_view unit = word.substr(i, length);
    const auto byte = static_cast<unsigned char>(word[i]);
    const std::int32_t id = byte_level_ ? byte_ids_[byte] : vocabulary_.id(unit);
    if (id >= 0) {
      flush();
      symbols.push_back(id);
    } else if (byte_level_) {
      place(byte_fallbacks_[byte]);
    } else {
      place(fallback_of(unit));
    }
    i += length;
  }
  flush();
}

void BpeModel::merge_short(std::vector<std::int32_t>& symbols) const {
  constexpr std::int32_t kNone = std::numeric_limits<std::int32_t>::max();
  std::array<std::int32_t, kShortWord> rank;
  std::array<std::int32_t, kShortWord> result;
  std::size_t n = symbols.size();
  const auto look = [&](std::size_t i) {
    const Merge* merge = find_merge(symbols[i], symbols[i + 1]);
    rank[i] = merge ? merge->rank : kNone;
    result[i] = merge ? merge->result : 0;
  };
  for (std::size_t i = 0; i + 1 < n; ++i) look(i);
  while (n > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < n; ++i) {
      if (rank[i] < rank[best]) best = i;
    }
    if (rank[best] == kNone) break;
    symbols[best] = result[best];
    for (std::size_t i = best + 1; i + 1 < n; ++i) {
      symbols[i] = symbols[i + 1];
      rank[i] = rank[i + 1];
      result[i] = result[i + 1];
    }
    --n;
    if (best > 0) look(best - 1);
    if (best + 1 < n) look(best);
  }
  symbols.resize(n);
}

void BpeModel::merge_long(std::vector<std::int32_t>& symbols) const {
  struct Candidate {
    std::int32_t rank;
    std::size_t at;
    std::int32_t result;
    bool operator<(const Candidate& other) const {  // std::priority_queue puts the greatest on top
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  constexpr std::int32_t kGone = -1;
  const std::size_t n = symbols.size();
  std::vector<std::size_t> next(n), previous(n);
  std::vector<Candidate> first;
  for (std::size_t i = 0; i < n; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;  // of the first: a number >= n
    if (i + 1 == n) break;
    if (const Merge* merge = find_merge(symbols[i], symbols[i + 1]))
      first.push_back({merge->rank, i, merge->result});
  }
  std::priority_queue<Candidate> queue({}, std::move(first));
  const auto offer = [&](std::size_t i) {
    if (const Merge* merge = find_merge(symbols[i], symbols[next[i]]))
      queue.push({merge->rank, i, merge->result});
  };
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const std::size_t right = next[top.at];
    if (symbols[top.at] == kGone || right >= n) continue;
    const Merge* merge = find_merge(symbols[top.at], symbols[right]);
    if (!merge || merge->result != top.result) continue;  // one of the two has changed since
    symbols[top.at] = top.result;
    symbols[right] = kGone;
    next[top.at] = next[right];
    if (next[right] < n) previous[next[right]] = top.at;
    if (previous[top.at] < n) offer(previous[top.at]);
    if (next[top.at] < n) offer(top.at);
  }
  std::erase(symbols, kGone);
}

void BpeModel::encode_word(std::string_view word, BpeScratch& scratch, std::vector<std::int32_t>& out) const {
  if (word.empty()) return;
  if (ignore_merges_) {
    const std::int32_t id = byte_level_ ? words_.find(word) : vocabulary_.id(word);
    if (id >= 0) {
      out.push_back(id);
      return;
    }
  }
  const bool cache = word.size() <= kCachedWordBytes;
  if (const std::int32_t hit = cache ? scratch.words.find(word) : -1; hit >= 0) {
    const auto span = scratch.spans[static_cast<std::size_t>(hit)];
    const auto begin = scratch.cached_ids.begin() + static_cast<std::ptrdiff_t>(span.begin);
    out.insert(out.end(), begin, begin + static_cast<std::ptrdiff_t>(span.count));
    return;
  }
  auto& symbols = scratch.symbols;
  first_symbols(word, symbols);
  if (symbols.size() <= kShortWord) {
    merge_short(symbols);
  } else {
    merge_long(symbols);
  }
  out.insert(out.end(), symbols.begin(), symbols.end());
  if (cache && scratch.spans.size() < kCachedWords) {
    scratch.words.insert(word, static_cast<std::int32_t>(scratch.spans.size()));
    scratch.spans.push_back({scratch.cached_ids.size(), symbols.size()});
    scratch.cached_ids.insert(scratch.cached_ids.end(), symbols.begin(), symbols.end());
  }
}

}  // namespace slidesparse::tok
