#include "gemm/weight_forms.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/fail.h"
#include "gemm/tuning_cache.h"

namespace slidesparse {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Dense INT8 weights on the CPU have two forms where oneDNN multiplies them exactly: the stored one, which is
// read in place, and oneDNN's copy.
GemmDesc dense_problem(std::int64_t m) {
  GemmDesc desc;
  desc.m = m;
  desc.n = 256;
  desc.k = 512;
  return desc;
}

bool has_onednn() {
  const std::vector<KernelDesc> kernels = backend_named("cpu").kernels();
  return std::any_of(kernels.begin(), kernels.end(), [](const KernelDesc& kernel) {
    return kernel.name.find("onednn") != std::string::npos && kernel.name.find("I8") != std::string::npos;
  });
}

class WeightForms : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_onednn()) GTEST_SKIP() << "one form of weights only on this machine";
  }

  // At `m`, the time of kernels of the stored form and of oneDNN.
  void put(std::int64_t m, double stored, double onednn) {
    const Backend& cpu = backend_named("cpu");
    TunedPoint point{"cpu", {}};
    for (const KernelDesc& kernel : cpu.kernels()) {
      if (!cpu.feasible(dense_problem(m), kernel).ok) continue;
      TunedKernel tuned;
      tuned.backend = "cpu";
      tuned.name = kernel.name;
      tuned.id = kernel.id;
      tuned.seconds.median = cpu.weight_form(dense_problem(m), kernel) == "stored" ? stored : onednn;
      point.kernels.push_back(tuned);
    }
    cache_.put(TuningProblem::of(dense_problem(m)), m, std::move(point));
  }

  std::vector<std::string> forms(WeightPolicy policy) const {
    const std::vector<std::int64_t> ms{4, 64, 512};
    return names_of(plan_weight_forms(dense_problem(1), ms, policy, {}, &cache_));
  }

  TuningCache cache_{TuningMachine{"card", "1", "", "0"}};
};

TEST_F(WeightForms, FastestKeepsWhatTheFastestKernelsRead) {
  put(4, 1e-3, 2e-3);
  put(64, 3e-3, 2e-3);
  put(512, 9e-3, 8e-3);
  EXPECT_THAT(forms(WeightPolicy::kFastest), ElementsAre("onednn I8", "stored"));  // most used first
  put(4, 3e-3, 2e-3);
  EXPECT_THAT(forms(WeightPolicy::kFastest), ElementsAre("onednn I8"));
}

TEST_F(WeightForms, BalancedKeepsTheFormThatLosesLeast) {
  put(4, 1e-3, 1.5e-3);
  put(64, 1.1e-3, 1e-3);
  put(512, 1.1e-3, 1e-3);
  EXPECT_THAT(forms(WeightPolicy::kBalanced), ElementsAre("stored"));
  put(512, 2e-3, 1e-3);
  EXPECT_THAT(forms(WeightPolicy::kBalanced), ElementsAre("onednn I8"));
}

TEST_F(WeightForms, SmallestKeepsTheFewestBytes) {
  put(4, 9e-3, 1e-3);
  put(64, 9e-3, 1e-3);
  put(512, 9e-3, 1e-3);
  const std::vector<std::int64_t> ms{4, 64, 512};
  const auto smallest = plan_weight_forms(dense_problem(1), ms, WeightPolicy::kSmallest, {}, &cache_);
  EXPECT_THAT(names_of(smallest), ElementsAre("stored"));
  EXPECT_EQ(bytes_of(smallest), 256 * 4);  // scales in FP32; the rows are read where they are
  const auto fastest = plan_weight_forms(dense_problem(1), ms, WeightPolicy::kFastest, {}, &cache_);
  EXPECT_GE(bytes_of(fastest), 256 * 512);
}

TEST_F(WeightForms, ChooseKeepsToTheForms) {
  put(64, 9e-3, 1e-3);
  const std::vector<std::string> stored{"stored"};
  const Choice choice = choose(dense_problem(64), {}, &cache_, stored);
  EXPECT_EQ(choice.backend->weight_form(dense_problem(64), choice.kernel), "stored");
  EXPECT_EQ(choice.seconds, 9e-3);
  EXPECT_THAT(choice.others, testing::Contains(HasSubstr("weights are not kept in its form (onednn I8)")));
  const std::vector<std::string> none{"gold"};
  EXPECT_THROW(choose(dense_problem(64), {}, &cache_, none), Error);
}

TEST_F(WeightForms, WithoutTimesTheOrderOfChooseCounts) {
  const std::vector<std::int64_t> ms{4, 64, 512};
  const auto forms = plan_weight_forms(dense_problem(1), ms, WeightPolicy::kBalanced);
  ASSERT_EQ(forms.size(), 1u);
  int taken = 0;
  for (const std::int64_t m : ms) {
    const Choice choice = choose(dense_problem(m));
    taken += choice.backend->weight_form(dense_problem(m), choice.kernel) == forms[0].form ? 1 : 0;
  }
  EXPECT_GE(taken, 2);
}

TEST(WeightPolicies, ByName) {
  for (const WeightPolicy policy : {WeightPolicy::kSmallest, WeightPolicy::kBalanced, WeightPolicy::kFastest})
    EXPECT_EQ(parse_weight_policy(weight_policy_name(policy)), policy);
  try {
    parse_weight_policy("tiny");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_THAT(error.what(), HasSubstr("--weights tiny"));
    EXPECT_THAT(error.what(), HasSubstr("smallest, balanced, fastest"));
  }
}

}  // namespace
}  // namespace slidesparse
