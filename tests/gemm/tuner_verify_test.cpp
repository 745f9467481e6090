#include <gtest/gtest.h>

#include <set>

#include "core/fail.h"
#include "gemm/tuner.h"

namespace slidesparse {
namespace {

TunerOptions options() {
  TunerOptions options;
  options.shapes = {{40, 96, DType::kI8, false}, {24, 64, DType::kI8, true}};
  options.patterns = {Pattern(), Pattern::of_half_group(4)};
  options.ms = {65, 80};
  options.rules.window_seconds = 0;
  options.rules.rounds = 2;
  return options;
}

TEST(VerifyTuning, ComparesTheChoiceWithEveryCandidate) {
  TuningCache cache({"test", "", "", "1"});
  tune(options(), cache, "");
  const auto cells = verify_tuning(options(), cache, 100);
  ASSERT_EQ(cells.size(), 8u);  // all there are
  std::set<std::string> problems;
  for (const TunedCell& cell : cells) {
    problems.insert(cell.desc.to_string());
    EXPECT_GT(cell.best_seconds, 0);
    EXPECT_GE(cell.ratio(), 1);
  }
  EXPECT_EQ(problems.size(), 8u);
  EXPECT_EQ(verify_tuning(options(), cache, 3).size(), 3u);
}

// A choice that is really slower is found out.
TEST(VerifyTuning, FindsABadChoice) {
  TunerOptions large = options();
  large.shapes = {{512, 2048, DType::kI8, false}};
  large.patterns = {Pattern()};
  large.ms = {64};
  large.backends = {"cpu", "reference"};
  TuningCache cache({"test", "", "", "1"});
  TunedPoint point{"cpu", {}};
  TunedKernel slow;
  const KernelDesc reference = backend_named("reference").kernels().front();
  slow.backend = "reference";
  slow.name = reference.name;
  slow.id = reference.id;
  slow.seconds.median = 1e-9;  // says the cache
  point.kernels.push_back(slow);
  cache.put(TuningProblem::of(track_desc(large.shapes[0], Pattern(), 64, {})), 64, point);
  const auto cells = verify_tuning(large, cache, 1);
  ASSERT_EQ(cells.size(), 1u);
  EXPECT_EQ(cells[0].chosen, reference.name);
  EXPECT_NE(cells[0].best, reference.name);
  EXPECT_GT(cells[0].ratio(), 1.5);
}

}  // namespace
}  // namespace slidesparse
