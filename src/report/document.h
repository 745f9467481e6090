#pragma once

#include <string>
#include <utility>
#include <variant>
#include <vector>

// A report as Markdown and HTML share it. All texts are as they are: each writer escapes them for its format.
namespace slidesparse {

enum class Tone { kPlain, kGood, kBad, kQuiet };

struct TableCell {
  std::string text;
  std::string small = {};  // a second, less important part
  Tone tone = Tone::kPlain;
  bool code = false;      // a command
  std::string note = {};  // what a reader must know besides
};

struct ReportTable {
  std::string caption;
  std::vector<std::string> header;
  std::size_t text_columns = 1;  // the first so many are words, the others figures
  std::vector<std::vector<TableCell>> rows;
  bool totals = false;  // the last row adds up the others
  bool cells = false;   // one row a cell of the sweep
  bool folded = false;  // long: shut on the page until somebody opens it
};

struct Heading {
  std::string id;  // of the anchor
  std::string text;
};
struct Paragraph {
  std::string text;
};
struct BulletList {
  std::vector<std::string> items;
};
// A name of a series and the classes of its mark in the SVG.
struct LegendEntry {
  std::string name;
  std::string mark;  // SVG of a small sample
};
// Plots of one kind beside each other; each is a whole <svg> element. Markdown has the tables beside them
// only.
struct PlotGrid {
  std::vector<LegendEntry> legend;
  struct Plot {
    std::string caption, svg;
  };
  std::vector<Plot> plots;
};

using Block = std::variant<Heading, Paragraph, BulletList, ReportTable, PlotGrid>;

struct Document {
  std::string language;  // "en", "zh"
  std::string title;
  std::string contents;  // name of the list of sections
  std::vector<Block> blocks;
};

}  // namespace slidesparse
