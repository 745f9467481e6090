#include "report/environment.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "core/text.h"
#include "report/numbers.h"

namespace slidesparse {
namespace {

// "1,200–1,980 MHz" over the measured cells of a machine.
std::string range_of(const Results& results, std::size_t machine, const std::string& name) {
  const Figure* least = nullptr;
  const Figure* most = nullptr;
  for (const ReportCell& cell : results.cells) {
    const Figure* figure = cell.machine == machine ? cell.figure(name) : nullptr;
    if (figure == nullptr) continue;
    if (least == nullptr || figure->value < least->value) least = figure;
    if (most == nullptr || figure->value > most->value) most = figure;
  }
  if (least == nullptr) return "–";
  return fmt::format("{}–{} {}", format_value(least->value), format_value(most->value), most->unit);
}

std::string or_dash(const std::string& text) {
  return text.empty() ? "–" : text;
}

}  // namespace

std::string machine_versions(const Results& results, const Words& words) {
  std::vector<std::string> seen;
  for (const ReportMachine& machine : results.machines) {
    std::string text = words("machine.version", machine.name, or_dash(machine.driver),
                             machine.program_version, machine.commit);
    if (std::ranges::find(seen, text) == seen.end()) seen.push_back(std::move(text));
  }
  return seen.empty() ? "–" : fmt::format("{}", fmt::join(seen, words("join.list")));
}

ReportTable machines_table(const ReportView& view) {
  const Words& words = view.words;
  const auto& machines = view.results.machines;
  ReportTable table;
  table.caption = words("machines.caption");
  table.header = {words("column.property")};
  for (std::size_t i = 0; i < machines.size(); ++i) table.header.push_back(words("column.machine", i + 1));
  table.text_columns = machines.size() + 1;
  const auto row = [&](const char* key, const std::function<std::string(std::size_t)>& value) {
    std::vector<TableCell>& cells = table.rows.emplace_back();
    cells.push_back({words(key)});
    for (std::size_t i = 0; i < machines.size(); ++i) cells.push_back({value(i)});
  };
  row("machine.name", [&](std::size_t i) { return machines[i].name; });
  row("machine.memory", [&](std::size_t i) {
    const auto bytes = static_cast<double>(machines[i].memory_bytes);
    return fmt::format("{} ({:.1f} GiB)", format_bytes(bytes), bytes / 0x1p30);
  });
  row("machine.driver", [&](std::size_t i) { return or_dash(machines[i].driver); });
  row("machine.libraries", [&](std::size_t i) { return or_dash(machines[i].libraries); });
  row("machine.processor", [&](std::size_t i) { return or_dash(machines[i].processor); });
  row("machine.threads", [&](std::size_t i) { return format_count(machines[i].threads); });
  row("machine.program", [&](std::size_t i) {
    return fmt::format("slidesparse {} {}", machines[i].program_version, machines[i].commit);
  });
  row("machine.clock", [&](std::size_t i) { return range_of(view.results, i, "sm_clock"); });
  row("machine.power", [&](std::size_t i) { return range_of(view.results, i, "power"); });
  row("machine.temperature", [&](std::size_t i) { return range_of(view.results, i, "temperature"); });
  row("machine.measured", [&](std::size_t i) {
    return format_count(
        std::ranges::count_if(view.results.cells, [&](const ReportCell& cell) { return cell.machine == i; }));
  });
  return table;
}

ReportTable runs_table(const ReportView& view) {
  const Words& words = view.words;
  ReportTable table;
  table.caption = words("runs.caption");
  table.header = {words("column.started"), words("column.ended"),          words("column.end"),
                  words("column.plan"),    words("column.machine_number"), words("column.attempts"),
                  words("column.good")};
  table.text_columns = 4;
  for (const ReportRun& run : view.results.runs) {
    const std::string key = "end." + run.reason;
    table.rows.push_back({{run.started_at},
                          {or_dash(run.ended_at)},
                          {run.reason.empty() ? words("end.none")
                           : words.has(key)   ? words(key)
                                              : run.reason},
                          {run.plan},
                          {format_count(static_cast<std::int64_t>(run.machine) + 1)},
                          {format_count(run.attempts)},
                          {format_count(run.good)}});
  }
  return table;
}

}  // namespace slidesparse
