// What the GPU backends say and refuse without a card or their library: nothing here needs either.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/cuda/status.h"
#include "core/fail.h"
#include "gemm/backends/cublaslt.h"
#include "gemm/backends/cuda_tiles.h"
#include "gemm/backends/cuda_weights.h"
#ifdef SLIDESPARSE_HAVE_CUSPARSELT
#include "gemm/backends/cusparselt.h"
#endif

namespace slidesparse {
namespace {

using testing::HasSubstr;

GemmDesc problem(DType dtype, std::int64_t n = 64) {
  GemmDesc desc;
  desc.m = 16;
  desc.n = n;
  desc.k = 64;
  desc.x = desc.w = dtype;
  desc.device.kind = DeviceKind::kCuda;
  return desc;
}

KernelDesc kernel_named(const Backend& backend, std::string_view part) {
  for (KernelDesc& kernel : backend.kernels()) {
    if (kernel.name.find(part) != std::string::npos) return kernel;
  }
  throw std::runtime_error("no kernel " + std::string(part));
}

TEST(Availability, AMissingLibraryIsAReasonWithItsPath) {
  EXPECT_THAT(cublaslt_problem("/nonexistent/libcublasLt.so.13"),
              testing::AllOf(HasSubstr("cuBLASLt 13"), HasSubstr("/nonexistent/libcublasLt.so.13")));
}

TEST(Availability, ALibraryOfAnotherNameIsNotTakenForIt) {
  // Any library that is surely there and has none of the functions.
  EXPECT_THAT(cublaslt_problem("libm.so.6"), HasSubstr("has no cublasLtGetVersion"));
}

TEST(Availability, EveryBackendAnswers) {
  for (const Backend* backend : backends()) {
    const Feasibility answer = backend->available();
    EXPECT_EQ(answer.ok, answer.reason.empty()) << backend->name();
    for (const KernelDesc& kernel : backend->kernels()) {
      EXPECT_EQ(kernel.backend, backend->name());
      EXPECT_TRUE(kernel.config.empty()) << kernel.name;
    }
    if (backend->device() == DeviceKind::kCuda && !cuda_status().available) {
      EXPECT_FALSE(answer.ok);
      for (const KernelDesc& kernel : backend->kernels()) {
        const Feasibility feasible = backend->feasible(problem(DType::kI8), kernel);
        EXPECT_FALSE(feasible.ok) << kernel.name;
        EXPECT_NE(feasible.reason, "") << kernel.name;
      }
    }
  }
}

TEST(Availability, CudaProblemsNeedACard) {
  GemmDesc desc = problem(DType::kI8);
  desc.device.kind = DeviceKind::kCpu;
  EXPECT_THAT(check_cuda_problem(desc).reason, HasSubstr("NVIDIA GPUs only"));
  desc.device = {DeviceKind::kCuda, 4096};
  EXPECT_FALSE(check_cuda_problem(desc).ok);
}

TEST(CublasLtSupports, SaysWhyNot) {
  const CublasLtBackend backend;
  const KernelDesc outer = kernel_named(backend, "outer-vector");
  const KernelDesc fp8_tail = kernel_named(backend, "F8_E4M3 fast-accum F32+tail");
  const KernelDesc int8 = kernel_named(backend, "I8 I32+tail");
  EXPECT_TRUE(cublaslt_supports(problem(DType::kF8E4M3), outer, 90).ok);
  EXPECT_THAT(cublaslt_supports(problem(DType::kF8E4M3), outer, 89).reason, HasSubstr("Hopper only"));
  EXPECT_TRUE(cublaslt_supports(problem(DType::kF8E4M3), fp8_tail, 89).ok);
  EXPECT_THAT(cublaslt_supports(problem(DType::kF8E4M3), fp8_tail, 80).reason, HasSubstr("8.9"));
  EXPECT_THAT(cublaslt_supports(problem(DType::kF8E4M3, 100), outer, 90).reason, HasSubstr("N=100"));
  EXPECT_TRUE(cublaslt_supports(problem(DType::kF8E4M3, 100), fp8_tail, 90).ok);
  EXPECT_TRUE(cublaslt_supports(problem(DType::kI8, 1), int8, 80).ok);
  EXPECT_THAT(cublaslt_supports(problem(DType::kBF16), int8, 80).reason, HasSubstr("for I8"));

  GemmDesc desc = problem(DType::kF8E4M3);
  desc.bias = true;
  EXPECT_THAT(cublaslt_supports(desc, outer, 90).reason, HasSubstr("bias"));
  EXPECT_TRUE(cublaslt_supports(desc, fp8_tail, 90).ok);
  EXPECT_THAT(cublaslt_supports(desc, kernel_named(backend, "BF16+tail"), 90).reason, HasSubstr("2 ulp"));
  desc.bias_dtype = DType::kBF16;
  EXPECT_TRUE(cublaslt_supports(desc, outer, 90).ok);
  desc.ldout = 65;
  EXPECT_THAT(cublaslt_supports(desc, outer, 90).reason, HasSubstr("row stride 65"));
  desc.ldout = 63;
  EXPECT_FALSE(cublaslt_supports(desc, fp8_tail, 90).ok);

  desc = problem(DType::kI8);
  desc.pattern = Pattern::of_half_group(4);
  EXPECT_THAT(cublaslt_supports(desc, int8, 90).reason, HasSubstr("packed"));
  desc.layout = Layout::kPacked;
  EXPECT_TRUE(cublaslt_supports(desc, int8, 90).ok);
  desc.layout = Layout::kSplit;
  EXPECT_THAT(cublaslt_supports(desc, int8, 90).reason, HasSubstr("split"));
}

TEST(CublasLtConfig, TextComesBack) {
  EXPECT_FALSE(CublasLtConfig::parse("").has_value());
  CublasLtConfig config{66, 600, 35, 4, 2, 1, 7, 3, 65535, ""};
  EXPECT_EQ(config.to_string(),
            "algo=66 tile=600 stages=35 splitk=4 reduction=2 swizzle=1 custom=7 inner=3 cluster=65535");
  EXPECT_EQ(CublasLtConfig::parse(config.to_string()), config);
  config.splitk = -1;
  EXPECT_EQ(CublasLtConfig::parse(config.to_string()), config);
  config.raw = std::string(126, '0') + "af";
  EXPECT_EQ(CublasLtConfig::parse(config.to_string()), config);
}

TEST(CublasLtConfig, OtherTextIsRefused) {
  const std::string good = CublasLtConfig{}.to_string();
  for (const std::string& bad :
       {std::string("algo"), std::string("algo=1"), good + " ", " " + good, good + " algo=1",
        good + " raw=00", good + " colour=1", good + " raw=" + std::string(128, 'g'),
        std::string("algo=-1") + good.substr(6), std::string("algo=99999999999999999999") + good.substr(6),
        good + "0x"}) {
    EXPECT_THROW(CublasLtConfig::parse(bad), Error) << bad;
  }
}

#ifdef SLIDESPARSE_HAVE_CUSPARSELT
TEST(Availability, CusparseLtSaysWhyNot) {
  EXPECT_THAT(cusparselt_problem("/nonexistent/libcusparseLt.so.0"),
              testing::AllOf(HasSubstr("cuSPARSELt 0.8"), HasSubstr("/nonexistent/libcusparseLt.so.0")));
  EXPECT_THAT(cusparselt_problem("libm.so.6"), HasSubstr("has no cusparseLtGetProperty"));
}

TEST(CusparseLtSupports, SaysWhyNot) {
  const CusparseLtBackend backend;
  const KernelDesc fp8 = kernel_named(backend, "F8_E4M3 F32+tail");
  const KernelDesc int8 = kernel_named(backend, "I8 I32+tail");
  GemmDesc desc = problem(DType::kI8, 100);
  EXPECT_THAT(cusparselt_supports(desc, int8, 90).reason, HasSubstr("dense weights"));
  desc.pattern = Pattern::of_half_group(5);
  EXPECT_THAT(cusparselt_supports(desc, int8, 90).reason, HasSubstr("packed"));
  desc.layout = Layout::kPacked;
  for (int half = 2; half <= 8; ++half) {
    desc.pattern = Pattern::of_half_group(half);
    EXPECT_TRUE(cusparselt_supports(desc, int8, 80).ok);
  }
  EXPECT_FALSE(cusparselt_supports(desc, int8, 75).ok);
  EXPECT_THAT(cusparselt_supports(desc, fp8, 90).reason, HasSubstr("for F8_E4M3"));
  desc.x = desc.w = DType::kF8E4M3;
  EXPECT_THAT(cusparselt_supports(desc, fp8, 86).reason, HasSubstr("8.9"));
  desc.bias = true;
  EXPECT_TRUE(cusparselt_supports(desc, fp8, 90).ok);
  EXPECT_THAT(cusparselt_supports(desc, kernel_named(backend, "F8_E4M3 BF16+tail"), 90).reason,
              HasSubstr("2 ulp"));
  desc.layout = Layout::kSplit;
  EXPECT_FALSE(cusparselt_supports(desc, fp8, 90).ok);
  desc.x = desc.w = DType::kBF16;
  for (const KernelDesc& kernel : backend.kernels()) EXPECT_FALSE(cusparselt_supports(desc, kernel, 90).ok);
}

TEST(CusparseLtConfig, TextComesBackAndOtherTextIsRefused) {
  EXPECT_FALSE(CusparseLtConfig::parse("").has_value());
  for (const CusparseLtConfig& config : {CusparseLtConfig{0, 1, 0}, {26, 1, 0}, {3, 2, 1}, {12, 4, 2}})
    EXPECT_EQ(CusparseLtConfig::parse(config.to_string()), config);
  for (const char* bad :
       {"alg", "alg=", "alg=x", "alg=-1", "splitk=2", "alg=1 alg=2", "alg=1 splitk=1", "alg=01",
        "alg=1 splitk=2", "alg=1  splitk=2 mode=1", "alg=1 colour=2", "alg=1 splitk=2 mode=77"}) {
    EXPECT_THROW(CusparseLtConfig::parse(bad), Error) << bad;
  }
}
#endif

TEST(TokenTiles, CoverEveryTokenOnce) {
  for (const std::int64_t m : {0, 1, 63, 64, 65, 1536, 4099, 65536, 131071}) {
    for (const std::int64_t most : {1, 64, 100, 1771, 65536}) {
      for (const std::int64_t step : {64, 256}) {
        const TokenTiles tiles = cut_tokens(m, most, step);
        if (m == 0) {
          EXPECT_EQ(tiles.count, 0);
          continue;
        }
        EXPECT_EQ((tiles.count - 1) * tiles.rows + tiles.last, m);
        EXPECT_GT(tiles.last, 0);
        EXPECT_LE(tiles.last, tiles.rows);
        EXPECT_LE(tiles.rows, std::max(most, step));
        if (tiles.count > 1) {
          EXPECT_EQ(tiles.rows % step, 0);
        }
      }
    }
  }
}

TEST(TokenTiles, StayBelowTheirLimits) {
  const TokenTiles sums = tiles_for_sums(65536, std::int64_t{37888} * 4, 64);
  EXPECT_LE(sums.rows * 37888 * 4, std::int64_t{256} << 20);
  EXPECT_GE(sums.rows, 1024);
  const TokenTiles direct = tiles_below_2_31(65536, 37888);
  EXPECT_EQ(direct.count, 2);
  EXPECT_LT(direct.rows * 37888, std::int64_t{1} << 31);
  EXPECT_EQ(tiles_below_2_31(16384, 37888).count, 1);
}

}  // namespace
}  // namespace slidesparse
