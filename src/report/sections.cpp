#include "report/sections.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <tuple>

#include "report/speed_up.h"

namespace slidesparse {
namespace {

void add_once(std::vector<std::string>& names, const std::string& name) {
  if (std::ranges::find(names, name) == names.end()) names.push_back(name);
}

std::vector<std::string> variants_in_order(const Results& results, const Section& section) {
  std::vector<std::string> dense, others;
  for (const std::size_t i : section.cells) {
    const ReportCell& cell = results.cells[i];
    add_once(cell.pattern == "dense" ? dense : others, variant_of(cell));
  }
  dense.insert(dense.end(), others.begin(), others.end());
  return dense;
}

int place_of(const std::string& phase) {
  constexpr std::array kOrder{"prefill", "decode", "gemm", "eval", "convert", "tune"};
  return static_cast<int>(std::ranges::find(kOrder, phase) - kOrder.begin());
}

}  // namespace

std::string variant_of(const ReportCell& cell) {
  std::string text = fmt::format("{} {}", cell.backend, cell.pattern);
  if (cell.pattern != "dense" && !cell.layout.empty() && cell.layout != "slide") text += " " + cell.layout;
  return text;
}

std::vector<Section> sections_of(const Results& results) {
  using Key = std::tuple<int, std::optional<std::int64_t>, std::string, std::string>;
  std::vector<Section> sections;
  std::map<Key, std::size_t> places;
  for (std::size_t i = 0; i < results.cells.size(); ++i) {
    const ReportCell& cell = results.cells[i];
    // What a text or a list of M is belongs to each row of these phases, not to a table of its own.
    const bool by_workload = place_of(cell.phase) < place_of("eval");
    const std::string work = by_workload ? workload(cell) : "";
    const auto [entry, first] =
        places.try_emplace({place_of(cell.phase), cell.memory_limit, work, cell.dtype}, sections.size());
    if (first) sections.push_back({cell.phase, cell.dtype, work, cell.memory_limit, {}, {}, {}});
    Section& section = sections[entry->second];
    section.cells.push_back(i);
    add_once(section.models, cell.model);
  }
  for (Section& section : sections) section.variants = variants_in_order(results, section);
  std::ranges::stable_sort(sections, {}, [](const Section& section) { return place_of(section.phase); });
  return sections;
}

std::int64_t Count::of(const std::string& state) const {
  const auto found = states.find(state);
  return found == states.end() ? 0 : found->second;
}

Count count_cells(const Results& results, std::span<const std::size_t> cells,
                  const std::function<bool(const ReportCell&)>& wanted) {
  Count count;
  for (const std::size_t i : cells) {
    if (!wanted(results.cells[i])) continue;
    ++count.all;
    ++count.states[results.cells[i].state];
  }
  return count;
}

Count count_cells(const Results& results) {
  std::vector<std::size_t> all(results.cells.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  return count_cells(results, all, [](const ReportCell&) { return true; });
}

const std::vector<std::string>& known_states() {
  static const std::vector<std::string> kStates{
      "ok",          "out_of_memory", "does_not_fit", "illegal_access", "illegal_instruction",
      "time_out",    "wrong_result",  "unsupported",  "library_error",  "killed",
      "interrupted", "failed",        "unfinished",   "not_run"};
  return kStates;
}

}  // namespace slidesparse
