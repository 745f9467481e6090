#include "report/html.h"

#include <fmt/core.h>

#include "report/chart.h"
#include "report/page_style.h"

namespace slidesparse {
namespace {

const char* tone_class(Tone tone) {
  switch (tone) {
    case Tone::kPlain:
      return "";
    case Tone::kGood:
      return "good";
    case Tone::kBad:
      return "bad";
    case Tone::kQuiet:
      return "quiet";
  }
  return "";
}

std::string class_attribute(const std::string& names) {
  return names.empty() ? "" : fmt::format(" class=\"{}\"", names);
}

void write_row(const ReportTable& table, const std::vector<TableCell>& row, std::string& text) {
  for (std::size_t i = 0; i < row.size(); ++i) {
    const TableCell& cell = row[i];
    std::string names = cell.code ? "code" : i < table.text_columns ? "l" : "";
    if (cell.tone != Tone::kPlain) names += (names.empty() ? "" : " ") + std::string(tone_class(cell.tone));
    const char* element = i == 0 ? "th" : "td";
    text += fmt::format("<{}{}{}>", element, i == 0 ? " scope=\"row\"" : "", class_attribute(names));
    text += cell.code ? "<code>" + escape_markup(cell.text) + "</code>" : escape_markup(cell.text);
    if (!cell.small.empty()) text += "<small>" + escape_markup(cell.small) + "</small>";
    if (!cell.note.empty()) text += "<small>" + escape_markup(cell.note) + "</small>";
    text += fmt::format("</{}>", element);
  }
  text += "</tr>\n";
}

void write(const ReportTable& table, std::string& text) {
  const std::string caption = escape_markup(table.caption);
  if (table.folded) text += "<details><summary>" + caption + "</summary>\n";
  // Whoever has no mouse scrolls a wide table by its focus.
  text += fmt::format("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table{}>\n",
                      caption,
                      table.cells    ? " data-rows=\"cells\""
                      : table.totals ? " class=\"counts\""
                                     : "");
  if (!table.folded) text += "<caption><span>" + caption + "</span></caption>\n";
  text += "<thead><tr>";
  for (std::size_t i = 0; i < table.header.size(); ++i) {
    const bool code = !table.rows.empty() && table.rows.front()[i].code;
    text += fmt::format("<th scope=\"col\"{}>{}</th>", i < table.text_columns || code ? " class=\"l\"" : "",
                        escape_markup(table.header[i]));
  }
  text += "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    text += table.totals && &row == &table.rows.back() ? "<tr class=\"total\">" : "<tr>";
    write_row(table, row, text);
  }
  text += "</tbody></table></div>\n";
  if (table.folded) text += "</details>\n";
}

struct Writer {
  std::string& text;
  void operator()(const Heading& heading) {
    text += fmt::format("<h2 id=\"{}\">{}</h2>\n", heading.id, escape_markup(heading.text));
  }
  void operator()(const Paragraph& paragraph) { text += "<p>" + escape_markup(paragraph.text) + "</p>\n"; }
  void operator()(const BulletList& list) {
    text += "<ul>\n";
    for (const std::string& item : list.items) text += "<li>" + escape_markup(item) + "</li>\n";
    text += "</ul>\n";
  }
  void operator()(const ReportTable& table) { write(table, text); }
  void operator()(const PlotGrid& grid) {
    if (!grid.legend.empty()) {
      text += "<ul class=\"legend\">\n";
      for (const LegendEntry& entry : grid.legend)
        text += "<li>" + entry.mark + "<span>" + escape_markup(entry.name) + "</span></li>\n";
      text += "</ul>\n";
    }
    text += "<div class=\"plots\">\n";
    for (const PlotGrid::Plot& plot : grid.plots)
      text += "<figure><figcaption>" + escape_markup(plot.caption) + "</figcaption>\n" + plot.svg +
              "\n</figure>\n";
    text += "</div>\n";
  }
};

}  // namespace

std::string to_html(const Document& document) {
  const std::string title = escape_markup(document.title);
  std::string text = fmt::format(
      "<!doctype html>\n<html lang=\"{}\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      // Nothing is fetched and nothing runs, whatever a name in the database holds.
      "<meta http-equiv=\"Content-Security-Policy\" "
      "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
      "<link rel=\"icon\" href=\"data:,\">\n"
      "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<header>\n<h1>{}</h1>\n<nav "
      "aria-label=\"{}\"><ul>\n",
      document.language, title, kPageStyle, title, escape_markup(document.contents));
  for (const Block& block : document.blocks) {
    if (const auto* heading = std::get_if<Heading>(&block))
      text += fmt::format("<li><a href=\"#{}\">{}</a></li>\n", heading->id, escape_markup(heading->text));
  }
  text += "</ul></nav>\n</header>\n<main>\n";
  for (const Block& block : document.blocks) std::visit(Writer{text}, block);
  return text + "</main>\n</body>\n</html>\n";
}

}  // namespace slidesparse
