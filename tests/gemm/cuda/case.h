#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "gemm/backend.h"

namespace slidesparse {

// One random problem on a card. Dense patterns give a dense source, others a packed or a split one.
struct CaseSpec {
  DType dtype = DType::kI8;  // of X and W
  Pattern pattern;
  std::int64_t m = 64;
  std::int64_t n = 576;
  std::int64_t k = 576;
  bool bias = false;
  DType bias_dtype = DType::kF32;  // or BF16
  DType out = DType::kBF16;
  std::int64_t ldout = 0;
  bool split = false;  // weights with a pattern come in the split layout
  std::uint64_t seed = 1;
  // Small integers, unit scales, |sum| <= 256: every backend has to give the very number.
  bool exact = false;
  // Token 0 has scale NaN and codes 0, as quantisation leaves a token with a NaN in it: its row is NaN, and
  // only its row.
  bool nan_token = false;
  std::string to_string() const;
};
std::ostream& operator<<(std::ostream& out, const CaseSpec& spec);
// For INSTANTIATE_TEST_SUITE_P.
std::string case_name(const testing::TestParamInfo<CaseSpec>& info);

// Why nothing can run on a card here; empty when it can. For GTEST_SKIP() << no_gpu_reason().
std::string no_gpu_reason();

// The host side of a case, made once and run through many kernels.
class CudaCase {
 public:
  explicit CudaCase(const CaseSpec& spec);

  const CaseSpec& spec() const { return spec_; }
  const GemmDesc& desc() const { return desc_; }
  WeightSource source() const;
  // X as `footprint` wants it: lifted or gathered, and padded, [m_padded, k_padded] elements, zero outside.
  Buffer activations(const Footprint& footprint, std::span<const std::int32_t> order = {}) const;
  // [m_padded], zero behind m; empty for BF16.
  std::vector<float> token_scales(const Footprint& footprint) const;

  // feasible -> footprint -> prepare_weights -> plan -> run. Runs twice from poisoned outputs and once
  // through a CUDA graph: every element written, nothing written beside them, the same bits each time (unless
  // the kernel says otherwise), results within tolerance of the `reference` backend - all of them in small
  // problems, 64 x 64 rows and columns with the first and the last ones in large ones. Every breach is a
  // failure of the test; so is a kernel that is not feasible.
  void check(const Backend& backend, const KernelDesc& kernel) const;

 private:
  struct Sample;
  Sample make_sample() const;

  CaseSpec spec_;
  GemmDesc desc_;
  Buffer x_;       // [m, k]
  Buffer values_;  // as WeightSource has them
  Buffer codes_;
  std::vector<std::int32_t> perm_;  // of split weights
  std::vector<float> x_scale_;
  std::vector<std::uint16_t> scales_;  // BF16
  std::vector<float> bias_;
  std::vector<std::uint16_t> bias_bf16_;          // the same values where they are stored so
  mutable std::shared_ptr<const Sample> sample_;  // made by the first check()
};

// Prints the host's time for one run() of every feasible kernel, work queued and not waited for; fails beyond
// 50 us, which only a synchronisation or an allocation takes.
void print_host_times(const Backend& backend, const CudaCase& problem);

// The largest error allowed for an output of `expected`. `norm1` = sum |x w| and `norm2` = sqrt(sum (x w)^2),
// both times the scales; `bias` as added. See case.cpp for where the parts come from.
double gpu_tolerance(const GemmDesc& desc, const KernelDesc& kernel, double norm1, double norm2, double bias,
                     double expected);

}  // namespace slidesparse
