#include "cli/dtype_names.h"

#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {

DType parse_dtype_option(const std::string& text) {
  if (text == "int8") return DType::kI8;
  if (text == "fp8") return DType::kF8E4M3;
  if (text == "bf16") return DType::kBF16;
  fail(ErrorKind::kUsage, "--dtype {}: possible are int8, fp8, bf16", printable(text, 40));
}

std::string_view dtype_option_name(DType dtype) {
  switch (dtype) {
    case DType::kI8:
      return "int8";
    case DType::kF8E4M3:
      return "fp8";
    case DType::kBF16:
      return "bf16";
    default:
      return dtype_name(dtype);
  }
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
