#include "gemm/backends/native.h"

#include <gtest/gtest.h>

#include <set>

#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "gemm/cuda/case.h"
#include "kernels/sm90/sm90_variant.h"

namespace slidesparse {
namespace {

const NativeBackend kBackend;

// Empty where the kernels can run.
std::string why_not() {
  if (std::string reason = no_gpu_reason(); !reason.empty()) return reason;
  return kBackend.available().reason;
}

// Those of a type, for weights with a pattern or for dense ones.
std::vector<KernelDesc> kernels_for(DType dtype, bool sparse) {
  const auto variants = sm90::variants();
  std::vector<KernelDesc> list;
  for (const KernelDesc& kernel : kBackend.kernels()) {
    const auto at = static_cast<std::size_t>(kernel.id) % variants.size();
    if (variants[at].dtype == dtype && kernel.sparse == sparse) list.push_back(kernel);
  }
  return list;
}

GemmDesc split_desc(int half_group, std::int64_t m, std::int64_t n, std::int64_t k) {
  GemmDesc desc;
  desc.m = m;
  desc.n = n;
  desc.k = k;
  desc.x = desc.w = DType::kF8E4M3;
  desc.pattern = Pattern::of_half_group(half_group);
  desc.layout = Layout::kSplit;
  desc.device = {DeviceKind::kCuda, 0};
  return desc;
}

// Some have no room for stages of two dense steps; nothing else may keep one from a problem of the tests.
bool runs_schedule(const GemmDesc& desc, const KernelDesc& kernel) {
  const Feasibility answer = kBackend.feasible(desc, kernel);
  if (!answer.ok) {
    EXPECT_EQ(answer.reason, "for weights with at least as many 2:4 channels as dense ones") << kernel.name;
  }
  return answer.ok;
}

TEST(NativeTable, IsConsistent) {
  const std::vector<KernelDesc> kernels = kBackend.kernels();
  ASSERT_EQ(kernels.size(), 2 * sm90::variants().size());
  // Each takes half a minute of building.
  for (const DType dtype : {DType::kF8E4M3, DType::kI8, DType::kBF16})
    EXPECT_LE(kernels_for(dtype, true).size(), 8u) << dtype_name(dtype);
  std::set<std::string> names;
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    EXPECT_EQ(kernels[i].id, static_cast<int>(i));
    EXPECT_EQ(kernels[i].backend, "native");
    EXPECT_TRUE(names.insert(kernels[i].name).second) << kernels[i].name;
    EXPECT_FALSE(kernels[i].two_roundings);
    EXPECT_TRUE(kernels[i].reproducible);
  }
}

TEST(NativeTable, SaysWhatItCannotDo) {
  const KernelDesc kernel = kernels_for(DType::kF8E4M3, true).front();
  const GemmDesc good = split_desc(4, 16, 64, 256);
  EXPECT_TRUE(native_supports(good, kernel, 90).ok) << native_supports(good, kernel, 90).reason;
  EXPECT_EQ(native_supports(good, kernel, 89).reason,
            "its kernels are for Hopper (compute capability 9.0), the card has 8.9");
  EXPECT_EQ(native_supports(good, kernel, 120).reason,
            "its kernels are for Hopper (compute capability 9.0), the card has 12.0");
  GemmDesc desc = good;
  desc.out = DType::kF32;
  EXPECT_EQ(native_supports(desc, kernel, 90).reason, "writes BF16, not F32");
  for (const KernelDesc& other : kernels_for(DType::kF8E4M3, true)) {
    EXPECT_EQ(native_supports(desc, other, 90).ok, other.name.find("split-k") != std::string::npos)
        << other.name;
  }
  desc = good;
  desc.n = 100;
  EXPECT_EQ(native_supports(desc, kernel, 90).reason, "N=100 with rows of 100: multiples of 8 are possible");
  desc = good;
  desc.x = desc.w = DType::kI8;
  EXPECT_EQ(native_supports(desc, kernel, 90).reason, "for F8_E4M3 weights");
  desc = good;
  desc.layout = Layout::kDense;
  desc.pattern = Pattern();
  EXPECT_EQ(native_supports(desc, kernel, 90).reason, "for weights with a pattern");
  EXPECT_TRUE(native_supports(desc, kernels_for(DType::kF8E4M3, false).front(), 90).ok);
  EXPECT_EQ(native_supports(good, kernels_for(DType::kF8E4M3, false).front(), 90).reason,
            "for dense weights");
  for (const char* wrong :
       {"panel=0", "panel=", "panel=x", "tile=3", "panel=257", "panel=1 panel=2", "splits=2"}) {
    KernelDesc other = kernel;
    other.config = wrong;
    EXPECT_NE(native_supports(good, other, 90).reason.find("setting"), std::string::npos) << wrong;
  }
}

// Bytes that one run reads: nothing is expanded, and one form serves every kernel and M.
TEST(NativeTable, FootprintsAreTheFormatsBytes) {
  for (const auto& [half_group, k, bytes] :
       {std::tuple{2, 3584, .625}, {3, 3072, .75}, {4, 3584, .8125}, {4, 18944, .8125}, {5, 3200, .85}}) {
    const GemmDesc desc = split_desc(half_group, 64, 4608, k);
    std::set<std::string> forms;
    for (const KernelDesc& kernel : kernels_for(DType::kF8E4M3, true)) {
      const Footprint footprint = kBackend.footprint(desc, kernel);
      EXPECT_EQ(footprint.weight_bytes_read, static_cast<std::int64_t>(bytes * 4608 * k) + 4608 * 4);
      EXPECT_EQ(footprint.weight_bytes, footprint.weight_bytes_read + 4 * k);  // and the order of channels
      EXPECT_EQ(footprint.workspace_bytes, 0);
      EXPECT_EQ(footprint.k_padded, k);
      EXPECT_TRUE(footprint.gathered);
      forms.insert(kBackend.weight_form(desc, kernel));
    }
    EXPECT_EQ(forms.size(), 1u);
  }
  GemmDesc desc = split_desc(4, 64, 4608, 3584);
  desc.x = desc.w = DType::kBF16;  // has no scales
  const Footprint footprint = kBackend.footprint(desc, kernels_for(DType::kBF16, true).front());
  EXPECT_EQ(footprint.weight_bytes_read, static_cast<std::int64_t>(1.5625 * 4608 * 3584));
}

// Every kernel on one problem.
class NativeShapes : public testing::TestWithParam<CaseSpec> {};

TEST_P(NativeShapes, EveryKernelGivesTheReference) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  const CudaCase problem(GetParam());
  int checked = 0;
  for (const KernelDesc& kernel : kernels_for(GetParam().dtype, !GetParam().pattern.is_dense())) {
    if (!runs_schedule(problem.desc(), kernel)) continue;
    problem.check(kBackend, kernel);
    ++checked;
  }
  EXPECT_GE(checked, 5);
}

std::vector<CaseSpec> shapes() {
  std::vector<CaseSpec> list;
  // N_out of odd eights, rows that do not fill a cluster's tile; K with and without a tail.
  constexpr std::pair<std::int64_t, std::int64_t> kLayers[] = {
      {104, 576}, {584, 1536}, {1160, 3584}, {200, 1001}};
  for (const DType dtype : {DType::kF8E4M3, DType::kI8, DType::kBF16}) {
    for (const std::int64_t m : {1, 3, 17, 64, 257, 4096}) {
      for (const auto& [n, k] : kLayers) {
        CaseSpec spec;
        spec.dtype = dtype;
        spec.split = true;
        spec.pattern = Pattern::of_half_group(2 + static_cast<int>(list.size() % 4));
        spec.m = m;
        spec.n = n;
        spec.k = k;
        spec.bias = list.size() % 2 == 0;
        spec.seed = list.size() + 1;
        list.push_back(spec);
      }
    }
  }
  return list;
}
INSTANTIATE_TEST_SUITE_P(Split, NativeShapes, testing::ValuesIn(shapes()), case_name);

std::vector<CaseSpec> special_cases() {
  std::vector<CaseSpec> list;
  for (const DType dtype : {DType::kF8E4M3, DType::kI8, DType::kBF16}) {
    CaseSpec spec;
    spec.dtype = dtype;
    spec.split = true;
    spec.pattern = Pattern::of_half_group(4);
    spec.bias = true;
    spec.m = 130;
    spec.n = 584;
    spec.k = 1536;
    spec.exact = true;
    list.push_back(spec);  // exact sums, every number the very one
    spec.exact = false;
    spec.nan_token = dtype != DType::kBF16;  // which has no scale to say so
    list.push_back(spec);                    // a NaN stays in its row
    spec.nan_token = false;
    spec.ldout = 640;
    list.push_back(spec);  // what lies between rows stays
    spec.ldout = 0;
    spec.n = 8;
    list.push_back(spec);
    spec.k = 40;  // nothing is sparse, one step of padding
    list.push_back(spec);
    spec.k = 1536;
    spec.n = 584;
    spec.m = 0;
    list.push_back(spec);
    spec.m = 70;
    for (const int half_group : {2, 3, 4, 5, 6, 7, 8}) {
      for (const bool split : {true, false}) {  // packed ones are slid to 2:4
        spec.pattern = Pattern::of_half_group(half_group);
        spec.split = split;
        spec.k = split ? 1536 + 64 * half_group : 1544;
        spec.exact = half_group % 2 == 0;
        list.push_back(spec);
      }
    }
    spec.exact = false;
    spec.split = false;
    spec.pattern = Pattern();
    for (const std::int64_t k : {40, 1536, 1601}) {
      spec.k = k;
      spec.exact = k == 1536;
      list.push_back(spec);
    }
  }
  for (std::size_t i = 0; i < list.size(); ++i) list[i].seed = 1000 + i;
  return list;
}
INSTANTIATE_TEST_SUITE_P(Special, NativeShapes, testing::ValuesIn(special_cases()), case_name);

// More tiles than clusters, panels that do not come out even, tails everywhere.
TEST(NativeSettings, EveryPanelGivesTheReference) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  CaseSpec spec;
  spec.dtype = DType::kI8;
  spec.split = true;
  spec.pattern = Pattern::of_half_group(4);
  spec.m = 9000;
  spec.n = 2008;
  spec.k = 640;
  const CudaCase problem(spec);
  for (KernelDesc kernel : kernels_for(spec.dtype, true)) {
    for (const char* config : {"panel=1", "panel=5", "panel=256"}) {
      kernel.config = config;
      problem.check(kBackend, kernel);
    }
  }
}

// Parts of K that are not equally long, tiles of tokens that are not full, blocks without rows.
TEST(NativeSettings, EverySplitGivesTheReference) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  for (const DType dtype : {DType::kF8E4M3, DType::kI8, DType::kBF16}) {
    for (const auto& [half_group, m] : {std::pair{2, 1}, {4, 5}, {5, 64}, {3, 130}}) {
      CaseSpec spec;
      spec.dtype = dtype;
      spec.split = true;
      spec.bias = true;
      spec.pattern = Pattern::of_half_group(half_group);
      spec.m = m;
      spec.n = 712;
      spec.k = 1536 + 64 * half_group;
      const CudaCase problem(spec);
      for (KernelDesc kernel : kernels_for(dtype, true)) {
        if (kernel.name.find("split-k") == std::string::npos) continue;
        for (const char* config : {"splits=1", "splits=2", "splits=3", "splits=4", "splits=8"}) {
          kernel.config = config;
          problem.check(kBackend, kernel);
        }
      }
    }
  }
}

// The way to the logits: dense weights of any number of tokens, FP32 outputs, rows with room between them.
TEST(NativeSettings, KernelsThatSplitKWriteF32) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  for (const DType dtype : {DType::kF8E4M3, DType::kI8, DType::kBF16}) {
    for (const std::int64_t m : {1, 16, 70, 513}) {
      CaseSpec spec;
      spec.dtype = dtype;
      spec.out = DType::kF32;
      spec.m = m;
      spec.n = 1160;
      spec.k = 3584;
      spec.bias = m == 16;
      spec.ldout = m == 70 ? 1168 : 0;
      const CudaCase problem(spec);
      int checked = 0;
      for (KernelDesc kernel : kernels_for(dtype, false)) {
        const bool splits = kernel.name.find("split-k") != std::string::npos;
        EXPECT_EQ(kBackend.feasible(problem.desc(), kernel).ok, splits) << kernel.name;
        if (!splits) continue;
        for (const char* config : {"", "splits=1", "splits=4"}) {
          kernel.config = config;
          problem.check(kBackend, kernel);
          ++checked;
        }
      }
      EXPECT_GE(checked, 3);
    }
  }
}

TEST(NativeSettings, CandidatesAreFeasibleAndDistinct) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  for (const std::int64_t m : {1, 16, 64, 100, 512, 4096, 65536}) {
    const GemmDesc desc = split_desc(4, m, 4608, 3584);
    std::set<std::string> seen;
    for (const KernelDesc& kernel : kBackend.candidates(desc)) {
      EXPECT_TRUE(kBackend.feasible(desc, kernel).ok);
      EXPECT_TRUE(seen.insert(kernel.name + kernel.config).second) << kernel.name << kernel.config;
    }
    EXPECT_FALSE(seen.empty()) << m;
    const Choice choice = choose(desc);
    EXPECT_EQ(choice.backend->name(), "native");
    EXPECT_EQ(choice.kernel.name, kBackend.candidates(desc).front().name);
  }
}

TEST(NativeKernels, HaveNoSpills) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  for (const sm90::Variant& variant : sm90::variants()) {
    sm90::Resources resources;
    ASSERT_EQ(variant.resources(&resources), 0);
    EXPECT_EQ(resources.local_bytes, 0) << variant_name(variant);
    EXPECT_LE(resources.shared_bytes, 232448) << variant_name(variant);
  }
}

TEST(NativeRun, HostTimes) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  CaseSpec spec;
  spec.dtype = DType::kF8E4M3;
  spec.split = true;
  spec.pattern = Pattern::of_half_group(4);
  print_host_times(kBackend, CudaCase(spec));
}

// M * N > 2^31, last rows among those that are looked at.
TEST(NativeLarge, BeyondTwoToThe31Outputs) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  CaseSpec spec;
  spec.dtype = DType::kF8E4M3;
  spec.split = true;
  spec.pattern = Pattern::of_half_group(4);
  spec.m = 65536;
  spec.n = 37888;
  spec.k = 3584;
  spec.bias = true;
  const CudaCase problem(spec);
  const std::vector<KernelDesc> kernels = kernels_for(spec.dtype, true);
  for (std::size_t i = 0; i < 2; ++i) problem.check(kBackend, kernels[i]);
}

}  // namespace
}  // namespace slidesparse
