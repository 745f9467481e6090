#include "sweep/messages.h"

#include "core/fail.h"
#include "io/json.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 62;
constexpr double kMostRate = 1e20;

OrderedJson limits_object(const MachineLimits& limits) {
  return {{"read", limits.read_bytes_per_second},
          {"int8", limits.int8_ops_per_second},
          {"bf16", limits.bf16_flops_per_second},
          {"fp8", limits.fp8_flops_per_second}};
}

MachineLimits limits_of(const Json& json, const std::string& where) {
  MachineLimits limits;
  limits.read_bytes_per_second = json_number(json, "read", where, 0, kMostRate);
  limits.int8_ops_per_second = json_number(json, "int8", where, 0, kMostRate);
  limits.bf16_flops_per_second = json_number(json, "bf16", where, 0, kMostRate);
  limits.fp8_flops_per_second = json_number(json, "fp8", where, 0, kMostRate);
  return limits;
}

const Json& member(const Json& json, const char* name, const std::string& where) {
  const Json* found = json_object_or_null(json, name, where);
  if (found == nullptr) fail_input("{}: {} is missing", where, name);
  return *found;
}

Json parse_line(std::string_view line, const std::string& where) {
  Json json = parse_json(line, where, 10);
  if (!json.is_object()) fail_input("{}: a line is an object", where);
  return json;
}

WorkerSetup parse_setup(const Json& json, const std::string& where) {
  WorkerSetup setup;
  setup.device = json_string(json, "device", where);
  setup.cache = json_string(json, "cache", where);
  setup.work = json_string(json, "work", where);
  const auto m = json.find("m");
  if (m == json.end() || !m->is_array()) fail_input("{}: m is no list", where);
  for (const Json& value : *m) setup.m.push_back(json_int(Json{{"m", value}}, "m", where, 1, kMost));
  setup.limits = limits_of(member(json, "limits", where), where);
  return setup;
}

CellOrder parse_order(const Json& json, const std::string& where) {
  CellOrder order;
  order.cell = parse_cell_key(json_string(json, "cell", where), where);
  order.smaller = json_bool_or(json, "smaller", where, true);
  order.inject = json_string_or(json, "inject", where, "");
  order.changes.alone = json_bool_or(json, "alone", where, false);
  order.changes.by_rule = json_bool_or(json, "by_rule", where, false);
  order.changes.weights = json_string_or(json, "weights", where, "");
  order.changes.kv_cache_dtype = json_string_or(json, "kv_cache_dtype", where, "");
  if (json.contains("chunks")) order.changes.chunks = json_int(json, "chunks", where, 1, kMost);
  return order;
}

SweepMachine parse_machine(const Json& json, const std::string& where) {
  SweepMachine machine;
  machine.device = json_string(json, "device", where);
  machine.name = json_string(json, "name", where);
  machine.memory_bytes = json_int(json, "memory_bytes", where, 0, kMost);
  machine.driver = json_string(json, "driver", where);
  machine.libraries = json_string(json, "libraries", where);
  machine.processor = json_string(json, "processor", where);
  machine.threads = json_int(json, "threads", where, 0, kMost);
  machine.program_version = json_string(json, "program_version", where);
  machine.commit = json_string(json, "commit", where);
  machine.details = json_string(json, "details", where);
  machine.limits = limits_of(member(json, "limits", where), where);
  return machine;
}

}  // namespace

std::string setup_line(const WorkerSetup& setup) {
  return OrderedJson{{"setup",
                      {{"device", setup.device},
                       {"cache", setup.cache},
                       {"work", setup.work},
                       {"m", setup.m},
                       {"limits", limits_object(setup.limits)}}}}
      .dump();
}

std::string order_line(const CellOrder& order) {
  OrderedJson json{{"cell", cell_key(order.cell)},
                   {"smaller", order.smaller},
                   {"inject", order.inject},
                   {"alone", order.changes.alone},
                   {"by_rule", order.changes.by_rule},
                   {"weights", order.changes.weights},
                   {"kv_cache_dtype", order.changes.kv_cache_dtype}};
  if (order.changes.chunks) json["chunks"] = *order.changes.chunks;
  return OrderedJson{{"order", json}}.dump();
}

std::string describe_line(const std::string& device, bool limits) {
  return OrderedJson{{"describe", device}, {"limits", limits}}.dump();
}

std::string limits_text(const MachineLimits& limits) {
  return limits_object(limits).dump();
}

MachineLimits parse_limits(std::string_view text, const std::string& where) {
  return limits_of(parse_line(text, where), where);
}

WorkerTask parse_task(std::string_view line, const std::string& where) {
  const Json json = parse_line(line, where);
  WorkerTask task;
  if (json.contains("setup")) task.setup = parse_setup(member(json, "setup", where), where);
  if (json.contains("order")) task.order = parse_order(member(json, "order", where), where);
  task.describe = json_string_or(json, "describe", where, "");
  task.limits = json_bool_or(json, "limits", where, false);
  return task;
}

std::string loading_line() {
  return R"({"loading":true})";
}

std::string loaded_line() {
  return R"({"loaded":true})";
}

std::string machine_line(const SweepMachine& machine) {
  OrderedJson json{{"device", machine.device},
                   {"name", machine.name},
                   {"memory_bytes", machine.memory_bytes},
                   {"driver", machine.driver},
                   {"libraries", machine.libraries},
                   {"processor", machine.processor},
                   {"threads", machine.threads},
                   {"program_version", machine.program_version},
                   {"commit", machine.commit},
                   {"details", machine.details},
                   {"limits", limits_object(machine.limits)}};
  return OrderedJson{{"machine", json}}.dump();
}

std::string result_line(const CellResult& result) {
  return fmt::format(R"({{"result":{}}})", result_to_json(result));
}

WorkerWords parse_words(std::string_view line, const std::string& where) {
  const Json json = parse_line(line, where);
  WorkerWords words;
  words.loading = json_bool_or(json, "loading", where, false);
  words.loaded = json_bool_or(json, "loaded", where, false);
  if (json.contains("machine")) words.machine = parse_machine(member(json, "machine", where), where);
  if (json.contains("result")) words.result = parse_result(member(json, "result", where).dump(), where);
  return words;
}

}  // namespace slidesparse
