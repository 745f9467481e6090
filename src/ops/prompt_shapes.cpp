#include <algorithm>

#include "core/checked.h"
#include "ops/prompt_attention.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kFewestSequences = 4;
constexpr std::int64_t kShortestClass = 512;  // tokens
constexpr std::int64_t kStep = 4;
constexpr std::int64_t kPart = 256;  // what arenas round up to on a card

// The first of `least`, 4 least, 16 least, ... that is not below `value`.
std::int64_t class_of(std::int64_t value, std::int64_t least) {
  while (least < value) least *= kStep;
  return least;
}

}  // namespace

PromptShape unequal_prompts(std::int64_t sequences, std::int64_t longest, std::int64_t heads,
                            std::int64_t kv_heads, std::int64_t head_dim) {
  return {class_of(sequences, kFewestSequences),
          class_of(longest, kShortestClass),
          heads,
          kv_heads,
          head_dim,
          true};
}

std::int64_t prompt_offsets_bytes(std::int64_t sequences) {
  const std::int64_t most = class_of(sequences, kFewestSequences);
  return round_up(4 * most, kPart) + 2 * round_up(8 * (most + 1), kPart);
}

}  // namespace slidesparse
