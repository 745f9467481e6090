#include "convert/tiny_tokenizer.h"

#include "core/fail.h"
#include "io/json.h"

namespace slidesparse {
namespace {

// The letter that byte-level BPE writes for a byte: itself when it is printable Latin-1, otherwise the next
// of U+0100 ...
std::string byte_letter(int byte, int& next_spare) {
  const bool printable_byte = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  const int point = printable_byte ? byte : 0x100 + next_spare++;
  if (point < 0x80) return std::string(1, static_cast<char>(point));
  return {static_cast<char>(0xc0 | (point >> 6)), static_cast<char>(0x80 | (point & 0x3f))};
}

}  // namespace

std::string tiny_tokenizer_json(const std::set<std::int64_t>& special_ids) {
  OrderedJson vocabulary = OrderedJson::object();
  OrderedJson added = OrderedJson::array();
  std::int64_t id = 0;
  int next_spare = 0;
  for (int byte = 0; byte < 256; ++byte, ++id) {
    while (special_ids.contains(id)) ++id;
    vocabulary[byte_letter(byte, next_spare)] = id;
  }
  for (const std::int64_t special : special_ids) {
    const std::string name = fmt::format("<|special_{}|>", special);
    vocabulary[name] = special;
    added.push_back({{"id", special},
                     {"content", name},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const OrderedJson byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  OrderedJson json = OrderedJson::object();
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = added;
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = byte_level;
  json["post_processor"] = nullptr;
  json["decoder"] = byte_level;
  json["model"] = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", nullptr},
                   {"continuing_subword_prefix", nullptr},
                   {"end_of_word_suffix", nullptr},
                   {"fuse_unk", false},
                   {"byte_fallback", false},
                   {"vocab", vocabulary},
                   {"merges", OrderedJson::array()}};
  return json.dump(2) + "\n";
}

}  // namespace slidesparse
