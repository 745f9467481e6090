#include "gemm/race.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "core/fail.h"
#include "gemm/bench.h"
#include "gemm/race_track.h"

namespace slidesparse {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Kernels whose times are written down; counts what is asked of them.
struct Script {
  std::map<std::string, double> seconds;
  std::map<std::string, std::string> checks;     // "ok" for those that are not here
  std::map<std::string, std::string> throws_at;  // "prepare", "check", "time"
  std::vector<std::string> order;                // of timings
  double rested = 0;
};

class ScriptedRunner : public RaceRunner {
 public:
  ScriptedRunner(Script& script, std::string name) : script_(script), name_(std::move(name)) {}
  std::string check() override {
    throw_at("check");
    return script_.checks.count(name_) != 0 ? script_.checks[name_] : "ok";
  }
  double time(double) override {
    throw_at("time");
    script_.order.push_back(name_);
    return script_.seconds.at(name_);
  }
  void throw_at(const std::string& place) {
    if (script_.throws_at.count(name_) != 0 && script_.throws_at[name_] == place)
      fail(ErrorKind::kInternal, "{} broke in {}", name_, place);
  }

 private:
  Script& script_;
  std::string name_;
};

class ScriptedTrack : public RaceTrack {
 public:
  explicit ScriptedTrack(Script& script) : script_(script) {}
  std::unique_ptr<RaceRunner> prepare(const RaceEntrant& entrant) override {
    auto runner = std::make_unique<ScriptedRunner>(script_, entrant.kernel.name);
    runner->throw_at("prepare");
    return runner;
  }
  void rest(double seconds) override { script_.rested += seconds; }

 private:
  Script& script_;
};

RaceEntrant entrant(std::string name, Pattern pattern = Pattern()) {
  RaceEntrant made;
  made.desc.m = made.desc.n = made.desc.k = 8;
  made.desc.pattern = pattern;
  made.desc.layout = pattern.is_dense() ? Layout::kDense : Layout::kPacked;
  made.kernel.name = std::move(name);
  return made;
}

std::vector<std::string> finalists(const std::vector<RaceRow>& rows) {
  std::vector<std::string> names;
  for (const RaceRow& row : rows) {
    if (row.finalist) names.push_back(row.entrant.kernel.name);
  }
  return names;
}

TEST(Race, DropsTheHopelessEarlyAndTimesTheRestInTurn) {
  Script script;
  script.seconds = {{"a", 1.0}, {"b", 1.05}, {"c", 1.2}, {"d", 2.0}};
  ScriptedTrack track(script);
  RaceRules rules;
  rules.rounds = 2;
  const auto rows = race(track, {entrant("d"), entrant("c"), entrant("b"), entrant("a")}, rules);
  EXPECT_THAT(script.order, ElementsAre("d", "c", "b", "a",  // d is beyond 1.3
                                        "a", "b", "c",       // backwards; c is beyond 1.1
                                        "b", "a",            // from the middle
                                        "b", "a", "a", "b"));
  EXPECT_THAT(finalists(rows), ElementsAre("b", "a"));
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0].entrant.kernel.name, "d");
  EXPECT_EQ(rows[0].seconds.median, 2.0);  // known, so that M between tuned points can be estimated
  EXPECT_EQ(rows[0].seconds.count, 1);
  EXPECT_EQ(rows[3].seconds.count, 2);
  EXPECT_EQ(script.rested, 0);
}

TEST(Race, KeepsTheBestFewOfEachProblem) {
  Script script;
  for (int i = 0; i < 6; ++i) {
    script.seconds[fmt::format("dense{}", i)] = 1 + 0.01 * i;
    script.seconds[fmt::format("sparse{}", i)] = 10 + 0.01 * i;  // slower than dense, but another problem
  }
  ScriptedTrack track(script);
  std::vector<RaceEntrant> entrants;
  for (int i = 5; i >= 0; --i) {
    entrants.push_back(entrant(fmt::format("dense{}", i)));
    entrants.push_back(entrant(fmt::format("sparse{}", i), Pattern::of_half_group(4)));
  }
  RaceRules rules;
  rules.rest_seconds = 0.5;
  rules.other_finalists = 0;
  const auto rows = race(track, entrants, rules);
  EXPECT_EQ(rows.size(), 12u);
  EXPECT_THAT(finalists(rows), ElementsAre("dense2", "sparse2", "dense1", "sparse1", "dense0", "sparse0"));
  EXPECT_EQ(script.rested, 0.5 * 6 * rules.rounds);
}

TEST(Race, WhatThrowsOrIsWrongIsReportedAndDropped) {
  Script script;
  for (const char* name : {"fine", "no weights", "crashes", "wrong", "late"}) script.seconds[name] = 1;
  script.throws_at = {{"no weights", "prepare"}, {"crashes", "check"}, {"late", "time"}};
  script.checks = {{"wrong", "token 1 channel 2 is 3, not 4"}};
  ScriptedTrack track(script);
  const auto rows = race(
      track, {entrant("no weights"), entrant("crashes"), entrant("wrong"), entrant("late"), entrant("fine")},
      {});
  EXPECT_EQ(rows[0].check, "no weights broke in prepare");
  EXPECT_EQ(rows[1].check, "crashes broke in check");
  EXPECT_EQ(rows[2].check, "token 1 channel 2 is 3, not 4");
  EXPECT_EQ(rows[3].check, "late broke in time");
  EXPECT_EQ(rows[4].check, "ok");
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(rows[static_cast<std::size_t>(i)].seconds.median, 0);
    EXPECT_FALSE(rows[static_cast<std::size_t>(i)].finalist);
  }
  for (const std::string& name : script.order) EXPECT_EQ(name, "fine");  // nothing wrong was ever timed
}

// Settings of one kernel are much alike, so they must not take all the places.
TEST(Race, TheFirstOfEveryKernelMayGoOnToo) {
  Script script;
  script.seconds = {{"a", 1.0}, {"b", 1.05}, {"c", 1.06}, {"d", 1.2}};
  ScriptedTrack track(script);
  std::vector<RaceEntrant> entrants;
  for (int i = 0; i < 5; ++i) {
    entrants.push_back(entrant("a"));
    entrants.back().kernel.config = fmt::format("tile={}", i);
  }
  for (const char* name : {"b", "c", "d"}) {
    entrants.push_back(entrant(name));
    entrants.push_back(entrant(name));
  }
  RaceRules rules;
  rules.rounds = 1;
  EXPECT_THAT(finalists(race(track, entrants, rules)),
              ElementsAre("a", "a", "a", "b", "c"));  // d is beyond 1.1
  rules.other_finalists = 1;
  EXPECT_THAT(finalists(race(track, entrants, rules)), ElementsAre("a", "a", "a", "b"));
}

TEST(Race, OnlySoManyPassTheFirstRound) {
  Script script;
  std::vector<RaceEntrant> entrants;
  for (int i = 0; i < 20; ++i) {
    script.seconds[fmt::format("{}", i)] = 1 + 0.001 * i;
    entrants.push_back(entrant(fmt::format("{}", i)));
  }
  ScriptedTrack track(script);
  RaceRules rules;
  rules.other_finalists = 0;
  rules.rounds = 0;
  race(track, entrants, rules);
  EXPECT_EQ(script.order.size(), 20u + 12u + 12u);
}

TEST(Race, WhatIsKnownToBeGoodSurvivesARoughTime) {
  Script script;
  script.seconds = {{"a", 1}, {"b", 2}, {"c", 2}};
  ScriptedTrack track(script);
  std::vector<RaceEntrant> entrants{entrant("a"), entrant("b"), entrant("c")};
  entrants[1].known_good = true;
  RaceRules rules;
  rules.rounds = 0;
  race(track, entrants, rules);
  EXPECT_EQ(std::count(script.order.begin(), script.order.end(), "b"), 2);  // then its windows count
  EXPECT_EQ(std::count(script.order.begin(), script.order.end(), "c"), 1);
}

TEST(Race, ALostTrackEndsItAndNamesTheKernel) {
  class Lost : public ScriptedTrack {
   public:
    using ScriptedTrack::ScriptedTrack;
    bool healthy() override { return false; }
  };
  Script script;
  script.seconds = {{"a", 1}, {"b", 1}};
  script.throws_at = {{"b", "check"}};
  Lost track(script);
  try {
    race(track, {entrant("a"), entrant("b")}, {});
    FAIL() << "no error";
  } catch (const TrackLost& lost) {
    EXPECT_EQ(lost.entrant.kernel.name, "b");
    EXPECT_STREQ(lost.what(), "b broke in check");
  }
}

TEST(Race, ARequestToStopGoesThrough) {
  Script script;
  script.seconds["a"] = 1;
  ScriptedTrack track(script);
  RaceRules rules;
  int rounds = 0;
  rules.between = [&] {
    if (++rounds == 3) fail(ErrorKind::kInterrupted, "stop");
  };
  EXPECT_THROW(race(track, {entrant("a")}, rules), Error);
  EXPECT_EQ(script.order.size(), 2u);
}

TEST(RaceOnTheCpu, EveryCandidateOfEveryPatternIsRight) {
  const TrackShape shape{48, 203, DType::kF8E4M3, true};
  const auto track = make_race_track(shape, DeviceKind::kCpu, 1);
  for (const Pattern& pattern : {Pattern(), Pattern::of_half_group(4), Pattern::of_half_group(5)}) {
    std::vector<RaceEntrant> entrants = race_entrants(track_desc(shape, pattern, 65, {}), {});
    ASSERT_FALSE(entrants.empty());
    RaceRules rules;
    rules.window_seconds = 0;
    for (const RaceRow& row : race(*track, std::move(entrants), rules)) {
      EXPECT_EQ(row.check, "ok") << row.entrant.kernel.name;
      EXPECT_GT(row.seconds.median, 0) << row.entrant.kernel.name;
      EXPECT_NE(row.entrant.backend->name(), "reference");
    }
  }
  const std::vector<std::string> named{"reference"};
  EXPECT_EQ(race_entrants(track_desc(shape, Pattern(), 65, {}), named).size(), 1u);
}

// A wrong kernel must not get a figure: the same problem through a backend that adds one to a bias.
class OffByALittle : public Backend {
 public:
  std::string_view name() const override { return "reference"; }
  Feasibility available() const override { return {}; }
  std::vector<KernelDesc> kernels() const override { return inner().kernels(); }
  Feasibility feasible(const GemmDesc& desc, const KernelDesc& kernel) const override {
    return inner().feasible(desc, kernel);
  }
  Footprint footprint(const GemmDesc& desc, const KernelDesc& kernel) const override {
    return inner().footprint(desc, kernel);
  }
  std::string weight_form(const GemmDesc& desc, const KernelDesc& kernel) const override {
    return inner().weight_form(desc, kernel);
  }
  std::unique_ptr<PreparedWeights> prepare_weights(const WeightSource& source, const GemmDesc& desc,
                                                   const KernelDesc& kernel) const override {
    return inner().prepare_weights(source, desc, kernel);
  }
  GemmPlan plan(const GemmDesc& desc, const KernelDesc& kernel) const override {
    return inner().plan(desc, kernel);
  }
  void run(const GemmPlan& plan, const PreparedWeights& weights, const GemmArgs& args,
           const Context& context) const override {
    inner().run(plan, weights, args, context);
    auto* out = static_cast<std::uint16_t*>(args.out);
    for (std::int64_t i = 0; i < plan.desc.m * plan.desc.n; ++i)
      out[i] = static_cast<std::uint16_t>(out[i] + 4);
  }

 private:
  static const Backend& inner() { return backend_named("reference"); }
};

TEST(RaceOnTheCpu, ResultsFourUlpsAwayHaveNoFigure) {
  const OffByALittle backend;
  for (const DType dtype : {DType::kI8, DType::kF8E4M3, DType::kBF16}) {
    const TrackShape shape{48, 203, dtype, false};
    const auto track = make_race_track(shape, DeviceKind::kCpu, 1);
    const GemmDesc desc = track_desc(shape, Pattern(), 65, {});
    const auto rows = race(*track, {{desc, &backend, backend.kernels().front()}}, {});
    EXPECT_THAT(rows[0].check, HasSubstr("token")) << dtype_name(dtype);
    EXPECT_EQ(rows[0].seconds.median, 0);
  }
}

GemmBenchRow sum_part(const std::string& shape, Pattern pattern, const std::string& backend, double seconds) {
  GemmBenchRow row;
  row.shape = shape;
  row.n = row.k = 10;
  row.m = 2;
  row.pattern = pattern;
  row.backend = backend;
  row.check = "ok";
  row.seconds = {seconds, seconds, seconds, 7};
  row.ops_per_second = 400 / seconds;
  row.weight_bytes = 100;
  row.sparse_share = backend == "s" ? 1 : 0;
  row.share_of_limit = 0.5;
  return row;
}

TEST(BenchSums, AddUpEachBackendAndTheBestOfEachLayer) {
  const Pattern sparse = Pattern::of_half_group(4);
  std::vector<GemmBenchRow> rows{sum_part("m/a", Pattern(), "d", 2), sum_part("m/b", Pattern(), "d", 4),
                                 sum_part("m/a", sparse, "d", 3),    sum_part("m/b", sparse, "d", 4),
                                 sum_part("m/a", sparse, "s", 1),    sum_part("m/b", sparse, "s", 6)};
  GemmBenchRow failed = sum_part("m/a", sparse, "f", 1);
  failed.check = "wrong";
  rows.push_back(failed);
  add_sums(rows);
  std::map<std::string, GemmBenchRow> sums;
  for (const GemmBenchRow& row : rows) {
    if (row.shape == "m/sum") sums[row.pattern.to_string() + " " + row.backend] = row;
  }
  ASSERT_EQ(sums.size(), 4u);  // not f: one of its layers failed, the other is missing
  EXPECT_DOUBLE_EQ(sums["dense d"].seconds.median, 6);
  EXPECT_DOUBLE_EQ(sums["dense d"].dense_ratio, 1);
  EXPECT_DOUBLE_EQ(sums["6:8 d"].seconds.median, 7);
  EXPECT_DOUBLE_EQ(sums["6:8 s"].seconds.median, 7);
  EXPECT_DOUBLE_EQ(sums["6:8 best"].seconds.median, 5);
  EXPECT_DOUBLE_EQ(sums["6:8 best"].dense_ratio, 6.0 / 5);
  EXPECT_DOUBLE_EQ(sums["6:8 best"].sparse_share, 0.5);
  EXPECT_DOUBLE_EQ(sums["6:8 best"].ops_per_second, 800.0 / 5);
  EXPECT_DOUBLE_EQ(sums["6:8 best"].share_of_limit, 0.5);
  EXPECT_EQ(sums["6:8 best"].weight_bytes, 200);
}

TEST(BenchChosen, TunesWhatIsMissingAndShowsTheChosenOne) {
  GemmBenchOptions options;
  options.shapes = {{"x/small", 40, 203, false}, {"x/other", 48, 64, true}};
  options.patterns = {Pattern::of_half_group(4)};
  options.ms = {65};
  options.min_seconds = 0;
  const GemmBenchResult result = bench_gemm_chosen(options);
  ASSERT_EQ(result.rows.size(), 6u);  // dense and 6:8 of two shapes, and their sums
  for (const GemmBenchRow& row : result.rows) {
    EXPECT_EQ(row.check, "ok");
    EXPECT_GT(row.seconds.median, 0);
    EXPECT_GT(row.dense_ratio, 0);
    EXPECT_EQ(row.mode, "cpu");
    EXPECT_EQ(row.reason, row.n != 0 ? "measured" : "");
  }
}

}  // namespace
}  // namespace slidesparse
