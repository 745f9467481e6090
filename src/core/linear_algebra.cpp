#include "core/linear_algebra.h"

#include <cblas.h>

#include <algorithm>
#include <limits>

#include "core/fail.h"
#include "core/parallel.h"

// LAPACK's Fortran entry points, which OpenBLAS brings: its C interface is another library.
extern "C" {
void spotrf_(const char* triangle, const int* n, float* a, const int* lda, int* status);
void strtri_(const char* triangle, const char* diagonal, const int* n, float* a, const int* lda, int* status);
}

namespace slidesparse {
namespace {

// The libraries' integers are 32 bits wide.
int narrow(std::int64_t value) {
  require(value >= 0 && value <= std::numeric_limits<int>::max(), "a matrix extent of {}", value);
  return static_cast<int>(value);
}

}  // namespace

void add_gram(std::int64_t rows, std::int64_t k, const float* x, std::int64_t ldx, float* sum) {
  cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, narrow(k), narrow(rows), 1.0f, x, narrow(ldx), 1.0f, sum,
              narrow(k));
}

// In squares that fit a first-level cache, so that neither side walks down columns of the whole matrix.
void mirror_lower(std::int64_t k, float* a) {
  constexpr std::int64_t kSquare = 64;
  const std::int64_t squares = (k + kSquare - 1) / kSquare;
  parallel_for(squares, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * kSquare; i < std::min(end * kSquare, k); i += kSquare) {
      for (std::int64_t j = 0; j <= i; j += kSquare) {
        for (std::int64_t row = i; row < std::min(i + kSquare, k); ++row) {
          for (std::int64_t column = j; column < std::min(j + kSquare, row); ++column)
            a[column * k + row] = a[row * k + column];
        }
      }
    }
  });
}

void multiply(const MatrixProduct& product, const float* a, std::int64_t lda, const float* b,
              std::int64_t ldb, float* c, std::int64_t ldc) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, narrow(product.m), narrow(product.n),
              narrow(product.k), product.alpha, a, narrow(lda), b, narrow(ldb), product.beta, c, narrow(ldc));
}

void multiply_symmetric(const MatrixProduct& product, const float* a, std::int64_t lda, const float* b,
                        std::int64_t ldb, float* c, std::int64_t ldc) {
  require(product.n == product.k, "a symmetric factor of {} x {}", product.k, product.n);
  cblas_ssymm(CblasRowMajor, CblasRight, CblasLower, narrow(product.m), narrow(product.n), product.alpha, b,
              narrow(ldb), a, narrow(lda), product.beta, c, narrow(ldc));
}

// A row-major lower triangle is Fortran's upper one.
bool cholesky(std::int64_t n, float* a) {
  const int size = narrow(n);
  int status = 0;
  spotrf_("U", &size, a, &size, &status);
  require(status >= 0, "spotrf: argument {}", -status);
  return status == 0;
}

bool invert_lower(std::int64_t n, float* a) {
  const int size = narrow(n);
  int status = 0;
  strtri_("U", "N", &size, a, &size, &status);
  require(status >= 0, "strtri: argument {}", -status);
  return status == 0;
}

}  // namespace slidesparse
