#pragma once

#include <map>
#include <string>
#include <utility>

#include "convert/report.h"
#include "io/packed_directory.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {

// How fast linears of a pattern and layout run on some card, over the best dense kernel.
struct SpeedRatios {
  std::string source;  // where the figures come from
  std::map<std::pair<std::string, PackedLayout>, double> ratios;

  double of(Pattern pattern, PackedLayout layout) const;  // dense: 1; throws kInput for what is not listed
};

// FP8 prefill at M = 16384 on an H200, the four linears of Qwen2.5-7B summed, fastest kernel allowed (so
// never below 1): docs/measurements.md. 2:4 is the same in both layouts.
SpeedRatios default_speed_ratios();
// A JSON file {"source": "...", "slide": {"2:4": 1.365, ...}, "split": {"6:8": 1.17, ...}}. Throws kInput for
// other keys, patterns that are none, and ratios that are not between 0.01 and 100.
SpeedRatios read_speed_ratios(const std::string& path);

// How much of a converted model's multiplications each pattern and layout has; they add up to 1 (no linears:
// nothing is in it). The head is left out.
using WorkShares = std::map<std::pair<std::string, PackedLayout>, double>;
WorkShares work_shares(const ConvertReport& report);

// Speed of all of them together.
double predicted_speed(const SpeedRatios& ratios, const WorkShares& work);

}  // namespace slidesparse
