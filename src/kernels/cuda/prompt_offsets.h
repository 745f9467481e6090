#pragma once

#include <cstdint>

namespace slidesparse::cuda {

// Where prompts that follow each other begin, as attention of a library wants to know it: for `most` of them,
// of which those from `sequences` on have no tokens and stand at the end.
struct PromptOffsetsArgs {
  const std::int32_t* cu_seqlens = nullptr;  // [sequences + 1]
  std::int64_t sequences = 0;
  std::int64_t most = 0;                // at least as many
  std::int64_t ld = 0;                  // elements from a token's row to the next one's: what is read
  std::int64_t ldout = 0;               // what is written
  std::int32_t* lengths = nullptr;      // [most]: tokens
  std::int64_t* offsets = nullptr;      // [most + 1]: elements
  std::int64_t* offsets_out = nullptr;  // [most + 1]
};

// Returns a cudaError_t.
int prompt_offsets(const PromptOffsetsArgs& args, void* stream);

}  // namespace slidesparse::cuda
