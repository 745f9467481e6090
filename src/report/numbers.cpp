#include "report/numbers.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "core/text.h"

namespace slidesparse {
namespace {

std::string with_commas(std::string digits) {
  const std::size_t start = digits.starts_with('-') ? 1 : 0;
  for (std::size_t place = digits.size(); place > start + 3;) {
    place -= 3;
    digits.insert(place, ",");
  }
  return digits;
}

}  // namespace

std::string format_count(std::int64_t value) {
  return with_commas(fmt::format("{}", value));
}

std::string format_value(double value) {
  if (!std::isfinite(value) || std::abs(value) >= 1e15) return fmt::format("{:.4g}", value);
  const double size = std::abs(value);
  if (size >= 999.95) return with_commas(fmt::format("{:.0f}", value));
  if (size == 0) return "0";
  if (size < 1e-3) return fmt::format("{:.3g}", value);
  return fmt::format("{:.{}f}", value, size >= 99.995 ? 1 : size >= 9.9995 ? 2 : 3);
}

std::string format_bare(const Figure& figure) {
  if (figure.unit == "FLOP/s") return format_value(1e-12 * figure.value);
  if (figure.unit == "B") return format_bytes(figure.value);
  return format_value(figure.value);
}

std::string format_figure(const Figure& figure) {
  std::string text = format_bare(figure);
  if (figure.unit == "B" || figure.unit == "1" || figure.unit == "tokens") return text;
  return fmt::format("{} {}", text, figure.unit == "FLOP/s" ? "TFLOP/s" : figure.unit);
}

std::string format_spread(const Figure& figure) {
  if (!figure.low || !figure.high || figure.value == 0) return "";
  const double half = 50 * (*figure.high - *figure.low) / figure.value;
  return fmt::format("±{:.{}f}%", half, half < 9.95 ? 1 : 0);
}

std::string format_times(double ratio) {
  if (ratio != 1 && std::abs(ratio - 1) < 0.005) return fmt::format("{:.3f}×", ratio);
  return fmt::format("{:.{}f}×", ratio, ratio < 9.995 ? 2 : 1);
}

std::string format_ratio(const Ratio& ratio) {
  const Verdict shown = verdict(ratio);
  const char* mark = shown == Verdict::kSlower ? " ▼" : shown == Verdict::kWithinSpread ? " ≈" : "";
  return format_times(ratio.value) + mark;
}

std::string upper_case(std::string text) {
  std::ranges::transform(text, text.begin(),
                         [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
  return text;
}

}  // namespace slidesparse
