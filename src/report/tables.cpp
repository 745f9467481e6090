#include "report/tables.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/text.h"
#include "report/numbers.h"
#include "report/repeat.h"

namespace slidesparse {
namespace {

constexpr const char* kEmpty = "–";
constexpr double kSmall = 0.005;  // a mean so near 1 is not coloured: it has no spread of its own

Tone tone_of(const Ratio& ratio) {
  switch (verdict(ratio)) {
    case Verdict::kFaster:
      return Tone::kGood;
    case Verdict::kSlower:
      return Tone::kBad;
    case Verdict::kWithinSpread:
      return Tone::kPlain;
  }
  return Tone::kPlain;
}

// "1 out of memory, 2 not run"
std::string reasons(const Count& count, const Words& words) {
  std::string text;
  const auto add = [&](const std::string& state, std::int64_t cells) {
    if (cells > 0 && state != "ok")
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", format_count(cells), state_name(state, words));
  };
  for (const std::string& state : known_states()) add(state, count.of(state));
  for (const auto& [state, cells] : count.states) {
    if (std::ranges::find(known_states(), state) == known_states().end()) add(state, cells);
  }
  return text;
}

TableCell count_cell(const Count& count, const Words& words) {
  if (count.all == 0) return {kEmpty, "", Tone::kQuiet};
  return {fmt::format("{}/{}", format_count(count.measured()), format_count(count.all)),
          reasons(count, words), count.measured() == count.all ? Tone::kGood : Tone::kBad};
}

// What a reader must know of a measured cell besides its figure.
std::string remarks(const ReportCell& cell, const Words& words) {
  std::string text;
  const auto add = [&](const std::string& remark) { text += (text.empty() ? "" : " · ") + remark; };
  if (const Figure* share = cell.figure("sparse_share"); share != nullptr && cell.pattern != "dense") {
    if (share->value == 0) {
      add(words("remark.ran_dense"));
    } else if (share->value < 0.995) {
      add(words("remark.sparse_share", fmt::format("{:.0f}%", 100 * share->value)));
    }
  }
  const Figure* sequences = cell.figure("sequences");
  if (cell.phase == "decode" && sequences != nullptr && cell.m &&
      sequences->value != static_cast<double>(*cell.m))
    add(words("remark.sequences", format_value(sequences->value)));
  const Figure* step = cell.figure("step_tokens");
  if (cell.phase == "prefill" && step != nullptr && cell.m && step->value < static_cast<double>(*cell.m))
    add(words("remark.chunks", format_value(step->value)));
  if (const std::string unlike = unlike_words(cell.changes); !unlike.empty())
    add(words("remark.changed", unlike));
  if (const auto note = cell.attributes.find("note"); note != cell.attributes.end()) add(note->second);
  return text;
}

// "gate_up cutlass/128x128, qkv ...": what ran.
std::string kernels_of(const ReportCell& cell) {
  constexpr std::string_view kKernel = "kernel.";
  std::string text;
  for (auto entry = cell.attributes.lower_bound(std::string(kKernel));
       entry != cell.attributes.end() && entry->first.starts_with(kKernel); ++entry) {
    text +=
        fmt::format("{}{} {}", text.empty() ? "" : ", ", entry->first.substr(kKernel.size()), entry->second);
  }
  return text;
}

template <typename Wanted>
bool any_cell(const ReportView& view, const Section& section, Wanted wanted) {
  return std::ranges::any_of(section.cells, [&](std::size_t i) { return wanted(view.results.cells[i]); });
}

// Empty without a ratio.
TableCell ratio_cell(const ReportView& view, std::size_t index) {
  const auto& ratio = view.speed_ups[index];
  if (!ratio) return {};
  return {ratio->base == index ? view.words("remark.baseline") : format_ratio(*ratio), "", tone_of(*ratio)};
}

TableCell speed_cell(const ReportView& view, std::size_t index) {
  const ReportCell& cell = view.results.cells[index];
  const Figure* figure = cell.figure(main_figure(cell.phase));
  if (!cell.measured()) {
    const bool bytes = cell.last && cell.last->needed_bytes;
    return {
        state_name(cell.state, view.words),
        bytes ? view.words("remark.needs", format_bytes(static_cast<double>(*cell.last->needed_bytes))) : "",
        cell.state == "not_run" ? Tone::kQuiet : Tone::kBad};
  }
  if (figure == nullptr) return {kEmpty, "", Tone::kQuiet};
  const TableCell ratio = ratio_cell(view, index);
  const std::string spread = format_spread(*figure);
  const char* between = spread.empty() || ratio.text.empty() ? "" : " · ";
  return {format_bare(*figure), spread + between + ratio.text, ratio.tone, false, remarks(cell, view.words)};
}

// "Prefill qwen2.5-7b INT8"
std::string subject_name(const ReportCell& cell, const Words& words) {
  return fmt::format("{} {} {}", words("phase." + cell.phase), cell.model, upper_case(cell.dtype));
}

std::string unit_of_speed(const std::string& phase) {
  return phase == "gemm" ? "TFLOP/s" : "tokens/s";
}

}  // namespace

std::string state_name(const std::string& state, const Words& words) {
  const std::string key = "state." + state;
  return words.has(key) ? words(key) : state;
}

std::string variant_name(const ReportCell& cell, const Words& words) {
  return subject_name(cell, words) + " " + variant_of(cell);
}

TableCell name_cell(const ReportCell& cell, const Words& words) {
  std::string name = variant_of(cell);
  if (cell.m) name += fmt::format(" M={}", *cell.m);
  return {name, subject_name(cell, words)};
}

std::string section_title(const Section& section, const Words& words) {
  const std::string key = "phase." + section.phase;
  std::string text = fmt::format("{}, {}", words(key), upper_case(section.dtype));
  if (!section.workload.empty()) text += ", " + section.workload;
  if (section.memory_limit) {
    text += ", " + words("section.limit",
                         fmt::format("{:.1f} GiB", static_cast<double>(*section.memory_limit) / 0x1p30));
  }
  return text;
}

ReportTable completeness_table(const ReportView& view, const Section& section) {
  const Words& words = view.words;
  ReportTable table;
  table.caption = words("completeness.caption", section_title(section, words));
  table.header.push_back(words("column.model"));
  table.header.push_back(words("column.total"));
  for (const std::string& variant : section.variants) table.header.push_back(variant);
  const auto row = [&](const std::string& name, const std::string* model) {
    std::vector<TableCell>& cells = table.rows.emplace_back();
    cells.push_back({name});
    const auto of_model = [model](const ReportCell& cell) {
      return model == nullptr || cell.model == *model;
    };
    std::map<std::string, std::vector<std::size_t>> by_variant;
    std::vector<std::size_t> all;
    for (const std::size_t i : section.cells) {
      if (!of_model(view.results.cells[i])) continue;
      by_variant[variant_of(view.results.cells[i])].push_back(i);
      all.push_back(i);
    }
    const auto any = [](const ReportCell&) { return true; };
    cells.push_back(count_cell(count_cells(view.results, all, any), words));
    cells.back().small.clear();  // its reasons stand beside it, by variant
    for (const std::string& variant : section.variants)
      cells.push_back(count_cell(count_cells(view.results, by_variant[variant], any), words));
  };
  for (const std::string& model : section.models) row(model, &model);
  row(words("column.total"), nullptr);
  table.totals = true;
  return table;
}

ReportTable speed_table(const ReportView& view, const Section& section, const std::string& model) {
  std::set<std::int64_t> ms;
  std::map<std::pair<std::string, std::int64_t>, std::size_t> cells;
  for (const std::size_t i : section.cells) {
    const ReportCell& cell = view.results.cells[i];
    if (cell.model != model) continue;
    const std::int64_t m = cell.m.value_or(0);
    ms.insert(m);
    const auto [entry, first] = cells.try_emplace({variant_of(cell), m}, i);
    if (!first && cell.measured()) entry->second = i;
  }
  ReportTable table;
  table.caption =
      view.words("speed.caption", model, section_title(section, view.words), unit_of_speed(section.phase));
  table.header.push_back(view.words("column.variant"));
  for (const std::int64_t m : ms) table.header.push_back(fmt::format("M={}", m));
  for (const std::string& variant : section.variants) {
    std::vector<TableCell> row{{variant}};
    bool any = false;
    for (const std::int64_t m : ms) {
      const auto found = cells.find({variant, m});
      any = any || found != cells.end();
      row.push_back(found == cells.end() ? TableCell{kEmpty, "", Tone::kQuiet}
                                         : speed_cell(view, found->second));
    }
    if (any) table.rows.push_back(std::move(row));
  }
  return table;
}

ReportTable figures_table(const ReportView& view, const Section& section) {
  std::vector<std::string> names;
  for (const char* name : {"perplexity", "seconds", "bytes", "tokens", "problems", "kernels"}) {
    if (any_cell(view, section, [name](const ReportCell& cell) { return cell.figure(name) != nullptr; }))
      names.emplace_back(name);
  }
  ReportTable table;
  table.caption = view.words("figures.caption", section_title(section, view.words));
  table.header = {view.words("column.model"), view.words("column.variant"), view.words("column.state")};
  table.text_columns = 3;
  for (const std::string& name : names) table.header.push_back(view.words("figure." + name));
  const bool digests =
      any_cell(view, section, [](const ReportCell& cell) { return cell.attributes.contains("sha256"); });
  if (digests) table.header.emplace_back("SHA-256");
  for (const std::size_t i : section.cells) {
    const ReportCell& cell = view.results.cells[i];
    std::vector<TableCell> row{{cell.model}, {variant_of(cell)}, {state_name(cell.state, view.words)}};
    if (!cell.measured()) row.back().tone = Tone::kBad;
    for (const std::string& name : names) {
      const Figure* figure = cell.figure(name);
      if (figure == nullptr) {
        row.push_back({kEmpty, "", Tone::kQuiet});
        continue;
      }
      const bool count = name == "tokens" || name == "problems" || name == "kernels";
      row.push_back({count ? format_count(std::llround(figure->value)) : format_figure(*figure),
                     format_spread(*figure)});
    }
    if (digests) {
      const auto digest = cell.attributes.find("sha256");
      row.push_back({digest == cell.attributes.end() ? kEmpty : digest->second, "", Tone::kPlain, true});
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

ReportTable overview_table(const ReportView& view, const Section& section) {
  const Words& words = view.words;
  ReportTable table;
  table.caption = words("overview.caption", section_title(section, words));
  table.header = {words("column.variant"), words("column.compared"), words("column.mean"),
                  words("column.least"),   words("column.most"),     words("column.slower")};
  for (const std::string& variant : section.variants) {
    std::vector<const Ratio*> ratios;
    for (const std::size_t i : section.cells) {
      const auto& ratio = view.speed_ups[i];
      if (ratio && ratio->base != i && variant_of(view.results.cells[i]) == variant)
        ratios.push_back(&*ratio);
    }
    if (ratios.empty()) continue;
    double sum = 0;
    std::int64_t slower = 0;
    for (const Ratio* ratio : ratios) {
      sum += std::log(ratio->value);
      slower += verdict(*ratio) == Verdict::kSlower ? 1 : 0;
    }
    const double mean = std::exp(sum / static_cast<double>(ratios.size()));
    const auto [least, most] =
        std::ranges::minmax_element(ratios, {}, [](const Ratio* ratio) { return ratio->value; });
    const auto plain = [](double value) { return format_times(value) + (value < 1 ? " ▼" : ""); };
    table.rows.push_back({{variant},
                          {format_count(static_cast<std::int64_t>(ratios.size()))},
                          {plain(mean), "",
                           mean < 1 - kSmall   ? Tone::kBad
                           : mean > 1 + kSmall ? Tone::kGood
                                               : Tone::kPlain},
                          {format_ratio(**least), "", tone_of(**least)},
                          {format_ratio(**most), "", tone_of(**most)},
                          {format_count(slower), "", slower > 0 ? Tone::kBad : Tone::kPlain}});
  }
  return table;
}

ReportTable cells_table(const ReportView& view, const Section& section) {
  const Words& words = view.words;
  ReportTable table;
  table.caption = words("cells.caption", section_title(section, words));
  table.header = {
      words("column.model"),   words("column.variant"), words("column.state"),   "M",
      words("column.median"),  words("column.range"),   words("column.samples"), words("column.ratio"),
      words("column.attempts")};
  const bool limits =
      any_cell(view, section, [](const ReportCell& cell) { return cell.figure("share_of_limit"); });
  if (limits) table.header.push_back(words("column.limit"));
  const bool kernels =
      any_cell(view, section, [](const ReportCell& cell) { return !kernels_of(cell).empty(); });
  if (kernels) table.header.push_back(words("column.kernels"));
  table.header.push_back(words("column.command"));
  table.text_columns = 3;
  table.cells = table.folded = true;
  for (const std::size_t i : section.cells) {
    const ReportCell& cell = view.results.cells[i];
    const Figure* figure = cell.figure(main_figure(cell.phase));
    const std::string device = cell.machine ? view.results.machines[*cell.machine].device : "";
    const bool range = figure != nullptr && figure->low && figure->high;
    Figure low = figure != nullptr ? *figure : Figure{}, high = low;
    if (range) {
      low.value = *figure->low;
      high.value = *figure->high;
    }
    table.rows.push_back(
        {{cell.model},
         {variant_of(cell)},
         {state_name(cell.state, words), remarks(cell, words), cell.measured() ? Tone::kPlain : Tone::kBad},
         {cell.m ? fmt::format("{}", *cell.m) : kEmpty},
         {figure != nullptr ? format_figure(*figure) : kEmpty},
         {range ? fmt::format("{}–{}", format_bare(low), format_bare(high)) : kEmpty},
         {figure != nullptr && figure->samples > 0 ? format_count(figure->samples) : kEmpty},
         ratio_cell(view, i),
         {format_count(cell.attempts)}});
    std::vector<TableCell>& row = table.rows.back();
    if (limits) {
      const Figure* share = cell.figure("share_of_limit");
      row.push_back({share != nullptr ? fmt::format("{:.0f}%", 100 * share->value) : kEmpty});
    }
    if (kernels) row.push_back({kernels_of(cell), "", Tone::kPlain, true});
    row.push_back({repeat_command(cell, device), "", Tone::kPlain, true});
  }
  return table;
}

}  // namespace slidesparse
