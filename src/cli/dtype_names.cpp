#include "cli/dtype_names.h"

#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {

DType parse_dtype_option(const std::string& text) {
  if (text == kInt8Word) return DType::kI8;
  if (text == kFp8Word) return DType::kF8E4M3;
  if (text == kBf16Word) return DType::kBF16;
  fail(ErrorKind::kUsage, "--dtype {}: possible are int8, fp8, bf16", printable(text, 40));
}

DType parse_head_option(const std::string& text) {
  if (text == kBf16Word) return DType::kBF16;
  if (text == kInt8Word) return DType::kI8;
  const bool fp8 = text == kFp8Word;
  fail(ErrorKind::kUsage, "--head {}: directories have it in bf16 or int8{}", printable(text, 40),
       fp8 ? "; `generate`, `eval` and `bench` quantise a bf16 one when they load it" : "");
}

DType parse_kv_dtype_option(const std::string& text) {
  if (text == kBf16Word) return DType::kBF16;
  if (text == kFp8Word) return DType::kF8E4M3;
  fail(ErrorKind::kUsage, "--kv-cache-dtype {}: possible are bf16, fp8", printable(text, 40));
}

Pattern parse_pattern_option(const std::string& text) {
  try {
    return Pattern::parse(text);
  } catch (const Error& error) {
    fail(ErrorKind::kUsage, "--pattern {}", error.what());
  }
}

std::vector<Pattern> parse_pattern_list(const std::vector<std::string>& texts) {
  std::vector<Pattern> patterns;
  patterns.reserve(texts.size());
  for (const std::string& text : texts) patterns.push_back(parse_pattern_option(text));
  return patterns;
}

}  // namespace slidesparse
