#define PCRE2_CODE_UNIT_WIDTH 8
#include "io/compressed_tensors.h"

#include <pcre2.h>

#include <array>

#include "core/fail.h"
#include "core/text.h"
#include "io/json.h"

namespace slidesparse {
namespace {

constexpr const char* kSection = "quantization_config";
constexpr std::string_view kExpressionPrefix = "re:";
// The class of module that every linear layer of our models is.
constexpr std::string_view kLinearClass = "Linear";
constexpr std::size_t kMaxEntries = 10'000;
constexpr std::size_t kMaxEntryBytes = 1024;
// Steps of backtracking; names have under 100 bytes and honest expressions need a few hundred steps.
constexpr std::uint32_t kMatchLimit = 100'000;

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

// One entry of `targets` or `ignore`.
struct NameRule {
  std::string text;
  std::unique_ptr<pcre2_code, FreeCode> expression;  // null: text is a name or a class
};

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 200> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

NameRule make_rule(const std::string& text, const std::string& where) {
  NameRule rule{text, nullptr};
  if (!text.starts_with(kExpressionPrefix)) return rule;
  const std::string_view expression = std::string_view(text).substr(kExpressionPrefix.size());
  int error = 0;
  PCRE2_SIZE position = 0;
  // re.match: anchored at the start only.
  rule.expression.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                                      PCRE2_ANCHORED | PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &error, &position,
                                      nullptr));
  if (!rule.expression) {
    fail_input("{}: \"{}\" is no valid regular expression: {} at byte {}", where, printable(text),
               pcre2_message(error), position);
  }
  return rule;
}

bool rule_matches(const NameRule& rule, std::string_view name, const std::string& where) {
  if (!rule.expression) return rule.text == name || rule.text == kLinearClass;
  const std::unique_ptr<pcre2_match_context, FreeMatchContext> context(pcre2_match_context_create(nullptr));
  const std::unique_ptr<pcre2_match_data, FreeMatchData> data(pcre2_match_data_create(1, nullptr));
  require(context && data, "PCRE2 has no memory");
  pcre2_set_match_limit(context.get(), kMatchLimit);
  const int result = pcre2_match(rule.expression.get(), reinterpret_cast<PCRE2_SPTR>(name.data()),
                                 name.size(), 0, 0, data.get(), context.get());
  if (result < 0 && result != PCRE2_ERROR_NOMATCH) {
    fail_input("{}: \"{}\" against {}: {}", where, printable(rule.text), printable(name),
               pcre2_message(result));
  }
  return result >= 0;
}

std::vector<std::string> string_list(const Json& object, const char* key, const std::string& where) {
  std::vector<std::string> result;
  const auto member = object.find(key);
  if (member == object.end() || member->is_null()) return result;
  if (!member->is_array()) fail_input("{}: \"{}\" must be a list", where, key);
  if (member->size() > kMaxEntries)
    fail_input("{}: \"{}\" has {} entries, at most {} are accepted", where, key, member->size(), kMaxEntries);
  for (const Json& item : *member) {
    if (!item.is_string()) fail_input("{}: \"{}\" must hold strings only", where, key);
    const auto& text = item.get_ref<const std::string&>();
    if (text.empty() || text.size() > kMaxEntryBytes) {
      fail_input("{}: an entry of \"{}\" has {} bytes, 1 to {} are accepted", where, key, text.size(),
                 kMaxEntryBytes);
    }
    result.push_back(text);
  }
  return result;
}

[[noreturn]] void unsupported(const std::string& where, const std::string& what, const std::string& found,
                              const char* expected) {
  fail(ErrorKind::kUnsupported, "{}: {} is {}; {} is what can be computed with", where, what, found,
       expected);
}

std::string quoted(const std::string& text) {
  return fmt::format("\"{}\"", printable(text, 40));
}

std::string show(const Json& object, const char* key) {
  const auto member = object.find(key);
  return member == object.end() ? "missing"
                                : printable(member->dump(-1, ' ', false, Json::error_handler_t::replace), 80);
}

// A key that may be missing or null but has no other value that we compute with.
void check_absent(const Json& object, const char* key, const std::string& where) {
  const auto member = object.find(key);
  if (member == object.end() || member->is_null() ||
      ((member->is_object() || member->is_array()) && member->empty()))
    return;
  unsupported(where, key, show(object, key), "null");
}

// The keys that weights and activations have in common; returns the element type.
DType check_arguments(const Json& arguments, const std::string& where) {
  if (json_int(arguments, "num_bits", where, 0, 1024) != 8)
    unsupported(where, "num_bits", show(arguments, "num_bits"), "8");
  const std::string type = json_string_or(arguments, "type", where, "int");
  if (type != "int" && type != "float")
    unsupported(where, "type", show(arguments, "type"), "\"int\" or \"float\"");
  if (!json_bool_or(arguments, "symmetric", where, true)) unsupported(where, "symmetric", "false", "true");
  check_absent(arguments, "group_size", where);
  check_absent(arguments, "block_structure", where);
  check_absent(arguments, "actorder", where);
  return type == "int" ? DType::kI8 : DType::kF8E4M3;
}

DType check_group(const Json& group, const std::string& where) {
  const Json* weights = json_object_or_null(group, "weights", where);
  if (weights == nullptr) fail_input("{}: \"weights\" is missing", where);
  const DType dtype = check_arguments(*weights, where + ": weights");
  const std::string strategy = json_string_or(*weights, "strategy", where + ": weights", "tensor");
  if (strategy != "channel" && strategy != "tensor") {
    unsupported(where + ": weights", "strategy", show(*weights, "strategy"), "\"channel\" or \"tensor\"");
  }
  const auto dynamic_weights = weights->find("dynamic");
  if (dynamic_weights != weights->end() && !dynamic_weights->is_null() && *dynamic_weights != Json(false)) {
    unsupported(where + ": weights", "dynamic", show(*weights, "dynamic"), "false");
  }

  const Json* activations = json_object_or_null(group, "input_activations", where);
  if (activations == nullptr) {
    unsupported(where, "input_activations", "missing (weights only)",
                "8-bit activations quantised per token");
  }
  const std::string place = where + ": input_activations";
  if (check_arguments(*activations, place) != dtype) {
    unsupported(place, "type", show(*activations, "type"), "the type of the weights");
  }
  const auto dynamic = activations->find("dynamic");
  if (dynamic == activations->end() || *dynamic != Json(true)) {
    unsupported(place, "dynamic", show(*activations, "dynamic") + " (static scales)", "true");
  }
  if (json_string_or(*activations, "strategy", place, "tensor") != "token") {
    unsupported(place, "strategy", show(*activations, "strategy"), "\"token\"");
  }
  check_absent(group, "output_activations", where);
  return dtype;
}

// "int-quantized" and "float-quantized" store plain 8-bit tensors; "naive-quantized" is the older name of the
// same.
void check_format(const Json& object, DType dtype, const std::string& where) {
  const std::string format = json_string_or(object, "format", where, "naive-quantized");
  const std::string expected = dtype == DType::kI8 ? "int-quantized" : "float-quantized";
  if (format != expected && format != "naive-quantized") {
    unsupported(where, "format", quoted(format),
                dtype == DType::kI8 ? "\"int-quantized\"" : "\"float-quantized\"");
  }
}

}  // namespace

struct CompressedTensorsConfig::State {
  DType dtype = DType::kI8;
  std::string where;
  std::vector<NameRule> targets;
  std::vector<NameRule> ignore;
};

CompressedTensorsConfig::CompressedTensorsConfig(DType dtype, const std::vector<std::string>& targets,
                                                 const std::vector<std::string>& ignore,
                                                 const std::string& where)
    : state_(std::make_unique<State>()) {
  state_->dtype = dtype;
  state_->where = where;
  for (const std::string& text : targets) state_->targets.push_back(make_rule(text, where + ": targets"));
  for (const std::string& text : ignore) state_->ignore.push_back(make_rule(text, where + ": ignore"));
}

CompressedTensorsConfig::~CompressedTensorsConfig() = default;
CompressedTensorsConfig::CompressedTensorsConfig(CompressedTensorsConfig&&) noexcept = default;
CompressedTensorsConfig& CompressedTensorsConfig::operator=(CompressedTensorsConfig&&) noexcept = default;

DType CompressedTensorsConfig::dtype() const {
  return state_->dtype;
}

bool CompressedTensorsConfig::quantises(std::string_view name) const {
  const auto any = [&](const std::vector<NameRule>& rules) {
    for (const NameRule& rule : rules) {
      if (rule_matches(rule, name, state_->where)) return true;
    }
    return false;
  };
  return any(state_->targets) && !any(state_->ignore);
}

std::optional<CompressedTensorsConfig> parse_compressed_tensors(const std::string& config_text,
                                                                const std::string& file) {
  const Json config = parse_json(config_text, file);
  const Json* section = json_object_or_null(config, kSection, printable(file, 400));
  if (section == nullptr) return std::nullopt;
  const std::string where = printable(file, 400) + ": " + kSection;

  const std::string method = json_string(*section, "quant_method", where);
  if (method != "compressed-tensors") {
    unsupported(where, "quant_method", quoted(method), "\"compressed-tensors\"");
  }
  const std::string status = json_string_or(*section, "quantization_status", where, "compressed");
  if (status != "compressed" && status != "frozen") {
    unsupported(where, "quantization_status", quoted(status), "\"compressed\"");
  }
  check_absent(*section, "kv_cache_scheme", where);
  check_absent(*section, "transform_config", where);
  const Json* sparsity = json_object_or_null(*section, "sparsity_config", where);
  if (sparsity != nullptr && !sparsity->empty() &&
      json_string_or(*sparsity, "format", where, "dense") != "dense") {
    unsupported(where + ": sparsity_config", "format", show(*sparsity, "format"),
                "\"dense\" (zeros stored as zeros)");
  }

  const Json* groups = json_object_or_null(*section, "config_groups", where);
  if (groups == nullptr || groups->empty()) fail_input("{}: \"config_groups\" names no group", where);
  std::optional<DType> dtype;
  std::vector<std::string> targets;
  for (const auto& item : groups->items()) {
    const std::string place = where + ": " + printable(item.key());
    const Json* group = json_object_or_null(*groups, item.key(), where);
    if (group == nullptr) fail_input("{}: expected an object", place);
    const DType found = check_group(*group, place);
    if (dtype && *dtype != found) {
      unsupported(place, "type", "another than in the group before", "one type for the whole model");
    }
    dtype = found;
    check_format(*group, found, place);
    std::vector<std::string> names = string_list(*group, "targets", place);
    targets.insert(targets.end(), std::make_move_iterator(names.begin()),
                   std::make_move_iterator(names.end()));
  }
  check_format(*section, *dtype, where);
  return CompressedTensorsConfig(*dtype, targets, string_list(*section, "ignore", where), where);
}

std::string config_with_compressed_tensors(const std::string& config_text, DType dtype,
                                           const std::vector<std::string>& ignore) {
  require(dtype == DType::kI8 || dtype == DType::kF8E4M3 || dtype == DType::kBF16,
          "no compressed-tensors form of {}", dtype_name(dtype));
  OrderedJson config = parse_ordered_object(config_text, "config.json");
  config.erase("slidesparse");
  config.erase(kSection);
  if (dtype != DType::kBF16) {
    const char* type = dtype == DType::kI8 ? "int" : "float";
    const auto arguments = [&](bool dynamic, const char* strategy) {
      OrderedJson result = OrderedJson::object();
      result["num_bits"] = 8;
      result["type"] = type;
      result["symmetric"] = true;
      result["group_size"] = nullptr;
      result["strategy"] = strategy;
      result["dynamic"] = dynamic;
      result["actorder"] = nullptr;
      result["observer"] = dynamic ? OrderedJson(nullptr) : OrderedJson("minmax");
      result["observer_kwargs"] = OrderedJson::object();
      return result;
    };
    OrderedJson group = OrderedJson::object();
    group["targets"] = OrderedJson::array({kLinearClass});
    group["weights"] = arguments(false, "channel");
    group["input_activations"] = arguments(true, "token");
    group["output_activations"] = nullptr;
    OrderedJson section = OrderedJson::object();
    section["config_groups"]["group_0"] = std::move(group);
    section["quant_method"] = "compressed-tensors";
    section["kv_cache_scheme"] = nullptr;
    section["format"] = dtype == DType::kI8 ? "int-quantized" : "float-quantized";
    section["quantization_status"] = "compressed";
    section["global_compression_ratio"] = nullptr;
    section["ignore"] = ignore;
    config[kSection] = std::move(section);
  }
  return config.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

}  // namespace slidesparse
