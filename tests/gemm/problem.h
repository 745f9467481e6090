#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gemm/backend.h"
#include "gemm/guarded.h"

namespace slidesparse {

// Random inputs of one problem in memory that ends where it ends, and the same weights as a dense matrix.
class Problem {
 public:
  // `desc.m` rows of X of any alignment. Values of every bit pattern that is a number; -128 among the
  // integers.
  Problem(const GemmDesc& desc, std::uint64_t seed);

  const GemmDesc& desc() const { return desc_; }
  WeightSource source() const;
  // The weights as a dense problem of the same product.
  GemmDesc dense_desc() const;
  WeightSource dense_source() const;
  GemmArgs args(void* out) const;

  // Runs a kernel into poisoned memory; the result [m, n] as FP32. Fails the test when something beside the
  // result was written.
  std::vector<float> run(const Backend& backend, const KernelDesc& kernel, const GemmDesc& desc,
                         const WeightSource& source) const;
  std::vector<float> run(const Backend& backend, const KernelDesc& kernel) const {
    return run(backend, kernel, desc_, source());
  }
  std::vector<float> reference() const;
  // sum |x w| * x_scale * w_scale for every output: what errors of summation are measured against.
  std::vector<double> norms() const;

 private:
  float weight(std::int64_t n, std::int64_t k) const;
  float activation(std::int64_t m, std::int64_t k) const;

  GemmDesc desc_;
  Guarded x_;
  Guarded x_scale_;
  Guarded values_;
  Guarded codes_;
  Guarded dense_;
  std::vector<std::int32_t> perm_;
  std::vector<std::uint16_t> scales_;
  std::vector<float> bias_;
};

// Largest error of a fast kernel: the sums' rounding, and one rounding of the output.
double tolerance(const GemmDesc& desc, double norm, double expected);

}  // namespace slidesparse
