#include "convert/sensitivity.h"
#include "core/fail.h"
#include "core/text.h"
#include "io/json.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kMostSize = std::int64_t{1} << 40;
constexpr double kMost = 1e300;

OrderedJson to_json(const GroupSensitivity& group) {
  OrderedJson json = OrderedJson::object();
  json["name"] = group.name;
  json["rows"] = group.rows;
  json["k"] = group.k;
  json["skipped"] = group.skipped;
  json["divergence"] = group.divergence;
  json["rounding"] = group.rounding;
  json["errors"] = OrderedJson(group.errors);
  return json;
}

GroupSensitivity from_json(const Json& json, const std::string& file) {
  const std::string where = file + ": groups";
  if (!json.is_object()) fail_input("{}: objects are expected", where);
  GroupSensitivity group;
  group.name = json_string(json, "name", where);
  group.rows = json_int(json, "rows", where, 1, kMostSize);
  group.k = json_int(json, "k", where, 1, kMostSize);
  group.skipped = json_bool_or(json, "skipped", where, false);
  group.divergence = json_number(json, "divergence", where, -kMost, kMost);
  group.rounding = json_number(json, "rounding", where, -kMost, kMost);
  const std::string place = where + ": " + printable(group.name) + ": errors";
  if (const Json* errors = json_object_or_null(json, "errors", where); errors != nullptr) {
    for (const auto& item : errors->items())
      group.errors[item.key()] = json_number(*errors, item.key(), place, 0, kMost);
  }
  return group;
}

}  // namespace

std::string sensitivities_to_json(const Sensitivities& sensitivities) {
  OrderedJson json = OrderedJson::object();
  json["identity"] = OrderedJson::parse(sensitivities.identity);
  json["along"] = sensitivities.along;
  json["groups"] = OrderedJson::array();
  for (const GroupSensitivity& group : sensitivities.groups) json["groups"].push_back(to_json(group));
  return json.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

Sensitivities sensitivities_from_json(const std::string& text, const std::string& file) {
  const Json json = parse_json(text, file);
  const Json* identity = json.is_object() ? json_object_or_null(json, "identity", file) : nullptr;
  if (identity == nullptr) fail_input("{}: holds no sensitivities (it has no identity)", file);
  Sensitivities result;
  result.identity = identity->dump(-1, ' ', false, Json::error_handler_t::replace);
  result.along = json_string_or(json, "along", file, "");
  result.layout = parse_packed_layout(json_string(*identity, "layout", file), file);
  result.reference = Pattern::parse(json_string(*identity, "reference", file));
  const auto patterns = identity->find("patterns");
  const auto groups = json.find("groups");
  if (patterns == identity->end() || !patterns->is_array() || groups == json.end() || !groups->is_array())
    fail_input("{}: patterns and groups must be lists", file);
  for (const Json& pattern : *patterns) {
    if (!pattern.is_string()) fail_input("{}: patterns: texts are expected", file);
    result.patterns.push_back(Pattern::parse(pattern.get<std::string>()));
  }
  for (const Json& group : *groups) result.groups.push_back(from_json(group, file));
  return result;
}

}  // namespace slidesparse
