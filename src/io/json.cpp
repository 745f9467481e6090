#include "io/json.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <unordered_set>
#include <vector>

#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {
namespace {

// "an object", "the number 3.5", ...: what was found, for messages.
std::string describe(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "a list";
    default:
      return printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), 80);
  }
}

const Json* find_member(const Json& object, std::string_view key, const std::string& where) {
  if (!object.is_object()) fail_input("{}: expected an object, found {}", where, describe(object));
  const auto member = object.find(key);
  return member == object.end() ? nullptr : &*member;
}

const Json& need_member(const Json& object, std::string_view key, const std::string& where) {
  const Json* member = find_member(object, key, where);
  if (member == nullptr) fail_input("{}: key \"{}\" is missing", where, printable(key));
  return *member;
}

// A missing key and JSON null both mean "use the default".
const Json* given_member(const Json& object, std::string_view key, const std::string& where) {
  const Json* member = find_member(object, key, where);
  return member == nullptr || member->is_null() ? nullptr : member;
}

std::int64_t to_int(const Json& value, std::string_view key, const std::string& where, std::int64_t low,
                    std::int64_t high) {
  if (!value.is_number_integer()) {
    fail_input("{}: \"{}\" must be an integer, found {}", where, printable(key), describe(value));
  }
  const bool fits =
      !value.is_number_unsigned() || value.get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX);
  const std::int64_t number = fits ? value.get<std::int64_t>() : 0;
  if (!fits || number < low || number > high) {
    fail_input("{}: \"{}\" must be between {} and {}, found {}", where, printable(key), low, high,
               describe(value));
  }
  return number;
}

double to_number(const Json& value, std::string_view key, const std::string& where, double low, double high) {
  if (!value.is_number()) {
    fail_input("{}: \"{}\" must be a number, found {}", where, printable(key), describe(value));
  }
  const double number = value.get<double>();
  if (!std::isfinite(number) || number < low || number > high) {
    fail_input("{}: \"{}\" must be between {} and {}, found {}", where, printable(key), low, high,
               describe(value));
  }
  return number;
}

const std::string& to_text(const Json& value, std::string_view key, const std::string& where) {
  if (!value.is_string()) {
    fail_input("{}: \"{}\" must be a string, found {}", where, printable(key), describe(value));
  }
  return value.get_ref<const std::string&>();
}

// Keys of one object that ordered JSON can take: its objects are lists, so n keys cost n^2.
constexpr std::size_t kMaxOrderedKeys = 10'000;

void check_key_counts(const Json& value, const std::string& name) {
  if (!value.is_structured()) return;
  if (value.is_object() && value.size() > kMaxOrderedKeys) {
    fail_input("{}: an object has {} keys, at most {} are accepted", name, value.size(), kMaxOrderedKeys);
  }
  for (const Json& item : value) check_key_counts(item, name);  // at most as deep as parse_json allows
}

}  // namespace

Json parse_json(std::string_view text, const std::string& file, int max_depth) {
  const std::string name = printable(file, 400);
  // Keys seen in each object that is open, null for arrays; its size is the depth.
  std::vector<std::unordered_set<std::string>> open;
  const auto check = [&](int, Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        if (static_cast<int>(open.size()) >= max_depth)
          fail_input("{}: nests deeper than {} levels", name, max_depth);
        open.emplace_back();
        break;
      case Json::parse_event_t::object_end:
      case Json::parse_event_t::array_end:
        open.pop_back();
        break;
      case Json::parse_event_t::key:
        if (!open.back().insert(parsed.get_ref<const std::string&>()).second) {
          fail_input("{}: key \"{}\" stands twice in one object", name,
                     printable(parsed.get_ref<const std::string&>()));
        }
        break;
      case Json::parse_event_t::value:
        break;
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), check);
  } catch (const Json::exception& error) {
    std::string_view message = error.what();
    if (const auto bracket = message.find("] "); bracket != std::string_view::npos)
      message.remove_prefix(bracket + 2);
    fail_input("{}: not valid JSON: {}", name, printable(message));
  }
}

OrderedJson parse_ordered_object(std::string_view text, const std::string& file) {
  const std::string name = printable(file, 400);
  const Json checked = parse_json(text, file);
  if (!checked.is_object()) fail_input("{}: expected an object, found {}", name, describe(checked));
  check_key_counts(checked, name);
  return OrderedJson::parse(text.begin(), text.end());
}

std::string read_text_file(const std::filesystem::path& path, std::int64_t limit) {
  const std::string name = printable(path.string(), 400);
  // Not blocking: a FIFO in place of the file must not hang us.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail(ErrorKind::kIo, "{}: cannot open: {}", name, std::strerror(errno));
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } const closer{fd};
  struct stat status {};
  if (::fstat(fd, &status) != 0)
    fail(ErrorKind::kIo, "{}: cannot read its size: {}", name, std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail(ErrorKind::kIo, "{}: not a regular file", name);
  if (status.st_size > limit) {
    fail_input("{}: {} bytes long, at most {} are accepted", name, static_cast<std::int64_t>(status.st_size),
               limit);
  }
  std::string text(static_cast<std::size_t>(status.st_size), '\0');
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(fd, text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(ErrorKind::kIo, "{}: cannot read: {}", name, std::strerror(errno));
    if (got == 0)
      fail(ErrorKind::kIo, "{}: ends after {} of {} bytes: it shrank while it was read", name, done,
           text.size());
    done += static_cast<std::size_t>(got);
  }
  return text;
}

std::int64_t json_int(const Json& object, std::string_view key, const std::string& where, std::int64_t low,
                      std::int64_t high) {
  return to_int(need_member(object, key, where), key, where, low, high);
}

std::int64_t json_int_or(const Json& object, std::string_view key, const std::string& where, std::int64_t low,
                         std::int64_t high, std::int64_t fallback) {
  const Json* member = given_member(object, key, where);
  return member == nullptr ? fallback : to_int(*member, key, where, low, high);
}

double json_number(const Json& object, std::string_view key, const std::string& where, double low,
                   double high) {
  return to_number(need_member(object, key, where), key, where, low, high);
}

double json_number_or(const Json& object, std::string_view key, const std::string& where, double low,
                      double high, double fallback) {
  const Json* member = given_member(object, key, where);
  return member == nullptr ? fallback : to_number(*member, key, where, low, high);
}

bool json_bool_or(const Json& object, std::string_view key, const std::string& where, bool fallback) {
  const Json* member = given_member(object, key, where);
  if (member == nullptr) return fallback;
  if (!member->is_boolean()) {
    fail_input("{}: \"{}\" must be true or false, found {}", where, printable(key), describe(*member));
  }
  return member->get<bool>();
}

std::string json_string(const Json& object, std::string_view key, const std::string& where) {
  return to_text(need_member(object, key, where), key, where);
}

std::string json_string_or(const Json& object, std::string_view key, const std::string& where,
                           const std::string& fallback) {
  const Json* member = given_member(object, key, where);
  return member == nullptr ? fallback : to_text(*member, key, where);
}

const Json* json_object_or_null(const Json& object, std::string_view key, const std::string& where) {
  const Json* member = given_member(object, key, where);
  if (member != nullptr && !member->is_object()) {
    fail_input("{}: \"{}\" must be an object, found {}", where, printable(key), describe(*member));
  }
  return member;
}

}  // namespace slidesparse
