#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "model/model.h"

namespace slidesparse {

// What a model answers greedily to a few prompts, with all logits: what the outputs of the same weights on
// another device, on other kernels and in other batches are compared with. Made once for a model; it keeps
// 23 rows of logits for each of 4 prompts (56 MB at 152,064 tokens) and nothing of the model.
class GreedyReference {
 public:
  static constexpr std::int64_t kSequences = 4;
  static constexpr std::int64_t kPrompt = 16;  // tokens of a prompt, random ones of the seed
  static constexpr std::int64_t kNew = 8;      // tokens that follow it

  // Runs `model` on the CPU: the prompts in one step, then a token of each in every step, keys and values
  // rounded as a cache of `kv` (kBF16 or kF8E4M3) would. Of a model with fewer positions than that takes,
  // what fits. Throws as Model::forward does.
  GreedyReference(const Model& model, std::uint64_t seed, DType kv = DType::kBF16);

  // For other processes of the same build on the same host that need the same reference: what makes it the
  // same is the caller's to say by the name. Written at once; load() returns nothing where there is no such
  // file or it is of other sizes. save() throws kIo.
  void save(const std::filesystem::path& file) const;
  static std::optional<GreedyReference> load(const std::filesystem::path& file);

  // Positions whose logits are known, from 0 on.
  std::int64_t positions() const { return positions_; }
  // What stands at a position of one of the sequences, counted on from kSequences again: of its prompt or
  // what the model said.
  std::int32_t token(std::int64_t sequence, std::int64_t position) const;
  // The likeliest token behind that position; -1: a logit was no number.
  std::int32_t greedy(std::int64_t sequence, std::int64_t position) const;
  // How much less likely `drawn` is behind that position: the largest logit less its own, in standard
  // deviations of all logits there. 0: the same token, or as likely. Infinite for no token, and where a logit
  // was no number.
  double gap(std::int64_t sequence, std::int64_t position, std::int32_t drawn) const;

 private:
  GreedyReference(std::int64_t vocab, std::int64_t positions);  // nothing known yet
  std::size_t row(std::int64_t sequence, std::int64_t position) const {
    return static_cast<std::size_t>(sequence % kSequences * positions_ + position);
  }
  const float* logits(std::size_t row) const {
    return logits_.as<float>() + static_cast<std::int64_t>(row) * vocab_;
  }

  std::int64_t vocab_;
  std::int64_t positions_;
  std::vector<std::int32_t> tokens_;  // [kSequences, positions]
  Buffer logits_;                     // FP32 [kSequences, positions, vocab]
  std::vector<std::int32_t> greedy_;  // [kSequences, positions]
  std::vector<double> deviation_;     // [kSequences, positions]; NaN where a logit is no number
};

// What comparing outputs with a reference has found.
struct GreedyCheck {
  double allowed = 0;          // gap of an output that is not wrong
  std::int64_t compared = 0;   // outputs
  std::int64_t differing = 0;  // of them, other tokens than the reference's
  std::int64_t wrong = 0;      // of those, beyond what is allowed
  double worst_gap = 0;
  std::string first_wrong;  // in words; empty: none

  void compare(const GreedyReference& reference, std::int64_t sequence, std::int64_t position,
               std::int32_t drawn);
  // "ok", or what is wrong, in one line.
  std::string words() const;
};

// The gap that rounding alone may open, in standard deviations of the logits. Both sides round at the same
// places and add in other orders, and a rounding that falls the other way moves an INT8 code by a 127th of
// the largest value of a token, a BF16 one by 2^-8 and an FP8 one by 2^-3 of itself. What every layer adds of
// that is independent, so it grows as the square root of their number: half a deviation at 16 layers, and a
// whole one with anything in FP8. Seen on an H200 with random weights: 0.51 of 0.87 (INT8) and 1.00 of 1.73
// (FP8) at 48 layers, 0.77 of 1.32 (FP8) at 28. Outputs of a wrong scale, row or page are about four
// deviations away.
double greedy_tolerance(const ModelSummary& summary, std::int64_t layers, DType head, DType kv);

}  // namespace slidesparse
