#include "convert/calibration_text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "support.h"

namespace slidesparse {
namespace {

using namespace testing_support;

class CalibrationTextOf : public ::testing::Test {
 protected:
  void SetUp() override {
    make_model(space_ / "in");
    std::string text;
    for (int i = 0; i < 400; ++i) text += std::to_string(i * i * i) + " is not like the others. ";
    write_file(space_ / "text", text);
    options_.text = (space_ / "text").string();
    options_.sample_length = 32;
  }

  CalibrationText read(std::int64_t samples) {
    options_.samples = samples;
    return read_calibration_text(options_, space_ / "in", small_config());
  }

  // Beginnings, `length` tokens each, of windows of 32 tokens.
  static std::set<std::vector<std::int32_t>> windows(const std::vector<std::int32_t>& tokens,
                                                     std::int64_t window, std::int64_t length) {
    std::set<std::vector<std::int32_t>> result;
    for (auto at = tokens.begin(); at != tokens.end(); at += window) result.insert({at, at + length});
    return result;
  }

  const Workspace space_;
  CalibrationOptions options_;
};

TEST_F(CalibrationTextOf, HoldsOutWindowsThatWereNotDrawn) {
  for (const std::int64_t samples : {1, 5, 40}) {
    const CalibrationText text = read(samples);
    ASSERT_EQ(text.tokens.size(), static_cast<std::size_t>(samples * 32));
    EXPECT_EQ(text.held_out_length, 32);
    const auto drawn = windows(text.tokens, 32, 32);
    const auto held = windows(text.held_out, 32, 32);
    EXPECT_EQ(held.size(), static_cast<std::size_t>(kHeldOutWindows));
    for (const auto& window : held) EXPECT_FALSE(drawn.contains(window));
    EXPECT_EQ(read(samples).held_out, text.held_out);
  }
}

TEST_F(CalibrationTextOf, TakesDrawnOnesWhenThereAreNoOthers) {
  std::int64_t all = 1;
  while (error_of([&] { read(all + 1); }).empty()) ++all;
  const CalibrationText one_left = read(all - 1);
  EXPECT_EQ(one_left.held_out.size(), 32u);
  const CalibrationText text = read(all);
  EXPECT_EQ(text.held_out.size(), static_cast<std::size_t>(32 * kHeldOutWindows));
  EXPECT_TRUE(std::equal(text.held_out.begin(), text.held_out.end(), text.tokens.begin()));
}

TEST_F(CalibrationTextOf, HoldsOutTheBeginningsOfLongWindows) {
  options_.sample_length = 300;
  const CalibrationText text = read(2);
  EXPECT_EQ(text.held_out_length, kHeldOutTokens / kHeldOutWindows);
  EXPECT_EQ(text.held_out.size() % static_cast<std::size_t>(text.held_out_length), 0u);
  const auto drawn = windows(text.tokens, 300, text.held_out_length);
  for (const auto& window : windows(text.held_out, text.held_out_length, text.held_out_length))
    EXPECT_FALSE(drawn.contains(window));
}

}  // namespace
}  // namespace slidesparse
