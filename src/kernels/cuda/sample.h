#pragma once

#include <cstdint>

#include "core/sample_rules.h"

// Draws tokens from logits on the card, by the rules of core/sample_rules.h. Nothing is allocated, nothing
// waits, and launches depend on sizes, pointers and flags alone: a call can be recorded into a CUDA graph and
// replayed with other logits and other rows.
namespace slidesparse::cuda {

constexpr int kMostTopLogprobs = 20;
constexpr std::int64_t kMostTopVocab = 300'000;  // with top_n > 0: the candidates fit into shared memory

struct SampleArgs {
  const float* logits = nullptr;  // FP32 [rows, vocab], row stride ld (elements)
  std::int64_t ld = 0;
  std::int64_t rows = 0;
  std::int64_t vocab = 0;          // at most kMostSampleVocab
  const SampleRow* row = nullptr;  // [rows], on the card; values as check_sampling_options wants them
  bool all_greedy = false;  // the caller knows that is_greedy() holds for every row: they are read once
  std::uint32_t* seen =
      nullptr;  // [slots, seen_words(vocab)]; null: every row's penalty is 1. Rows with another
                // penalty read their slot and add what they choose; each needs its own slot.
  std::int32_t* token = nullptr;   // out [rows]; -1: every logit is NaN or -inf
  float* logprob = nullptr;        // out [rows], of the token (-inf for -1); null: not wanted
  int top_n = 0;                   // at most kMostTopLogprobs
  std::int32_t* top_id = nullptr;  // out [rows, top_n], descending, ties by id; -1 where nothing is left
  float* top_logprob = nullptr;    // out [rows, top_n]; -inf for -1
  void* workspace = nullptr;  // sample_workspace_bytes(rows, vocab), aligned to 8 bytes; contents undefined
};

// Of a call with these sizes at most, bytes; larger sizes need more.
std::int64_t sample_workspace_bytes(std::int64_t rows, std::int64_t vocab);

// Returns a cudaError_t.
int sample(const SampleArgs& args, void* stream);

struct SeenArgs {
  const std::int32_t* tokens = nullptr;  // [offsets[lists]]; ids outside [0, vocab) are passed over
  const std::int64_t* offsets =
      nullptr;  // [lists + 1]: list i is tokens[offsets[i]] .. tokens[offsets[i + 1] - 1]
  const std::int32_t* slot = nullptr;  // [lists], each another
  std::int64_t lists = 0;
  std::int64_t vocab = 0;
  bool keep = false;              // false: a slot's bits are cleared first, as for a new sequence
  std::uint32_t* seen = nullptr;  // [slots, seen_words(vocab)]
};

// Enters lists of tokens into the bitmap of seen tokens. Returns a cudaError_t.
int mark_seen(const SeenArgs& args, void* stream);

}  // namespace slidesparse::cuda
