#include "gemm/tuner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "core/fail.h"
#include "gemm/probe.h"

namespace slidesparse {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

const TuningMachine kHere{"test", "", "", "1"};

TunerOptions small() {
  TunerOptions options;
  options.shapes = {{40, 96, DType::kI8, false}, {24, 64, DType::kI8, true}, {40, 96, DType::kI8, false}};
  options.patterns = {Pattern(), Pattern::of_half_group(4)};
  options.ms = {65, 80};
  options.rules.window_seconds = 0;
  options.rules.rounds = 2;
  return options;
}

class TunerFile : public testing::Test {
 protected:
  void SetUp() override {
    path_ = (fs::temp_directory_path() / ("slidesparse_tuner_test_" + std::to_string(::getpid()) + ".json"))
                .string();
    TearDown();
  }
  void TearDown() override {
    fs::remove(path_);
    fs::remove(path_ + ".lock");
  }
  std::string path_;
};

// Whatever patterns the others have it is dense, at few tokens, and its FP32 outputs are another problem.
TEST_F(TunerFile, AShapeThatIsNeverPrunedIsTunedDense) {
  TuningCache cache(kHere);
  TunerOptions options = small();
  options.patterns = {Pattern::of_half_group(4)};
  for (const DType dtype : {DType::kI8, DType::kF8E4M3, DType::kBF16}) {
    TrackShape shape{40, 96, dtype};
    shape.out = DType::kF32;
    shape.never_pruned = true;
    shape.most_m = 7;
    options.shapes = {shape};
    const TunerTotals totals = tune(options, cache, path_);
    EXPECT_EQ(totals.measured, 1) << dtype_name(dtype);  // 65 and 80 tokens: 7 rows
    EXPECT_EQ(totals.failed, 0) << dtype_name(dtype);
    GemmDesc desc = track_desc(shape, Pattern(), 7, {});
    EXPECT_EQ(desc.out, DType::kF32);
    const TuningCache written = TuningCache::load(path_, kHere);
    EXPECT_EQ(choose(desc, {}, &written).reason, "measured");
    desc.out = DType::kBF16;
    EXPECT_EQ(written.points(TuningProblem::of(desc)), nullptr);
    EXPECT_EQ(verify_tuning(options, cache, 5).size(), 1u);
  }
}

TEST_F(TunerFile, MeasuresEachShapeOnceAndChooseUsesIt) {
  TuningCache cache(kHere);
  TunerOptions options = small();
  std::vector<double> shares;
  options.on_progress = [&](const std::string&, double done) { shares.push_back(done); };
  const TunerTotals totals = tune(options, cache, path_);
  EXPECT_EQ(totals.measured, 8);
  EXPECT_EQ(totals.found, 0);
  EXPECT_EQ(totals.failed, 0);
  EXPECT_GE(totals.kernels, 8);
  ASSERT_EQ(shares.size(), 4u);
  EXPECT_EQ(shares[0], 0);
  for (std::size_t i = 1; i < shares.size(); ++i) EXPECT_GT(shares[i], shares[i - 1]);
  EXPECT_LT(shares.back(), 1);
  const TuningCache written = TuningCache::load(path_, kHere);
  EXPECT_EQ(written.to_json(), cache.to_json());
  const GemmDesc desc = track_desc(options.shapes[0], Pattern::of_half_group(4), 80, {});
  const Choice choice = choose(desc, {}, &written);
  EXPECT_EQ(choice.reason, "measured");
  EXPECT_GT(choice.seconds, 0);
  for (const TunedKernel& kernel : written.at(TuningProblem::of(desc), 80)->kernels) {
    if (kernel.finalist) {
      EXPECT_LE(choice.seconds, kernel.seconds.median);
    }
  }
}

TEST_F(TunerFile, GoesOnWhereItWasStopped) {
  TunerOptions options = small();
  options.on_progress = [&](const std::string&, double done) {
    if (done > 0.6) fail(ErrorKind::kInterrupted, "stop");
  };
  TuningCache first(kHere);
  EXPECT_THROW(tune(options, first, path_), Error);
  TuningCache second = TuningCache::load(path_, kHere);
  const auto had = static_cast<int>(second.size());
  EXPECT_GT(had, 0);
  EXPECT_LT(had, 8);
  options.on_progress = nullptr;
  const TunerTotals rest = tune(options, second, path_);
  EXPECT_EQ(rest.found, had);
  EXPECT_EQ(rest.measured, 8 - had);
  EXPECT_EQ(tune(options, second, path_).measured, 0);
  options.force = true;
  EXPECT_EQ(tune(options, second, path_).measured, 8);
}

TEST_F(TunerFile, KernelsThatLostTheCardAreNotRunAgain) {
  TunerOptions options = small();
  options.shapes.resize(1);
  options.patterns = {Pattern()};
  options.ms = {65};
  TuningCache cache(kHere);
  const GemmDesc desc = track_desc(options.shapes[0], Pattern(), 65, {});
  if (race_entrants(desc, {}).size() < 2) GTEST_SKIP() << "this processor has one kernel for it";
  const KernelDesc first = race_entrants(desc, {}).front().kernel;
  TunedKernel lost;
  lost.backend = first.backend;
  lost.name = first.name;
  lost.id = first.id;
  lost.bad = "lost the card: illegal instruction";
  cache.put(TuningProblem::of(desc), 65, {"cpu", {lost}});
  const TunerTotals totals = tune(options, cache, path_);
  EXPECT_EQ(totals.measured, 1);  // a point with nothing but that is no measurement
  EXPECT_EQ(totals.failed, 1);
  for (const TunedKernel& kernel : cache.at(TuningProblem::of(desc), 65)->kernels)
    EXPECT_EQ(kernel.bad, kernel.name == first.name ? lost.bad : "");
  EXPECT_NE(choose(desc, {}, &cache).kernel.name, first.name);
}

TEST(Tuner, CountsWhatNothingCanRun) {
  TunerOptions options = small();
  options.shapes = {{8, (1 << 17) + 1, DType::kI8, false}};  // sums beyond 32 bits
  TuningCache cache(kHere);
  const TunerTotals totals = tune(options, cache, "");
  EXPECT_EQ(totals.impossible, 4);
  EXPECT_EQ(totals.measured, 0);
  EXPECT_EQ(cache.size(), 0);
}

std::vector<std::string> probe(const std::string& script, const std::vector<std::string>& cases,
                               double seconds = 20) {
  return probe_in_child({"/bin/sh", "-c", script}, cases, seconds, 5);
}

// Reads cases as the program does; the case's text says what happens.
constexpr const char* kChild = R"(
i=0
while read case; do
  echo "try $i"; echo "some library says hello"
  case $case in
    crash) kill -ILL $$ ;;
    exit) exit 3 ;;
    hang) exec sleep 60 ;;
    bad) echo "bad $i out of luck"; exit 0 ;;
    mute) exit 0 ;;
  esac
  echo "ok $i"; i=$((i+1))
done)";

TEST(Probe, GoodCasesNeedOneProcess) {
  EXPECT_THAT(probe(kChild, {"a", "b", "c"}), ElementsAre("", "", ""));
  EXPECT_THAT(probe(kChild, {}), ElementsAre());
}

TEST(Probe, WhatKillsTheChildIsBadAndTheRestIsTriedAgain) {
  const auto reasons = probe(kChild, {"a", "crash", "b", "exit", "bad", "mute", "c", "crash"});
  ASSERT_EQ(reasons.size(), 8u);
  EXPECT_EQ(reasons[0], "");
  EXPECT_THAT(reasons[1], HasSubstr("Illegal instruction"));
  EXPECT_EQ(reasons[2], "");
  EXPECT_EQ(reasons[3], "exit code 3");
  EXPECT_EQ(reasons[4], "out of luck");
  EXPECT_EQ(reasons[5], "ended without an answer");
  EXPECT_EQ(reasons[6], "");
  EXPECT_THAT(reasons[7], HasSubstr("Illegal instruction"));
}

TEST(Probe, WhatHangsIsKilled) {
  EXPECT_THAT(probe(kChild, {"a", "hang", "b"}, 0.5), ElementsAre("", "did not end in time", ""));
}

TEST(Probe, AProgramThatIsNotThereMakesEveryCaseBad) {
  EXPECT_THAT(probe_in_child({"/nonexistent"}, {"a", "b"}, 1, 1),
              ElementsAre("exit code 127", "exit code 127"));
}

}  // namespace
}  // namespace slidesparse
