#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/fail.h"

namespace slidesparse {
namespace {

struct Candidate {
  std::uint64_t rank;
  std::uint64_t weight;
};

bool is_before(const Candidate& a, const Candidate& b) {
  return a.rank > b.rank;
}

// Logits after the penalty, by token id.
class Penalised {
 public:
  Penalised(const SampleRow& row, std::span<const float> logits, std::span<const std::uint32_t> seen)
      : logits_(logits), seen_(seen), penalty_(row.repetition_penalty) {}
  float operator[](std::size_t id) const {
    if (penalty_ == 1.0f || (seen_[id / 32] >> (id % 32) & 1u) == 0) return logits_[id];
    return penalised_logit(logits_[id], penalty_);
  }

 private:
  std::span<const float> logits_;
  std::span<const std::uint32_t> seen_;
  float penalty_;
};

template <typename Logits>
std::uint64_t best_of(const Logits& logits, std::size_t vocab) {
  std::uint64_t best = 0;
  for (std::size_t id = 0; id < vocab; ++id) {
    best = std::max(best, ranked(logits[id], static_cast<std::int32_t>(id)));
  }
  return best;
}

// The first candidate at which the running sum exceeds `value`, which is below the sum of all.
std::size_t first_beyond(const std::vector<Candidate>& candidates, std::uint64_t value) {
  std::uint64_t sum = 0;
  std::size_t i = 0;
  while ((sum += candidates[i].weight) <= value) ++i;
  return i;
}

std::uint64_t sum_of(const std::vector<Candidate>& candidates) {
  std::uint64_t sum = 0;
  for (const Candidate& candidate : candidates) sum += candidate.weight;
  return sum;
}

// What a log probability is taken from: the largest raw logit and the sum of weights beside it.
struct RawSum {
  float largest = 0;
  std::uint64_t sum = 0;
  float logprob(float x) const {
    const double distance = x == largest ? 0.0 : static_cast<double>(x) - static_cast<double>(largest);
    return static_cast<float>(distance - std::log(static_cast<double>(sum) * 0x1p-40));
  }
};
RawSum raw_sum(std::span<const float> logits) {
  const std::uint64_t best = best_of(logits, logits.size());
  RawSum raw{ranked_logit(best), 0};
  const WeightRule rule{raw.largest, 1.0f, 0};
  for (const float x : logits) raw.sum += rule.weight(x);
  return raw;
}

}  // namespace

void check_sampling_options(const SamplingOptions& options) {
  if (!(options.temperature >= 0.0 && options.temperature <= 1e6)) {
    fail(ErrorKind::kUsage, "temperature {}: a number from 0 (greedy) to 1e6 is needed", options.temperature);
  }
  if (!(options.top_p > 0.0 && options.top_p <= 1.0)) {
    fail(ErrorKind::kUsage, "top-p {}: a number above 0 and at most 1 is needed", options.top_p);
  }
  if (options.top_k < 0)
    fail(ErrorKind::kUsage, "top-k {}: 0 (all) or a positive number is needed", options.top_k);
  if (!(options.min_p >= 0.0 && options.min_p <= 1.0))
    fail(ErrorKind::kUsage, "min-p {}: a number from 0 (all) to 1 is needed", options.min_p);
  if (!(options.repetition_penalty >= 0.01 && options.repetition_penalty <= 100.0)) {
    fail(ErrorKind::kUsage, "repetition penalty {}: a number from 0.01 to 100 is needed (1: none)",
         options.repetition_penalty);
  }
}

SampleRow sample_row(const SamplingOptions& options, std::uint64_t index, std::int32_t slot) {
  SampleRow row;
  row.temperature = static_cast<float>(options.temperature);
  row.top_p = static_cast<float>(options.top_p);
  row.min_p = static_cast<float>(options.min_p);
  row.repetition_penalty = static_cast<float>(options.repetition_penalty);
  row.top_k = static_cast<std::int32_t>(
      std::min<std::int64_t>(options.top_k, std::numeric_limits<std::int32_t>::max()));
  row.slot = slot;
  row.seed = options.seed;
  row.index = index;
  return row;
}

std::int32_t sample_token(const SampleRow& row, std::span<const float> logits,
                          std::span<const std::uint32_t> seen) {
  const Penalised penalised(row, logits, seen);
  const std::uint64_t best = best_of(penalised, logits.size());
  if (best == 0 || is_greedy(row)) return ranked_id(best);

  const WeightRule rule = weight_rule(row, ranked_logit(best));
  std::vector<Candidate> candidates;
  for (std::size_t id = 0; id < logits.size(); ++id) {
    const float x = penalised[id];
    const std::uint64_t weight = rule.weight(x);
    if (weight != 0) candidates.push_back({ranked(x, static_cast<std::int32_t>(id)), weight});
  }
  if (row.top_k > 0 && static_cast<std::size_t>(row.top_k) < candidates.size()) {
    std::ranges::nth_element(candidates, candidates.begin() + row.top_k, is_before);
    candidates.resize(static_cast<std::size_t>(row.top_k));
  }
  std::ranges::sort(candidates, is_before);
  if (row.top_p < 1) {
    const std::uint64_t wanted = top_p_weight(row.top_p, sum_of(candidates));
    candidates.resize(first_beyond(candidates, wanted - 1) + 1);
  }
  const std::uint64_t drawn = drawn_weight(row, sum_of(candidates));
  return ranked_id(candidates[first_beyond(candidates, drawn)].rank);
}

float token_logprob(std::span<const float> logits, std::int32_t id) {
  if (id < 0) return -std::numeric_limits<float>::infinity();
  return raw_sum(logits).logprob(logits[static_cast<std::size_t>(id)]);
}

std::vector<TokenLogprob> top_logprobs(std::span<const float> logits, std::int64_t n) {
  if (n <= 0) return {};
  std::vector<std::uint64_t> ranks;
  for (std::size_t id = 0; id < logits.size(); ++id) {
    const std::uint64_t rank = ranked(logits[id], static_cast<std::int32_t>(id));
    if (rank != 0) ranks.push_back(rank);
  }
  const auto count = std::min(static_cast<std::ptrdiff_t>(n), static_cast<std::ptrdiff_t>(ranks.size()));
  std::ranges::partial_sort(ranks, ranks.begin() + count, std::greater<>());
  const RawSum raw = raw_sum(logits);
  std::vector<TokenLogprob> top;
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    const std::uint64_t rank = ranks[static_cast<std::size_t>(i)];
    top.push_back({ranked_id(rank), raw.logprob(ranked_logit(rank))});
  }
  return top;
}

}  // namespace slidesparse
