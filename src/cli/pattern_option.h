#pragma once

#include <optional>
#include <string>
#include <vector>

#include "convert/convert.h"

namespace slidesparse {

// "slide" or "split". Throws kUsage for other words.
PackedLayout parse_layout_option(const std::string& text);

// Whether codes are chosen by GPTQ: "gptq" or "nearest"; nothing for "", convert_model()'s own choice. Throws
// kUsage for other words.
std::optional<bool> parse_rounding_option(const std::string& text);

// "6:8/split", "*.down_proj=8:10", ...: one default pattern, and exceptions for what their globs match; a
// layout behind a slash, options.layout where there is none. Fills options.pattern, layout and rules; throws
// kUsage.
void parse_patterns(const std::vector<std::string>& texts, ConvertOptions& options);

// "speed=1.135/split": options.target_speed and layout. False for texts that do not begin with "speed=";
// throws kUsage for what is no number.
bool parse_target_speed(const std::string& text, ConvertOptions& options);

}  // namespace slidesparse
