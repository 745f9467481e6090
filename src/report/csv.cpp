#include "report/csv.h"

#include <fmt/core.h>

#include <array>

#include "core/text.h"
#include "report/repeat.h"

namespace slidesparse {
namespace {

// Measurements that have columns; the main figure comes before them.
constexpr std::array kFigures{"seconds",      "weight_bytes",   "peak_bytes", "step_tokens", "sequences",
                              "sparse_share", "share_of_limit", "perplexity", "bytes"};
constexpr std::size_t kTextLimit = 4000;

template <typename T>
std::string maybe(const std::optional<T>& value) {
  return value ? fmt::format("{}", *value) : "";
}

std::string line_of(const ReportView& view, std::size_t index) {
  const ReportCell& cell = view.results.cells[index];
  const auto& ratio = view.speed_ups[index];
  const Figure* figure = cell.figure(main_figure(cell.phase));
  const std::string device = cell.machine ? view.results.machines[*cell.machine].device : "";
  std::string line = fmt::format(
      "{},{},{},{},{},{},{},{},{},{},{},{}", csv_field(cell.phase), csv_field(cell.model),
      csv_field(cell.dtype), csv_field(cell.backend), csv_field(cell.pattern), csv_field(cell.layout),
      maybe(cell.m), maybe(cell.memory_limit), csv_field(cell.options), csv_field(cell.state), cell.attempts,
      cell.machine ? csv_field(view.results.machines[*cell.machine].fingerprint) : "");
  if (figure != nullptr) {
    line += fmt::format(",{},{},{},{},{},{}", main_figure(cell.phase), csv_field(figure->unit), figure->value,
                        maybe(figure->low), maybe(figure->high), figure->samples);
  } else {
    line += ",,,,,,";
  }
  line += ratio ? fmt::format(",{},{},{}", ratio->value, ratio->low, ratio->high) : ",,,";
  for (const char* name : kFigures) {
    const Figure* other = cell.figure(name);
    line += other != nullptr ? fmt::format(",{}", other->value) : ",";
  }
  const AttemptOutcome outcome = cell.measured() ? AttemptOutcome{} : cell.last.value_or(AttemptOutcome{});
  line += fmt::format(",{},{},{},{},{},{}\n", maybe(outcome.needed_bytes), maybe(outcome.free_bytes),
                      maybe(outcome.largest_m), csv_field(outcome.message),
                      csv_field(repeat_command(cell, device)), csv_field(changes_words(cell.changes)));
  return line;
}

}  // namespace

std::string csv_field(const std::string& text) {
  std::string field = printable(text, kTextLimit);
  if (!field.empty() && std::string_view("=+-@").find(field.front()) != std::string_view::npos)
    field.insert(0, "'");
  if (field.find_first_of("\",") == std::string::npos) return field;
  std::string quoted = "\"";
  for (const char c : field) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string to_csv(const ReportView& view) {
  std::string text =
      "phase,model,dtype,backend,pattern,layout,m,memory_limit,options,state,attempts,machine,figure,unit,"
      "value,low,high,"
      "samples,speed_up,speed_up_low,speed_up_high";
  for (const char* name : kFigures) text += fmt::format(",{}", name);
  text += ",needed_bytes,free_bytes,largest_m,message,command,changed\n";
  for (std::size_t i = 0; i < view.results.cells.size(); ++i) text += line_of(view, i);
  return text;
}

}  // namespace slidesparse
