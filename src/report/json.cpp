#include "report/json.h"

#include <nlohmann/json.hpp>

#include "report/repeat.h"

namespace slidesparse {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kReportVersion = 1;

template <typename T>
Json maybe(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json figure_json(const Figure& figure) {
  return {{"unit", figure.unit},
          {"value", figure.value},
          {"low", maybe(figure.low)},
          {"high", maybe(figure.high)},
          {"samples", figure.samples}};
}

Json outcome_json(const AttemptOutcome& outcome) {
  return {{"class", outcome.kind},
          {"message", outcome.message},
          {"needed_bytes", maybe(outcome.needed_bytes)},
          {"free_bytes", maybe(outcome.free_bytes)},
          {"holders", outcome.holders},
          {"largest_m", maybe(outcome.largest_m)},
          {"library", outcome.library},
          {"library_code", maybe(outcome.library_code)},
          {"signal", maybe(outcome.signal)},
          {"exit_status", maybe(outcome.exit_status)},
          {"seconds", outcome.seconds},
          {"log", outcome.log}};
}

Json ratio_json(const Ratio& ratio) {
  Json json = {{"value", ratio.value}, {"low", ratio.low}, {"high", ratio.high}};
  if (ratio.base) json["over_cell"] = *ratio.base;
  return json;
}

Json cell_json(const ReportView& view, std::size_t index) {
  const ReportCell& cell = view.results.cells[index];
  Json json = {{"phase", cell.phase},       {"model", cell.model},
               {"dtype", cell.dtype},       {"backend", cell.backend},
               {"pattern", cell.pattern},   {"layout", cell.layout},
               {"m", maybe(cell.m)},        {"memory_limit", maybe(cell.memory_limit)},
               {"options", cell.options},   {"state", cell.state},
               {"attempts", cell.attempts}, {"machine", maybe(cell.machine)}};
  json["changed"] = changes_words(cell.changes);
  json["speed_up"] = view.speed_ups[index] ? ratio_json(*view.speed_ups[index]) : Json(nullptr);
  json["figures"] = Json::object();
  for (const auto& [name, figure] : cell.figures) json["figures"][name] = figure_json(figure);
  json["attributes"] = cell.attributes;
  json["outcome"] = cell.last ? outcome_json(*cell.last) : Json(nullptr);
  json["command"] = repeat_command(cell, cell.machine ? view.results.machines[*cell.machine].device : "");
  return json;
}

Json count_json(const Count& count) {
  return {{"all", count.all}, {"measured", count.measured()}, {"states", count.states}};
}

Json section_json(const ReportView& view, const Section& section) {
  return {
      {"phase", section.phase},
      {"dtype", section.dtype},
      {"workload", section.workload},
      {"memory_limit", maybe(section.memory_limit)},
      {"models", section.models},
      {"variants", section.variants},
      {"count", count_json(count_cells(view.results, section.cells, [](const ReportCell&) { return true; }))},
      {"cells", section.cells}};
}

Json comparison_json(const ReportView& view, const Results& there, const Comparison& comparison) {
  Json both = Json::array();
  for (const ComparedCell& pair : comparison.both) {
    const char* name = main_figure(view.results.cells[pair.here].phase);
    both.push_back({{"cell", pair.here},
                    {"there", figure_json(*there.cells[pair.there].figure(name))},
                    {"ratio", ratio_json(pair.ratio)},
                    {"changed", pair.changed}});
  }
  return {{"both", both},
          {"gained", comparison.gained},
          {"lost", comparison.lost},
          {"unlike", comparison.unlike},
          {"only_here", comparison.only_here},
          {"only_there", comparison.only_there}};
}

}  // namespace

std::string to_json(const ReportView& view, const std::vector<std::string>& summary, const Results* there,
                    const Comparison* comparison) {
  const Results& results = view.results;
  Json json = {{"report_version", kReportVersion},
               {"summary", summary},
               {"count", count_json(count_cells(results))},
               {"attempts", {{"all", results.attempts}, {"classes", results.outcomes}}},
               {"checks", {{"all", results.checks}, {"failed", Json::array()}}},
               {"plans", results.plans}};
  for (const FailedCheck& check : results.failed_checks)
    json["checks"]["failed"].push_back(
        {{"cell", check.cell}, {"name", check.name}, {"message", check.message}});
  json["machines"] = Json::array();
  for (const ReportMachine& machine : results.machines) {
    json["machines"].push_back({{"fingerprint", machine.fingerprint},
                                {"device", machine.device},
                                {"name", machine.name},
                                {"memory_bytes", machine.memory_bytes},
                                {"driver", machine.driver},
                                {"libraries", machine.libraries},
                                {"processor", machine.processor},
                                {"threads", machine.threads},
                                {"program_version", machine.program_version},
                                {"commit", machine.commit},
                                {"details", machine.details}});
  }
  json["runs"] = Json::array();
  for (const ReportRun& run : results.runs) {
    json["runs"].push_back({{"plan", run.plan},
                            {"machine", run.machine},
                            {"started_at", run.started_at},
                            {"ended_at", run.ended_at},
                            {"reason", run.reason},
                            {"command", run.command},
                            {"attempts", run.attempts},
                            {"good", run.good}});
  }
  json["events"] = Json::array();
  for (const ReportEvent& event : results.events)
    json["events"].push_back({{"at", event.at}, {"level", event.level}, {"text", event.text}});
  json["sections"] = Json::array();
  for (const Section& section : view.sections) json["sections"].push_back(section_json(view, section));
  json["cells"] = Json::array();
  for (std::size_t i = 0; i < results.cells.size(); ++i) json["cells"].push_back(cell_json(view, i));
  if (comparison != nullptr) json["compare"] = comparison_json(view, *there, *comparison);
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace slidesparse
