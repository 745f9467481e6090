#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <string>

// Attention of whole prompts by cuDNN (scaled dot product attention of its graph API), which is opened at run
// time. For steps in which no sequence has anything in the cache yet; anything else is for
// kernels/cuda/paged_attention.
namespace slidesparse {

struct PromptShape {
  std::int64_t sequences = 0;
  std::int64_t length = 0;  // tokens of each
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  // Lengths of their own, which PromptArgs tells, of up to `length` tokens and `sequences` prompts.
  bool unequal = false;
  auto operator<=>(const PromptShape&) const = default;  // NOLINT(modernize-use-nullptr): there is no zero
};

// The shape of the plan that serves prompts of unequal lengths, the longest of `longest` tokens. A plan takes
// tenths of a second to make, so few serve all steps: for up to 4, 16, 64, ... sequences of up to 512, 2048,
// 8192, ... tokens. What a step has fewer of costs blocks that end at once.
PromptShape unequal_prompts(std::int64_t sequences, std::int64_t longest, std::int64_t heads,
                            std::int64_t kv_heads, std::int64_t head_dim);
// Bytes that lengths and offsets of so many sequences take from an arena.
std::int64_t prompt_offsets_bytes(std::int64_t sequences);

// Device pointers on boundaries of 16 bytes; a token's rows follow the token's before it.
struct PromptArgs {
  const void* qkv = nullptr;  // BF16 [tokens, (heads + 2 kv_heads) head_dim]: q, k (both rotated), v
  std::int64_t ld = 0;        // elements from one token to the next
  void* out = nullptr;        // BF16 [tokens, heads * head_dim]
  std::int64_t ldout = 0;
  void* workspace = nullptr;  // kPromptWorkspace bytes
  // Of unequal lengths (kernels/cuda/prompt_offsets.h makes them); prompts that are not there have none.
  const std::int32_t* lengths = nullptr;      // [sequences of the shape]
  const std::int64_t* offsets = nullptr;      // [sequences + 1]: of rows of qkv, in elements
  const std::int64_t* offsets_out = nullptr;  // [sequences + 1]: of rows of out
};

// The most that a plan may take; one that wants more is not used.
inline constexpr std::int64_t kPromptWorkspace = std::int64_t{16} << 20;

// "cuDNN 9.14.0"; empty where it cannot be used. Makes nothing on a card.
std::string prompt_attention_library();

class PromptAttention {
 public:
  PromptAttention();  // never throws: see reason()
  ~PromptAttention();
  PromptAttention(const PromptAttention&) = delete;
  PromptAttention& operator=(const PromptAttention&) = delete;

  // Why it cannot be used at all; empty: it can.
  const std::string& reason() const;
  std::string version() const;  // "cuDNN 9.14.0"; empty without the library

  // Whether cuDNN has a plan for this shape. The first question about a shape makes the plan, which takes
  // some tenths of a second; shapes that are asked about once and never again are the caller's to avoid.
  bool takes(const PromptShape& shape, std::int64_t ld, std::int64_t ldout);
  // Causal, scaled by 1 / sqrt(head_dim). Only what takes() said yes to; neither allocates nor synchronises.
  // Throws kInternal with the library's words.
  void run(const PromptShape& shape, const PromptArgs& args, void* stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace slidesparse
