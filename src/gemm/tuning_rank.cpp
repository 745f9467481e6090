#include <fmt/core.h>

#include <algorithm>
#include <string_view>
#include <tuple>

#include "gemm/tuning_cache.h"

namespace slidesparse {
namespace {

using Usable = std::function<bool(const TunedKernel&)>;

bool counts(const TunedKernel& kernel, const Usable& usable) {
  return kernel.bad.empty() && kernel.seconds.median > 0 && usable(kernel);
}

// Usable kernels of a point, their times multiplied by `factor`.
std::vector<TimedKernel> scaled(const TunedPoint& point, double factor, const std::string& how,
                                const Usable& usable) {
  std::vector<TimedKernel> found;
  for (const TunedKernel& kernel : point.kernels) {
    if (counts(kernel, usable)) found.push_back({&kernel, kernel.seconds.median * factor, how});
  }
  return found;
}

std::vector<TimedKernel> interpolated(const TunedPoints::value_type& low, const TunedPoints::value_type& high,
                                      std::int64_t m, const std::string& how, const Usable& usable) {
  const double share = static_cast<double>(m - low.first) / static_cast<double>(high.first - low.first);
  std::vector<TimedKernel> found;
  for (const TunedKernel& kernel : low.second.kernels) {
    if (!counts(kernel, usable)) continue;
    for (const TunedKernel& same : high.second.kernels) {
      if (!same.same_kernel(kernel) || !counts(same, usable)) continue;
      found.push_back(
          {&kernel, kernel.seconds.median + share * (same.seconds.median - kernel.seconds.median), how});
      break;
    }
  }
  return found;
}

std::vector<TimedKernel> estimate(const TunedPoints& points, std::int64_t m, const Usable& usable) {
  const auto any = [&](const TunedPoints::value_type& point) {
    return std::any_of(point.second.kernels.begin(), point.second.kernels.end(),
                       [&](const TunedKernel& kernel) { return counts(kernel, usable); });
  };
  const TunedPoints::value_type* low = nullptr;   // largest M <= m
  const TunedPoints::value_type* high = nullptr;  // smallest M >= m
  for (const auto& point : points) {
    if (!any(point)) continue;
    if (point.first <= m) low = &point;
    if (point.first >= m && high == nullptr) high = &point;
  }
  if (low != nullptr && low->first == m) return scaled(low->second, 1, "measured", usable);
  if (low == nullptr && high == nullptr) return {};
  if (low == nullptr) {
    return scaled(high->second, 1, fmt::format("by rule: no slower than measured at M={}", high->first),
                  usable);
  }
  const double per_token = static_cast<double>(m) / static_cast<double>(low->first);
  if (high == nullptr) {
    return scaled(low->second, per_token, fmt::format("by rule: per token as measured at M={}", low->first),
                  usable);
  }
  std::vector<TimedKernel> both = interpolated(
      *low, *high, m, fmt::format("by rule: between M={} and M={}", low->first, high->first), usable);
  if (!both.empty()) return both;
  return scaled(high->second, 1, fmt::format("by rule: no slower than measured at M={}", high->first),
                usable);
}

// Figures of kernels that were stopped early are from fewer and shorter windows.
bool comes_first(const TimedKernel& a, const TimedKernel& b) {
  return std::tuple(!a.kernel->finalist, a.seconds, std::string_view(a.kernel->backend),
                    std::string_view(a.kernel->name), std::string_view(a.kernel->config)) <
         std::tuple(!b.kernel->finalist, b.seconds, std::string_view(b.kernel->backend),
                    std::string_view(b.kernel->name), std::string_view(b.kernel->config));
}

}  // namespace

std::vector<TimedKernel> rank_measured(const TunedPoints& points, std::int64_t m,
                                       const std::function<bool(const TunedKernel&)>& usable) {
  std::vector<TimedKernel> found = estimate(points, m, usable);
  std::stable_sort(found.begin(), found.end(), comes_first);
  return found;
}

}  // namespace slidesparse
