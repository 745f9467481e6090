#pragma once

#include <cstdint>
#include <span>

namespace slidesparse {

// Lowers the squared change of the outputs, (w - original) H (w - original)^T for each row, over the weights
// that are not zero, by `steps` steps of conjugate gradients with the diagonal of H as preconditioner:
// optimal brain surgery settles channels one after the other, this lets those that came first answer to the
// later ones. H: second_moments [k, k] (lower triangle) plus `added` on the diagonal. w, original [rows, k],
// contiguous. Never raises any row's error.
void refit_weights(std::span<const float> second_moments, double added, std::int64_t k, const float* original,
                   float* w, std::int64_t rows, int steps);

// Sum over `rows` of change H change^T without dampening; change [rows, k] contiguous.
double output_energy(std::span<const float> second_moments, std::int64_t k, const float* change,
                     std::int64_t rows);

}  // namespace slidesparse
