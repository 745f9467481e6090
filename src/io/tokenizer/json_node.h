#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/fail.h"

namespace slidesparse::tok {

// A value of a JSON document together with where it is ("model.merges[3]"), so that every error can say so.
class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, std::string file, std::string place)
      : value_(&value), file_(std::move(file)), place_(std::move(place)) {}

  // Throws "FILE: PLACE: message".
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail_input("{}: {}: {}", file_, place_, fmt::format(format, std::forward<Args>(args)...));
  }

  const nlohmann::json& value() const { return *value_; }
  bool is_null() const { return value_->is_null(); }

  // Member of an object; refuses when this is no object or has no such member.
  JsonNode at(const char* key) const;
  // The same, but nothing when the member is missing or null.
  std::optional<JsonNode> find(const char* key) const;
  // Elements of an array.
  std::vector<JsonNode> elements() const;
  JsonNode element(std::size_t i) const;

  void expect_object() const;
  const std::string& string() const;
  bool boolean() const;
  bool boolean_or(const char* key, bool otherwise) const;
  // An integer from 0 to `limit`.
  std::int64_t integer(std::int64_t limit) const;
  // The member "type".
  const std::string& type() const { return at("type").string(); }
  // Says which types there are; for a `type` that is none of them.
  [[noreturn]] void refuse_type(const char* what, const char* supported) const;

 private:
  const nlohmann::json* value_;
  std::string file_;
  std::string place_;
};

}  // namespace slidesparse::tok
