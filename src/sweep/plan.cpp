#include "sweep/plan.h"

#include <algorithm>
#include <initializer_list>
#include <set>

#include "core/fail.h"
#include "core/text.h"
#include "io/json.h"
#include "io/packed_directory.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kMostM = 1 << 24;
constexpr std::int64_t kMostRuns = 1'000'000;
constexpr std::int64_t kMostBytes = std::int64_t{1} << 50;
constexpr double kMostSeconds = 1e6;
constexpr std::size_t kMostEntries = 1000;  // of a list
constexpr std::array kAllPhases{Phase::kConvert, Phase::kTune,   Phase::kGemm,
                                Phase::kPrefill, Phase::kDecode, Phase::kEval};

void check_members(const Json& object, const std::string& where,
                   std::initializer_list<std::string_view> known) {
  for (const auto& [name, value] : object.items()) {
    if (std::find(known.begin(), known.end(), name) == known.end())
      fail_input("{}: there is no member \"{}\"; possible are {}", where, printable(name, 40),
                 fmt::join(known, ", "));
  }
}

const Json& list(const Json& object, const char* name, const std::string& where) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_array() || found->empty() || found->size() > kMostEntries)
    fail_input("{}: {} must be a list of 1 to {} entries", where, name, kMostEntries);
  return *found;
}

template <typename T>
void check_unique(const std::vector<T>& values, const char* name, const std::string& where) {
  if (std::set<T>(values.begin(), values.end()).size() != values.size())
    fail_input("{}: {} names something twice", where, name);
}

std::vector<std::string> words(const Json& object, const char* name, const std::string& where) {
  std::vector<std::string> values;
  for (const Json& value : list(object, name, where)) {
    if (!value.is_string() || value.get_ref<const std::string&>().empty())
      fail_input("{}: {} must hold words, not {}", where, name, printable(value.dump(), 40));
    values.push_back(value);
  }
  check_unique(values, name, where);
  return values;
}

std::vector<std::int64_t> read_m(const Json& object, const std::string& where) {
  std::vector<std::int64_t> values;
  for (const Json& value : list(object, "m", where))
    values.push_back(json_int(Json{{"m", value}}, "m", where, 1, kMostM));
  check_unique(values, "m", where);
  return values;
}

std::vector<std::string> read_patterns(const Json& object, const std::string& where) {
  std::vector<std::string> patterns = words(object, "patterns", where);
  for (std::string& pattern : patterns) {
    try {
      pattern = Pattern::parse(pattern).to_string();
    } catch (const Error& error) {
      fail_input("{}: patterns: {}", where, error.what());
    }
  }
  check_unique(patterns, "patterns", where);
  return patterns;
}

std::string read_layout(const Json& object, const std::string& where) {
  return std::string(
      packed_layout_name(parse_packed_layout(json_string_or(object, "layout", where, "slide"), where)));
}

std::string one_of(const Json& object, const char* name, const std::string& where,
                   std::initializer_list<std::string_view> possible) {
  std::string value = json_string_or(object, name, where, std::string(*possible.begin()));
  if (std::find(possible.begin(), possible.end(), value) == possible.end())
    fail_input("{}: {} \"{}\": possible are {}", where, name, printable(value, 40),
               fmt::join(possible, ", "));
  return value;
}

std::vector<PlanRow> read_rows(const Json& json, const std::string& file) {
  std::vector<PlanRow> rows;
  for (const Json& entry : list(json, "rows", file)) {
    const std::string where = fmt::format("{}: rows[{}]", file, rows.size());
    if (!entry.is_object()) fail_input("{}: a row is an object with backend and patterns", where);
    check_members(entry, where, {"backend", "patterns", "layout"});
    PlanRow row{json_string(entry, "backend", where), read_patterns(entry, where), read_layout(entry, where)};
    if (!is_sweep_backend(row.backend))
      fail_input("{}: backend \"{}\": there are {}", where, printable(row.backend, 40), sweep_backend_list());
    rows.push_back(std::move(row));
  }
  return rows;
}

std::int64_t read_memory_limit(const Json& json, const std::string& file) {
  const auto found = json.find("memory_limit");
  if (found == json.end()) return 0;
  if (found->is_number()) return json_int(json, "memory_limit", file, 1, kMostBytes);
  const std::string text = json_string(json, "memory_limit", file);
  const auto bytes = parse_bytes(text);
  if (!bytes || *bytes < 1 || *bytes > kMostBytes)
    fail_input("{}: memory_limit \"{}\": a size such as 22.4GiB, or bytes up to {}", file,
               printable(text, 40), kMostBytes);
  return *bytes;
}

TimeLimits read_time_limits(const Json& json, const std::string& file) {
  TimeLimits limits;
  const Json* object = json_object_or_null(json, "time_limits", file);
  if (object == nullptr) return limits;
  const std::string where = file + ": time_limits";
  check_members(*object, where, {"convert", "tune", "gemm", "prefill", "decode", "eval", "load"});
  for (const Phase phase : kAllPhases) {
    double& limit = limits.cell.at(static_cast<std::size_t>(phase));
    limit = json_number_or(*object, phase_name(phase), where, 0.001, kMostSeconds, limit);
  }
  limits.load = json_number_or(*object, "load", where, 0.001, kMostSeconds, limits.load);
  return limits;
}

void read_phases(SweepPlan& plan, const Json& json, const std::string& file) {
  const auto section = [&](const char* name, std::initializer_list<std::string_view> known) -> const Json* {
    const Json* object = json_object_or_null(json, name, file);
    if (object != nullptr) check_members(*object, file + ": " + name, known);
    return object;
  };
  if (const Json* object = section("convert", {"patterns", "layout"})) {
    const std::string where = file + ": convert";
    plan.convert = ConvertPhase{read_patterns(*object, where), read_layout(*object, where)};
  }
  if (const Json* object = section("tune", {"m"})) {
    plan.tune.emplace();
    if (object->contains("m")) plan.tune->m = read_m(*object, file + ": tune");
  }
  if (const Json* object = section("gemm", {"m", "min_seconds"})) {
    const std::string where = file + ": gemm";
    plan.gemm = GemmPhase{read_m(*object, where),
                          json_number_or(*object, "min_seconds", where, 0.001, kMostSeconds, 0.5)};
  }
  if (const Json* object = section("prefill", {"m", "runs", "min_seconds"})) {
    const std::string where = file + ": prefill";
    plan.prefill = PrefillPhase{read_m(*object, where), json_int_or(*object, "runs", where, 1, kMostRuns, 3),
                                json_number_or(*object, "min_seconds", where, 0, kMostSeconds, 1)};
  }
  if (const Json* object = section("decode", {"m", "runs", "steps", "prompt"})) {
    const std::string where = file + ": decode";
    plan.decode = DecodePhase{read_m(*object, where), json_int_or(*object, "runs", where, 1, kMostRuns, 3),
                              json_int_or(*object, "steps", where, 1, kMostRuns, 256),
                              json_int_or(*object, "prompt", where, 1, kMostRuns, 16)};
  }
  if (const Json* object = section("eval", {"text", "max_windows"})) {
    const std::string where = file + ": eval";
    plan.eval = EvalPhase{json_string(*object, "text", where),
                          json_int_or(*object, "max_windows", where, 0, kMostRuns, 0)};
  }
}

void check_together(const SweepPlan& plan, const std::string& file) {
  if (!plan.convert && !plan.tune && !plan.gemm && !plan.prefill && !plan.decode && !plan.eval)
    fail_input("{}: no phase: give one or more of convert, tune, gemm, prefill, decode, eval", file);
  if (plan.tune && plan.tune->m.empty() && !plan.gemm && !plan.prefill && !plan.decode)
    fail_input("{}: tune needs m, because no other phase has one", file);
  const bool cpu = std::ranges::any_of(plan.rows, [](const PlanRow& row) { return row.backend == "cpu"; });
  for (const PlanRow& row : plan.rows) {
    if (cpu && row.backend != "cpu" && row.backend != "auto")
      fail_input("{}: rows of cpu and of {} in one plan: the processor and a card are swept apart", file,
                 row.backend);
  }
  if (cpu && plan.memory_limit > 0)
    fail_input("{}: memory_limit is of a card, and backend cpu has none", file);
  if (cpu && plan.kv_cache_dtype != "bf16")
    fail_input("{}: kv_cache_dtype {}: the CPU keeps bf16", file, plan.kv_cache_dtype);
}

OrderedJson row_object(const PlanRow& row) {
  OrderedJson json{{"backend", row.backend}, {"patterns", row.patterns}};
  if (row.layout != "slide") json["layout"] = row.layout;
  return json;
}

}  // namespace

SweepPlan parse_plan(std::string_view text, const std::string& file) {
  const Json json = parse_json(text, file, 8);
  if (!json.is_object()) fail_input("{}: a plan is an object", file);
  check_members(
      json, file,
      {"schema", "name", "models", "dtypes", "rows", "convert", "tune", "gemm", "prefill", "decode", "eval",
       "weights", "head", "kv_cache_dtype", "seed", "memory_limit", "attempts", "time_limits"});
  json_int(json, "schema", file, 1, 1);
  SweepPlan plan;
  plan.name = json_string(json, "name", file);
  if (plan.name.empty() || plan.name != printable(plan.name, 80))
    fail_input("{}: name \"{}\": 1 to 80 printable characters", file, printable(plan.name, 40));
  plan.models = words(json, "models", file);
  plan.dtypes = words(json, "dtypes", file);
  for (const std::string& dtype : plan.dtypes) dtype_of(dtype, file);
  plan.rows = read_rows(json, file);
  read_phases(plan, json, file);
  plan.weights = one_of(json, "weights", file, {"fastest", "balanced", "smallest"});
  plan.kv_cache_dtype = one_of(json, "kv_cache_dtype", file, {"bf16", "fp8"});
  plan.head = one_of(json, "head", file, {"bf16", "int8", "fp8"});
  plan.seed = json_int_or(json, "seed", file, 0, std::int64_t{1} << 62, 1);
  plan.memory_limit = read_memory_limit(json, file);
  plan.attempts = json_int_or(json, "attempts", file, 1, 100, 3);
  plan.time_limits = read_time_limits(json, file);
  check_together(plan, file);
  return plan;
}

std::string plan_to_json(const SweepPlan& plan) {
  OrderedJson json{{"schema", 1}, {"name", plan.name}, {"models", plan.models}, {"dtypes", plan.dtypes}};
  json["rows"] = OrderedJson::array();
  for (const PlanRow& row : plan.rows) json["rows"].push_back(row_object(row));
  if (plan.convert) {
    json["convert"] = {{"patterns", plan.convert->patterns}};
    if (plan.convert->layout != "slide") json["convert"]["layout"] = plan.convert->layout;
  }
  if (plan.tune) {
    json["tune"] = OrderedJson::object();
    if (!plan.tune->m.empty()) json["tune"]["m"] = plan.tune->m;
  }
  if (plan.gemm) json["gemm"] = {{"m", plan.gemm->m}, {"min_seconds", plan.gemm->min_seconds}};
  if (plan.prefill) {
    json["prefill"] = {
        {"m", plan.prefill->m}, {"runs", plan.prefill->runs}, {"min_seconds", plan.prefill->min_seconds}};
  }
  if (plan.decode) {
    json["decode"] = {{"m", plan.decode->m},
                      {"runs", plan.decode->runs},
                      {"steps", plan.decode->steps},
                      {"prompt", plan.decode->prompt}};
  }
  if (plan.eval) json["eval"] = {{"text", plan.eval->text}, {"max_windows", plan.eval->max_windows}};
  json["weights"] = plan.weights;
  json["head"] = plan.head;
  json["kv_cache_dtype"] = plan.kv_cache_dtype;
  json["seed"] = plan.seed;
  if (plan.memory_limit > 0) json["memory_limit"] = plan.memory_limit;
  json["attempts"] = plan.attempts;
  OrderedJson& limits = json["time_limits"];
  for (const Phase phase : kAllPhases)
    limits[std::string(phase_name(phase))] = plan.time_limits.cell.at(static_cast<std::size_t>(phase));
  limits["load"] = plan.time_limits.load;
  return json.dump(2) + "\n";
}

SweepPlan mission_plan(const MissionOptions& options) {
  const std::vector<std::string> sparse{"2:4", "4:6", "6:8", "8:10"};
  SweepPlan plan;
  plan.name = "mission";
  plan.models = options.models;
  if (plan.models.empty()) plan.models = {"llama3.2-1b", "llama3.2-3b", "qwen2.5-7b", "qwen2.5-14b"};
  plan.dtypes = options.dtypes;
  if (plan.dtypes.empty()) plan.dtypes = {"int8", "fp8"};
  plan.rows = {{"cublaslt", {"dense"}}, {"cutlass", {"dense"}}, {"cusparselt", sparse}, {"auto", sparse}};
  if (options.native) plan.rows.push_back({"native", sparse, "split"});
  if (options.convert) plan.convert = ConvertPhase{sparse};
  plan.tune.emplace();
  plan.prefill = PrefillPhase{{512, 1024, 2048, 4096, 8192, 16384, 32768, 65536}, options.prefill_runs, 1};
  plan.decode = DecodePhase{{64, 128, 256, 512}};
  if (options.quick) {
    plan.name = "mission-quick";
    plan.prefill->min_seconds = 0.3;
    plan.decode->steps = 64;
  }
  plan.memory_limit = options.memory_limit;
  return plan;
}

SweepPlan cpu_plan() {
  SweepPlan plan;
  plan.name = "cpu";
  plan.models = {"smollm2-135m"};
  plan.dtypes = {"int8"};
  plan.rows = {{"cpu", {"dense", "2:4", "4:6", "6:8", "8:10"}}};
  plan.convert = ConvertPhase{{"2:4", "4:6", "6:8", "8:10"}};
  plan.tune.emplace();
  plan.prefill = PrefillPhase{{64, 512}};
  plan.decode = DecodePhase{{1, 8}, 3, 32, 16};
  return plan;
}

}  // namespace slidesparse
