// Any bytes as text for the tokenizers of the three families. The first byte chooses the family and the
// options. Valid UTF-8 must come back unchanged (NFC aside), everything else must be refused.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/tokenizer.h"
#include "io/tokenizer/unicode.h"
#include "slidesparse/core/error.h"

namespace {

using slidesparse::Tokenizer;

// A tokenizer.json whose alphabet is all bytes, with a few merges.
Tokenizer make(const std::string& normalizer, const std::string& pre_tokenizer,
               const std::string& model_option) {
  std::string vocab;
  for (int b = 0; b < 256; ++b) {
    const std::string spelling = slidesparse::tok::byte_level_spelling(std::string(1, static_cast<char>(b)));
    const bool escape = spelling == "\"" || spelling == "\\";
    vocab += "\"" + std::string(escape ? "\\" : "") + spelling + "\":" + std::to_string(b) + ",";
  }
  const std::string added = R"({"id":262,"content":"<s>","special":true,"lstrip":true},)"
                            R"({"id":263,"content":"<t>","special":false,"single_word":true,"rstrip":true})";
  return Tokenizer::from_json(
      R"({"normalizer":)" + normalizer + R"(,"pre_tokenizer":)" + pre_tokenizer + R"(,"added_tokens":[)" +
          added + R"(],"decoder":{"type":"ByteLevel"},"model":{)" + model_option + R"("vocab":{)" + vocab +
          R"("th":256,"the":257,"Ġthe":258,"ĠĠ":259,"ĠĠĠĠ":260,"00":261},)"
          R"("merges":["t h","th e","Ġ the","Ġ Ġ","ĠĠ ĠĠ","0 0"]}})",
      "fuzz");
}

std::string gpt4(const std::string& digits) {
  return R"({"type":"Sequence","pretokenizers":[{"type":"Split","behavior":"Isolated","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|)" +
         digits +
         R"(| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})";
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<Tokenizer> tokenizers{
      make("null", gpt4("\\\\p{N}{1,3}"), "\"ignore_merges\":true,"),
      make("{\"type\":\"NFC\"}", gpt4("\\\\p{N}"), ""),
      make(
          "null",
          R"({"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":false}]})",
          "")};
  if (size == 0) return 0;
  const std::size_t family = data[0] % 3;
  const bool parse_special = (data[0] & 64) != 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Tokenizer& tokenizer = tokenizers[family];
  const bool valid = !slidesparse::tok::find_invalid_utf8(text);
  std::vector<std::int32_t> ids;
  try {
    ids = tokenizer.encode(text, true, parse_special);
    if (!valid) std::abort();
  } catch (const slidesparse::Error&) {
    if (valid) std::abort();
    return 0;
  }
  const std::string decoded = tokenizer.decode(ids);
  slidesparse::StreamDecoder stream(tokenizer, false);
  std::string streamed;
  for (const std::int32_t id : ids) streamed += stream.push(id);
  if (streamed + stream.finish() != decoded) std::abort();
  // Tokens that strip white space take it away.
  const bool strips = text.find("<s>") != text.npos || text.find("<t>") != text.npos;
  if (family != 1 && !strips && decoded != text) std::abort();
  return 0;
}
