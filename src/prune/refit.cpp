#include "prune/refit.h"

#include <algorithm>
#include <vector>

#include "core/fail.h"
#include "core/linear_algebra.h"
#include "core/parallel.h"

namespace slidesparse {
namespace {

// Rows that are worked on at a time: enough for the product with H to run at speed.
constexpr std::int64_t kRows = 512;

// One block of rows. All matrices are [rows, k].
class Refit {
 public:
  Refit(std::span<const float> moments, double added, std::int64_t k, std::int64_t rows)
      : moments_(moments), added_(static_cast<float>(added)), k_(k), rows_(rows) {
    // Beside each other: in the matrix each is in a line of its own.
    diagonal_.resize(static_cast<std::size_t>(k));
    for (std::int64_t c = 0; c < k; ++c) diagonal_[at(c)] = moments_[at(c * k + c)] + added_;
    const auto size = static_cast<std::size_t>(rows * k);
    residual_.resize(size);
    direction_.resize(size);
    image_.resize(size);
    slope_.resize(static_cast<std::size_t>(rows));
  }

  void run(const float* original, float* w, int steps) {
    for_rows([&](std::int64_t r) {
      for (std::int64_t c = r * k_; c < (r + 1) * k_; ++c) direction_[at(c)] = w[c] - original[c];
    });
    apply();
    for_rows([&](std::int64_t r) {
      double slope = 0;
      for (std::int64_t c = r * k_; c < (r + 1) * k_; ++c) {
        residual_[at(c)] = w[c] == 0.0f ? 0.0f : -image_[at(c)];
        direction_[at(c)] = residual_[at(c)] / diagonal(c - r * k_);
        slope += static_cast<double>(residual_[at(c)]) * static_cast<double>(direction_[at(c)]);
      }
      slope_[at(r)] = slope;
    });
    for (int step = 0; step < steps; ++step) {
      apply();
      for_rows([&](std::int64_t r) { advance(r, w); });
    }
  }

 private:
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
  float diagonal(std::int64_t c) const { return diagonal_[at(c)]; }

  template <typename Body>
  void for_rows(const Body& body) {
    parallel_for(rows_, 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) body(r);
    });
  }

  // image = direction H.
  void apply() {
    std::copy(direction_.begin(), direction_.end(), image_.begin());
    multiply_symmetric({rows_, k_, k_, 1.0f, added_}, direction_.data(), k_, moments_.data(), k_,
                       image_.data(), k_);
  }

  void advance(std::int64_t r, float* w) {
    double curvature = 0;
    for (std::int64_t c = r * k_; c < (r + 1) * k_; ++c)
      curvature += static_cast<double>(direction_[at(c)]) * static_cast<double>(image_[at(c)]);
    if (!(curvature > 0) || !(slope_[at(r)] > 0)) return;  // nothing left to gain
    const auto length = static_cast<float>(slope_[at(r)] / curvature);
    double slope = 0;
    for (std::int64_t c = r * k_; c < (r + 1) * k_; ++c) {
      if (w[c] == 0.0f) continue;
      const float moved = w[c] + length * direction_[at(c)];
      // An exact zero would count as dropped from now on.
      if (moved != 0.0f) w[c] = moved;
      residual_[at(c)] -= length * image_[at(c)];
      const auto value = static_cast<double>(residual_[at(c)]);
      slope += value * value / static_cast<double>(diagonal(c - r * k_));
    }
    const auto keep = static_cast<float>(slope / slope_[at(r)]);
    slope_[at(r)] = slope;
    for (std::int64_t c = r * k_; c < (r + 1) * k_; ++c) {
      direction_[at(c)] =
          w[c] == 0.0f ? 0.0f : residual_[at(c)] / diagonal(c - r * k_) + keep * direction_[at(c)];
    }
  }

  std::span<const float> moments_;
  float added_;
  std::int64_t k_;
  std::int64_t rows_;
  std::vector<float> diagonal_, residual_, direction_, image_;
  std::vector<double> slope_;
};

}  // namespace

void refit_weights(std::span<const float> second_moments, double added, std::int64_t k, const float* original,
                   float* w, std::int64_t rows, int steps) {
  require(static_cast<std::int64_t>(second_moments.size()) == k * k, "{} second moments for {} channels",
          second_moments.size(), k);
  for (std::int64_t begin = 0; steps > 0 && begin < rows; begin += kRows) {
    const std::int64_t count = std::min(kRows, rows - begin);
    Refit(second_moments, added, k, count).run(original + begin * k, w + begin * k, steps);
  }
}

double output_energy(std::span<const float> second_moments, std::int64_t k, const float* change,
                     std::int64_t rows) {
  double total = 0;
  std::vector<float> image;
  std::vector<double> sums;
  for (std::int64_t begin = 0; begin < rows; begin += kRows) {
    const std::int64_t count = std::min(kRows, rows - begin);
    image.resize(static_cast<std::size_t>(count * k));
    sums.assign(static_cast<std::size_t>(count), 0.0);
    const float* from = change + begin * k;
    multiply_symmetric({count, k, k, 1.0f, 0.0f}, from, k, second_moments.data(), k, image.data(), k);
    parallel_for(count, 4, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) {
        for (std::int64_t c = r * k; c < (r + 1) * k; ++c)
          sums[static_cast<std::size_t>(r)] +=
              static_cast<double>(from[c]) * static_cast<double>(image[static_cast<std::size_t>(c)]);
      }
    });
    for (const double sum : sums) total += sum;
  }
  return total;
}

}  // namespace slidesparse
