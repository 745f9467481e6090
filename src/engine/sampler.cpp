#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

#include "core/fail.h"

namespace slidesparse {

void check_sampling_options(const SamplingOptions& options) {
  if (!(options.temperature >= 0.0 && options.temperature <= 1e6)) {
    fail(ErrorKind::kUsage, "temperature {}: a number from 0 (greedy) to 1e6 is needed", options.temperature);
  }
  if (!(options.top_p > 0.0 && options.top_p <= 1.0)) {
    fail(ErrorKind::kUsage, "top-p {}: a number above 0 and at most 1 is needed", options.top_p);
  }
  if (options.top_k < 0)
    fail(ErrorKind::kUsage, "top-k {}: 0 (all) or a positive number is needed", options.top_k);
}

Sampler::Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {
  check_sampling_options(options);
}

std::int32_t Sampler::greedy(std::span<const float> logits) const {
  std::int32_t best = -1;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) continue;
    if (best < 0 || logits[i] > logits[static_cast<std::size_t>(best)]) best = static_cast<std::int32_t>(i);
  }
  if (best < 0) fail_input("the model's logits are all NaN: its weights are damaged");
  return best;
}

std::int32_t Sampler::sample(std::span<const float> logits) {
  if (options_.temperature == 0.0 || options_.top_k == 1) return greedy(logits);
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (!std::isnan(logits[i])) candidates_.push_back({logits[i], static_cast<std::int32_t>(i)});
  }
  if (candidates_.empty()) fail_input("the model's logits are all NaN: its weights are damaged");
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  const auto kept = options_.top_k == 0
                        ? candidates_.size()
                        : std::min(candidates_.size(), static_cast<std::size_t>(options_.top_k));
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(kept),
                    candidates_.end(), before);
  candidates_.resize(kept);

  const double highest = candidates_.front().logit;
  // Infinite logits share everything among themselves: inf - inf has no meaning.
  probabilities_.clear();
  double total = 0;
  for (const Candidate& candidate : candidates_) {
    const double logit = candidate.logit;
    const double weight = logit == highest ? 1.0 : std::exp((logit - highest) / options_.temperature);
    probabilities_.push_back(weight);
    total += weight;
  }
  std::size_t count = candidates_.size();
  if (options_.top_p < 1.0) {
    const double wanted = options_.top_p * total;
    double sum = 0;
    count = 0;
    while (count < candidates_.size() && sum < wanted) sum += probabilities_[count++];
    total = sum;
  }
  // 53 random bits, so that rare tokens of a large vocabulary keep their share.
  double point = static_cast<double>(random_.bits() >> 11) * 0x1p-53 * total;
  for (std::size_t i = 0; i < count; ++i) {
    if (point < probabilities_[i]) return candidates_[i].id;
    point -= probabilities_[i];
  }
  return candidates_[count - 1].id;
}

}  // namespace slidesparse
