#include "io/tokenizer/tokenizer.h"

#include "core/fail.h"
#include "core/text.h"
#include "io/json.h"
#include "io/tokenizer/added_tokens.h"
#include "io/tokenizer/bpe.h"
#include "io/tokenizer/decoder.h"
#include "io/tokenizer/json_node.h"
#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/post_processor.h"
#include "io/tokenizer/pre_tokenizer.h"
#include "io/tokenizer/unicode.h"

namespace slidesparse {
namespace {

// The largest vocabularies in use (262,144 tokens) take 33 MB.
constexpr std::int64_t kMaxFileBytes = std::int64_t{512} << 20;

}  // namespace

struct Tokenizer::Parts {
  tok::Normalizer normalizer;
  tok::PreTokenizer pre_tokenizer;
  tok::BpeModel model;
  tok::PostProcessor post_processor;
  tok::Decoder decoder;
  tok::Vocabulary vocabulary;            // the model's tokens and the added ones
  std::vector<bool> special;             // by id
  tok::AddedTokenFinder in_given_text;   // added tokens that are not normalised
  tok::AddedTokenFinder in_normal_text;  // those that are

  Parts(const tok::JsonNode& root, tok::PreTokenizer cutter)
      : pre_tokenizer(std::move(cutter)),
        model(root.at("model"), pre_tokenizer.byte_level()),
        vocabulary(model.vocabulary()) {
    if (const auto node = root.find("normalizer")) normalizer.add(*node);
    if (const auto node = root.find("added_tokens")) read_added(*node);
    if (const auto node = root.find("post_processor")) post_processor.add(*node, vocabulary);
    if (const auto node = root.find("decoder")) decoder.add(*node);
  }

  void read_added(const tok::JsonNode& node) {
    std::vector<tok::AddedToken> given, normal;
    std::vector<std::string> given_text, normal_text;
    auto tokens = tok::read_added_tokens(node, vocabulary);
    special.resize(static_cast<std::size_t>(vocabulary.size()));
    for (tok::AddedToken& token : tokens) {
      if (token.special) special[static_cast<std::size_t>(token.id)] = true;
      (token.normalized ? normal_text : given_text)
          .push_back(token.normalized ? normalizer.apply(token.content) : token.content);
      (token.normalized ? normal : given).push_back(std::move(token));
    }
    in_given_text = tok::AddedTokenFinder(std::move(given), std::move(given_text));
    in_normal_text = tok::AddedTokenFinder(std::move(normal), std::move(normal_text));
  }
};

Tokenizer Tokenizer::from_file(const std::filesystem::path& tokenizer_json) {
  return from_json(read_text_file(tokenizer_json, kMaxFileBytes), tokenizer_json.string());
}

Tokenizer Tokenizer::from_json(std::string_view json, const std::string& name) {
  const std::string shown = printable(name);
  const nlohmann::json document = parse_json(json, name);
  const tok::JsonNode root(document, shown, "top level");
  root.expect_object();
  if (const auto version = root.find("version"); version && version->string() != "1.0") {
    version->refuse("\"{}\" is not supported, only \"1.0\"", printable(version->string(), 40));
  }
  // How words are spelled decides how the model reads its vocabulary.
  tok::PreTokenizer cutter;
  if (const auto node = root.find("pre_tokenizer")) cutter.add(*node);
  return Tokenizer(std::make_shared<const Parts>(root, std::move(cutter)));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view utf8, bool add_special_tokens,
                                            bool parse_special) const {
  if (const auto bad = tok::find_invalid_utf8(utf8)) {
    fail_input("text is not valid UTF-8: byte {} (0x{:02x}) of {}", *bad,
               static_cast<unsigned char>(utf8[*bad]), utf8.size());
  }
  const Parts& parts = *parts_;
  std::vector<std::int32_t> ids;
  tok::BpeScratch scratch;
  const tok::PreTokenizer::Sink word = [&](std::string_view text) {
    parts.model.encode_word(text, scratch, ids);
  };
  const auto plain = [&](std::string_view text) { parts.pre_tokenizer.apply(text, word); };
  const tok::AddedTokenFinder::Piece normal_piece = [&](std::string_view text,
                                                        std::optional<std::int32_t> id) {
    if (id) return ids.push_back(*id);
    plain(text);
  };
  parts.in_given_text.split(utf8, parse_special, [&](std::string_view text, std::optional<std::int32_t> id) {
    if (id) return ids.push_back(*id);
    if (parts.normalizer.empty()) return parts.in_normal_text.split(text, parse_special, normal_piece);
    parts.in_normal_text.split(parts.normalizer.apply(std::string(text)), parse_special, normal_piece);
  });
  return add_special_tokens ? parts.post_processor.apply(std::move(ids)) : ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const {
  const Parts& parts = *parts_;
  std::string bytes;
  std::vector<std::string> tokens;
  const bool only_bytes = parts.decoder.only_bytes();
  for (const std::int32_t id : ids) {
    if (!parts.vocabulary.has(id) || (skip_special_tokens && is_special(id))) continue;
    if (only_bytes) {
      bytes += token_bytes(id);
    } else {
      tokens.emplace_back(parts.vocabulary.text(id));
    }
  }
  if (!only_bytes) return parts.decoder.decode(std::move(tokens));
  std::string text;
  tok::append_lossy_utf8(bytes, true, text);
  return text;
}

std::string Tokenizer::token_bytes(std::int32_t id) const {
  return parts_->decoder.token_bytes(parts_->vocabulary.text(id));
}

bool Tokenizer::is_special(std::int32_t id) const {
  return id >= 0 && static_cast<std::size_t>(id) < parts_->special.size() &&
         parts_->special[static_cast<std::size_t>(id)];
}

std::int64_t Tokenizer::vocab_size() const {
  return parts_->vocabulary.size();
}

std::optional<std::int32_t> Tokenizer::token_to_id(std::string_view token) const {
  const std::int32_t id = parts_->vocabulary.id(token);
  if (id < 0) return std::nullopt;
  return id;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special) {}

std::string StreamDecoder::push(std::int32_t id) {
  const Tokenizer::Parts& parts = *tokenizer_.parts_;
  if (!parts.vocabulary.has(id) || (skip_special_ && tokenizer_.is_special(id))) return {};
  if (started_ && parts.decoder.joins_with_spaces()) pending_ += ' ';
  started_ = true;
  pending_ += tokenizer_.token_bytes(id);
  std::string text;
  pending_.erase(0, tok::append_lossy_utf8(pending_, false, text));
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  tok::append_lossy_utf8(pending_, true, text);
  pending_.clear();
  started_ = false;
  return text;
}

}  // namespace slidesparse
