#include "report/repeat.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "sweep/plan.h"

namespace slidesparse {
namespace {

using Json = nlohmann::json;

class Command {
 public:
  Command(const ReportCell& cell, std::string_view start) : cell_(cell), text_(start) {
    options_ = Json::parse(cell.options, nullptr, false);
  }
  Command& word(const std::string& text) {
    text_ += " " + shell_word(text);
    return *this;
  }
  Command& option(const char* name, const std::string& value) { return word(name).word(value); }
  // An option of the cell, if it has it, or what the measured attempt took instead.
  Command& from(const char* name, const char* key, const std::string& instead = {}) {
    if (!instead.empty()) return option(name, instead);
    if (!options_.is_object() || !options_.contains(key)) return *this;
    return option(name, text_of(options_[key]));
  }
  // A directory has its own dtype and pattern.
  Command& subject() {
    if (!is_known_shape(cell_.model)) return word(cell_.model);
    option("--model", cell_.model).option("--dtype", cell_.dtype).option("--patterns", cell_.pattern);
    if (cell_.pattern != "dense" && cell_.layout == "split") option("--layout", cell_.layout);
    return *this;
  }
  Command& place(const std::string& device) {
    if (cell_.backend != "auto") option("--backend", cell_.backend);
    if (device == "cpu" || cell_.backend == "cpu") option("--device", "cpu");
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  static std::string text_of(const Json& value) {
    if (value.is_string()) return value.get<std::string>();
    if (!value.is_array()) return value.dump(-1, ' ', false, Json::error_handler_t::replace);
    std::string list;
    for (const Json& item : value) list += (list.empty() ? "" : ",") + text_of(item);
    return list;
  }
  const ReportCell& cell_;
  std::string text_;
  Json options_;
};

std::string convert_command(const ReportCell& cell) {
  const std::string source = is_known_shape(cell.model) ? cell.model + "-random" : cell.model;
  std::string before;
  if (source != cell.model)
    before = fmt::format("slidesparse random-model {} {} && ", shell_word(cell.model), shell_word(source));
  Command command(cell, before + "slidesparse convert");
  command.word(source).word("converted").option("--pattern", cell.pattern).option("--dtype", cell.dtype);
  if (cell.layout == "split") command.option("--layout", cell.layout);
  return command.from("--method", "method").from("--head", "head").text();
}

}  // namespace

std::string shell_word(const std::string& text) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=,+@%";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string repeat_command(const ReportCell& cell, const std::string& device) {
  if (cell.phase == "convert") return convert_command(cell);
  if (cell.phase == "tune")
    return Command(cell, "slidesparse tune")
        .subject()
        .from("--m", "m")
        .from("--head", "head")
        .place(device)
        .text();
  if (cell.phase == "eval") {
    Command command(cell, "slidesparse eval");
    return command.word(cell.model)
        .from("--text", "text")
        .from("--max-windows", "max_windows")
        .from("--head", "head")
        .place(device)
        .text();
  }
  Command command(cell, "slidesparse bench");
  command.word(cell.phase).subject();
  if (cell.m) command.option("--m", fmt::format("{}", *cell.m));
  command.place(device).from("--weights", "weights", cell.changes.weights).from("--seed", "seed");
  if (cell.phase == "gemm") return command.text();
  if (cell.memory_limit) command.option("--memory-limit", fmt::format("{}", *cell.memory_limit));
  command.from("--runs", "runs").from("--kv-cache-dtype", "kv_cache_dtype", cell.changes.kv_cache_dtype);
  command.from("--head", "head");
  if (cell.phase == "decode") command.from("--steps", "steps").from("--prompt", "prompt");
  return command.text();
}

}  // namespace slidesparse
