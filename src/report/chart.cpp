#include "report/chart.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "core/text.h"

namespace slidesparse {
namespace {

// A chart is 400 units wide, about the width of a phone, so that its text stays readable there.
constexpr double kWidth = 400;
constexpr double kHeight = 250;
constexpr double kLeft = 44, kRight = 12, kTop = 12, kBottom = 42;
constexpr std::size_t kColours = 8;
constexpr double kTickDistance = 34;  // units between two labels below the axis, at least
constexpr std::size_t kTextLimit = 2000;
constexpr double kRoom = 0.03;  // of the range, between a value and the frame

// Steps of 1, 2 or 5 times a power of ten, so that there are four to nine lines.
double nice_step(double range) {
  const double raw = range / 5;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw) return factor * power;
  }
  return 10 * power;
}

struct Axis {
  double low = 0, high = 1, step = 1;
};

// The values and a little room, ending on lines.
Axis axis_of(double low, double high) {
  if (!(high > low)) {
    const double room = low == 0 ? 1 : 0.1 * std::abs(low);
    low -= room;
    high += room;
  }
  Axis axis;
  axis.step = nice_step(high - low);
  axis.low = axis.step * std::floor(low / axis.step + 1e-9);
  axis.high = axis.step * std::ceil(high / axis.step - 1e-9);
  return axis;
}

std::string number(double value) {
  std::string text = fmt::format("{:.2f}", value);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

std::string tick_text(double value, double step) {
  const int digits = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 6);
  return fmt::format("{:.{}f}", value, digits);
}

// The outline of a mark around a place.
std::string mark_path(std::size_t mark, double x, double y) {
  const auto at = [&](double dx, double dy) { return number(x + dx) + " " + number(y + dy); };
  switch (mark % 5) {
    case 0:
      return fmt::format("M{}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z", at(-3.5, 0));
    case 1:
      return fmt::format("M{}h6.4v6.4h-6.4z", at(-3.2, -3.2));
    case 2:
      return fmt::format("M{}L{}L{}z", at(0, -4.2), at(4.2, 3.2), at(-4.2, 3.2));
    case 3:
      return fmt::format("M{}L{}L{}L{}z", at(0, -4.5), at(4.5, 0), at(0, 4.5), at(-4.5, 0));
    default:
      return fmt::format("M{}L{}L{}z", at(0, 4.2), at(4.2, -3.2), at(-4.2, -3.2));
  }
}

std::string classes(const SeriesStyle& style) {
  return fmt::format("c{} k{}", style.colour % kColours, style.mark % 5);
}

std::string text_at(double x, double y, const char* anchor, const std::string& text) {
  return fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"{}\">{}</text>\n", number(x), number(y), anchor,
                     escape_markup(text));
}

std::string open_svg(double height, const std::string& description) {
  return fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", number(kWidth),
                     number(height), escape_markup(description));
}

class XyDrawing {
 public:
  explicit XyDrawing(const XyChart& chart) : chart_(chart) {
    bool first = true;
    double x_low = 0, x_high = 1, y_low = 0, y_high = 1;
    const auto widen = [&](double x, double y) {
      x_low = first ? x : std::min(x_low, x);
      x_high = first ? x : std::max(x_high, x);
      y_low = first ? y : std::min(y_low, y);
      y_high = first ? y : std::max(y_high, y);
      first = false;
    };
    for (const ChartSeries& series : chart.series) {
      for (const ChartPoint& point : series.points) {
        widen(scaled(point.x), point.low.value_or(point.y));
        widen(scaled(point.x), point.high.value_or(point.y));
      }
    }
    if (chart.y_reference) {
      y_low = std::min(y_low, *chart.y_reference);
      y_high = std::max(y_high, *chart.y_reference);
    }
    const double y_room = kRoom * (y_high - y_low), x_room = kRoom * (x_high - x_low);
    y_ = axis_of(y_low - y_room, y_high + y_room);
    x_ = axis_of(x_low - x_room, x_high + x_room);
    if (chart.log2_x && x_high > x_low) x_ = {x_low, x_high, 1};
  }

  std::string draw() {
    text_ = open_svg(kHeight, chart_.description);
    draw_y();
    draw_x();
    if (chart_.y_reference)
      line("ref", left(), y_place(*chart_.y_reference), kWidth - kRight, y_place(*chart_.y_reference));
    for (const ChartSeries& series : chart_.series) draw_series(series);
    return text_ + "</svg>";
  }

 private:
  // The first and last of a few M stand a little off the frame.
  double inset() const { return chart_.log2_x ? 14 : 0; }
  static double left() { return kLeft; }
  double scaled(double x) const { return chart_.log2_x ? std::log2(std::max(x, 1.0)) : x; }
  double x_place(double x) const {
    const double share = (scaled(x) - x_.low) / (x_.high - x_.low);
    return kLeft + inset() + share * (kWidth - kLeft - kRight - 2 * inset());
  }
  double y_place(double y) const {
    return kTop + (y_.high - y) / (y_.high - y_.low) * (kHeight - kTop - kBottom);
  }
  void line(const char* name, double x1, double y1, double x2, double y2) {
    text_ += fmt::format("<path class=\"{}\" d=\"M{} {}L{} {}\"/>\n", name, number(x1), number(y1),
                         number(x2), number(y2));
  }
  void draw_y() {
    const int lines = static_cast<int>(std::lround((y_.high - y_.low) / y_.step));
    for (int i = 0; i <= lines; ++i) {
      const double value = y_.low + i * y_.step;
      line("grid", kLeft, y_place(value), kWidth - kRight, y_place(value));
      text_ += text_at(kLeft - 6, y_place(value) + 4, "end", tick_text(value, y_.step));
    }
    text_ +=
        fmt::format("<text transform=\"translate(11 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                    number(kTop + (kHeight - kTop - kBottom) / 2), escape_markup(chart_.y_name));
  }
  void draw_x() {
    const double base = kHeight - kBottom;
    line("axis", kLeft, base, kWidth - kRight, base);
    double last = -kWidth;
    const auto tick = [&](double value, const std::string& label) {
      const double place = x_place(value);
      line("axis", place, base, place, base + 4);
      if (place - last < kTickDistance) return;
      text_ += text_at(place, base + 16, "middle", label);
      last = place;
    };
    if (chart_.log2_x) {
      std::set<double> values;
      for (const ChartSeries& series : chart_.series) {
        for (const ChartPoint& point : series.points) values.insert(point.x);
      }
      for (const double value : values) tick(value, fmt::format("{:.0f}", value));
    } else {
      const int lines = static_cast<int>(std::lround((x_.high - x_.low) / x_.step));
      for (int i = 0; i <= lines; ++i) tick(x_.low + i * x_.step, tick_text(x_.low + i * x_.step, x_.step));
    }
    text_ += text_at(kLeft + (kWidth - kLeft - kRight) / 2, kHeight - 6, "middle", chart_.x_name);
  }
  void draw_series(const ChartSeries& series) {
    text_ += fmt::format("<g class=\"{}\">\n", classes(series.style));
    std::string path;
    for (const ChartPoint& point : series.points) {
      const double x = x_place(point.x);
      path += fmt::format("{}{} {}", path.empty() ? "M" : "L", number(x), number(y_place(point.y)));
      if (point.low && point.high) line("whisker", x, y_place(*point.low), x, y_place(*point.high));
    }
    if (series.line && series.points.size() > 1)
      text_ += fmt::format("<path class=\"line\" d=\"{}\"/>\n", path);
    for (const ChartPoint& point : series.points) {
      const double x = x_place(point.x), y = y_place(point.y);
      text_ += fmt::format("<path class=\"mark\" d=\"{}\"><title>{}</title></path>\n",
                           mark_path(series.style.mark, x, y), escape_markup(point.title));
    }
    text_ += "</g>\n";
  }

  const XyChart& chart_;
  Axis x_, y_;
  std::string text_;
};

}  // namespace

std::string escape_markup(const std::string& text) {
  std::string escaped;
  for (const char c : printable(text, kTextLimit)) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string draw(const XyChart& chart) {
  return XyDrawing(chart).draw();
}

std::string draw(const BarChart& chart) {
  constexpr double kRow = 34, kBar = 11;
  double most = 0;
  for (const BarChart::Bar& bar : chart.bars) most = std::max({most, bar.inner, bar.outer});
  const double scale = most > 0 ? (kWidth - 2) / most : 0;
  std::string text = open_svg(kRow * static_cast<double>(chart.bars.size()) + 2, chart.description);
  double top = 0;
  for (const BarChart::Bar& bar : chart.bars) {
    const std::string place = fmt::format("x=\"1\" y=\"{}\" height=\"{}\"", number(top + 18), number(kBar));
    text += text_at(1, top + 13, "start", bar.name) + text_at(kWidth - 1, top + 13, "end", bar.value);
    text += fmt::format(
        "<g class=\"c{}\"><rect class=\"outer\" {} width=\"{}\"/><rect class=\"inner\" {} "
        "width=\"{}\"/></g>\n",
        bar.colour % kColours, place, number(scale * std::max(bar.outer, bar.inner)), place,
        number(scale * bar.inner));
    top += kRow;
  }
  return text + "</svg>";
}

std::string draw_sample(const SeriesStyle& style, bool line) {
  return fmt::format(
      "<svg class=\"sample\" viewBox=\"0 0 30 12\" aria-hidden=\"true\"><g class=\"{}\">{}"
      "<path class=\"mark\" d=\"{}\"/></g></svg>",
      classes(style), line ? "<path class=\"line\" d=\"M1 6L29 6\"/>" : "", mark_path(style.mark, 15, 6));
}

}  // namespace slidesparse
