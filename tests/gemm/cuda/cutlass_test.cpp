#include "gemm/backends/cutlass.h"

#include <gtest/gtest.h>

#include <set>

#include "core/buffer.h"
#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "gemm/backends/cutlass/variant.h"
#include "gemm/cuda/case.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using cutlass_gemm::Schedule;
using cutlass_gemm::Variant;
using cutlass_gemm::variants;

const CutlassBackend kBackend;

// Empty where the kernels can run.
std::string why_not() {
  if (std::string reason = no_gpu_reason(); !reason.empty()) return reason;
  return kBackend.available().reason;
}

std::vector<KernelDesc> kernels_for(DType dtype) {
  std::vector<KernelDesc> list;
  for (const KernelDesc& kernel : kBackend.kernels()) {
    if (variants()[static_cast<std::size_t>(kernel.id)].dtype == dtype) list.push_back(kernel);
  }
  return list;
}

GemmDesc desc_of(DType dtype, std::int64_t m, std::int64_t n, std::int64_t k) {
  GemmDesc desc;
  desc.m = m;
  desc.n = n;
  desc.k = k;
  desc.x = desc.w = dtype;
  desc.device = {DeviceKind::kCuda, 0};
  return desc;
}

std::string reason(GemmDesc desc, const std::string& config = {}) {
  KernelDesc kernel = kernels_for(DType::kI8).front();
  kernel.config = config;
  return kBackend.feasible(desc, kernel).reason;
}

TEST(CutlassTable, IsConsistent) {
  const std::vector<KernelDesc> kernels = kBackend.kernels();
  ASSERT_EQ(kernels.size(), variants().size());
  ASSERT_FALSE(kernels.empty()) << kBackend.available().reason;
  EXPECT_LE(kernels.size(), 12u) << "each takes half a minute to compile";
  std::set<std::string> names;
  std::set<std::string> tiles[2];
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    const Variant& variant = variants()[i];
    EXPECT_EQ(kernels[i].id, static_cast<int>(i));
    EXPECT_TRUE(names.insert(kernels[i].name).second) << kernels[i].name;
    EXPECT_TRUE(kernels[i].config.empty());
    EXPECT_FALSE(kernels[i].sparse);
    EXPECT_FALSE(kernels[i].two_roundings);
    const bool fp8 = variant.dtype == DType::kF8E4M3;
    EXPECT_TRUE(fp8 || variant.dtype == DType::kI8);
    EXPECT_EQ(kernels[i].name.find("fast-accum") != std::string::npos, fp8) << kernels[i].name;
    tiles[fp8 ? 1 : 0].insert(variant_name(variant));
    // Two warp groups on one tile take 64 rows each.
    EXPECT_EQ(variant.tile_channels % (variant.schedule == Schedule::kPingpong ? 64 : 128), 0);
    EXPECT_EQ(variant.tile_tokens % 16, 0);
    EXPECT_EQ(variant.tile_k % 32, 0);
    for (const auto function :
         {variant.can_implement != nullptr, variant.workspace_bytes != nullptr, variant.prepare != nullptr,
          variant.resources != nullptr, variant.run != nullptr}) {
      EXPECT_TRUE(function) << kernels[i].name;
    }
  }
  EXPECT_EQ(tiles[0], tiles[1]) << "INT8 and FP8 have the same tiles";
  EXPECT_FALSE(kBackend.version().empty());
}

TEST(CutlassTable, SaysWhatItCannotDo) {
  const GemmDesc good = desc_of(DType::kI8, 16, 64, 64);
  GemmDesc desc = good;
  desc.device = {};
  EXPECT_NE(reason(desc), "");
  desc = good;
  desc.w = desc.x = DType::kF8E4M3;
  EXPECT_EQ(reason(desc), "for I8 weights");
  desc = good;
  desc.out = DType::kF32;
  EXPECT_EQ(reason(desc), "writes BF16, not F32");
  desc = good;
  desc.layout = Layout::kSplit;
  desc.pattern = Pattern::of_half_group(4);
  EXPECT_NE(reason(desc).find("split"), std::string::npos);
  desc.layout = Layout::kDense;
  EXPECT_NE(reason(desc).find("6:8"), std::string::npos);
  desc = good;
  desc.m = std::int64_t{1} << 31;
  EXPECT_NE(reason(desc).find("2147483648"), std::string::npos);
  desc = good;
  desc.n = 0;
  EXPECT_NE(reason(desc), "");
  for (const char* wrong : {"swizzle=3", "swizzle=", "swizzle", "splits=2x", "splits=-1", "splits=17",
                            "colour=1", "=", "swizzle=4 colour=1"}) {
    EXPECT_NE(reason(good, wrong).find("setting"), std::string::npos) << wrong;
  }
  if (!kBackend.available().ok) {
    EXPECT_NE(reason(good), "") << "nothing is feasible without a card";
  }
}

TEST(CutlassTable, OnlyStreamKTakesSplits) {
  for (KernelDesc kernel : kBackend.kernels()) {
    const Variant& variant = variants()[static_cast<std::size_t>(kernel.id)];
    kernel.config = "splits=2";
    const std::string text = kBackend.feasible(desc_of(variant.dtype, 16, 64, 64), kernel).reason;
    EXPECT_EQ(text.find("setting") == std::string::npos, variant.schedule == Schedule::kStreamK) << text;
  }
}

TEST(CutlassTable, FootprintsAddUp) {
  for (const KernelDesc& kernel : kBackend.kernels()) {
    const DType dtype = variants()[static_cast<std::size_t>(kernel.id)].dtype;
    GemmDesc desc = desc_of(dtype, 64, 4608, 3584);
    const Footprint aligned = kBackend.footprint(desc, kernel);
    EXPECT_EQ(aligned.m_padded, 64);
    EXPECT_EQ(aligned.k_padded, 3584);
    EXPECT_EQ(aligned.lift, 0);
    EXPECT_EQ(aligned.weight_bytes, std::int64_t{4608} * 3584 + 4608 * 4);
    desc.bias = true;
    EXPECT_EQ(kBackend.footprint(desc, kernel).weight_bytes, aligned.weight_bytes + 4608 * 4);
    EXPECT_EQ(kBackend.footprint(desc, kernel).workspace_bytes, aligned.workspace_bytes);
    // Rows of 4607 BF16 elements cannot be written by the copy engine.
    desc.n = 4607;
    EXPECT_EQ(kBackend.footprint(desc, kernel).workspace_bytes,
              aligned.workspace_bytes + std::int64_t{64} * 4608 * 2);
    desc.ldout = 4608;  // and whole 16 bytes would be written behind the last one
    EXPECT_EQ(kBackend.footprint(desc, kernel).workspace_bytes,
              aligned.workspace_bytes + std::int64_t{64} * 4608 * 2);
    desc.n = 4600;
    EXPECT_EQ(kBackend.footprint(desc, kernel).workspace_bytes, aligned.workspace_bytes);
    desc.k = 1001;
    EXPECT_EQ(kBackend.footprint(desc, kernel).k_padded, 1008);
    desc.m = 0;
    EXPECT_EQ(kBackend.footprint(desc, kernel).workspace_bytes, 0);
    // No INT32 matrix hides in a large problem.
    desc = desc_of(dtype, 65536, 37888, 3584);
    EXPECT_LT(kBackend.footprint(desc, kernel).workspace_bytes, std::int64_t{64} << 20) << kernel.name;
  }
}

// Every kernel on one problem.
class CutlassShapes : public testing::TestWithParam<CaseSpec> {};

TEST_P(CutlassShapes, EveryKernelGivesTheReference) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  const CudaCase problem(GetParam());
  for (const KernelDesc& kernel : kernels_for(GetParam().dtype)) problem.check(kBackend, kernel);
}

std::vector<CaseSpec> shapes() {
  std::vector<CaseSpec> list;
  constexpr std::pair<std::int64_t, std::int64_t> kLayers[] = {
      {100, 576}, {576, 1536}, {3584, 8960}, {204, 1001}};
  for (const DType dtype : {DType::kF8E4M3, DType::kI8}) {
    for (const std::int64_t m : {1, 3, 17, 64, 257, 4096}) {
      for (const auto& [n, k] : kLayers) {
        CaseSpec spec;
        spec.dtype = dtype;
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

INSTANTIATE_TEST_SUITE_P(Dense, CutlassShapes, testing::ValuesIn(shapes()), case_name);

std::vector<CaseSpec> special_cases() {
  std::vector<CaseSpec> list;
  for (const DType dtype : {DType::kF8E4M3, DType::kI8}) {
    CaseSpec spec;
    spec.dtype = dtype;
    spec.bias = true;
    spec.m = 130;
    spec.n = 584;
    spec.k = 1536;
    spec.exact = true;
    list.push_back(spec);  // exact sums, every number the very one
    spec.bias = false;
    list.push_back(spec);
    spec.exact = false;
    spec.nan_token = true;
    list.push_back(spec);  // a NaN stays in its row
    spec.nan_token = false;
    spec.ldout = 640;
    list.push_back(spec);  // what lies between rows stays
    spec.n = 100;
    spec.ldout = 104;
    list.push_back(spec);
    spec.ldout = 0;
    spec.n = 2;
    list.push_back(spec);
    spec.n = 584;
    spec.m = 0;
    list.push_back(spec);
    spec.m = 70;
    for (const int half_group : {2, 3, 4, 5, 8}) {  // packed weights, expanded when they are prepared
      spec.pattern = Pattern::of_half_group(half_group);
      spec.exact = false;
      list.push_back(spec);
    }
    spec.pattern = Pattern::of_half_group(5);
    spec.exact = true;
    list.push_back(spec);
  }
  for (std::size_t i = 0; i < list.size(); ++i) list[i].seed = 1000 + i;
  return list;
}

INSTANTIATE_TEST_SUITE_P(Special, CutlassShapes, testing::ValuesIn(special_cases()), case_name);

TEST(CutlassSettings, EveryOneGivesTheReference) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  for (const DType dtype : {DType::kF8E4M3, DType::kI8}) {
    for (const std::int64_t m : {33, 700}) {
      CaseSpec spec;
      spec.dtype = dtype;
      spec.bias = true;
      spec.m = m;
      spec.n = 1160;
      spec.k = 8960;
      const CudaCase problem(spec);
      for (KernelDesc kernel : kernels_for(dtype)) {
        const bool cuts = variants()[static_cast<std::size_t>(kernel.id)].schedule == Schedule::kStreamK;
        for (const char* config : {"swizzle=1", "swizzle=2", "swizzle=4", "swizzle=8", "splits=0", "splits=2",
                                   "splits=5 swizzle=2", "splits=16"}) {
          if (!cuts && std::string_view(config).find("splits") == 0) continue;
          kernel.config = config;
          problem.check(kBackend, kernel);
        }
      }
    }
  }
}

TEST(CutlassSettings, CandidatesAreFeasibleAndDistinct) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  for (const DType dtype : {DType::kF8E4M3, DType::kI8}) {
    for (const std::int64_t m : {1, 16, 64, 100, 512, 4096, 65536}) {
      for (const std::int64_t n : {576, 4608, 37888}) {
        const GemmDesc desc = desc_of(dtype, m, n, 3584);
        const std::vector<KernelDesc> list = kBackend.candidates(desc);
        EXPECT_FALSE(list.empty()) << desc.to_string();
        std::set<std::string> seen;
        for (const KernelDesc& kernel : list) {
          EXPECT_TRUE(kBackend.feasible(desc, kernel).ok);
          EXPECT_TRUE(seen.insert(kernel.name + kernel.config).second) << kernel.name << kernel.config;
          EXPECT_LT(kBackend.footprint(desc, kernel).workspace_bytes, std::int64_t{64} << 20);
        }
      }
    }
  }
}

TEST(CutlassRun, MisalignedPointersAndForeignWeightsAreOneClearError) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  CaseSpec spec;
  spec.m = 8;
  spec.n = 64;
  spec.k = 64;
  const CudaCase problem(spec);
  spec.k = 128;
  const CudaCase other(spec);
  const KernelDesc kernel = kernels_for(spec.dtype).front();
  const auto weights = kBackend.prepare_weights(problem.source(), problem.desc(), kernel);
  const auto foreign = kBackend.prepare_weights(other.source(), other.desc(), kernel);
  const GemmPlan plan = kBackend.plan(problem.desc(), kernel);
  DeviceBuffer memory(1 << 16, "test: everything");
  const CudaStream stream;
  fill_device(memory.data(), 0, memory.size(), stream.handle());
  Arena arena(memory.data() + 32768, 32768);
  const Context context{problem.desc().device, stream.handle(), &arena};
  std::byte* x = memory.data();
  auto* scale = reinterpret_cast<float*>(x + 8192);
  std::byte* out = x + 16384;
  EXPECT_THROW(kBackend.run(plan, *weights, {x + 1, scale, out}, context), Error);
  EXPECT_THROW(kBackend.run(plan, *weights, {x, scale, out + 2}, context), Error);
  EXPECT_THROW(kBackend.run(plan, *weights, {nullptr, scale, out}, context), Error);
  EXPECT_THROW(kBackend.run(plan, *weights, {x, nullptr, out}, context), Error);
  EXPECT_THROW(kBackend.run(plan, *foreign, {x, scale, out}, context), Error);
  EXPECT_NO_THROW(kBackend.run(plan, *weights, {x, scale, out}, context));
  stream.synchronize();
}

TEST(CutlassSettings, WithoutMeasurementsTheFirstCandidateIsChosen) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  const std::vector<std::string> only{"cutlass"};
  std::set<std::string> chosen;
  for (const std::int64_t m : {16, 64, 1024, 16384}) {
    const GemmDesc desc = desc_of(DType::kF8E4M3, m, 4608, 3584);
    const Choice choice = choose(desc, only);
    const KernelDesc likely = kBackend.candidates(desc).front();
    EXPECT_EQ(choice.kernel.name, likely.name);
    EXPECT_EQ(choice.kernel.config, likely.config);
    chosen.insert(choice.kernel.name);
  }
  EXPECT_GE(chosen.size(), 3u) << "one kernel cannot be the best for every number of tokens";
}

// One problem on the card, with the bits that it gives when nothing else runs.
struct OnCard {
  OnCard(const CaseSpec& spec, const KernelDesc& kernel, const CudaStream& stream)
      : problem(spec), plan(kBackend.plan(problem.desc(), kernel)) {
    const Footprint footprint = kBackend.footprint(problem.desc(), kernel);
    weights = kBackend.prepare_weights(problem.source(), problem.desc(), kernel);
    const Buffer x_host = problem.activations(footprint);
    const std::vector<float> scale_host = problem.token_scales(footprint);
    x = DeviceBuffer(static_cast<std::int64_t>(x_host.size()), "test: x");
    scale = DeviceBuffer(static_cast<std::int64_t>(scale_host.size()) * 4, "test: scales");
    out = DeviceBuffer(spec.m * spec.n * 2, "test: out");
    copy_to_device(x.data(), x_host.data(), x.size(), stream.handle());
    copy_to_device(scale.data(), scale_host.data(), scale.size(), stream.handle());
    stream.synchronize();
  }
  void run(const CudaStream& stream, Arena& arena) {
    kBackend.run(plan, *weights, {x.data(), scale.as<float>(), out.data()},
                 {problem.desc().device, stream.handle(), &arena});
  }
  std::vector<std::uint16_t> read(const CudaStream& stream) {
    std::vector<std::uint16_t> host(static_cast<std::size_t>(out.size() / 2));
    copy_to_host(host.data(), out.data(), out.size(), stream.handle());
    stream.synchronize();
    return host;
  }

  CudaCase problem;
  GemmPlan plan;
  std::unique_ptr<PreparedWeights> weights;
  DeviceBuffer x, scale, out;
};

// Kernels that start before their predecessor ends share one workspace with it.
TEST(CutlassRun, CallsInARowDoNotDisturbEachOther) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  for (const DType dtype : {DType::kF8E4M3, DType::kI8}) {
    const CudaStream stream;
    std::vector<OnCard> all;
    CaseSpec spec;
    spec.dtype = dtype;
    spec.k = 8960;
    std::int64_t workspace_bytes = 0;
    for (KernelDesc kernel : kernels_for(dtype)) {
      const bool cuts = variants()[static_cast<std::size_t>(kernel.id)].schedule == Schedule::kStreamK;
      for (const char* config : {"", "splits=3"}) {
        if (!cuts && *config != 0) continue;
        kernel.config = config;
        spec.m = 40 + 9 * static_cast<std::int64_t>(all.size());
        spec.n = 1160 + 64 * static_cast<std::int64_t>(all.size() % 3);
        spec.seed = all.size() + 1;
        all.emplace_back(spec, kernel, stream);
        workspace_bytes = std::max(workspace_bytes, all.back().plan.workspace_bytes);
      }
    }
    DeviceBuffer workspace(workspace_bytes, "test: workspace");
    Arena arena(workspace.data(), static_cast<std::size_t>(workspace_bytes));
    std::vector<std::vector<std::uint16_t>> alone;
    for (OnCard& one : all) {
      fill_device(workspace.data(), 0xff, workspace.size(), stream.handle());
      one.run(stream, arena);
      alone.push_back(one.read(stream));
    }
    for (OnCard& one : all) fill_device(one.out.data(), 0xff, one.out.size(), stream.handle());
    fill_device(workspace.data(), 0xff, workspace.size(), stream.handle());
    stream.synchronize();
    const CudaGraph graph(stream, [&] {
      for (int round = 0; round < 10; ++round) {
        for (OnCard& one : all) one.run(stream, arena);
      }
    });
    for (int i = 0; i < 20; ++i) graph.launch(stream.handle());
    for (int i = 0; i < 5; ++i) {
      for (OnCard& one : all) one.run(stream, arena);
    }
    for (std::size_t i = 0; i < all.size(); ++i)
      EXPECT_EQ(all[i].read(stream), alone[i]) << all[i].plan.kernel.name << " " << all[i].plan.kernel.config;
  }
}

// M * N > 2^31, last rows among those that are looked at.
class CutlassLarge : public testing::TestWithParam<DType> {};

TEST_P(CutlassLarge, BeyondTwoToThe31Outputs) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  CaseSpec spec;
  spec.dtype = GetParam();
  spec.m = 65536;
  spec.n = 37888;
  spec.k = 3584;
  spec.bias = true;
  const CudaCase problem(spec);
  for (const KernelDesc& kernel : kernels_for(spec.dtype)) {
    // One small tile and the two large ones: reading five gigabytes back three times takes its time.
    const Variant& variant = variants()[static_cast<std::size_t>(kernel.id)];
    if (variant.tile_tokens == 64 || variant.tile_tokens == 256 ||
        (variant.tile_tokens == 128 && variant.schedule == Schedule::kPingpong)) {
      problem.check(kBackend, kernel);
    }
  }
}

std::string type_name(const testing::TestParamInfo<DType>& which) {
  return which.param == DType::kI8 ? "I8" : "F8";
}
INSTANTIATE_TEST_SUITE_P(Types, CutlassLarge, testing::Values(DType::kF8E4M3, DType::kI8), type_name);

}  // namespace
}  // namespace slidesparse
