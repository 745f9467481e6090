#pragma once

#include <string>
#include <vector>

#include "slidesparse/core/dtype.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {

// "int8", "fp8" or "bf16" on the command line. Throws kUsage with the list.
DType parse_dtype_option(const std::string& text);

// "bf16" or "int8": what --head of `convert` takes. Throws kUsage with the list.
DType parse_head_option(const std::string& text);

// "bf16" or "fp8": what --kv-cache-dtype takes. Throws kUsage with the list.
DType parse_kv_dtype_option(const std::string& text);

// Pattern::parse with the error of a wrong option (exit code 2).
Pattern parse_pattern_option(const std::string& text);
// "dense,2:4,6:8", each once.
std::vector<Pattern> parse_pattern_list(const std::vector<std::string>& texts);

}  // namespace slidesparse
