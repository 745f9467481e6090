#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "core/fail.h"
#include "gemm/backends/cusparselt.h"
#include "gemm/cuda/case.h"

namespace slidesparse {
namespace {

const CusparseLtBackend kBackend;

std::string reason() {
  if (std::string none = no_gpu_reason(); !none.empty()) return none;
  return kBackend.available().reason;
}

struct Shape {
  std::int64_t m, n, k;
};

constexpr Shape kShapes[] = {{1, 64, 576},      {3, 100, 1536},    {17, 576, 2048}, {64, 3584, 8960},
                             {257, 100, 18944}, {4096, 576, 1536}, {17, 64, 18944}, {3, 3584, 576}};

void check_all(const CaseSpec& spec) {
  const CudaCase problem(spec);
  int ran = 0;
  for (const KernelDesc& kernel : kBackend.kernels()) {
    if (!kBackend.feasible(problem.desc(), kernel).ok) continue;
    problem.check(kBackend, kernel);
    ++ran;
  }
  // Only one adds a bias in time. The third leaves the channel scales to the library, which does not take
  // them for every type.
  EXPECT_GE(ran, spec.bias ? 1 : spec.dtype == DType::kI8 ? 3 : 2) << spec.to_string();
}

class CusparseLt : public testing::TestWithParam<std::tuple<DType, int>> {
 protected:
  void SetUp() override {
    if (const std::string none = reason(); !none.empty()) GTEST_SKIP() << none;
  }
  CaseSpec spec(const Shape& shape) const {
    CaseSpec spec;
    spec.dtype = std::get<0>(GetParam());
    spec.pattern = Pattern::of_half_group(std::get<1>(GetParam()));
    spec.m = shape.m;
    spec.n = shape.n;
    spec.k = shape.k;
    return spec;
  }
};

TEST_P(CusparseLt, RandomValuesStayWithinTolerance) {
  for (const Shape& shape : kShapes) {
    CaseSpec one = spec(shape);
    one.bias = shape.m % 2 == 0;
    check_all(one);
  }
}

TEST_P(CusparseLt, SmallIntegersAreExact) {
  for (const Shape& shape : kShapes) {
    CaseSpec one = spec(shape);
    one.exact = true;
    one.bias = shape.m % 2 == 1;
    check_all(one);
  }
}

TEST_P(CusparseLt, OutputsOfOtherTypeAndStride) {
  CaseSpec one = spec({65, 96, 576});
  one.ldout = 101;
  check_all(one);
  one.out = DType::kF32;
  one.bias = true;
  check_all(one);
}

TEST_P(CusparseLt, NothingToDoForNoTokens) {
  check_all(spec({0, 64, 576}));
}

TEST_P(CusparseLt, ATokenThatIsNotANumberSpoilsItsRowOnly) {
  CaseSpec one = spec({5, 64, 576});
  one.nan_token = true;
  one.bias = true;
  check_all(one);
}

TEST_P(CusparseLt, SumsAreTiledOverTokens) {
  check_all(spec({4099, 37888, 64}));
}

TEST_P(CusparseLt, CandidatesHavePlansAndTextThatComesBack) {
  const CudaCase problem(spec({64, 576, 2048}));
  const auto candidates = kBackend.candidates(problem.desc());
  ASSERT_GE(candidates.size(), 3u);
  for (const KernelDesc& kernel : candidates) {
    const auto config = CusparseLtConfig::parse(kernel.config);
    ASSERT_TRUE(config.has_value()) << kernel.name;
    EXPECT_EQ(config->to_string(), kernel.config);
    EXPECT_NO_THROW(kBackend.plan(problem.desc(), kernel)) << kernel.name << " " << kernel.config;
  }
  // The library's own choice stands first and runs; which others may run is for the tuner to find out, one
  // child process each.
  problem.check(kBackend, candidates.front());
  RecordProperty("candidates", static_cast<int>(candidates.size()));
}

TEST_P(CusparseLt, CompressedWeightsHaveTheSizeThatIsClaimed) {
  const CudaCase problem(spec({64, 3584, 3584}));
  const KernelDesc kernel = kBackend.candidates(problem.desc()).front();
  const Footprint footprint = kBackend.footprint(problem.desc(), kernel);
  const double lifted = 3584.0 * static_cast<double>(footprint.k_padded);
  // Values and 2-bit indices on Hopper, three quarters elsewhere.
  EXPECT_GE(static_cast<double>(footprint.weight_bytes), .625 * lifted);
  EXPECT_LE(static_cast<double>(footprint.weight_bytes), .76 * lifted);
}

INSTANTIATE_TEST_SUITE_P(TypesAndPatterns, CusparseLt,
                         testing::Combine(testing::Values(DType::kF8E4M3, DType::kI8),
                                          testing::Values(2, 3, 4, 5, 6, 7, 8)),
                         [](const auto& test) {
                           const Pattern pattern = Pattern::of_half_group(std::get<1>(test.param));
                           return fmt::format("{}_{}_{}", dtype_name(std::get<0>(test.param)), pattern.kept(),
                                              pattern.group());
                         });

class CusparseLtOnce : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (const std::string none = reason(); !none.empty()) GTEST_SKIP() << none;
  }
};

TEST_P(CusparseLtOnce, MisalignedAndMissingPointersAreRefused) {
  CaseSpec spec;
  spec.dtype = GetParam();
  spec.pattern = Pattern::of_half_group(4);
  const CudaCase problem(spec);
  for (const KernelDesc& kernel : kBackend.kernels()) {
    if (!kBackend.feasible(problem.desc(), kernel).ok) continue;
    const auto weights = kBackend.prepare_weights(problem.source(), problem.desc(), kernel);
    const GemmPlan plan = kBackend.plan(problem.desc(), kernel);
    DeviceBuffer memory(plan.workspace_bytes + (4 << 20), "test");
    Arena arena(memory.data() + (4 << 20), static_cast<std::size_t>(plan.workspace_bytes));
    const CudaStream stream;
    const Context context{problem.desc().device, stream.handle(), &arena};
    auto* at = memory.as<std::byte>();
    const auto* scales = reinterpret_cast<const float*>(at + (3 << 20));
    EXPECT_THROW(kBackend.run(plan, *weights, {at + 1, scales, at + (1 << 20)}, context), Error)
        << kernel.name;
    EXPECT_THROW(kBackend.run(plan, *weights, {at, scales, at + (1 << 20) + 1}, context), Error)
        << kernel.name;
    EXPECT_THROW(kBackend.run(plan, *weights, {at, nullptr, at + (1 << 20)}, context), Error) << kernel.name;
    EXPECT_EQ(arena.used(), 0u);
    stream.synchronize();
  }
}

TEST_P(CusparseLtOnce, DamagedCodesNeverReachTheCard) {
  CaseSpec spec;
  spec.dtype = GetParam();
  spec.pattern = Pattern::of_half_group(4);
  const CudaCase problem(spec);
  WeightSource source = problem.source();
  const auto bytes = static_cast<std::size_t>(spec.n * spec.pattern.code_bytes_per_row(spec.k));
  std::vector<std::uint8_t> codes(source.codes, source.codes + bytes);
  codes[bytes / 2] = 0xff;  // 31 names no pair of eight lanes
  codes[bytes / 2 + 1] = 0xff;
  source.codes = codes.data();
  const KernelDesc kernel = kBackend.candidates(problem.desc()).front();
  EXPECT_THROW(kBackend.prepare_weights(source, problem.desc(), kernel), Error);
}

TEST_P(CusparseLtOnce, WhatTheLibraryRefusesHasItsWords) {
  GemmDesc desc;
  desc.m = desc.n = desc.k = 128;
  desc.x = desc.w = GetParam();
  desc.pattern = Pattern::of_half_group(4);
  desc.layout = Layout::kPacked;
  desc.device.kind = DeviceKind::kCuda;
  for (const KernelDesc& kernel : kBackend.kernels()) {
    if (kernel.name.find(dtype_name(GetParam())) == std::string::npos) continue;
    const Feasibility answer = kBackend.feasible(desc, kernel);
    if (answer.ok) continue;
    EXPECT_THAT(kernel.name, testing::HasSubstr("alpha")) << answer.reason;
    EXPECT_THAT(answer.reason, testing::HasSubstr("CUSPARSE_STATUS_NOT_SUPPORTED"));
    EXPECT_THROW(kBackend.plan(desc, kernel), Error);
  }
}

TEST_P(CusparseLtOnce, HostTimeOfARunIsAFewMicroseconds) {
  CaseSpec spec;
  spec.dtype = GetParam();
  spec.pattern = Pattern::of_half_group(4);
  spec.m = 16;
  print_host_times(kBackend, CudaCase(spec));
}

TEST_P(CusparseLtOnce, LargeOutputsBeyond31Bits) {
  CaseSpec spec;
  spec.dtype = GetParam();
  spec.pattern = Pattern::of_half_group(4);
  spec.m = 65536;
  spec.n = 37888;
  spec.k = 3584;
  const CudaCase problem(spec);
  for (const KernelDesc& kernel : kBackend.kernels()) {
    if (!kBackend.feasible(problem.desc(), kernel).ok) continue;
    problem.check(kBackend, kernel);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CusparseLtOnce, testing::Values(DType::kF8E4M3, DType::kI8),
                         [](const auto& type) { return std::string(dtype_name(type.param)); });

}  // namespace
}  // namespace slidesparse
