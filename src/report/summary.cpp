#include "report/summary.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>

#include "report/numbers.h"

namespace slidesparse {
namespace {

std::string number(std::int64_t value) {
  return format_count(value);
}

// Cells with a figure, and cells whose lack of one is proven by planned or needed bytes.
void add_totals(const ReportView& view, std::vector<std::string>& sentences) {
  const Words& words = view.words;
  const Count count = count_cells(view.results);
  if (count.all == 0) {
    sentences.push_back(words("summary.empty"));
    return;
  }
  const double share = 100.0 * static_cast<double>(count.measured()) / static_cast<double>(count.all);
  // Rounded down: 100 % is said of nothing less.
  sentences.push_back(
      words("summary.measured", number(count.measured()), number(count.all),
            fmt::format("{:.1f}", static_cast<double>(static_cast<std::int64_t>(10 * share)) / 10)));
  std::string reasons;
  std::int64_t explained = 0;
  for (const auto& state : known_states()) {
    if (state == "ok" || count.of(state) == 0) continue;
    reasons += (reasons.empty() ? "" : words("join.list")) +
               words("summary.reason", number(count.of(state)), state_name(state, words));
    explained += count.of(state);
  }
  if (const std::int64_t rest = count.all - count.measured() - explained; rest > 0)
    reasons += (reasons.empty() ? "" : words("join.list")) +
               words("summary.reason", number(rest), words("state.other"));
  if (!reasons.empty())
    sentences.push_back(words("summary.blanks", number(count.all - count.measured()), reasons));
  const auto proven = std::ranges::count_if(view.results.cells, [](const ReportCell& cell) {
    return (cell.state == "does_not_fit" || cell.state == "out_of_memory") && cell.last->needed_bytes;
  });
  if (proven > 0) sentences.push_back(words("summary.proven", number(proven)));
}

// Of one section: how many cells are faster and slower than dense, and the extremes.
void add_speed(const ReportView& view, const Section& section, std::vector<std::string>& sentences) {
  const Words& words = view.words;
  std::int64_t compared = 0, faster = 0, slower = 0;
  std::size_t best = 0, worst = 0;
  const auto value = [&](std::size_t i) { return view.speed_ups[i]->value; };
  for (const std::size_t i : section.cells) {
    const auto& ratio = view.speed_ups[i];
    if (!ratio || view.results.cells[i].pattern == "dense") continue;
    if (compared == 0) best = worst = i;
    ++compared;
    faster += verdict(*ratio) == Verdict::kFaster ? 1 : 0;
    slower += verdict(*ratio) == Verdict::kSlower ? 1 : 0;
    if (value(i) > value(best)) best = i;
    if (value(i) < value(worst)) worst = i;
  }
  if (compared == 0) return;
  const auto where = [&](std::size_t i) {
    const ReportCell& cell = view.results.cells[i];
    return words("summary.where", cell.model, variant_of(cell), cell.m.value_or(0));
  };
  sentences.push_back(words("summary.speed", section_title(section, words), number(compared), number(faster),
                            number(slower), number(compared - faster - slower)));
  sentences.push_back(words("summary.extremes", section_title(section, words),
                            format_ratio(*view.speed_ups[best]), where(best),
                            format_ratio(*view.speed_ups[worst]), where(worst)));
}

void add_machines(const ReportView& view, std::vector<std::string>& sentences) {
  std::set<std::string> names;
  for (const ReportMachine& machine : view.results.machines) names.insert(machine.name);
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : view.words("join.list")) + name;
  const auto& results = view.results;
  if (!names.empty()) {
    sentences.push_back(view.words("summary.machines", text,
                                   number(static_cast<std::int64_t>(results.runs.size())),
                                   number(results.attempts)));
  }
  bool merged = false;
  for (std::size_t i = 0; i < results.comparable.size(); ++i) merged |= results.comparable[i] != i;
  if (merged) sentences.push_back(view.words("summary.any_version"));
  if (results.checks > 0) {
    sentences.push_back(view.words("summary.checks", number(results.checks),
                                   number(static_cast<std::int64_t>(results.failed_checks.size()))));
  }
}

// Sparse weights of which no linear ran sparse.
void add_dense_runs(const ReportView& view, std::vector<std::string>& sentences) {
  const auto ran_dense = std::ranges::count_if(view.results.cells, [](const ReportCell& cell) {
    const Figure* share = cell.figure("sparse_share");
    return cell.pattern != "dense" && share != nullptr && share->value == 0;
  });
  if (ran_dense > 0) sentences.push_back(view.words("summary.ran_dense", number(ran_dense)));
}

bool has_phase(const Results& results, const std::string& phase) {
  return std::ranges::any_of(results.cells, [&](const ReportCell& cell) { return cell.phase == phase; });
}

// "3–5" timed runs a figure of a phase; empty where none says.
std::string samples_of(const Results& results, const std::string& phase) {
  std::set<std::int64_t> samples;
  for (const ReportCell& cell : results.cells) {
    const Figure* figure = cell.phase == phase ? cell.figure(main_figure(phase)) : nullptr;
    if (figure != nullptr && figure->samples > 0) samples.insert(figure->samples);
  }
  if (samples.empty()) return "";
  if (samples.size() == 1) return number(*samples.begin());
  return fmt::format("{}–{}", number(*samples.begin()), number(*samples.rbegin()));
}

// Whether the batches of decode were what the cells ask for.
std::string verified_batches(const ReportView& view) {
  std::int64_t said = 0, equal = 0;
  for (const ReportCell& cell : view.results.cells) {
    const Figure* sequences = cell.phase == "decode" ? cell.figure("sequences") : nullptr;
    if (sequences == nullptr || !cell.m) continue;
    ++said;
    equal += sequences->value == static_cast<double>(*cell.m) ? 1 : 0;
  }
  return said == 0 ? "" : view.words("method.verified", number(equal), number(said));
}

}  // namespace

std::vector<std::string> summary_sentences(const ReportView& view) {
  std::vector<std::string> sentences;
  add_totals(view, sentences);
  add_machines(view, sentences);
  for (const Section& section : view.sections) add_speed(view, section, sentences);
  add_dense_runs(view, sentences);
  return sentences;
}

std::vector<std::string> method_sentences(const ReportView& view) {
  const Words& words = view.words;
  std::vector<std::string> sentences;
  sentences.push_back(words("method.figure"));
  if (std::ranges::any_of(view.speed_ups, [](const auto& ratio) { return ratio.has_value(); })) {
    sentences.push_back(words("method.ratio"));
    sentences.push_back(words("method.marks"));
  }
  for (const char* phase : {"prefill", "decode"}) {
    if (!has_phase(view.results, phase)) continue;
    sentences.push_back(words(std::string("method.") + phase));
    if (const std::string samples = samples_of(view.results, phase); !samples.empty())
      sentences.push_back(words(std::string("method.repeated.") + phase, samples));
  }
  if (const std::string batches = verified_batches(view); !batches.empty()) sentences.push_back(batches);
  sentences.push_back(words("method.pattern"));
  sentences.push_back(words("method.counts"));
  return sentences;
}

}  // namespace slidesparse
