#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/random.h"

namespace slidesparse::testing_support {

// Small dense matrices in double, row-major.
using Matrix = std::vector<std::vector<double>>;

// Mean of x x^T over `rows` random inputs whose channels are mixed, so that they are correlated. Lower
// triangle, the rest is poisoned.
inline std::vector<float> random_moments(std::int64_t k, std::int64_t rows, std::uint64_t seed,
                                         float poison) {
  Random random(seed);
  std::vector<double> moments(static_cast<std::size_t>(k * k), 0.0);
  std::vector<double> x(static_cast<std::size_t>(k));
  for (std::int64_t r = 0; r < rows; ++r) {
    double common = static_cast<double>(random.normal());
    for (double& value : x) {
      common = 0.7 * common + static_cast<double>(random.normal());
      value = common;
    }
    for (std::int64_t i = 0; i < k; ++i) {
      for (std::int64_t j = 0; j <= i; ++j)
        moments[static_cast<std::size_t>(i * k + j)] +=
            x[static_cast<std::size_t>(i)] * x[static_cast<std::size_t>(j)] / static_cast<double>(rows);
    }
  }
  std::vector<float> result(moments.size(), poison);
  for (std::int64_t i = 0; i < k; ++i) {
    for (std::int64_t j = 0; j <= i; ++j)
      result[static_cast<std::size_t>(i * k + j)] =
          static_cast<float>(moments[static_cast<std::size_t>(i * k + j)]);
  }
  return result;
}

// The whole matrix in the order of `order` (empty: as it is), `added` on its diagonal.
inline Matrix full_matrix(const std::vector<float>& lower, std::int64_t k,
                          const std::vector<std::int32_t>& order, double added) {
  Matrix h(static_cast<std::size_t>(k), std::vector<double>(static_cast<std::size_t>(k)));
  for (std::size_t i = 0; i < h.size(); ++i) {
    for (std::size_t j = 0; j < h.size(); ++j) {
      const auto a = order.empty() ? i : static_cast<std::size_t>(order[i]);
      const auto b = order.empty() ? j : static_cast<std::size_t>(order[j]);
      h[i][j] = static_cast<double>(lower[(a > b ? a : b) * h.size() + (a > b ? b : a)]);
    }
    h[i][i] += added;
  }
  return h;
}

// Solves a x = b by elimination with pivots.
inline std::vector<double> solve(Matrix a, std::vector<double> b) {
  const std::size_t n = b.size();
  for (std::size_t i = 0; i < n; ++i) {
    std::size_t pivot = i;
    for (std::size_t r = i; r < n; ++r) {
      if (std::abs(a[r][i]) > std::abs(a[pivot][i])) pivot = r;
    }
    std::swap(a[i], a[pivot]);
    std::swap(b[i], b[pivot]);
    for (std::size_t r = i + 1; r < n; ++r) {
      const double factor = a[r][i] / a[i][i];
      for (std::size_t c = i; c < n; ++c) a[r][c] -= factor * a[i][c];
      b[r] -= factor * b[i];
    }
  }
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t c = i + 1; c < n; ++c) b[i] -= a[i][c] * b[c];
    b[i] /= a[i][i];
  }
  return b;
}

// change h change^T.
inline double cost_of(const Matrix& h, const std::vector<double>& change) {
  double sum = 0;
  for (std::size_t i = 0; i < change.size(); ++i) {
    for (std::size_t j = 0; j < change.size(); ++j) sum += change[i] * h[i][j] * change[j];
  }
  return sum;
}

// The change of least cost with change[i] = required[i] where fixed[i].
inline std::vector<double> best_change(const Matrix& h, const std::vector<bool>& fixed,
                                       const std::vector<double>& required) {
  std::vector<std::size_t> free;
  for (std::size_t i = 0; i < fixed.size(); ++i) {
    if (!fixed[i]) free.push_back(i);
  }
  std::vector<double> change(fixed.size(), 0.0);
  for (std::size_t i = 0; i < fixed.size(); ++i) {
    if (fixed[i]) change[i] = required[i];
  }
  if (free.empty()) return change;
  Matrix a(free.size(), std::vector<double>(free.size()));
  std::vector<double> b(free.size(), 0.0);
  for (std::size_t i = 0; i < free.size(); ++i) {
    for (std::size_t j = 0; j < free.size(); ++j) a[i][j] = h[free[i]][free[j]];
    for (std::size_t j = 0; j < fixed.size(); ++j) {
      if (fixed[j]) b[i] -= h[free[i]][j] * required[j];
    }
  }
  const std::vector<double> values = solve(a, b);
  for (std::size_t i = 0; i < free.size(); ++i) change[free[i]] = values[i];
  return change;
}

inline std::vector<float> random_weights(std::int64_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> w(static_cast<std::size_t>(count));
  for (float& value : w) value = random.normal();
  return w;
}

}  // namespace slidesparse::testing_support
