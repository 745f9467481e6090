#pragma once

#include <functional>
#include <vector>

namespace slidesparse {

// A set of timings.
struct Spread {
  double median = 0;  // seconds
  double low = 0;     // 10th percentile
  double high = 0;    // 90th percentile
  int count = 0;
};

// Order statistics of `samples`; all zero when it is empty.
Spread summarise(std::vector<double> samples);

// Runs `body` warmup times untimed, then at least `min_runs` times and at least `min_seconds` in all; returns
// seconds a run.
std::vector<double> time_runs(const std::function<void()>& body, int warmup, int min_runs,
                              double min_seconds);

// Seconds on a clock that only goes forward.
double now_seconds();

}  // namespace slidesparse
