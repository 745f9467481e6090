#include "report/plots.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "core/text.h"
#include "report/chart.h"
#include "report/numbers.h"

namespace slidesparse {
namespace {

using Names = std::vector<std::string>;

std::size_t place_in(Names& names, const std::string& name) {
  const auto found = std::ranges::find(names, name);
  if (found != names.end()) return static_cast<std::size_t>(found - names.begin());
  names.push_back(name);
  return names.size() - 1;
}

// The same pattern has the same colour and the same backend the same mark in all plots.
class Styles {
 public:
  explicit Styles(const Results& results) {
    patterns_.emplace_back("dense");
    for (const ReportCell& cell : results.cells) of(cell);
  }
  SeriesStyle of(const ReportCell& cell) {
    const std::string layout = cell.layout == "split" ? " split" : "";
    return {place_in(patterns_, cell.pattern), place_in(backends_, cell.backend + layout)};
  }

 private:
  Names patterns_, backends_;
};

XyChart speed_chart(const ReportView& view, const Section& section, const std::string& model, Styles& styles,
                    std::map<std::string, SeriesStyle>& shown) {
  XyChart chart;
  chart.x_name = "M";
  chart.y_name = view.words("plot.ratio");
  chart.description = view.words("plot.speed", model, section_title(section, view.words));
  chart.log2_x = true;
  chart.y_reference = 1;
  for (const std::string& variant : section.variants) {
    std::map<std::int64_t, std::size_t> by_m;
    for (const std::size_t i : section.cells) {
      const ReportCell& cell = view.results.cells[i];
      if (cell.model == model && cell.m && view.speed_ups[i] && variant_of(cell) == variant)
        by_m[*cell.m] = i;
    }
    ChartSeries series;
    bool base_only = true;  // the line of 1 says it all
    for (const auto& [m, i] : by_m) {
      const Ratio& ratio = *view.speed_ups[i];
      base_only = base_only && ratio.base == i;
      ChartPoint& point = series.points.emplace_back();
      point.x = static_cast<double>(m);
      point.y = ratio.value;
      if (ratio.spread && ratio.base != i) {
        point.low = ratio.low;
        point.high = ratio.high;
      }
      point.title = fmt::format("{}, M={}: {}", variant, m, format_ratio(ratio));
      if (point.low) point.title += fmt::format(" ({:.2f}–{:.2f})", ratio.low, ratio.high);
      series.style = styles.of(view.results.cells[i]);
    }
    if (base_only) continue;
    shown.try_emplace(variant, series.style);
    chart.series.push_back(std::move(series));
  }
  return chart;
}

struct MemoryUse {
  double weights = 0, peak = 0;
  SeriesStyle style;
};

// Geometric mean of the ratios of prefill by variant, of one model and dtype.
std::map<std::string, double> prefill_means(const ReportView& view, const ReportCell& like) {
  std::map<std::string, std::pair<double, int>> sums;
  for (std::size_t i = 0; i < view.results.cells.size(); ++i) {
    const ReportCell& cell = view.results.cells[i];
    if (cell.phase != "prefill" || cell.model != like.model || cell.dtype != like.dtype || !view.speed_ups[i])
      continue;
    auto& [sum, count] = sums[variant_of(cell)];
    sum += std::log(view.speed_ups[i]->value);
    ++count;
  }
  std::map<std::string, double> means;
  for (const auto& [variant, sum] : sums) means[variant] = std::exp(sum.first / sum.second);
  return means;
}

}  // namespace

std::optional<PlotGrid> speed_plots(const ReportView& view, const Section& section) {
  Styles styles(view.results);
  PlotGrid grid;
  std::map<std::string, SeriesStyle> shown;
  for (const std::string& model : section.models) {
    const XyChart chart = speed_chart(view, section, model, styles, shown);
    if (!chart.series.empty()) grid.plots.push_back({model, draw(chart)});
  }
  if (grid.plots.empty()) return {};
  for (const std::string& variant : section.variants) {
    const auto entry = shown.find(variant);
    if (entry != shown.end()) grid.legend.push_back({variant, draw_sample(entry->second)});
  }
  return grid;
}

std::optional<PlotGrid> memory_plots(const ReportView& view) {
  Styles styles(view.results);
  PlotGrid grid;
  using Subject = std::pair<std::string, std::string>;  // model, dtype
  std::vector<Subject> subjects;
  std::map<Subject, std::vector<std::string>> variants;
  std::map<std::pair<Subject, std::string>, MemoryUse> uses;
  for (const ReportCell& cell : view.results.cells) {
    const Figure* weights = cell.figure("weight_bytes");
    const Figure* peak = cell.figure("peak_bytes");
    if ((cell.phase != "prefill" && cell.phase != "decode") || weights == nullptr) continue;
    const Subject subject{cell.model, cell.dtype};
    if (std::ranges::find(subjects, subject) == subjects.end()) subjects.push_back(subject);
    place_in(variants[subject], variant_of(cell));
    MemoryUse& use = uses[{subject, variant_of(cell)}];
    use.weights = std::max(use.weights, weights->value);
    use.peak = std::max(use.peak, peak != nullptr ? peak->value : 0);
    use.style = styles.of(cell);
  }
  for (const Subject& subject : subjects) {
    BarChart chart;
    const std::string caption = fmt::format("{}, {}", subject.first, upper_case(subject.second));
    chart.description = view.words("plot.memory", caption);
    for (const std::string& variant : variants[subject]) {
      const MemoryUse& use = uses[{subject, variant}];
      std::string value = format_bytes(use.weights);
      if (use.peak > 0) value += " / " + format_bytes(use.peak);
      chart.bars.push_back({variant, value, use.weights, use.peak, use.style.colour});
    }
    grid.plots.push_back({caption, draw(chart)});
  }
  if (grid.plots.empty()) return {};
  return grid;
}

std::optional<PlotGrid> accuracy_plots(const ReportView& view) {
  Styles styles(view.results);
  PlotGrid grid;
  std::vector<std::pair<std::string, XyChart>> charts;
  for (const ReportCell& cell : view.results.cells) {
    const Figure* perplexity = cell.phase == "eval" ? cell.figure("perplexity") : nullptr;
    if (perplexity == nullptr) continue;
    const auto means = prefill_means(view, cell);
    const auto mean = means.find(variant_of(cell));
    if (mean == means.end()) continue;
    const std::string caption = fmt::format("{}, {}", cell.model, upper_case(cell.dtype));
    auto chart = std::ranges::find(charts, caption, &std::pair<std::string, XyChart>::first);
    if (chart == charts.end()) {
      charts.push_back({caption, {}});
      chart = charts.end() - 1;
      chart->second.description = view.words("plot.accuracy", caption);
      chart->second.x_name = view.words("plot.mean_ratio");
      chart->second.y_name = view.words("figure.perplexity");
    }
    ChartSeries series{styles.of(cell), false, {}};
    series.points.push_back({mean->second,
                             perplexity->value,
                             {},
                             {},
                             fmt::format("{}: {}, {}", variant_of(cell), format_times(mean->second),
                                         format_value(perplexity->value)),
                             variant_of(cell)});
    chart->second.series.push_back(std::move(series));
  }
  for (const auto& [caption, chart] : charts) grid.plots.push_back({caption, draw(chart)});
  if (grid.plots.empty()) return {};
  return grid;
}

}  // namespace slidesparse
