#include "gemm/backends/cuda_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/cuda/stream.h"
#include "core/fail.h"
#include "core/numeric.h"
#include "gemm/cuda/case.h"
#include "slidesparse/format/pack.h"
#include "slidesparse/format/slide.h"

namespace slidesparse {
namespace {

template <typename T>
std::vector<T> download(const DeviceBuffer& buffer) {
  std::vector<T> host(static_cast<std::size_t>(buffer.size()) / sizeof(T));
  const CudaStream stream;
  copy_to_host(host.data(), buffer.data(), buffer.size(), stream.handle());
  stream.synchronize();
  return host;
}

// The form that should be on the card, made by the CPU's functions.
std::vector<std::byte> expected_values(const CudaCase& problem, CudaForm form, std::int64_t ld,
                                       std::int64_t n_padded) {
  const GemmDesc& desc = problem.desc();
  const WeightSource source = problem.source();
  const std::size_t size = dtype_size(desc.w);
  const std::int64_t width = form == CudaForm::kSlid ? desc.pattern.lifted_k(desc.k) : desc.k;
  std::vector<std::byte> matrix(static_cast<std::size_t>(desc.n * width) * size);
  if (desc.layout == Layout::kDense) {
    std::memcpy(matrix.data(), source.values, matrix.size());
  } else {
    const PackedView packed{desc.pattern, desc.w, desc.n, desc.k, source.values, source.codes};
    if (form == CudaForm::kDense) {
      unpack_rows(packed, 0, desc.n, matrix.data(), desc.k);
    } else {
      std::vector<std::uint8_t> metadata(
          static_cast<std::size_t>(desc.n * slide_metadata_bytes_per_row(desc.pattern, desc.k)));
      slide_metadata(packed, metadata.data());
      expand_slid(desc.pattern, desc.w, desc.n, desc.k, source.values, metadata.data(), matrix.data());
    }
  }
  std::vector<std::byte> padded(static_cast<std::size_t>(n_padded * ld) * size);
  for (std::int64_t row = 0; row < desc.n; ++row) {
    std::memcpy(padded.data() + static_cast<std::size_t>(row * ld) * size,
                matrix.data() + static_cast<std::size_t>(row * width) * size,
                static_cast<std::size_t>(width) * size);
  }
  return padded;
}

// Codes 0x80 of FP8 are -0: a dropped one comes back as +0 everywhere, a kept one as it is.
void check(const CaseSpec& spec, CudaForm form) {
  const CudaCase problem(spec);
  const GemmDesc& desc = problem.desc();
  const std::int64_t width = form == CudaForm::kSlid ? desc.pattern.lifted_k(desc.k) : desc.k;
  const std::int64_t ld = (width + 31) / 32 * 32 + 32;
  const std::int64_t n_padded = (desc.n + 31) / 32 * 32;
  const CudaWeights weights = upload_weights(problem.source(), desc, form, ld, n_padded);
  EXPECT_EQ(weights.ld, ld);
  EXPECT_EQ(weights.n_padded, n_padded);
  EXPECT_TRUE(download<std::byte>(weights.values) == expected_values(problem, form, ld, n_padded)) << spec;

  const WeightSource source = problem.source();
  if (desc.w == DType::kBF16) {
    EXPECT_EQ(weights.scale_data(), nullptr);
  } else {
    const auto scales = download<float>(weights.scales);
    ASSERT_EQ(static_cast<std::int64_t>(scales.size()), n_padded);
    for (std::int64_t n = 0; n < n_padded; ++n) {
      const float wanted =
          n < desc.n ? bf16_to_float(static_cast<const std::uint16_t*>(source.scales)[n]) : 0.0f;
      ASSERT_EQ(scales[static_cast<std::size_t>(n)], wanted) << n;
    }
  }
  if (!desc.bias) {
    EXPECT_EQ(weights.bias_data(), nullptr);
    return;
  }
  const auto bias = download<float>(weights.bias);
  ASSERT_EQ(static_cast<std::int64_t>(bias.size()), n_padded);
  for (std::int64_t n = 0; n < n_padded; ++n)
    ASSERT_EQ(bias[static_cast<std::size_t>(n)],
              n < desc.n ? static_cast<const float*>(source.bias)[n] : 0.0f);
}

class CudaWeightsTest : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (const std::string none = no_gpu_reason(); !none.empty()) GTEST_SKIP() << none;
  }
};

TEST_P(CudaWeightsTest, EveryPatternArrivesAsTheCpuExpandsIt) {
  for (int half = 2; half <= 8; ++half) {
    for (const std::int64_t k : {576, 1536, 601}) {
      CaseSpec spec;
      spec.dtype = GetParam();
      spec.pattern = Pattern::of_half_group(half);
      spec.n = 100;
      spec.k = k;
      spec.bias = half % 2 == 0;
      check(spec, CudaForm::kDense);
      check(spec, CudaForm::kSlid);
    }
  }
}

TEST_P(CudaWeightsTest, ManyChunks) {
  // 3000 x 18944 makes at least three chunks of 16 MiB in either form.
  CaseSpec spec;
  spec.dtype = GetParam();
  spec.n = 3000;
  spec.k = 18944;
  spec.bias = true;
  check(spec, CudaForm::kDense);
  spec.pattern = Pattern::of_half_group(5);
  check(spec, CudaForm::kDense);
  check(spec, CudaForm::kSlid);
}

TEST_P(CudaWeightsTest, NothingStaysBehind) {
  CaseSpec spec;
  spec.dtype = GetParam();
  spec.pattern = Pattern::of_half_group(4);
  const CudaCase problem(spec);
  const std::int64_t before = device_memory_use().in_use;
  {
    const CudaWeights weights = upload_weights(problem.source(), problem.desc(), CudaForm::kDense, 576, 576);
    EXPECT_EQ(device_memory_use().in_use - before, weights.allocated_bytes());
  }
  EXPECT_EQ(device_memory_use().in_use, before);
}

TEST_P(CudaWeightsTest, WhatCannotBeExpandedIsRefused) {
  CaseSpec spec;
  spec.dtype = GetParam();
  const CudaCase dense(spec);
  EXPECT_THROW(upload_weights(dense.source(), dense.desc(), CudaForm::kSlid, 1024, 576), Error);
  GemmDesc with_pattern = dense.desc();
  with_pattern.pattern = Pattern::of_half_group(4);
  EXPECT_THROW(upload_weights(dense.source(), with_pattern, CudaForm::kDense, 576, 576), Error);
  EXPECT_THROW(upload_weights(dense.source(), dense.desc(), CudaForm::kDense, 575, 576), Error);

  spec.pattern = Pattern::of_half_group(4);
  const CudaCase packed(spec);
  WeightSource source = packed.source();
  const auto bytes = static_cast<std::size_t>(spec.n * spec.pattern.code_bytes_per_row(spec.k));
  std::vector<std::uint8_t> codes(source.codes, source.codes + bytes);
  codes.back() = 0xff;
  source.codes = codes.data();
  const std::int64_t before = device_memory_use().in_use;
  EXPECT_THROW(upload_weights(source, packed.desc(), CudaForm::kDense, 576, 576), Error);
  EXPECT_EQ(device_memory_use().in_use, before);
}

INSTANTIATE_TEST_SUITE_P(Types, CudaWeightsTest, testing::Values(DType::kF8E4M3, DType::kI8, DType::kBF16),
                         [](const auto& type) { return std::string(dtype_name(type.param)); });

}  // namespace
}  // namespace slidesparse
