#include "sweep/cell.h"

#include <algorithm>
#include <array>

#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/text.h"
#include "io/json.h"

namespace slidesparse {
namespace {

constexpr std::array<std::string_view, 6> kPhases{"convert", "tune", "gemm", "prefill", "decode", "eval"};
constexpr std::array<std::string_view, 6> kBackends{"auto",       "cublaslt", "cutlass",
                                                    "cusparselt", "native",   "cpu"};
constexpr std::int64_t kLargest = std::int64_t{1} << 62;

Phase parse_phase(const std::string& word, const std::string& where) {
  const auto* const found = std::find(kPhases.begin(), kPhases.end(), word);
  if (found == kPhases.end())
    fail_input("{}: phase \"{}\": there are {}", where, printable(word, 40), fmt::join(kPhases, ", "));
  return static_cast<Phase>(found - kPhases.begin());
}

template <typename T>
void put(OrderedJson& json, const char* name, const std::optional<T>& value) {
  if (value) json[name] = *value;
}
void put(OrderedJson& json, const char* name, const std::string& value) {
  if (!value.empty()) json[name] = value;
}

OrderedJson options_object(const CellOptions& options) {
  OrderedJson json = OrderedJson::object();  // keys in the order of the alphabet
  put(json, "head", options.head);
  put(json, "kv_cache_dtype", options.kv_cache_dtype);
  if (!options.m.empty()) json["m"] = options.m;
  put(json, "max_windows", options.max_windows);
  put(json, "min_seconds", options.min_seconds);
  put(json, "prompt", options.prompt);
  put(json, "runs", options.runs);
  put(json, "seed", options.seed);
  put(json, "steps", options.steps);
  put(json, "text", options.text);
  put(json, "weights", options.weights);
  return json;
}

std::optional<std::int64_t> integer(const Json& json, const char* name, const std::string& where) {
  if (!json.contains(name)) return {};
  return json_int(json, name, where, 0, kLargest);
}

CellOptions parse_options(const Json& json, const std::string& where) {
  CellOptions options;
  options.head = json_string_or(json, "head", where, "");
  options.kv_cache_dtype = json_string_or(json, "kv_cache_dtype", where, "");
  if (json.contains("m")) {
    if (!json["m"].is_array()) fail_input("{}: m is no list", where);
    for (const Json& value : json["m"]) {
      const Json one{{"m", value}};
      options.m.push_back(json_int(one, "m", where, 1, kLargest));
    }
  }
  options.max_windows = integer(json, "max_windows", where);
  if (json.contains("min_seconds")) options.min_seconds = json_number(json, "min_seconds", where, 0, 1e6);
  options.prompt = integer(json, "prompt", where);
  options.runs = integer(json, "runs", where);
  options.seed = integer(json, "seed", where);
  options.steps = integer(json, "steps", where);
  options.text = json_string_or(json, "text", where, "");
  options.weights = json_string_or(json, "weights", where, "");
  return options;
}

}  // namespace

std::string_view phase_name(Phase phase) {
  return kPhases.at(static_cast<std::size_t>(phase));
}

std::string options_json(const CellOptions& options) {
  return options_object(options).dump();
}

std::string cell_key(const Cell& cell) {
  OrderedJson json{{"phase", phase_name(cell.phase)}, {"model", cell.model},     {"dtype", cell.dtype},
                   {"backend", cell.backend},         {"pattern", cell.pattern}, {"layout", cell.layout}};
  put(json, "m", cell.m);
  put(json, "memory_limit", cell.memory_limit);
  json["options"] = options_object(cell.options);
  return json.dump();
}

Cell parse_cell_key(std::string_view key, const std::string& where) {
  const Json json = parse_json(key, where, 8);
  if (!json.is_object()) fail_input("{}: a cell is an object", where);
  Cell cell;
  cell.phase = parse_phase(json_string(json, "phase", where), where);
  cell.model = json_string(json, "model", where);
  cell.dtype = json_string(json, "dtype", where);
  cell.backend = json_string(json, "backend", where);
  cell.pattern = json_string(json, "pattern", where);
  cell.layout = json_string(json, "layout", where);
  cell.m = integer(json, "m", where);
  cell.memory_limit = integer(json, "memory_limit", where);
  if (const Json* options = json_object_or_null(json, "options", where))
    cell.options = parse_options(*options, where + ": options");
  return cell;
}

std::string worker_key(const Cell& cell) {
  // Conversions share the source that they read, tunings nothing but their process.
  if (cell.phase == Phase::kConvert) return fmt::format("convert {}", cell.model);
  if (cell.phase == Phase::kTune) return fmt::format("tune {} {}", cell.model, cell.dtype);
  return fmt::format("run {} {} {} {} {} {} {} {}", cell.model, cell.dtype, cell.backend, cell.pattern,
                     cell.layout, cell.memory_limit.value_or(0), cell.options.head,
                     cell.options.seed.value_or(0));
}

std::string cell_words(const Cell& cell) {
  std::string words = fmt::format("{} {} {} {} {}{}", phase_name(cell.phase), printable(cell.model, 60),
                                  cell.dtype, cell.backend, cell.pattern,
                                  cell.layout == "split" && cell.pattern != "dense" ? " split" : "");
  if (cell.m) words += fmt::format(" M={}", *cell.m);
  return words;
}

DType dtype_of(std::string_view word, const std::string& where) {
  for (const DType dtype : {DType::kI8, DType::kF8E4M3, DType::kBF16}) {
    if (dtype_word(dtype) == word) return dtype;
  }
  fail_input("{}: dtype \"{}\": there are int8, fp8, bf16", where, printable(word, 40));
}

bool is_sweep_backend(std::string_view name) {
  return std::find(kBackends.begin(), kBackends.end(), name) != kBackends.end();
}

std::string sweep_backend_list() {
  return fmt::format("{}", fmt::join(kBackends, ", "));
}

}  // namespace slidesparse
