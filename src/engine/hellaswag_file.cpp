#include <algorithm>
#include <cctype>
#include <charconv>

#include "core/fail.h"
#include "core/text.h"
#include "engine/evaluate.h"
#include "io/json.h"

namespace slidesparse {
namespace {

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

std::string strip(const std::string& text) {
  constexpr const char* kSpace = " \t\r\n\v\f";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// What lm-evaluation-harness does to WikiHow's texts: " [title]" becomes ". ", other brackets go, double
// spaces become one.
std::string clean(const std::string& raw) {
  std::string text = strip(raw);
  replace_all(text, " [title]", ". ");
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '[') {
      const std::size_t end = text.find(']', i);
      const std::size_t line =
          text.find('\n', i);  // as a regular expression's '.', which stops at a line's end
      if (end != std::string::npos && (line == std::string::npos || line > end)) {
        i = end;
        continue;
      }
    }
    out += text[i];
  }
  // One pass from left to right: three spaces become two.
  std::string single;
  for (std::size_t i = 0; i < out.size(); ++i) {
    single += out[i];
    if (out[i] == ' ' && i + 1 < out.size() && out[i + 1] == ' ') ++i;
  }
  return single;
}

// First letter upper case, the others lower case; ASCII only (the contexts are English).
std::string capitalise(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return c < 128 ? std::tolower(c) : c; });
  if (!text.empty()) text[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(text[0])));
  return text;
}

int read_label(const Json& task, const std::string& where) {
  const auto it = task.find("label");
  int label = -1;
  if (it != task.end() && it->is_number_integer()) label = static_cast<int>(it->get<std::int64_t>());
  if (it != task.end() && it->is_string()) {
    const auto& text = it->get_ref<const std::string&>();
    std::from_chars(text.data(), text.data() + text.size(), label);
  }
  if (label < 0 || label > 3)
    fail_input("{}: label: 0 to 3 is needed (a file without labels cannot be scored)", where);
  return label;
}

HellaSwagTask read_task(std::string_view line, const std::string& where) {
  const Json json = parse_json(line, where, 8);
  if (!json.is_object()) fail_input("{}: an object is needed", where);
  HellaSwagTask task;
  task.label = read_label(json, where);
  const auto endings = json.find("endings");
  if (endings == json.end() || !endings->is_array() || endings->size() != 4) {
    fail_input("{}: endings: a list of four texts is needed", where);
  }
  for (std::size_t i = 0; i < 4; ++i) {
    if (!(*endings)[i].is_string()) fail_input("{}: endings[{}] is no text", where, i);
    task.endings[i] = clean((*endings)[i].get<std::string>());
  }
  const std::string context =
      json.contains("ctx_a")
          ? json_string(json, "ctx_a", where) + " " + capitalise(json_string_or(json, "ctx_b", where, ""))
          : json_string(json, "ctx", where);
  const std::string label = json_string_or(json, "activity_label", where, "");
  task.context = clean(label.empty() ? context : label + ": " + context);
  return task;
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  while (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

HellaSwagTask read_six_lines(std::span<const std::string_view> lines, const std::string& where) {
  HellaSwagTask task;
  task.context = lines[0];
  if (lines[1].size() != 1 || lines[1][0] < '0' || lines[1][0] > '3') {
    fail_input("{}: the second line of a task is its label, 0 to 3; found \"{}\"", where,
               printable(lines[1], 40));
  }
  task.label = lines[1][0] - '0';
  for (std::size_t i = 0; i < 4; ++i) task.endings[i] = lines[2 + i];
  return task;
}

}  // namespace

std::vector<HellaSwagTask> read_hellaswag(const std::filesystem::path& file, std::int64_t max_tasks) {
  if (max_tasks < 0) fail(ErrorKind::kUsage, "max tasks {}: 0 (all) or more", max_tasks);
  const std::string text = read_text_file(file);
  const std::vector<std::string_view> lines = lines_of(text);
  const bool json = !lines.empty() && lines.front().starts_with('{');
  const std::size_t each = json ? 1 : 6;
  if (lines.empty() || lines.size() % each != 0) {
    fail_input("{}: {} lines; a JSON object a line or six lines a task are needed", file.string(),
               lines.size());
  }
  std::vector<HellaSwagTask> tasks;
  for (std::size_t i = 0; i < lines.size(); i += each) {
    if (max_tasks > 0 && static_cast<std::int64_t>(tasks.size()) == max_tasks) break;
    const std::string where = fmt::format("{}: line {}", file.string(), i + 1);
    tasks.push_back(json ? read_task(lines[i], where)
                         : read_six_lines(std::span(lines).subspan(i, 6), where));
    const HellaSwagTask& task = tasks.back();
    const bool empty =
        std::ranges::any_of(task.endings, [](const std::string& ending) { return ending.empty(); });
    if (task.context.empty() || empty) fail_input("{}: a context or an ending is empty", where);
  }
  return tasks;
}

}  // namespace slidesparse
