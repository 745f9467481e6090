#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace slidesparse {

// A Hugging Face `tokenizer.json` with a byte-pair model: gives the same ids as the `tokenizers` library for
// the components that it knows (the lists are in docs of each part: normalizer.h, pre_tokenizer.h, bpe.h,
// post_processor.h, decoder.h). Components that it does not know are refused by name, never skipped.
// `truncation` and `padding` of the file are ignored, because models are fed one text at a time. Copies share
// one immutable state; const use from several threads is safe.
class Tokenizer {
 public:
  // Throws Error(kInput) with one line that names the file and the place in it, kIo when the file cannot be
  // read.
  static Tokenizer from_file(const std::filesystem::path& tokenizer_json);
  // The same from text in memory; `name` stands for the file in errors.
  static Tokenizer from_json(std::string_view json, const std::string& name);

  // Token ids of `utf8`. `add_special_tokens` applies the file's post-processor (a leading <|begin_of_text|>,
  // ...); with `parse_special` false the text of special tokens is treated as ordinary text. Throws
  // Error(kInput) with the byte offset when the text is not UTF-8, and when the file's regular expression
  // exceeds its limits on it.
  std::vector<std::int32_t> encode(std::string_view utf8, bool add_special_tokens = false,
                                   bool parse_special = true) const;
  // Text of `ids`; always valid UTF-8: what is not becomes U+FFFD. Ids without a token (models pad their
  // vocabularies) give nothing.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = false) const;

  // What one token adds to the text: raw bytes, perhaps part of a UTF-8 sequence. Empty for ids without a
  // token.
  std::string token_bytes(std::int32_t id) const;
  bool is_special(std::int32_t id) const;
  // Largest id + 1, added tokens included.
  std::int64_t vocab_size() const;
  // Id of a token spelled as in the file (byte-level alphabet), added tokens included.
  std::optional<std::int32_t> token_to_id(std::string_view token) const;

  struct Parts;

 private:
  explicit Tokenizer(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}
  std::shared_ptr<const Parts> parts_;
  friend class StreamDecoder;
};

// Decodes token by token and emits complete UTF-8 sequences only. With a byte-level decoder the pieces put
// together equal Tokenizer::decode of all ids; decoders that strip a leading space of the whole text do not
// strip here, because a stream is usually the continuation of a prompt.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special);
  // Text that became complete with this token; may be empty.
  std::string push(std::int32_t id);
  // U+FFFD for a sequence that was left incomplete, otherwise empty. The decoder can then be used anew.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  bool skip_special_;
  bool started_ = false;
  std::string pending_;
};

}  // namespace slidesparse
