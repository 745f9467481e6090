#include "engine/step_times.h"

#include <algorithm>
#include <cmath>

namespace slidesparse {

void StepTimes::add(double start, double arrival) {
  const double seconds = arrival - std::max(start, last_arrival_);
  last_arrival_ = arrival;
  sum_ += seconds;
  if (last_.size() < kKept) {
    last_.push_back(seconds);
    return;
  }
  last_[next_] = seconds;
  next_ = (next_ + 1) % kKept;
}

double StepTimes::quantile(double q) const {
  if (last_.empty()) return 0;
  std::vector<double> sorted = last_;
  const auto count = static_cast<double>(sorted.size());
  const auto rank = static_cast<std::size_t>(std::clamp(std::ceil(q * count), 1.0, count)) - 1;
  std::ranges::nth_element(sorted, sorted.begin() + static_cast<std::ptrdiff_t>(rank));
  return sorted[rank];
}

}  // namespace slidesparse
