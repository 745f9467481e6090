#include "convert/pattern_budget.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "io/json.h"
#include "io/model_directory.h"
#include "model/weights.h"
#include "support.h"

namespace slidesparse {
namespace {

using namespace testing_support;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

// Two layers of four groups whose losses and errors are given; k a multiple of 64 * 20, so that all patterns
// differ in layout split.
Sensitivities made_up() {
  Sensitivities result;
  result.identity = "{}";
  result.layout = PackedLayout::kSplit;
  for (const char* pattern : {"8:10", "6:8", "2:4"}) result.patterns.push_back(Pattern::parse(pattern));
  result.reference = Pattern::parse("6:8");
  for (int layer = 0; layer < 2; ++layer) {
    for (const char* kind : {"qkv", "o", "gate_up", "down"}) {
      GroupSensitivity group;
      group.name = fmt::format("model.layers.{}.{}", layer, kind);
      group.rows = 100;
      group.k = 64 * 20;
      group.divergence = 0.011;
      group.rounding = 0.001;
      group.errors = {{"6:8", 0.02}};
      result.groups.push_back(group);
    }
  }
  return result;
}

SpeedRatios speeds() {
  constexpr auto kSplit = PackedLayout::kSplit;
  return {"a card",
          {{{"8:10", kSplit}, 1.1}, {{"6:8", kSplit}, 1.2}, {{"2:4", kSplit}, 1.5}, {{"2:4", {}}, 1.3}}};
}

TEST(PatternBudget, LossesOfOtherPatternsFollowTheErrors) {
  Sensitivities sensitivities = made_up();
  const auto loss = [&](std::size_t g, const char* pattern) {
    return sensitivities.expected_loss(g, Pattern::parse(pattern));
  };
  EXPECT_NEAR(loss(3, "6:8"), 0.010, 1e-15);
  EXPECT_EQ(loss(3, "dense"), 0);
  // Its own ratio of errors, where there is one.
  sensitivities.groups[3].errors["2:4"] = 0.06;
  EXPECT_NEAR(loss(3, "2:4"), 0.030, 1e-15);
  // Else the geometric mean over the groups of its kind.
  sensitivities.groups[7].divergence = 0.003;
  EXPECT_NEAR(loss(7, "2:4"), 0.006, 1e-15);
  EXPECT_NEAR(loss(6, "2:4"), 0.010, 1e-15);  // nothing is known of its kind
  sensitivities.groups[6].errors["2:4"] = 0.02 * 2;
  sensitivities.groups[2].errors["2:4"] = 0.02 * 8;
  sensitivities.groups.push_back(sensitivities.groups[2]);
  sensitivities.groups.insert(sensitivities.groups.begin() + 8, 2, sensitivities.groups[0]);
  sensitivities.groups.back().errors.erase("2:4");
  EXPECT_NEAR(loss(10, "2:4"), 0.010 * 4, 1e-12);
  // What changes no more than rounding costs nothing.
  sensitivities.groups[0].divergence = 0.0005;
  EXPECT_EQ(loss(0, "6:8"), 0);
}

TEST(PatternBudget, SparesWhatIsSensitiveAndReachesTheTarget) {
  Sensitivities sensitivities = made_up();
  sensitivities.groups[2].divergence = 1;
  for (std::size_t g = 0; g < 4; ++g) sensitivities.groups[g].errors = {{"8:10", 1}, {"6:8", 2}, {"2:4", 5}};
  const PatternBudget budget = choose_patterns(sensitivities, speeds(), 1.2);
  EXPECT_TRUE(budget.groups[2].pattern.is_dense());
  EXPECT_EQ(budget.groups[2].layout, PackedLayout::kSlide);
  EXPECT_GE(budget.speed, 1.2);
  double loss = 0, time = 0, whole = 0;
  for (std::size_t g = 0; g < budget.groups.size(); ++g) {
    const PatternBudget::Group& group = budget.groups[g];
    EXPECT_EQ(group.name, sensitivities.groups[g].name);
    EXPECT_EQ(group.loss, sensitivities.expected_loss(g, group.pattern));
    loss += group.loss;
    whole += static_cast<double>(group.weights);
    time += static_cast<double>(group.weights) / speeds().of(group.pattern, group.layout);
  }
  EXPECT_NEAR(budget.loss, loss, 1e-12);
  EXPECT_NEAR(budget.speed, whole / time, 1e-12);
  EXPECT_EQ(budget.target, 1.2);
  EXPECT_EQ(budget.speeds, "a card");

  // The speed of a uniform choice is a target like any other, and so is the fastest one's.
  EXPECT_GE(choose_patterns(sensitivities, speeds(), 1.1).speed, 1.1);
  for (const auto& group : choose_patterns(sensitivities, speeds(), 1.5).groups)
    EXPECT_EQ(group.pattern.to_string(), "2:4");
  for (const auto& group : choose_patterns(sensitivities, speeds(), 1).groups)
    EXPECT_TRUE(group.pattern.is_dense());

  // Groups that are skipped stay dense, and what they take counts.
  for (std::size_t g = 0; g < 4; ++g) sensitivities.groups[g].skipped = true;
  const PatternBudget skipping = choose_patterns(sensitivities, speeds(), 1.1);
  for (std::size_t g = 0; g < 4; ++g) EXPECT_TRUE(skipping.groups[g].pattern.is_dense());
  EXPECT_THAT(error_of([&] { choose_patterns(sensitivities, speeds(), 1.25); }), HasSubstr("1 to 1.2000"));
}

TEST(PatternBudget, RefusesTargetsOutOfReach) {
  for (const double target : {1.51, 0.9, -1.0, 0.0, std::nan(""), HUGE_VAL}) {
    const std::string message = error_of([&] { choose_patterns(made_up(), speeds(), target); });
    EXPECT_THAT(message,
                HasSubstr(fmt::format(
                    "--target-speed {}: patterns of layout split reach 1 to 1.5000 times dense", target)));
    EXPECT_THAT(message, HasSubstr("a card"));
  }
}

// In layout split, channels become sparse 64 at a time: in narrow groups patterns come out the same, and must
// not be credited with the faster one's speed.
TEST(PatternBudget, PatternsThatComeOutTheSameHaveOneSpeed) {
  Sensitivities sensitivities = made_up();
  for (GroupSensitivity& group : sensitivities.groups) group.k = 192;  // 64 sparse channels in both
  ASSERT_EQ(split_shape(Pattern::parse("8:10"), 192).sparse, split_shape(Pattern::parse("6:8"), 192).sparse);
  sensitivities.patterns.pop_back();
  EXPECT_EQ(choose_patterns(sensitivities, speeds(), 1.1).speed, 1.1);
  EXPECT_THAT(error_of([&] { choose_patterns(sensitivities, speeds(), 1.2); }), HasSubstr("1 to 1.1000"));
  for (GroupSensitivity& group : sensitivities.groups) group.k = 64;  // no sparse channel at all: dense
  EXPECT_THAT(error_of([&] { choose_patterns(sensitivities, speeds(), 1.1); }), HasSubstr("1 to 1.0000"));
}

TEST(PatternBudget, BecomesRulesByName) {
  Sensitivities sensitivities = made_up();
  sensitivities.groups[2].divergence = 1;
  sensitivities.groups[5].skipped = true;
  const PatternBudget budget = choose_patterns(sensitivities, speeds(), 1.15);
  ConvertOptions options;
  options.layout = PackedLayout::kSplit;
  apply_budget(budget, options);
  EXPECT_FALSE(options.pattern.is_dense());
  for (const PatternBudget::Group& group : budget.groups) {
    int rules = 0;
    for (const PatternRule& rule : options.rules) {
      if (rule.glob != group.name) continue;
      ++rules;
      EXPECT_EQ(rule.pattern, group.pattern);
      EXPECT_EQ(rule.layout, group.layout);
      EXPECT_THAT(rule.reason, HasSubstr("--target-speed 1.15: expected loss"));
    }
    EXPECT_EQ(rules, group.pattern == options.pattern || group.skipped ? 0 : 1) << group.name;
  }
  apply_budget(choose_patterns(sensitivities, speeds(), 1), options);
  EXPECT_TRUE(options.pattern.is_dense());
  EXPECT_EQ(options.layout, PackedLayout::kSlide);
  EXPECT_TRUE(options.rules.empty());
}

TEST(Sensitivities, SurviveTheirFile) {
  Sensitivities sensitivities = made_up();
  sensitivities.identity =
      R"({"layout":"split","patterns":["8:10","6:8","2:4"],"reference":"6:8","text":"a text"})";
  sensitivities.along = "sparsegpt 6:8 split";
  sensitivities.groups[1].skipped = true;
  sensitivities.groups[2].errors["2:4"] = 0.1 + 0.2;
  const Sensitivities back = sensitivities_from_json(sensitivities_to_json(sensitivities), "file");
  EXPECT_EQ(back.identity, sensitivities.identity);
  EXPECT_EQ(back.along, sensitivities.along);
  EXPECT_EQ(back.layout, sensitivities.layout);
  EXPECT_EQ(back.patterns, sensitivities.patterns);
  EXPECT_EQ(back.reference, sensitivities.reference);
  ASSERT_EQ(back.groups.size(), sensitivities.groups.size());
  for (std::size_t g = 0; g < back.groups.size(); ++g) {
    EXPECT_EQ(back.groups[g].name, sensitivities.groups[g].name);
    EXPECT_EQ(back.groups[g].rows, sensitivities.groups[g].rows);
    EXPECT_EQ(back.groups[g].k, sensitivities.groups[g].k);
    EXPECT_EQ(back.groups[g].skipped, sensitivities.groups[g].skipped);
    EXPECT_EQ(back.groups[g].divergence, sensitivities.groups[g].divergence);
    EXPECT_EQ(back.groups[g].rounding, sensitivities.groups[g].rounding);
    EXPECT_EQ(back.groups[g].errors, sensitivities.groups[g].errors);
  }
  const auto message = [](const std::string& text) {
    return error_of([&] { sensitivities_from_json(text, "file"); });
  };
  EXPECT_THAT(message("{"), HasSubstr("file"));
  EXPECT_THAT(message("[]"), HasSubstr("file: holds no sensitivities"));
  EXPECT_THAT(message(R"({"identity": {"layout": "split"}})"), HasSubstr("reference"));
  EXPECT_THAT(message(R"({"identity": {"layout": "split", "reference": "6:8"}})"), HasSubstr("lists"));
  EXPECT_THAT(
      message(R"({"identity": {"layout": "split", "reference": "6:8", "patterns": []}, "groups": [3]})"),
      HasSubstr("objects"));
}

}  // namespace
}  // namespace slidesparse
