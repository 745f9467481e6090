#include "io/tokenizer/json_node.h"

#include "core/text.h"

namespace slidesparse::tok {
JsonNode JsonNode::at(const char* key) const {
  expect_object();
  const auto found = value_->find(key);
  if (found == value_->end()) refuse("\"{}\" is missing", key);
  return JsonNode(*found, file_, place_ == "top level" ? key : place_ + "." + key);
}

std::optional<JsonNode> JsonNode::find(const char* key) const {
  expect_object();
  const auto found = value_->find(key);
  if (found == value_->end() || found->is_null()) return std::nullopt;
  return at(key);
}

JsonNode JsonNode::element(std::size_t i) const {
  return JsonNode((*value_)[i], file_, place_ + "[" + std::to_string(i) + "]");
}

std::vector<JsonNode> JsonNode::elements() const {
  if (!value_->is_array()) refuse("expected an array, found {}", value_->type_name());
  std::vector<JsonNode> result;
  for (std::size_t i = 0; i < value_->size(); ++i) result.push_back(element(i));
  return result;
}

void JsonNode::expect_object() const {
  if (!value_->is_object()) refuse("expected an object, found {}", value_->type_name());
}

const std::string& JsonNode::string() const {
  if (!value_->is_string()) refuse("expected a string, found {}", value_->type_name());
  return value_->get_ref<const std::string&>();
}

bool JsonNode::boolean() const {
  if (!value_->is_boolean()) refuse("expected true or false, found {}", value_->type_name());
  return value_->get<bool>();
}

bool JsonNode::boolean_or(const char* key, bool otherwise) const {
  const auto member = find(key);
  return member ? member->boolean() : otherwise;
}

std::int64_t JsonNode::integer(std::int64_t limit) const {
  const bool fits =
      value_->is_number_unsigned() && value_->get<std::uint64_t>() <= static_cast<std::uint64_t>(limit);
  if (!fits) refuse("expected an integer from 0 to {}, found {}", limit, printable(value_->dump(), 40));
  return value_->get<std::int64_t>();
}

void JsonNode::refuse_type(const char* what, const char* supported) const {
  refuse("{} \"{}\" is not supported; supported are {}", what, printable(type(), 60), supported);
}

}  // namespace slidesparse::tok
