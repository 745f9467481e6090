#pragma once

#include <cstdint>
#include <string>

#include "report/results.h"
#include "report/speed_up.h"

// Numbers as people read them; no words.
namespace slidesparse {

// "65,536"
std::string format_count(std::int64_t value);
// "12,345" from 1000 on, "812.3", "1.234": four digits or all before the point.
std::string format_value(double value);
// A figure with its unit: "12,345 tokens/s", "1.25 TFLOP/s", "22.6 GB", "1.50 s".
std::string format_figure(const Figure& figure);
// The same without a unit that a table names in its header, scaled alike: FLOP/s as TFLOP/s.
std::string format_bare(const Figure& figure);
// "±0.8%": half the distance from the 10th to the 90th percentile over the median; empty without percentiles.
std::string format_spread(const Figure& figure);
// "1.23×"; a third digit where two would say that it is 1: "0.998×".
std::string format_times(double ratio);
// The same with its verdict: "0.94× ▼" for slower and "1.01× ≈" where the spreads reach over 1.
std::string format_ratio(const Ratio& ratio);

// "INT8" for "int8"; ASCII only.
std::string upper_case(std::string text);

}  // namespace slidesparse
