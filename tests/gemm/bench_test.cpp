#include "gemm/bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

TEST(BenchGemm, MeasuresChecksAndCompares) {
  GemmBenchOptions options;
  options.shapes = {{"small", 40, 203}};
  options.dtypes = {DType::kI8, DType::kF8E4M3, DType::kBF16};
  options.patterns = {Pattern::of_half_group(4), Pattern::of_half_group(5)};
  options.ms = {65};
  options.min_seconds = 0;
  int announced = 0;
  options.on_progress = [&](const std::string&) { ++announced; };
  const GemmBenchResult result = bench_gemm(options);
  EXPECT_EQ(announced, 3);
  EXPECT_GT(result.limits.read_bytes_per_second, 0);
  ASSERT_EQ(result.rows.size(), 9u);  // dense comes along
  for (const GemmBenchRow& row : result.rows) {
    EXPECT_EQ(row.check, "ok") << row.kernel;
    EXPECT_GT(row.seconds.median, 0) << row.kernel;
    EXPECT_GT(row.dense_ratio, 0) << row.kernel;
    EXPECT_EQ(row.sparse_share, row.pattern.is_dense() ? 0 : 1) << row.kernel;
    EXPECT_DOUBLE_EQ(row.ops_per_second * row.seconds.median, 2.0 * 65 * 40 * 203);
  }
  EXPECT_EQ(result.rows[0].dense_ratio, 1);
}

TEST(BenchGemm, RefusesImpossibleSizes) {
  GemmBenchOptions options;
  options.shapes = {{"empty", 0, 64}};
  EXPECT_THROW(bench_gemm(options), Error);
  options.shapes = {{"fine", 8, 64}};
  options.ms = {0};
  EXPECT_THROW(bench_gemm(options), Error);
}

}  // namespace
}  // namespace slidesparse
