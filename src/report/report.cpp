#include "report/report.h"

#include <algorithm>
#include <utility>

#include "core/replace_file.h"
#include "report/compare.h"
#include "report/csv.h"
#include "report/environment.h"
#include "report/failures.h"
#include "report/html.h"
#include "report/json.h"
#include "report/markdown.h"
#include "report/plots.h"
#include "report/summary.h"
#include "report/tables.h"

namespace slidesparse {
namespace {

bool has_m(const Section& section) {
  return section.phase == "prefill" || section.phase == "decode" || section.phase == "gemm";
}

// Adds parts under headings; a heading without a part is left out.
class Composer {
 public:
  Composer(const ReportView& view, Document& document) : view_(view), blocks_(document.blocks) {}

  void part(const char* id, std::vector<Block> blocks) {
    if (blocks.empty()) return;
    blocks_.emplace_back(Heading{id, view_.words(std::string("heading.") + id)});
    std::ranges::move(blocks, std::back_inserter(blocks_));
  }

 private:
  const ReportView& view_;
  std::vector<Block>& blocks_;
};

std::vector<Block> summary_part(const ReportView& view, const std::vector<std::string>& sentences) {
  std::vector<Block> blocks{BulletList{sentences}};
  for (const Section& section : view.sections) {
    ReportTable table = overview_table(view, section);
    if (!table.rows.empty()) blocks.emplace_back(std::move(table));
  }
  return blocks;
}

std::vector<Block> speed_part(const ReportView& view) {
  std::vector<Block> blocks;
  for (const Section& section : view.sections) {
    if (!has_m(section)) continue;
    if (auto plots = speed_plots(view, section)) {
      blocks.emplace_back(Paragraph{view.words("intro.ratios", section_title(section, view.words))});
      blocks.emplace_back(std::move(*plots));
    }
    for (const std::string& model : section.models) blocks.emplace_back(speed_table(view, section, model));
  }
  return blocks;
}

std::vector<Block> tables_of(const ReportView& view, ReportTable (*table)(const ReportView&, const Section&),
                             bool all) {
  std::vector<Block> blocks;
  for (const Section& section : view.sections) {
    if (all || !has_m(section)) blocks.emplace_back(table(view, section));
  }
  return blocks;
}

std::vector<Block> environment_part(const ReportView& view) {
  std::vector<Block> blocks;
  if (!view.results.machines.empty()) blocks.emplace_back(machines_table(view));
  if (!view.results.runs.empty()) blocks.emplace_back(runs_table(view));
  std::ranges::move(warning_blocks(view), std::back_inserter(blocks));
  return blocks;
}

std::vector<Block> cells_part(const ReportView& view) {
  std::vector<Block> blocks = tables_of(view, cells_table, true);
  if (!blocks.empty()) blocks.insert(blocks.begin(), Paragraph{view.words("intro.cells")});
  return blocks;
}

// "Report of a sweep: mission", with the names of the plans.
std::string title_of(const ReportView& view) {
  std::string names;
  for (const std::string& plan : view.results.plans) names += (names.empty() ? "" : ", ") + plan;
  return names.empty() ? view.words("title") : view.words("title.plans", names);
}

}  // namespace

ReportTexts make_report(const std::filesystem::path& database,
                        const std::optional<std::filesystem::path>& compare, const Words& words,
                        bool any_version) {
  const Results results = load_results(database, any_version);
  const std::vector<Section> sections = sections_of(results);
  const auto ratios = speed_ups(results);
  const ReportView view{results, sections, ratios, words};
  std::optional<Results> there;
  std::optional<Comparison> comparison;
  if (compare) {
    there = load_results(*compare);
    comparison = compare_results(results, *there);
  }
  const std::vector<std::string> sentences = summary_sentences(view);
  Document document{words.language(), title_of(view), words("contents"), {}};
  Composer composer(view, document);
  composer.part("summary", summary_part(view, sentences));
  if (comparison) composer.part("compare", comparison_blocks(view, *there, *comparison));
  composer.part("speed", speed_part(view));
  composer.part("accuracy", accuracy_blocks(view));
  composer.part("memory", memory_blocks(view));
  composer.part("figures", tables_of(view, figures_table, false));
  composer.part("completeness", tables_of(view, completeness_table, true));
  composer.part("failures", failure_blocks(view));
  composer.part("environment", environment_part(view));
  composer.part("method", {BulletList{method_sentences(view)}});
  composer.part("cells", cells_part(view));
  return {to_markdown(document), to_csv(view),
          to_json(view, sentences, there ? &*there : nullptr, comparison ? &*comparison : nullptr),
          to_html(document)};
}

std::vector<WrittenFile> write_report(const ReportOptions& options) {
  const ReportTexts texts = make_report(options.database, options.compare,
                                        Words::of_language(options.language), options.any_version);
  std::vector<WrittenFile> files;
  for (const auto& [name, text] : {std::pair<const char*, const std::string&>{"report.md", texts.markdown},
                                   {"report.csv", texts.csv},
                                   {"report.json", texts.json},
                                   {"report.html", texts.html}}) {
    const std::filesystem::path path = options.out / name;
    replace_file(path.string(), text);
    files.push_back({path, text.size()});
  }
  return files;
}

}  // namespace slidesparse
