#include "sweep/result.h"

#include <cmath>
#include <limits>

#include "core/fail.h"
#include "io/json.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
constexpr double kLargestNumber = 1e300;

template <typename T>
void put(OrderedJson& json, const char* name, const std::optional<T>& value) {
  if (value) json[name] = *value;
}

std::optional<std::int64_t> integer(const Json& json, const char* name, const std::string& where) {
  if (!json.contains(name)) return {};
  return json_int(json, name, where, -kMost, kMost);
}

std::optional<double> number(const Json& json, const char* name, const std::string& where) {
  if (!json.contains(name)) return {};
  return json_number(json, name, where, -kLargestNumber, kLargestNumber);
}

const Json& array_of(const Json& json, const char* name, const std::string& where) {
  const auto found = json.find(name);
  if (found == json.end() || !found->is_array()) fail_input("{}: {} is no list", where, name);
  return *found;
}

}  // namespace

void CellResult::fail(const Error& error) {
  const ErrorFacts* facts = error.facts();
  outcome = classify(error.kind(), facts);
  message = error.what();
  if (facts == nullptr) return;
  library = facts->library;
  library_code = facts->library_code;
  if (facts->cuda_status) {
    library = "cuda";
    library_code = facts->cuda_status;
  }
  needed_bytes = facts->needed_bytes;
  free_bytes = facts->free_bytes;
  holders = facts->holders;
}

std::string holders_json(const CellResult& result) {
  OrderedJson json = OrderedJson::object();
  for (const auto& [name, bytes] : result.holders) json[name] = bytes;
  return json.dump();
}

std::string result_to_json(const CellResult& result) {
  OrderedJson json{
      {"class", class_name(result.outcome)}, {"message", result.message}, {"library", result.library}};
  put(json, "library_code", result.library_code);
  put(json, "needed_bytes", result.needed_bytes);
  put(json, "free_bytes", result.free_bytes);
  put(json, "largest_m", result.largest_m);
  json["holders"] = OrderedJson::parse(holders_json(result));
  json["measurements"] = OrderedJson::array();
  for (const Measurement& one : result.measurements) {
    require(std::isfinite(one.value), "measurement {} is {}", one.name, one.value);
    OrderedJson entry{{"name", one.name}, {"unit", one.unit}, {"value", one.value}};
    put(entry, "low", one.low);
    put(entry, "high", one.high);
    put(entry, "samples", one.samples);
    json["measurements"].push_back(std::move(entry));
  }
  json["attributes"] = result.attributes;
  json["checks"] = OrderedJson::array();
  for (const Check& check : result.checks)
    json["checks"].push_back({{"name", check.name}, {"passed", check.passed}, {"message", check.message}});
  // Messages hold paths and words of libraries, which need not be UTF-8.
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

CellResult parse_result(std::string_view text, const std::string& where) {
  const Json json = parse_json(text, where, 8);
  if (!json.is_object()) fail_input("{}: a result is an object", where);
  CellResult result;
  result.outcome = parse_class(json_string(json, "class", where), where);
  result.message = json_string(json, "message", where);
  result.library = json_string(json, "library", where);
  result.library_code = integer(json, "library_code", where);
  result.needed_bytes = integer(json, "needed_bytes", where);
  result.free_bytes = integer(json, "free_bytes", where);
  result.largest_m = integer(json, "largest_m", where);
  if (const Json* holders = json_object_or_null(json, "holders", where)) {
    for (const auto& [name, bytes] : holders->items())
      result.holders.emplace_back(name, json_int(*holders, name, where, -kMost, kMost));
  }
  for (const Json& entry : array_of(json, "measurements", where)) {
    result.measurements.push_back({json_string(entry, "name", where), json_string(entry, "unit", where),
                                   json_number(entry, "value", where, -kLargestNumber, kLargestNumber),
                                   number(entry, "low", where), number(entry, "high", where),
                                   integer(entry, "samples", where)});
  }
  if (const Json* attributes = json_object_or_null(json, "attributes", where)) {
    for (const auto& [name, value] : attributes->items())
      result.attributes[name] = json_string(*attributes, name, where);
  }
  for (const Json& entry : array_of(json, "checks", where)) {
    result.checks.push_back({json_string(entry, "name", where), json_bool_or(entry, "passed", where, false),
                             json_string(entry, "message", where)});
  }
  return result;
}

}  // namespace slidesparse
