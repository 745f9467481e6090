#pragma once

#include <cstdint>
#include <set>
#include <string>

namespace slidesparse {

// A valid tokenizer.json whose tokens are the 256 bytes (ids: the lowest ones that are not special) and the
// special ids given, called <|special_ID|>. For models with random weights, so that every command works on
// them.
std::string tiny_tokenizer_json(const std::set<std::int64_t>& special_ids);

}  // namespace slidesparse
