#include "report/speed_up.h"

#include <fmt/core.h>

#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

namespace slidesparse {
namespace {

using Group = std::tuple<std::string, std::string, std::string, std::optional<std::int64_t>,
                         std::optional<std::int64_t>, std::string, std::string, std::size_t>;

bool has_speed(const std::string& phase) {
  return phase == "prefill" || phase == "decode" || phase == "gemm";
}

Group group_of(const ReportCell& cell, const std::string& unlike, std::size_t machine) {
  return {cell.phase, cell.model, cell.dtype, cell.m, cell.memory_limit, workload(cell), unlike, machine};
}

}  // namespace

Verdict verdict(const Ratio& ratio) {
  if (ratio.low > 1) return Verdict::kFaster;
  if (ratio.high < 1) return Verdict::kSlower;
  return Verdict::kWithinSpread;
}

Ratio ratio_of(const Figure& figure, const Figure& base) {
  Ratio ratio;
  ratio.value = figure.value / base.value;
  ratio.low = figure.low.value_or(figure.value) / base.high.value_or(base.value);
  ratio.high = figure.high.value_or(figure.value) / base.low.value_or(base.value);
  ratio.spread = figure.low && figure.high && base.low && base.high;
  return ratio;
}

std::string workload(const ReportCell& cell) {
  const auto options = nlohmann::json::parse(cell.options, nullptr, false);
  if (!options.is_object()) return cell.options;
  std::string text;
  for (const char* name : {"prompt", "steps", "kv_cache_dtype", "head", "text", "max_windows"}) {
    const auto option = options.find(name);
    if (option == options.end()) continue;
    text += fmt::format("{}{}={}", text.empty() ? "" : " ", name,
                        option->is_string() ? option->get<std::string>() : option->dump());
  }
  return text;
}

std::vector<std::optional<Ratio>> speed_ups(const Results& results) {
  std::map<Group, std::size_t> best;  // the fastest dense cell
  const auto& cells = results.cells;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (cells[i].pattern != "dense" || !has_speed(cells[i].phase)) continue;
    for (const auto& [machine, measured] : cells[i].by_machine) {
      const double value = measured.figure.value;
      if (!(value > 0)) continue;
      const auto [entry, first] = best.try_emplace(group_of(cells[i], measured.unlike, machine), i);
      if (!first && cells[entry->second].by_machine.at(machine).figure.value < value) entry->second = i;
    }
  }
  std::vector<std::optional<Ratio>> ratios(cells.size());
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (!cells[i].machine || !has_speed(cells[i].phase)) continue;
    const Figure* figure = cells[i].figure(main_figure(cells[i].phase));
    const std::size_t machine = results.comparable.at(*cells[i].machine);
    const auto base = best.find(group_of(cells[i], unlike_words(cells[i].changes), machine));
    if (figure == nullptr || base == best.end()) continue;
    ratios[i] = ratio_of(*figure, cells[base->second].by_machine.at(machine).figure);
    ratios[i]->base = base->second;
    // The fastest dense cell is the measure itself.
    if (base->second == i) ratios[i]->value = ratios[i]->low = ratios[i]->high = 1;
  }
  return ratios;
}

}  // namespace slidesparse
