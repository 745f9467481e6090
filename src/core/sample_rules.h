#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "core/fast_exp.h"
#include "core/random.h"

// How a token is drawn from logits: the rules, and the arithmetic that the CPU and the card share. Everything
// is constexpr, so that it can be called on the card, and the sums are integers, so that their order does not
// matter: both take the same token, bit for bit.
//
//  1. Penalty: the logit x of every token that the request has seen (prompt and output, each once) becomes x
//  / p
//     if x > 0, else x * p. -0 counts as +0. NaN and -inf are never chosen; when nothing else is there, the
//     token is -1.
//  2. Temperature 0 or top-k 1: the largest logit wins, of equal ones the lowest id. Done.
//  3. Temperature t: a token weighs 2^40 * e^((x - largest) / t), rounded down. The largest weigh 2^40,
//  infinite
//     ones too. Weight 0 (less than 2^-40 of the largest) is never drawn.
//  4. Min-p: weights below min_p * 2^40 become 0.
//  5. Order: descending x, ties to the lower id, without tokens of weight 0.
//  6. Top-k: the first k stay.
//  7. Top-p: of these the shortest beginning stays whose weights reach top_p * their sum.
//  8. Draw: the first token at which the running sum of weights exceeds u times the sum of what stayed. u in
//     [0, 1) has the 64 bits of random_bits(seed, index); its first 24 are random_uniform(seed, index). Index
//     is the token's number in its request, so neither the batch nor preemption changes what is drawn.
//
// Log probabilities are those of the raw logits, before the penalty and at temperature 1: x - largest -
// log(sum), the sum over weights as in 3, which are exact enough that what is lost is below 2e-7 of it. The
// logarithm is taken in FP64 and the result rounded to FP32: CPU and card may differ by one unit in its last
// place.
namespace slidesparse {

// One row's options. 40 bytes, the same on the CPU and on the card.
struct SampleRow {
  float temperature = 0;         // 0: greedy
  float top_p = 1;               // 1: all
  float min_p = 0;               // 0: all
  float repetition_penalty = 1;  // 1: none
  std::int32_t top_k = 0;        // 0: all
  std::int32_t slot = 0;         // row of the bitmap of seen tokens; not read with penalty 1
  std::uint64_t seed = 0;
  std::uint64_t index = 0;  // of the token within its request
};

// Sums of weights stay below 2^63.
inline constexpr std::int64_t kMostSampleVocab = std::int64_t{1} << 23;
inline constexpr std::uint64_t kWholeWeight = std::uint64_t{1} << 40;

constexpr bool is_greedy(const SampleRow& row) {
  return !(row.temperature > 0) || row.top_k == 1;
}

constexpr float penalised_logit(float x, float penalty) {
  return x > 0 ? x / penalty : x * penalty;
}

// Larger logits have larger keys; 0 for what is never chosen (NaN and -inf).
constexpr std::uint32_t logit_key(float x) {
  if (!(x > -std::numeric_limits<float>::infinity())) return 0;
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x + 0.0f);  // -0 + 0 is +0
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
constexpr float logit_of_key(std::uint32_t key) {
  return std::bit_cast<float>((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

// The order of rule 5 in one number, larger first. 0: never chosen.
constexpr std::uint64_t ranked(float x, std::int32_t id) {
  const std::uint32_t key = logit_key(x);
  return key == 0 ? 0 : std::uint64_t{key} << 32 | (0xffffffffu - static_cast<std::uint32_t>(id));
}
constexpr float ranked_logit(std::uint64_t rank) {
  return logit_of_key(static_cast<std::uint32_t>(rank >> 32));
}
constexpr std::int32_t ranked_id(std::uint64_t rank) {
  return rank == 0 ? -1 : static_cast<std::int32_t>(0xffffffffu - static_cast<std::uint32_t>(rank));
}

// How a row's logits become weights.
struct WeightRule {
  float largest = 0;
  float inverse_temperature = 1;
  std::uint64_t least = 1;  // lighter ones weigh 0

  // (x - largest) / t: 0 or less, or NaN. Never grows when x falls.
  constexpr float distance(float x) const {
    return x == largest ? 0.0f : (x - largest) * inverse_temperature;
  }
  constexpr std::uint64_t weight_at(float distance) const {
    if (!(distance > -28.0f)) return 0;  // 2^40 * e^-28 is 0.76; NaN and -inf end here too
    const auto weight = static_cast<std::uint64_t>(fast_exp(distance) * 0x1p40f);
    return weight < least ? 0 : weight;
  }
  constexpr std::uint64_t weight(float x) const { return weight_at(distance(x)); }
};

constexpr WeightRule weight_rule(const SampleRow& row, float largest) {
  const float share = row.min_p > 0 ? (row.min_p < 1 ? row.min_p : 1.0f) : 0.0f;
  return {largest, 1.0f / row.temperature, static_cast<std::uint64_t>(share * 0x1p40f)};
}

// The running sum that rule 7 wants, at least 1; `sum` itself for top_p 1.
constexpr std::uint64_t top_p_weight(float top_p, std::uint64_t sum) {
  if (!(top_p < 1)) return sum;
  const double part = static_cast<double>(sum) * static_cast<double>(top_p);
  return part >= 1 ? static_cast<std::uint64_t>(part) : 1;
}

// floor(sum * u) of rule 8.
constexpr std::uint64_t drawn_weight(const SampleRow& row, std::uint64_t sum) {
  constexpr std::uint64_t kLow = 0xffffffffu;
  const std::uint64_t bits = random_bits(row.seed, row.index);
  const std::uint64_t middle = (sum & kLow) * (bits >> 32) + ((sum & kLow) * (bits & kLow) >> 32);
  const std::uint64_t other = (sum >> 32) * (bits & kLow) + (middle & kLow);
  return (sum >> 32) * (bits >> 32) + (middle >> 32) + (other >> 32);
}

// The bitmap of seen tokens has this many 32-bit words a sequence; bit id % 32 of word id / 32 is token id.
constexpr std::int64_t seen_words(std::int64_t vocab) {
  return (vocab + 31) / 32;
}

}  // namespace slidesparse
