#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace slidesparse {

// The inverse of a layer's Hessian as optimal brain surgery reads it: H^-1 = U^T U with U upper triangular
// [k, k], in the order in which channels are pruned. Rows i .. of U belong to the inverse of H without
// channels 0 .. i - 1, which is what is left to change when those are settled.
struct InverseFactor {
  std::int64_t k = 0;
  std::vector<float> upper;  // [k, k] row-major; zeros below the diagonal
  double dampening = 0;      // share of the mean diagonal that was added, after all attempts
  double added = 0;          // to each element of the diagonal by that
  std::int64_t dead = 0;     // channels whose second moment is zero

  const float* row(std::int64_t i) const { return upper.data() + i * k; }
  // 1 / (H^-1)_cc: what a weight's square costs when everything else makes up for it. [k]
  std::vector<float> saliency() const;
};

// second_moments [k, k]: the mean of x x^T, both triangles; order: which channel comes at which place,
// empty for as they are. `dampening` times the mean of the diagonal is added to the diagonal (arXiv
// 2301.00774, section 3); ten times as much when that is not positive definite, up to thrice. Throws kInput
// (`what`) when it is not even then, or all moments are zero.
InverseFactor factor_inverse(std::span<const float> second_moments, std::int64_t k,
                             std::span<const std::int32_t> order, double dampening, const std::string& what);

// Prunes w [rows, k] (stride ld, channels in the factor's order) in place: of each `group` consecutive
// channels among the first `pruned` ones two become +0 (in a tail only as many as exceed group - 2), and all
// channels that are not settled yet make up for it. Which two: those whose removal costs least when the rest
// of the matrix answers optimally, w_P (H^-1_PP)^-1 w_P for the pair, exact for the group (SparseGPT's own
// rule, arXiv 2301.00774 algorithm 1, adds up two separate costs). Ties: lowest lanes first. Rows are
// independent.
double obs_prune(const InverseFactor& factor, int group, std::int64_t pruned, float* w, std::int64_t rows,
                 std::int64_t ld);

// Rounds w [rows, k] (stride ld, channels in the factor's order) in place to FP8 E4M3 codes times one scale a
// row, the one that quantise_weight_rows() (quant/weights.h) gives BF16 weights: channel by channel, and
// those that are not rounded yet make up for it (GPTQ, arXiv 2210.17323, section 3). Weights that are zero
// stay so. What comes out, rounded to BF16 and quantised by that function, has the same codes. Rows are
// independent.
void obs_round(const InverseFactor& factor, float* w, std::int64_t rows, std::int64_t ld);

}  // namespace slidesparse
