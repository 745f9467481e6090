#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/cpu.h"
#include "gemm/backend.h"
#include "gemm/tuning_cache.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;

GemmDesc problem(std::int64_t m, Layout layout = Layout::kDense, Pattern pattern = Pattern(),
                 DType dtype = DType::kI8) {
  GemmDesc desc;
  desc.m = m;
  desc.n = 256;
  desc.k = 512;
  desc.x = desc.w = dtype;
  desc.layout = layout;
  desc.pattern = pattern;
  return desc;
}

struct ForcedIsa {
  explicit ForcedIsa(Isa isa) { force_isa(isa); }
  ~ForcedIsa() { force_isa(std::nullopt); }
};

std::string refusal(const GemmDesc& desc, std::vector<std::string> allowed = {}) {
  try {
    choose(desc, allowed);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    return error.what();
  }
  return "";
}

TEST(Choose, StreamsForFewTokensAndExpandsPanelsForMany) {
  if (detected_isa() < Isa::kAvx512) GTEST_SKIP() << "streaming kernels need AVX-512";
  const Pattern pattern = Pattern::of_half_group(4);
  EXPECT_THAT(choose(problem(1, Layout::kPacked, pattern)).kernel.name, "cpu/avx512 packed 6:8 I8 stream");
  EXPECT_THAT(choose(problem(6, Layout::kPacked, pattern)).kernel.name, "cpu/avx512 packed 6:8 I8 stream");
  EXPECT_THAT(choose(problem(7, Layout::kPacked, pattern)).kernel.name,
              has_amx() ? "cpu/avx512 packed 6:8 I8 amx" : "cpu/avx512 packed 6:8 I8 panel");
  EXPECT_THAT(choose(problem(1)).kernel.name, "cpu/avx512 dense I8 stream");
}

TEST(Choose, TakesGroupsOfTokensWithAvx2) {
  if (detected_isa() < Isa::kAvx2) GTEST_SKIP() << "needs AVX2";
  const ForcedIsa forced(Isa::kAvx2);
  const Pattern pattern = Pattern::of_half_group(4);
  EXPECT_EQ(choose(problem(7, Layout::kPacked, pattern)).kernel.name, "cpu/avx2 packed 6:8 I8 panel");
  EXPECT_EQ(choose(problem(8, Layout::kPacked, pattern)).kernel.name, "cpu/avx2 packed 6:8 I8 tiles");
  EXPECT_EQ(choose(problem(300, Layout::kSplit, pattern, DType::kBF16)).kernel.name, "cpu/avx2 split BF16 tiles");
}

TEST(Choose, TakesTheForcedInstructionSet) {
  const ForcedIsa forced(Isa::kPortable);
  const Choice choice = choose(problem(1, Layout::kSplit, Pattern::of_half_group(5), DType::kF8E4M3));
  EXPECT_EQ(choice.kernel.name, "cpu/portable split F8_E4M3 panel");
  EXPECT_TRUE(choice.kernel.sparse);
  EXPECT_FALSE(choice.reason.empty());
}

TEST(Choose, TakesTheReferenceOnlyWhenItIsNamed) {
  const std::vector<std::string> named{"reference"};
  EXPECT_EQ(choose(problem(3), named).backend->name(), "reference");
  EXPECT_EQ(choose(problem(3)).backend->name(), "cpu");
  EXPECT_THAT(choose(problem(3), named).others, Contains(HasSubstr("cpu: not among the backends asked for")));
}

TEST(Choose, NamesWhatIsSlowerAndWhatCannot) {
  const Choice choice = choose(problem(64, Layout::kPacked, Pattern::of_half_group(3)));
  EXPECT_THAT(choice.others, Contains(HasSubstr("for dense weights")));
  EXPECT_THAT(choice.others, Contains(HasSubstr("for 6:8 weights")));
}

TEST(Choose, SaysWhyNothingCan) {
  EXPECT_THAT(refusal(problem(1, Layout::kSlid, Pattern::of_half_group(4))),
              AllOf(HasSubstr("I8 6:8 slid M=1 N=256 K=512"), HasSubstr("sparse tensor cores")));
  GemmDesc long_rows = problem(1);
  long_rows.k = 1 << 17;
  EXPECT_THAT(refusal(long_rows), HasSubstr("INT8 sums fit in 32 bits up to K=131071"));
  GemmDesc mixed = problem(1);
  mixed.x = DType::kBF16;
  EXPECT_THAT(refusal(mixed), HasSubstr("both must have one type"));
  GemmDesc narrow = problem(2);
  narrow.ldx = 511;
  EXPECT_THAT(refusal(narrow), HasSubstr("shorter than K=512"));
  GemmDesc gpu = problem(2);
  gpu.device.kind = DeviceKind::kCuda;
  EXPECT_THAT(refusal(gpu), HasSubstr("runs on the CPU only"));
  GemmDesc huge = problem(2);
  huge.n = std::int64_t{1} << 50;
  EXPECT_THAT(refusal(huge), HasSubstr("2^56"));
}

TEST(Choose, RefusesABackendThatIsNotThere) {
  const std::vector<std::string> named{"cublas"};
  try {
    choose(problem(1), named);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_THAT(error.what(), HasSubstr("backend \"cublas\" is not known: one of "));
    EXPECT_THAT(error.what(), HasSubstr("cpu, reference"));
  }
}

TEST(Choose, OneDnnOnlyWhereItsIntegersAreExact) {
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2}) {
    if (isa > detected_isa()) continue;
    const ForcedIsa forced(isa);
    for (const KernelDesc& kernel : backend_named("cpu").kernels()) {
      EXPECT_THAT(kernel.name, testing::Not(HasSubstr("onednn")));
    }
  }
}

// A cache with invented times for the problem of problem(m, kPacked, 6:8).
class ChooseMeasured : public testing::Test {
 protected:
  static GemmDesc desc(std::int64_t m) { return problem(m, Layout::kPacked, Pattern::of_half_group(4)); }

  // Times for the CPU's kernels that can, in the order of kernels(), and for the reference.
  static TunedPoint point(std::vector<double> seconds) {
    TunedPoint made{"cpu", {}};
    for (const KernelDesc& kernel : kernels()) {
      TunedKernel tuned;
      tuned.backend = kernel.backend;
      tuned.name = kernel.name;
      tuned.id = kernel.id;
      tuned.sparse = kernel.sparse;
      tuned.seconds.median = made.kernels.size() < seconds.size() ? seconds[made.kernels.size()] : 9;
      made.kernels.push_back(tuned);
    }
    return made;
  }
  static std::vector<KernelDesc> kernels() {
    std::vector<KernelDesc> found = backend_named("cpu").candidates(desc(4));
    for (const KernelDesc& kernel : backend_named("reference").candidates(desc(4))) found.push_back(kernel);
    return found;
  }
  void put(std::int64_t m, TunedPoint point) { cache_.put(TuningProblem::of(desc(m)), m, std::move(point)); }

  TuningCache cache_{TuningMachine{"card", "1", "", "0"}};
};

TEST_F(ChooseMeasured, TheFastestMeasuredOneWinsWhateverTheRulesSay) {
  const std::vector<KernelDesc> all = kernels();
  ASSERT_GE(all.size(), 2u);
  for (std::size_t fastest = 0; fastest + 1 < all.size(); ++fastest) {
    std::vector<double> seconds(all.size(), 2e-3);
    seconds[fastest] = 1e-3;
    seconds.back() = 1e-6;  // the reference is not asked for
    put(4, point(seconds));
    const Choice choice = choose(desc(4), {}, &cache_);
    EXPECT_EQ(choice.kernel.name, all[fastest].name);
    EXPECT_EQ(choice.kernel.id, all[fastest].id);
    EXPECT_EQ(choice.reason, "measured");
    EXPECT_EQ(choice.seconds, 1e-3);
    if (all.size() > 2) {
      EXPECT_EQ(choice.runner_up_seconds, 2e-3);
      EXPECT_NE(choice.runner_up, all[fastest].name);
      EXPECT_THAT(choice.others, Contains(HasSubstr("0.50 of the chosen one's speed")));
    }
    EXPECT_THAT(choice.others, Contains(HasSubstr("for dense weights")));
  }
}

TEST_F(ChooseMeasured, WhatWasStoppedEarlyComesLast) {
  TunedPoint tuned = point(std::vector<double>(kernels().size(), 1e-3));
  if (tuned.kernels.size() < 3) GTEST_SKIP() << "this processor has one kernel besides the reference";
  tuned.kernels[0].finalist = false;
  tuned.kernels[0].seconds.median = 0.5e-3;  // a rough figure
  tuned.kernels[1].seconds.median = 0.9e-3;
  put(4, tuned);
  EXPECT_EQ(choose(desc(4), {}, &cache_).kernel.name, tuned.kernels[1].name);
  tuned.kernels[1].bad = "wrong";  // nothing else is left but the reference
  put(4, tuned);
  const std::vector<std::string> cpu{"cpu"};
  for (std::size_t i = 2; i < tuned.kernels.size(); ++i) tuned.kernels[i].bad = "wrong";
  put(4, tuned);
  EXPECT_EQ(choose(desc(4), cpu, &cache_).kernel.name, tuned.kernels[0].name);
}

TEST_F(ChooseMeasured, OnlyAmongTheAllowed) {
  std::vector<double> seconds(kernels().size(), 1e-3);
  seconds.back() = 5e-3;
  put(4, point(seconds));
  const std::vector<std::string> named{"reference"};
  const Choice choice = choose(desc(4), named, &cache_);
  EXPECT_EQ(choice.backend->name(), "reference");
  EXPECT_EQ(choice.seconds, 5e-3);
}

TEST_F(ChooseMeasured, OtherMAreByRuleAndSaySo) {
  put(2, point({1e-3}));
  put(6, point({3e-3}));
  const Choice between = choose(desc(4), {}, &cache_);
  EXPECT_EQ(between.reason, "by rule: between M=2 and M=6");
  EXPECT_DOUBLE_EQ(between.seconds, 2e-3);
  EXPECT_EQ(choose(desc(1), {}, &cache_).reason, "by rule: no slower than measured at M=2");
  const std::vector<KernelDesc> all = kernels();
  const Choice above = choose(desc(12), {}, &cache_);
  EXPECT_EQ(above.reason, "by rule: per token as measured at M=6");
  EXPECT_TRUE(above.backend->feasible(desc(12), above.kernel).ok);  // not a kernel for few tokens
}

TEST_F(ChooseMeasured, WithoutMeasurementsOfTheProblemTheRulesStand) {
  put(4, point({1e-3}));
  const GemmDesc other = problem(4, Layout::kPacked, Pattern::of_half_group(5));
  EXPECT_EQ(choose(other, {}, &cache_).kernel.name, choose(other).kernel.name);
  EXPECT_EQ(choose(other, {}, &cache_).seconds, 0);
  TuningCache elsewhere = TuningCache::parse(cache_.to_json(), "x", {"card", "2", "", "0"});
  EXPECT_EQ(elsewhere.stale(), 1);
  EXPECT_EQ(choose(desc(4), {}, &elsewhere).seconds, 0);  // stale: not used
}

TEST_F(ChooseMeasured, KernelsThatFailedOrAreGoneAreNotChosen) {
  TunedPoint tuned = point(std::vector<double>(kernels().size(), 1e-3));
  if (tuned.kernels.size() < 3) GTEST_SKIP() << "this processor has one kernel besides the reference";
  tuned.kernels[0].bad = "illegal instruction";
  TunedKernel gone = tuned.kernels[1];
  gone.name = "cpu/of another build";
  gone.id = 12345;
  gone.seconds.median = 1e-9;
  tuned.kernels.push_back(gone);
  gone.backend = "nobody";
  tuned.kernels.push_back(gone);
  put(4, tuned);
  const Choice choice = choose(desc(4), {}, &cache_);
  EXPECT_NE(choice.kernel.name, tuned.kernels[0].name);
  EXPECT_NE(choice.kernel.name, gone.name);
  EXPECT_THAT(choice.others, Contains(HasSubstr("failed when it was tuned at M=4: illegal instruction")));
  for (TunedKernel& kernel : tuned.kernels) kernel.bad = "wrong";
  put(4, tuned);
  EXPECT_EQ(choose(desc(4), {}, &cache_).kernel.name, choose(desc(4)).kernel.name);
}

TEST(Footprint, PackedWeightsAreReadInPlace) {
  const Backend& cpu = backend_named("cpu");
  const GemmDesc desc = problem(1, Layout::kPacked, Pattern::of_half_group(4));
  const Choice choice = choose(desc);
  const Footprint footprint = cpu.footprint(desc, choice.kernel);
  EXPECT_EQ(footprint.weight_bytes, 256 * 4);  // scales in FP32, no copy
  EXPECT_EQ(footprint.weight_bytes_read,
            256 * (384 + 512 / 8 * 5 / 8) + 256 * 4);  // 6:8: values, 5 bits a group, scales
  EXPECT_EQ(cpu.plan(desc, choice.kernel).workspace_bytes, footprint.workspace_bytes);
}

}  // namespace
}  // namespace slidesparse
