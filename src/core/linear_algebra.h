#pragma once

#include <cstdint>

// The few operations of BLAS and LAPACK that are needed, in FP32 and row-major. They use the threads of
// parallel_for(), or one when called from inside it.
namespace slidesparse {

// The lower triangle of sum [k, k] += x^T x; x [rows, k] with stride ldx.
void add_gram(std::int64_t rows, std::int64_t k, const float* x, std::int64_t ldx, float* sum);

// Copies the lower triangle of a [k, k] into the upper one.
void mirror_lower(std::int64_t k, float* a);

// c [m, n] = alpha a [m, k] b [k, n] + beta c. Strides in elements.
struct MatrixProduct {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  float alpha = 1;
  float beta = 0;
};
void multiply(const MatrixProduct& product, const float* a, std::int64_t lda, const float* b,
              std::int64_t ldb, float* c, std::int64_t ldc);
// The same with a symmetric b [k, k] of which the lower triangle is read; product.n = product.k.
void multiply_symmetric(const MatrixProduct& product, const float* a, std::int64_t lda, const float* b,
                        std::int64_t ldb, float* c, std::int64_t ldc);

// Replaces the lower triangle of a [n, n] by its Cholesky factor L, a = L L^T. False when a is not positive
// definite: a is destroyed then.
bool cholesky(std::int64_t n, float* a);
// Replaces a lower triangular matrix [n, n] by its inverse. False when a diagonal element is zero.
bool invert_lower(std::int64_t n, float* a);

}  // namespace slidesparse
