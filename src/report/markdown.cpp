#include "report/markdown.h"

#include <algorithm>
#include <string_view>

#include "core/text.h"

namespace slidesparse {
namespace {

constexpr std::size_t kTextLimit = 2000;

std::string cell_text(const TableCell& cell) {
  std::string text = cell.code ? markdown_code(cell.text) : escape_markdown(cell.text);
  if (!cell.small.empty()) text += " (" + escape_markdown(cell.small) + ")";
  if (!cell.note.empty()) text += " " + escape_markdown(cell.note);
  return text;
}

void write(const ReportTable& table, std::string& text) {
  text += "**" + escape_markdown(table.caption) + "**\n\n|";
  for (const std::string& name : table.header) text += " " + escape_markdown(name) + " |";
  text += "\n|";
  for (std::size_t i = 0; i < table.header.size(); ++i) {
    const bool code = !table.rows.empty() && table.rows.front()[i].code;
    text += i < table.text_columns || code ? "---|" : "---:|";
  }
  text += "\n";
  for (const auto& row : table.rows) {
    text += "|";
    for (const TableCell& cell : row) text += " " + cell_text(cell) + " |";
    text += "\n";
  }
  text += "\n";
}

struct Writer {
  std::string& text;
  void operator()(const Heading& heading) { text += "## " + escape_markdown(heading.text) + "\n\n"; }
  void operator()(const Paragraph& paragraph) { text += escape_markdown(paragraph.text) + "\n\n"; }
  void operator()(const BulletList& list) {
    for (const std::string& item : list.items) text += "- " + escape_markdown(item) + "\n";
    text += "\n";
  }
  void operator()(const ReportTable& table) { write(table, text); }
  void operator()(const PlotGrid&) {}
};

}  // namespace

std::string escape_markdown(const std::string& text) {
  std::string escaped;
  for (const char c : printable(text, kTextLimit)) {
    if (c == '&') {
      escaped += "&amp;";
    } else if (c == '<') {
      escaped += "&lt;";
    } else {
      if (std::string_view("\\`*_[]|~>#$").find(c) != std::string_view::npos) escaped += '\\';
      escaped += c;
    }
  }
  return escaped;
}

std::string markdown_code(const std::string& text) {
  std::string inside;
  std::size_t run = 0, longest = 0;
  for (const char c : printable(text, kTextLimit)) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
    // In a table a bar ends the cell, in code too.
    if (c == '|') inside += '\\';
    inside += c;
  }
  const std::string fence(longest + 1, '`');
  const char* space = longest > 0 ? " " : "";
  return fence + space + inside + space + fence;
}

std::string to_markdown(const Document& document) {
  std::string text = "# " + escape_markdown(document.title) + "\n\n";
  for (const Block& block : document.blocks) std::visit(Writer{text}, block);
  while (text.ends_with("\n\n")) text.pop_back();
  return text;
}

}  // namespace slidesparse
