#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

// Charts as <svg> elements that take colours and fonts from the page's classes (page_style.h), so that they
// suit light and dark. Texts are escaped here. The same values give the same bytes.
namespace slidesparse {

// Looks of a series: colour and mark, by number; they repeat after eight colours and five marks.
struct SeriesStyle {
  std::size_t colour = 0, mark = 0;
};

struct ChartPoint {
  double x = 0, y = 0;
  std::optional<double> low, high;  // a whisker
  std::string title;                // shown when pointed at, and read aloud
};

struct ChartSeries {
  SeriesStyle style;
  bool line = true;
  std::vector<ChartPoint> points;  // x ascending
};

struct XyChart {
  std::string description;  // for those who cannot see it
  std::string x_name, y_name;
  bool log2_x = false;                // ticks at the points' own x then
  std::optional<double> y_reference;  // a line across
  std::vector<ChartSeries> series;
};
std::string draw(const XyChart& chart);

struct BarChart {
  struct Bar {
    std::string name, value;  // value: as people read it
    double inner = 0;         // filled: weights
    double outer = 0;         // outlined: all
    std::size_t colour = 0;
  };
  std::string description;
  std::vector<Bar> bars;
};
std::string draw(const BarChart& chart);

// A small sample for a legend: mark, and line if wanted.
std::string draw_sample(const SeriesStyle& style, bool line);

// & < > " ' for text and attributes of HTML and SVG; control characters and invalid UTF-8 become \xNN.
std::string escape_markup(const std::string& text);

}  // namespace slidesparse
