#include "convert/speed_ratios.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support.h"

namespace slidesparse {
namespace {

using namespace testing_support;
using ::testing::HasSubstr;

LayerReport layer(const char* pattern, PackedLayout layout, std::int64_t rows, std::int64_t k) {
  LayerReport report;
  report.group = "group";
  report.pattern = Pattern::parse(pattern);
  report.layout = layout;
  report.rows = rows;
  report.k = k;
  return report;
}

TEST(SpeedRatios, WeighsLinearsByTheirMultiplications) {
  SpeedRatios ratios{"here", {{{"6:8", PackedLayout::kSplit}, 2.0}, {{"2:4", PackedLayout::kSlide}, 4.0}}};
  ConvertReport report;
  report.layers = {layer("6:8", PackedLayout::kSplit, 10, 10), layer("2:4", PackedLayout::kSlide, 10, 20),
                   layer("dense", PackedLayout::kSlide, 10, 10)};
  // 400 multiplications in 100 / 2 + 200 / 4 + 100.
  EXPECT_DOUBLE_EQ(predicted_speed(ratios, work_shares(report)), 2.0);
  // The head belongs to no group and does not count.
  report.layers.push_back(layer("dense", PackedLayout::kSlide, 1000, 1000));
  report.layers.back().group.clear();
  EXPECT_DOUBLE_EQ(predicted_speed(ratios, work_shares(report)), 2.0);
  report.layers.push_back(layer("4:6", PackedLayout::kSlide, 1, 1));
  EXPECT_THAT(error_of([&] { predicted_speed(ratios, work_shares(report)); }),
              HasSubstr("here: no speed of 4:6 in layout slide"));
}

TEST(SpeedRatios, TheDefaultKnowsEveryPatternInBothLayouts) {
  const SpeedRatios ratios = default_speed_ratios();
  for (int n = 2; n <= 8; ++n) {
    const Pattern pattern = Pattern::of_half_group(n);
    EXPECT_GE(ratios.of(pattern, PackedLayout::kSlide), 1.0);
    EXPECT_GT(ratios.of(pattern, PackedLayout::kSplit), 1.0);
    if (n > 2) {
      EXPECT_LT(ratios.of(pattern, PackedLayout::kSplit),
                ratios.of(Pattern::of_half_group(n - 1), PackedLayout::kSplit));
    }
  }
}

TEST(SpeedRatios, ReadsAFileAndRefusesWhatIsNone) {
  const Workspace space;
  const auto read = [&](const std::string& text) {
    write_file(space / "speed.json", text);
    return read_speed_ratios((space / "speed.json").string());
  };
  const SpeedRatios ratios = read(R"({"source": "a card", "slide": {"6:8": 1.5}})");
  EXPECT_EQ(ratios.source, "a card");
  EXPECT_EQ(ratios.of(Pattern::parse("6:8"), PackedLayout::kSlide), 1.5);
  const auto message = [&](const std::string& text) { return error_of([&] { read(text); }); };
  EXPECT_THAT(message("{"), HasSubstr("speed.json"));
  EXPECT_THAT(message("[]"), HasSubstr("an object is needed"));
  EXPECT_THAT(message(R"({"sliding": {}})"), HasSubstr("unknown key \"sliding\""));
  EXPECT_THAT(message(R"({"slide": {"7:8": 1}})"), HasSubstr("speed.json: slide"));
  EXPECT_THAT(message(R"({"slide": {"6:8": 0}})"), HasSubstr("6:8"));
  EXPECT_THAT(message(R"({"slide": {"6:8": "fast"}})"), HasSubstr("6:8"));
}

}  // namespace
}  // namespace slidesparse
