#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "core/sample_rules.h"
#include "kernels/cuda/sample.h"

namespace slidesparse {

// One call of the sampler, on the host.
struct SampleCase {
  std::int64_t vocab = 0;
  std::int64_t ld = 0;
  std::vector<float> logits;        // [rows, vocab], row stride ld
  std::vector<SampleRow> row;       // [rows]
  std::vector<std::uint32_t> seen;  // [rows, seen_words(vocab)]: slots are a permutation of rows
  bool with_seen = false;
  bool all_greedy = false;
  bool with_logprob = false;
  int top_n = 0;
  std::int64_t offset = 0;  // bytes that the logits lie off an aligned address
  std::int64_t rows() const { return static_cast<std::int64_t>(row.size()); }
};

// Kinds of logits: "normal", "spread" (sd 6), "flat" (sd 0.01), "ties" (a few values), "equal", "dominant",
// "nan" (a third), "inf" (some of both signs), "masked" (nearly all -inf), "none" (NaN and -inf alone).
std::vector<std::string_view> logit_kinds();
std::vector<float> make_logits(std::string_view kind, std::int64_t count, std::uint64_t seed);

// Options of all sorts: number `i` of a rotation through greedy, top-k, top-p, min-p and temperatures.
SampleRow some_row(std::int64_t i, bool with_penalty);

// Runs it twice and once from a graph, over poisoned outputs and workspace, and compares everything with the
// CPU.
void check_sample(const SampleCase& c, const CudaStream& stream);

}  // namespace slidesparse
