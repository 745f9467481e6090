#pragma once

// Reading JSON from outside: bounded, typed, with errors that name the file and the place. Include from .cpp
// files only.
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace slidesparse {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

// Parses text; throws kInput "FILE: ..." for anything that is not JSON, nests deeper than `max_depth`,
// repeats a key in one object, or is not UTF-8.
Json parse_json(std::string_view text, const std::string& file, int max_depth = 64);

// The same for an object whose keys keep their order, for texts that are changed and written again. Also
// refuses an object that is not one at the top, and more than 10,000 keys in one object: ordered objects are
// searched from their start.
OrderedJson parse_ordered_object(std::string_view text, const std::string& file);

// Reads a whole small file (at most `limit` bytes); throws kIo / kInput.
std::string read_text_file(const std::filesystem::path& path, std::int64_t limit = 256 << 20);

// Typed access to an object's members; `where` is "config.json" or "config.json: rope_scaling", used in
// messages. The required forms throw kInput when the key is missing or of another type; integers must be
// integers (no 3.0, no NaN) in [low, high].
std::int64_t json_int(const Json& object, std::string_view key, const std::string& where, std::int64_t low,
                      std::int64_t high);
std::int64_t json_int_or(const Json& object, std::string_view key, const std::string& where, std::int64_t low,
                         std::int64_t high, std::int64_t fallback);
double json_number(const Json& object, std::string_view key, const std::string& where, double low,
                   double high);
double json_number_or(const Json& object, std::string_view key, const std::string& where, double low,
                      double high, double fallback);
bool json_bool_or(const Json& object, std::string_view key, const std::string& where, bool fallback);
std::string json_string(const Json& object, std::string_view key, const std::string& where);
std::string json_string_or(const Json& object, std::string_view key, const std::string& where,
                           const std::string& fallback);
// The member, or null when it is missing or JSON null; throws when it is there and not an object.
const Json* json_object_or_null(const Json& object, std::string_view key, const std::string& where);

}  // namespace slidesparse
