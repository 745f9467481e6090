#include "core/samples.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace slidesparse {

Spread summarise(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  const auto at = [&](double share) {
    return samples[static_cast<std::size_t>(std::lround(share * static_cast<double>(samples.size() - 1)))];
  };
  const std::size_t half = samples.size() / 2;
  const double median = samples.size() % 2 == 1 ? samples[half] : 0.5 * (samples[half - 1] + samples[half]);
  return {median, at(0.1), at(0.9), static_cast<int>(samples.size())};
}

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<double> time_runs(const std::function<void()>& body, int warmup, int min_runs,
                              double min_seconds) {
  for (int i = 0; i < warmup; ++i) body();
  std::vector<double> samples;
  double total = 0;
  while (static_cast<int>(samples.size()) < min_runs || total < min_seconds) {
    const double start = now_seconds();
    body();
    samples.push_back(now_seconds() - start);
    total += samples.back();
  }
  return samples;
}

}  // namespace slidesparse
