#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "core/fail.h"
#include "gemm/backends/cublaslt.h"
#include "gemm/cuda/case.h"

namespace slidesparse {
namespace {

const CublasLtBackend kBackend;

// Why nothing of this file can run; empty when it can.
std::string reason() {
  if (std::string none = no_gpu_reason(); !none.empty()) return none;
  return kBackend.available().reason;
}

struct Shape {
  std::int64_t m, n, k;
};

// Every M, N and K that is asked for, tails and odd sizes among them, each beside several others.
constexpr Shape kShapes[] = {{1, 64, 576},      {3, 100, 1536},    {17, 576, 2048},  {64, 3584, 8960},
                             {257, 100, 18944}, {4096, 576, 1536}, {4096, 100, 576}, {1, 3584, 18944},
                             {257, 3584, 2048}, {64, 64, 18944},   {3, 576, 8960},   {17, 3584, 576}};

void check_all(const CaseSpec& spec) {
  const CudaCase problem(spec);
  int ran = 0;
  for (const KernelDesc& kernel : kBackend.kernels()) {
    if (!kBackend.feasible(problem.desc(), kernel).ok) continue;
    problem.check(kBackend, kernel);
    ++ran;
  }
  EXPECT_GT(ran, 0) << spec.to_string();
}

class CublasLt : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (const std::string none = reason(); !none.empty()) GTEST_SKIP() << none;
  }
  CaseSpec spec(const Shape& shape) const {
    CaseSpec spec;
    spec.dtype = GetParam();
    spec.m = shape.m;
    spec.n = shape.n;
    spec.k = shape.k;
    return spec;
  }
};

TEST_P(CublasLt, RandomValuesStayWithinTolerance) {
  for (const Shape& shape : kShapes) {
    CaseSpec one = spec(shape);
    one.bias = shape.m % 2 == 0;
    check_all(one);
  }
}

TEST_P(CublasLt, SmallIntegersAreExact) {
  for (const Shape& shape : kShapes) {
    CaseSpec one = spec(shape);
    one.exact = true;
    one.bias = shape.m % 2 == 1;
    check_all(one);
  }
}

TEST_P(CublasLt, PackedWeightsAreExpanded) {
  for (const int half : {2, 3, 4, 5, 8}) {
    CaseSpec one = spec({17, 100, 1536});
    one.pattern = Pattern::of_half_group(half);
    check_all(one);
    one.exact = true;
    check_all(one);
  }
}

TEST_P(CublasLt, OutputsOfOtherTypeAndStride) {
  CaseSpec one = spec({65, 96, 576});
  one.ldout = 104;
  check_all(one);
  one.out = DType::kF32;
  one.bias = true;
  check_all(one);
}

TEST_P(CublasLt, SumsAreTiledOverTokens) {
  // 37888 columns of FP32 leave 1771 tokens to a tile of 256 MiB.
  CaseSpec one = spec({4099, 37888, 64});
  check_all(one);
}

TEST_P(CublasLt, NothingToDoForNoTokens) {
  check_all(spec({0, 64, 576}));
}

TEST_P(CublasLt, ATokenThatIsNotANumberSpoilsItsRowOnly) {
  if (GetParam() == DType::kBF16) GTEST_SKIP() << "BF16 tokens have no scale";
  CaseSpec one = spec({5, 64, 576});
  one.nan_token = true;
  one.bias = true;
  check_all(one);
}

TEST_P(CublasLt, EveryOfferedSettingComesBackFromItsText) {
  const CudaCase problem(spec({257, 576, 2048}));
  int ran = 0;
  for (const KernelDesc& kernel : kBackend.candidates(problem.desc())) {
    const auto config = CublasLtConfig::parse(kernel.config);
    ASSERT_TRUE(config.has_value()) << kernel.name;
    EXPECT_EQ(config->to_string(), kernel.config);
    problem.check(kBackend, kernel);
    ++ran;
  }
  EXPECT_GE(ran, 2);
  RecordProperty("candidates", ran);
}

TEST_P(CublasLt, BiasOfBf16IsAddedByTheLibrary) {
  CaseSpec one = spec({64, 576, 2048});
  one.bias = true;
  one.bias_dtype = DType::kBF16;
  const CudaCase problem(one);
  int direct = 0;
  for (const KernelDesc& kernel : kBackend.kernels()) {
    if (!kBackend.feasible(problem.desc(), kernel).ok) continue;
    problem.check(kBackend, kernel);
    direct += kernel.name.find("tail") == std::string::npos ? 1 : 0;
  }
  // Outer-vector scales are Hopper's; BF16 has none and INT8 always a tail.
  if (GetParam() != DType::kF8E4M3) {
    EXPECT_EQ(direct, GetParam() == DType::kBF16 ? 1 : 0);
  }
}

TEST_P(CublasLt, MisalignedAndMissingPointersAreRefused) {
  const CudaCase problem(spec({64, 64, 576}));
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
    EXPECT_THROW(kBackend.run(plan, *weights, {nullptr, scales, at + (1 << 20)}, context), Error)
        << kernel.name;
    if (problem.desc().w != DType::kBF16) {
      EXPECT_THROW(kBackend.run(plan, *weights, {at, nullptr, at + (1 << 20)}, context), Error)
          << kernel.name;
    }
    EXPECT_EQ(arena.used(), 0u);
    stream.synchronize();
  }
}

TEST_P(CublasLt, SettingsThatTheLibraryDoesNotKnowAreAnError) {
  const CudaCase problem(spec({64, 64, 576}));
  for (KernelDesc kernel : kBackend.kernels()) {
    if (!kBackend.feasible(problem.desc(), kernel).ok) continue;
    kernel.config = "algo=999983 tile=1 stages=1 splitk=1 reduction=0 swizzle=0 custom=0 inner=0 cluster=0";
    EXPECT_THROW(kBackend.plan(problem.desc(), kernel), Error) << kernel.name;
    kernel.config = "algo=twelve";
    EXPECT_THROW(kBackend.plan(problem.desc(), kernel), Error) << kernel.name;
  }
}

TEST_P(CublasLt, HostTimeOfARunIsAFewMicroseconds) {
  print_host_times(kBackend, CudaCase(spec({16, 576, 576})));
}

TEST_P(CublasLt, LargeOutputsBeyond31Bits) {
  CaseSpec one = spec({65536, 37888, 3584});
  const CudaCase problem(one);
  for (const KernelDesc& kernel : kBackend.kernels()) {
    if (kernel.two_roundings || !kBackend.feasible(problem.desc(), kernel).ok) continue;
    problem.check(kBackend, kernel);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CublasLt, testing::Values(DType::kF8E4M3, DType::kI8, DType::kBF16),
                         [](const auto& type) { return std::string(dtype_name(type.param)); });

}  // namespace
}  // namespace slidesparse
