#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/cpu.h"
#include "core/parallel.h"
#include "gemm/problem.h"

namespace slidesparse {
namespace {

struct Case {
  Isa isa = Isa::kPortable;
  DType dtype = DType::kI8;
};

// NOLINTNEXTLINE(readability-identifier-naming): GoogleTest looks for this name
void PrintTo(const Case& c, std::ostream* out) {
  *out << isa_name(c.isa) << "_" << dtype_name(c.dtype);
}

// Restores the processor's own instruction set and threads.
struct Restore {
  ~Restore() {
    force_isa(std::nullopt);
    set_thread_count(0);
  }
};

class EveryKernel : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (GetParam().isa > detected_isa()) GTEST_SKIP() << "this processor lacks " << isa_name(GetParam().isa);
    force_isa(GetParam().isa);
  }

  GemmDesc base(std::int64_t m, std::int64_t n, std::int64_t k) const {
    GemmDesc desc;
    desc.m = m;
    desc.n = n;
    desc.k = k;
    desc.x = desc.w = GetParam().dtype;
    desc.out = DType::kF32;
    return desc;
  }

  Restore restore_;
};

// dense, the seven packed patterns, and split with the smallest, the usual and the largest share of dense
// channels.
std::vector<GemmDesc> every_layout(const GemmDesc& base) {
  std::vector<GemmDesc> list{base};
  for (const Layout layout : {Layout::kPacked, Layout::kSplit}) {
    for (int n = 2; n <= 8; ++n) {
      if (layout == Layout::kSplit && n != 2 && n != 4 && n != 8) continue;
      GemmDesc desc = base;
      desc.layout = layout;
      desc.pattern = Pattern::of_half_group(n);
      list.push_back(desc);
    }
  }
  return list;
}

// Runs all kernels that can and compares; returns how many there were.
int check_all(const GemmDesc& desc, std::uint64_t seed) {
  const Problem problem(desc, seed);
  const std::vector<float> expected = problem.reference();
  const std::vector<double> norms = problem.norms();
  const Backend& cpu = backend_named("cpu");
  int ran = 0;
  for (const KernelDesc& kernel : cpu.kernels()) {
    if (!cpu.feasible(desc, kernel).ok) continue;
    ++ran;
    const std::vector<float> got = problem.run(cpu, kernel);
    EXPECT_EQ(got.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const bool right = desc.w == DType::kI8 ? got[i] == expected[i]
                                              : std::fabs(double{got[i]} - expected[i]) <=
                                                    tolerance(desc, norms[i], expected[i]);
      if (!right) {
        ADD_FAILURE() << kernel.name << ", " << desc.to_string() << ": output " << i << " is " << got[i]
                      << ", not " << expected[i];
        break;
      }
    }
  }
  return ran;
}

TEST_P(EveryKernel, AgreesWithTheReferenceOnAwkwardShapes) {
  // Two threads where there is work for them; waking them costs more than the rest of these products.
  std::uint64_t seed = 1;
  for (const std::int64_t k : {1, 7, 63, 64, 65, 200, 576, 1536}) {
    set_thread_count(k > 500 ? 2 : 1);
    for (const auto& [m, n] : {std::pair<std::int64_t, std::int64_t>{1, 5}, {3, 7}, {17, 3}}) {
      for (const GemmDesc& desc : every_layout(base(m, n, k))) {
        EXPECT_GE(check_all(desc, ++seed), 1) << desc.to_string();
      }
    }
  }
}

// More rows than a panel, more tokens than a small one.
TEST_P(EveryKernel, AgreesWithTheReferenceOnManyRowsAndTokens) {
  for (const GemmDesc& desc : every_layout(base(29, 137, 130)))
    EXPECT_GE(check_all(desc, 3), 1) << desc.to_string();
}

TEST_P(EveryKernel, AgreesWithTheReferenceOnLongRows) {
  for (const GemmDesc& desc : every_layout(base(5, 9, 4736)))
    EXPECT_GE(check_all(desc, 77), 1) << desc.to_string();
}

TEST_P(EveryKernel, HonoursStridesBiasAndOutputType) {
  for (GemmDesc desc : every_layout(base(4, 70, 130))) {
    desc.bias = true;
    desc.ldx = 137;
    desc.ldout = 75;
    desc.out = DType::kBF16;
    EXPECT_GE(check_all(desc, 5), 1) << desc.to_string();
  }
}

TEST_P(EveryKernel, TakesNoTokens) {
  for (const GemmDesc& desc : every_layout(base(0, 8, 64)))
    EXPECT_GE(check_all(desc, 6), 1) << desc.to_string();
}

// What a token gives must depend on nothing but the token: not on its neighbours, the threads or the time.
// oneDNN's floating-point sums are the exception, and those of tiles (AMX, AVX2) have an order of their own.
TEST_P(EveryKernel, GivesEachTokenTheSameBitsInEveryBatch) {
  const Backend& cpu = backend_named("cpu");
  for (GemmDesc desc : every_layout(base(1, 37, 2500))) {
    desc.m = 13;
    const Problem many(desc, 9);
    std::vector<std::vector<float>> rows, tile_rows;
    for (const int threads : {1, 2}) {
      set_thread_count(threads);
      for (const KernelDesc& kernel : cpu.kernels()) {
        const bool onednn = kernel.name.find("onednn") != std::string::npos;
        if (onednn && desc.w != DType::kI8) continue;
        const bool tiles =
            (kernel.name.ends_with("amx") || kernel.name.ends_with("tiles")) && desc.w != DType::kI8;
        for (const std::int64_t m : {1, 4, 13}) {
          GemmDesc some = desc;
          some.m = m;
          if (!cpu.feasible(some, kernel).ok) continue;
          std::vector<float> got = many.run(cpu, kernel, some, many.source());
          got.resize(static_cast<std::size_t>(desc.n));
          (tiles ? tile_rows : rows).push_back(std::move(got));
        }
      }
    }
    ASSERT_GE(rows.size(), 6u) << desc.to_string();
    for (const auto& row : rows) ASSERT_EQ(row, rows.front()) << desc.to_string();
    for (const auto& row : tile_rows) ASSERT_EQ(row, tile_rows.front()) << desc.to_string();
  }
}

TEST_P(EveryKernel, PackedIntegersEqualMaskedDenseBitForBit) {
  if (GetParam().dtype != DType::kI8) return;  // sums of floating-point numbers have an order: see above
  const Backend& cpu = backend_named("cpu");
  for (const GemmDesc& desc : every_layout(base(6, 20, 1000))) {
    const Problem problem(desc, 21);
    for (const KernelDesc& dense : cpu.kernels()) {
      if (!cpu.feasible(problem.dense_desc(), dense).ok) continue;
      const auto expected = problem.run(cpu, dense, problem.dense_desc(), problem.dense_source());
      for (const KernelDesc& kernel : cpu.kernels()) {
        if (!cpu.feasible(desc, kernel).ok) continue;
        EXPECT_EQ(problem.run(cpu, kernel), expected) << kernel.name << " and " << dense.name;
      }
    }
  }
}

std::vector<Case> every_case() {
  std::vector<Case> cases;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    for (const DType dtype : {DType::kI8, DType::kF8E4M3, DType::kBF16}) cases.push_back({isa, dtype});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, EveryKernel, testing::ValuesIn(every_case()),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace slidesparse
