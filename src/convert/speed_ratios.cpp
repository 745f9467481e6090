#include "convert/speed_ratios.h"

#include "core/fail.h"
#include "core/text.h"
#include "io/json.h"

namespace slidesparse {
namespace {

constexpr double kLeast = 0.01;
constexpr double kMost = 100;

void read_layout(const Json& json, PackedLayout layout, const std::string& path, SpeedRatios& ratios) {
  const std::string key(packed_layout_name(layout));
  const Json* table = json_object_or_null(json, key, path);
  if (table == nullptr) return;
  const std::string where = path + ": " + key;
  for (const auto& item : table->items()) {
    Pattern pattern;
    try {
      pattern = Pattern::parse(item.key());
    } catch (const Error& error) {
      fail_input("{}: {}", where, error.what());
    }
    ratios.ratios[{pattern.to_string(), layout}] = json_number(*table, item.key(), where, kLeast, kMost);
  }
}

}  // namespace

double SpeedRatios::of(Pattern pattern, PackedLayout layout) const {
  if (pattern.is_dense()) return 1;
  const auto found = ratios.find({pattern.to_string(), layout});
  if (found == ratios.end()) {
    fail_input("{}: no speed of {} in layout {}; add it", printable(source, 400), pattern.to_string(),
               packed_layout_name(layout));
  }
  return found->second;
}

SpeedRatios default_speed_ratios() {
  constexpr auto kSlide = PackedLayout::kSlide;
  constexpr auto kSplit = PackedLayout::kSplit;
  return {
      "H200, FP8, M = 16384, four linears of a 7B model (docs/measurements.md; split 10:12 to 14:16 by their "
      "bounds)",
      {{{"2:4", kSlide}, 1.365},
       {{"4:6", kSlide}, 1.06},
       {{"6:8", kSlide}, 1.0},
       {{"8:10", kSlide}, 1.0},
       {{"10:12", kSlide}, 1.0},
       {{"12:14", kSlide}, 1.0},
       {{"14:16", kSlide}, 1.0},
       {{"2:4", kSplit}, 1.365},
       {{"4:6", kSplit}, 1.194},
       {{"6:8", kSplit}, 1.135},
       {{"8:10", kSplit}, 1.089},
       {{"10:12", kSplit}, 1.07},
       {{"12:14", kSplit}, 1.058},
       {{"14:16", kSplit}, 1.05}}};
}

SpeedRatios read_speed_ratios(const std::string& path) {
  const Json json = parse_json(read_text_file(path), path);
  if (!json.is_object()) fail_input("{}: an object is needed", printable(path, 400));
  for (const auto& item : json.items()) {
    if (item.key() != "source" && item.key() != "slide" && item.key() != "split")
      fail_input("{}: unknown key \"{}\"; there are source, slide and split", printable(path, 400),
                 printable(item.key()));
  }
  SpeedRatios ratios;
  ratios.source = json_string_or(json, "source", path, path);
  read_layout(json, PackedLayout::kSlide, path, ratios);
  read_layout(json, PackedLayout::kSplit, path, ratios);
  return ratios;
}

WorkShares work_shares(const ConvertReport& report) {
  WorkShares shares;
  double all = 0;
  for (const LayerReport& layer : report.layers) {
    if (layer.group.empty()) continue;
    const double work = static_cast<double>(layer.rows) * static_cast<double>(layer.k);
    shares[{layer.pattern.to_string(), layer.layout}] += work;
    all += work;
  }
  for (auto& [of, work] : shares) work /= all;
  return shares;
}

double predicted_speed(const SpeedRatios& ratios, const WorkShares& work) {
  double time = 0;
  for (const auto& [of, share] : work) time += share / ratios.of(Pattern::parse(of.first), of.second);
  return time > 0 ? 1 / time : 1;
}

}  // namespace slidesparse
