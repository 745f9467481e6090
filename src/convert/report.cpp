#include "convert/report.h"

#include <algorithm>
#include <map>

#include "core/fail.h"
#include "core/text.h"
#include "io/json.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 62;
constexpr double kMostEnergy = 1e300;

double share(double part, double whole, double of_nothing) {
  return whole > 0 ? part / whole : of_nothing;
}

OrderedJson to_json(const LayerReport& layer) {
  OrderedJson json = OrderedJson::object();
  json["name"] = layer.name;
  json["group"] = layer.group;
  json["pattern"] = layer.pattern.to_string();
  json["layout"] = packed_layout_name(layer.layout);
  json["reason"] = layer.reason;
  json["rows"] = layer.rows;
  json["k"] = layer.k;
  json["zeros"] = layer.prune.zeros;
  json["pruned"] = layer.prune.pruned;
  json["zeros_share"] = layer.zeros_share();
  json["energy"] = layer.prune.energy;
  json["energy_kept"] = layer.prune.energy_kept;
  json["energy_share"] = layer.energy_share();
  json["eps_rows"] = layer.eps_rows;
  json["negative_zeros_dropped"] = layer.negative_zeros_dropped;
  if (layer.error >= 0) {
    json["error_masked"] = layer.error_masked;
    json["error"] = layer.error;
    json["dampening"] = layer.dampening;
    json["dead_channels"] = layer.dead_channels;
  }
  return json;
}

LayerReport from_json(const Json& json, const std::string& where) {
  LayerReport layer;
  layer.name = json_string(json, "name", where);
  layer.group = json_string(json, "group", where);
  layer.pattern = Pattern::parse(json_string(json, "pattern", where));
  layer.layout = parse_packed_layout(json_string_or(json, "layout", where, "slide"), where);
  layer.reason = json_string(json, "reason", where);
  layer.rows = json_int(json, "rows", where, 0, kMost);
  layer.k = json_int(json, "k", where, 0, kMost);
  layer.prune.elements = layer.rows * layer.k;
  layer.prune.zeros = json_int(json, "zeros", where, 0, kMost);
  layer.prune.pruned = json_int(json, "pruned", where, 0, kMost);
  layer.prune.energy = json_number(json, "energy", where, -kMostEnergy, kMostEnergy);
  layer.prune.energy_kept = json_number(json, "energy_kept", where, -kMostEnergy, kMostEnergy);
  layer.eps_rows = json_int(json, "eps_rows", where, 0, kMost);
  layer.negative_zeros_dropped = json_int(json, "negative_zeros_dropped", where, 0, kMost);
  layer.error_masked = json_number_or(json, "error_masked", where, 0, kMostEnergy, -1);
  layer.error = json_number_or(json, "error", where, 0, kMostEnergy, -1);
  layer.dampening = json_number_or(json, "dampening", where, 0, kMostEnergy, 0);
  layer.dead_channels = json_int_or(json, "dead_channels", where, 0, kMost, 0);
  return layer;
}

// "up_proj" of "model.layers.3.mlp.up_proj".
std::string kind_of(const std::string& name) {
  return name.substr(name.rfind('.') + 1);
}

OrderedJson to_json(const PatternBudget& budget) {
  OrderedJson json = OrderedJson::object();
  json["target_speed"] = budget.target;
  json["predicted_speed"] = budget.speed;
  json["expected_loss"] = budget.loss;
  json["speeds"] = budget.speeds;
  json["groups"] = OrderedJson::array();
  for (const PatternBudget::Group& group : budget.groups) {
    json["groups"].push_back({{"name", group.name},
                              {"pattern", group.pattern.to_string()},
                              {"layout", packed_layout_name(group.layout)},
                              {"weights", group.weights},
                              {"expected_loss", group.loss},
                              {"skipped", group.skipped}});
  }
  return json;
}

PatternBudget budget_from_json(const Json& json, const std::string& where) {
  PatternBudget budget;
  budget.target = json_number(json, "target_speed", where, 0, kMostEnergy);
  budget.speed = json_number(json, "predicted_speed", where, 0, kMostEnergy);
  budget.loss = json_number(json, "expected_loss", where, 0, kMostEnergy);
  budget.speeds = json_string(json, "speeds", where);
  const auto groups = json.find("groups");
  if (groups == json.end() || !groups->is_array()) fail_input("{}: groups: a list is needed", where);
  for (const Json& item : *groups) {
    const std::string place = where + ": groups";
    PatternBudget::Group group;
    group.name = json_string(item, "name", place);
    group.pattern = Pattern::parse(json_string(item, "pattern", place));
    group.layout = parse_packed_layout(json_string(item, "layout", place), place);
    group.weights = json_int(item, "weights", place, 0, kMost);
    group.loss = json_number(item, "expected_loss", place, 0, kMostEnergy);
    group.skipped = json_bool_or(item, "skipped", place, false);
    budget.groups.push_back(std::move(group));
  }
  return budget;
}

// How often which pattern was chosen, a line per kind of fused group.
std::string budget_to_text(const PatternBudget& budget) {
  std::vector<std::string> order;
  std::map<std::string, std::map<std::string, int>> counts;  // by kind, then pattern
  std::map<std::string, double> losses;
  for (const PatternBudget::Group& group : budget.groups) {
    const std::string kind = kind_of(group.name);
    if (!counts.contains(kind)) order.push_back(kind);
    ++counts[kind][group.pattern.to_string()];
    losses[kind] += group.loss;
  }
  TextTable table({"fused group", "patterns", "expected loss"},
                  {TextTable::Align::kLeft, TextTable::Align::kLeft, TextTable::Align::kRight});
  for (const std::string& kind : order) {
    std::vector<std::string> words;
    for (const auto& [pattern, count] : counts[kind]) words.push_back(fmt::format("{} x {}", count, pattern));
    table.add_row({kind, fmt::format("{}", fmt::join(words, ", ")), fmt::format("{:.4f}", losses[kind])});
  }
  return fmt::format(
      "{}patterns for {} times dense: {:.4f} predicted, by the speeds of {}; expected loss {:.4f} nats a "
      "token\n",
      table.to_string(), budget.target, budget.speed, printable(budget.speeds, 400), budget.loss);
}

std::string percent(double value) {
  return fmt::format("{:.2f} %", 100 * value);
}

}  // namespace

double LayerReport::zeros_share() const {
  return share(static_cast<double>(prune.zeros), static_cast<double>(prune.elements), 0);
}

double LayerReport::energy_share() const {
  return share(prune.energy_kept, prune.energy, 1);
}

PruneReport ConvertReport::total() const {
  PruneReport sum;
  for (const LayerReport& layer : layers) sum += layer.prune;
  return sum;
}

std::string layer_report_to_json(const LayerReport& layer) {
  return to_json(layer).dump();
}

LayerReport layer_report_from_json(std::string_view json) {
  return from_json(parse_json(json, "journal"), "journal");
}

std::string report_to_json(const ConvertReport& report) {
  const PruneReport total = report.total();
  OrderedJson json = OrderedJson::object();
  json["source_sha256"] = report.source_sha256;
  json["source_bytes"] = report.source_bytes;
  json["target_bytes"] = report.target_bytes;
  json["zeros_share"] = share(static_cast<double>(total.zeros), static_cast<double>(total.elements), 0);
  json["energy_share"] = share(total.energy_kept, total.energy, 1);
  if (report.budget) json["budget"] = to_json(*report.budget);
  json["layers"] = OrderedJson::array();
  for (const LayerReport& layer : report.layers) json["layers"].push_back(to_json(layer));
  return json.dump(1) + "\n";
}

ConvertReport report_from_json(std::string_view text, const std::string& file) {
  const Json json = parse_json(text, file);
  ConvertReport report;
  report.source_sha256 = json_string(json, "source_sha256", file);
  report.source_bytes = json_int(json, "source_bytes", file, 0, kMost);
  report.target_bytes = json_int(json, "target_bytes", file, 0, kMost);
  if (const Json* budget = json_object_or_null(json, "budget", file); budget != nullptr)
    report.budget = budget_from_json(*budget, file + ": budget");
  const auto layers = json.find("layers");
  if (layers == json.end() || !layers->is_array())
    fail_input("{}: layers: a list is needed", printable(file));
  for (const Json& layer : *layers) report.layers.push_back(from_json(layer, file + ": layers"));
  return report;
}

std::string report_to_text(const ConvertReport& report) {
  struct Kind {
    PruneReport sum;
    int count = 0;
    const LayerReport* worst = nullptr;
  };
  std::vector<std::string> order;
  std::map<std::string, Kind> kinds;
  std::string notes;
  std::int64_t eps_rows = 0;
  std::int64_t negative_zeros = 0;
  for (const LayerReport& layer : report.layers) {
    const std::string name = kind_of(layer.name);
    if (!kinds.contains(name)) order.push_back(name);
    Kind& kind = kinds[name];
    kind.sum += layer.prune;
    ++kind.count;
    if (kind.worst == nullptr || layer.energy_share() < kind.worst->energy_share()) kind.worst = &layer;
    eps_rows += layer.eps_rows;
    negative_zeros += layer.negative_zeros_dropped;
    // What a budget chose is told below, all together.
    if (!layer.reason.empty() && (!report.budget || layer.group.empty())) {
      notes += fmt::format("{}: {} ({})\n", layer.name, layer.pattern.to_string(), layer.reason);
    }
  }
  using Align = TextTable::Align;
  TextTable table({"linear", "layers", "zeros", "energy kept", "lowest", "in"},
                  {Align::kLeft, Align::kRight, Align::kRight, Align::kRight, Align::kRight, Align::kLeft});
  const auto zeros_of = [](const PruneReport& sum) {
    return percent(share(static_cast<double>(sum.zeros), static_cast<double>(sum.elements), 0));
  };
  for (const std::string& name : order) {
    const Kind& kind = kinds.at(name);
    table.add_row({name, std::to_string(kind.count), zeros_of(kind.sum),
                   percent(share(kind.sum.energy_kept, kind.sum.energy, 1)),
                   percent(kind.worst->energy_share()), kind.worst->name});
  }
  const PruneReport total = report.total();
  table.add_row({"all", std::to_string(report.layers.size()), zeros_of(total),
                 percent(share(total.energy_kept, total.energy, 1)), "", ""});
  std::string text = table.to_string() + notes;
  if (report.budget) text += budget_to_text(*report.budget);
  if (eps_rows > 0) text += fmt::format("{} rows are all (nearly) zero: their scale is eps\n", eps_rows);
  if (negative_zeros > 0) text += fmt::format("{} values of -0.0 will come back as +0.0\n", negative_zeros);
  text += fmt::format(
      "{} in, {} out ({:.1f} %)\n", format_bytes(static_cast<double>(report.source_bytes)),
      format_bytes(static_cast<double>(report.target_bytes)),
      100 * share(static_cast<double>(report.target_bytes), static_cast<double>(report.source_bytes), 0));
  return text;
}

}  // namespace slidesparse
