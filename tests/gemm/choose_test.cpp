#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/cpu.h"
#include "gemm/backend.h"
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
  EXPECT_THAT(choose(problem(7, Layout::kPacked, pattern)).kernel.name, "cpu/avx512 packed 6:8 I8 panel");
  EXPECT_THAT(choose(problem(1)).kernel.name, "cpu/avx512 dense I8 stream");
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
    EXPECT_STREQ(error.what(), "backend \"cublas\" is not known: one of cpu, reference");
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
