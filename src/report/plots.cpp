#include "report/plots.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
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
    for (const ReportCell& cell : results.cells) of(cell);
  }
  SeriesStyle of(const ReportCell& cell) {
    const std::string layout = cell.layout == "split" ? " split" : "";
    return {place_in(patterns_, cell.pattern), place_in(backends_, cell.backend + layout)};
  }

 private:
  // These have the plainest looks.
  Names patterns_{"dense"}, backends_{"auto"};
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

using Subject = std::pair<std::string, std::string>;  // model, dtype

// Cells of a model that say their bytes. All variants are compared in the same place.
struct MemoryCells {
  Names variants;
  using Place = std::tuple<std::string, std::int64_t, std::optional<std::int64_t>>;  // phase, M, memory limit
  std::map<Place, std::map<std::string, const ReportCell*>> by_place;

  // Where most variants were measured; of such places, that of the largest peak.
  const Place* best() const {
    const Place* found = nullptr;
    std::pair<std::size_t, double> most{0, 0};
    for (const auto& [place, cells] : by_place) {
      double peak = 0;
      for (const auto& [variant, cell] : cells) peak = std::max(peak, cell->figure("peak_bytes")->value);
      const std::pair<std::size_t, double> here{cells.size(), peak};
      if (found == nullptr || here > most) {
        found = &place;
        most = here;
      }
    }
    return found;
  }
};

// The figures of plots once more, for those who cannot see them: model and dtype, variant, and two more
// columns.
ReportTable figures_of_plots(const Words& words, const char* caption) {
  ReportTable table;
  table.caption = words(caption);
  table.header = {words("column.model"), words("column.variant")};
  table.text_columns = 2;
  table.folded = true;
  return table;
}

std::vector<Block> blocks_of(const std::string& intro, PlotGrid grid, ReportTable table) {
  if (grid.plots.empty()) return {};
  return {Paragraph{intro}, std::move(grid), std::move(table)};
}

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
    if (entry != shown.end()) grid.legend.push_back({variant, draw_sample(entry->second, true)});
  }
  return grid;
}

std::vector<Block> memory_blocks(const ReportView& view) {
  Styles styles(view.results);
  PlotGrid grid;
  ReportTable table = figures_of_plots(view.words, "plot.memory.caption");
  table.header.push_back(view.words("column.weights"));
  table.header.push_back(view.words("column.peak"));
  std::vector<Subject> subjects;
  std::map<Subject, MemoryCells> all;
  for (const ReportCell& cell : view.results.cells) {
    if ((cell.phase != "prefill" && cell.phase != "decode") || !cell.m) continue;
    if (cell.figure("weight_bytes") == nullptr || cell.figure("peak_bytes") == nullptr) continue;
    const auto [entry, first] = all.try_emplace({cell.model, cell.dtype});
    if (first) subjects.push_back(entry->first);
    place_in(entry->second.variants, variant_of(cell));
    entry->second.by_place[{cell.phase, *cell.m, cell.memory_limit}][variant_of(cell)] = &cell;
  }
  for (const Subject& subject : subjects) {
    const MemoryCells& cells = all[subject];
    const MemoryCells::Place& place = *cells.best();
    BarChart chart;
    const std::string phase = view.words("phase." + std::get<0>(place));
    const std::string caption =
        fmt::format("{}, {}, {}, M={}", subject.first, upper_case(subject.second), phase, std::get<1>(place));
    chart.description = view.words("plot.memory", caption);
    for (const std::string& variant : cells.variants) {
      const auto found = cells.by_place.at(place).find(variant);
      if (found == cells.by_place.at(place).end()) continue;
      const double weights = found->second->figure("weight_bytes")->value;
      const double peak = found->second->figure("peak_bytes")->value;
      table.rows.push_back({{caption}, {variant}, {format_bytes(weights)}, {format_bytes(peak)}});
      chart.bars.push_back({variant, fmt::format("{} / {}", format_bytes(weights), format_bytes(peak)),
                            weights, peak, styles.of(*found->second).colour});
    }
    grid.plots.push_back({caption, draw(chart)});
  }
  return blocks_of(view.words("intro.memory"), std::move(grid), std::move(table));
}

std::vector<Block> accuracy_blocks(const ReportView& view) {
  Styles styles(view.results);
  PlotGrid grid;
  ReportTable table = figures_of_plots(view.words, "plot.accuracy.caption");
  table.header.push_back(view.words("figure.perplexity"));
  table.header.push_back(view.words("column.mean"));
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
    table.rows.push_back(
        {{caption}, {variant_of(cell)}, {format_value(perplexity->value)}, {format_times(mean->second)}});
    ChartSeries series{styles.of(cell), false, {}};
    series.points.push_back({mean->second,
                             perplexity->value,
                             {},
                             {},
                             fmt::format("{}: {}, {}", variant_of(cell), format_times(mean->second),
                                         format_value(perplexity->value))});
    if (std::ranges::find(grid.legend, variant_of(cell), &LegendEntry::name) == grid.legend.end())
      grid.legend.push_back({variant_of(cell), draw_sample({series.style.colour, series.style.mark}, false)});
    chart->second.series.push_back(std::move(series));
  }
  for (const auto& [caption, chart] : charts) grid.plots.push_back({caption, draw(chart)});
  return blocks_of(view.words("intro.accuracy"), std::move(grid), std::move(table));
}

}  // namespace slidesparse
