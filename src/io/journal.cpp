#include "io/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/fail.h"
#include "core/text.h"
#include "io/digest.h"
#include "io/file_writer.h"
#include "io/json.h"

namespace slidesparse {
namespace {

// Hex digits of the SHA-256 of the rest of the line that stand at its start.
constexpr std::size_t kChecksumDigits = 16;

std::string make_line(const std::string& json) {
  return sha256_hex(json).substr(0, kChecksumDigits) + " " + json + "\n";
}

// The JSON of a line without its end, or nothing when it is torn or damaged.
std::optional<std::string_view> check_line(std::string_view line) {
  if (line.size() < kChecksumDigits + 1 || line[kChecksumDigits] != ' ') return std::nullopt;
  const std::string_view json = line.substr(kChecksumDigits + 1);
  if (sha256_hex(json).compare(0, kChecksumDigits, line.substr(0, kChecksumDigits)) != 0) return std::nullopt;
  return json;
}

// "KEY is A there and B here" for the first member in which two identities differ.
std::string first_difference(const Json& there, const Json& here) {
  const Json flat_there = there.flatten();
  const Json flat_here = here.flatten();
  const auto text = [](const Json& flat, const std::string& key) {
    return flat.contains(key)
               ? printable(flat.at(key).dump(-1, ' ', false, Json::error_handler_t::replace), 120)
               : "missing";
  };
  Json keys = flat_there;
  keys.update(flat_here);
  for (const auto& item : keys.items()) {
    const std::string left = text(flat_there, item.key());
    const std::string right = text(flat_here, item.key());
    if (left != right) return fmt::format("{} is {} there and {} here", printable(item.key()), left, right);
  }
  return "their forms differ";
}

std::string parse_identity(std::string_view json, const std::string& file, Json& identity) {
  const Json line = parse_json(json, file);
  const Json* member = json_object_or_null(line, "identity", file);
  if (member == nullptr) return "its first line has no identity";
  identity = *member;
  return "";
}

}  // namespace

Journal::Journal(const std::filesystem::path& path, const std::string& identity_json) : path_(path) {
  const std::string name = printable(path.string(), 400);
  const Json identity = parse_json(identity_json, name + " (identity)");
  require(identity.is_object(), "{}: the identity of a job must be an object", name);

  fd_ = file_ops().open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd_ < 0) fail(ErrorKind::kIo, "{}: cannot open: {}", name, std::strerror(errno));
  try {
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      fail(ErrorKind::kIo, "{}: another process is writing this directory; wait for it or stop it", name);
    }
    const std::string text = read_text_file(path);
    std::size_t position = 0;
    bool first = true;
    while (position < text.size()) {
      const std::size_t end = text.find('\n', position);
      const auto json = end == std::string::npos
                            ? std::nullopt
                            : check_line(std::string_view(text).substr(position, end - position));
      if (!json) break;  // torn by a sudden end: what it recorded is done again
      if (first) {
        Json found;
        const std::string problem = parse_identity(*json, name, found);
        if (!problem.empty()) fail_input("{}: {}; delete the directory and start again", name, problem);
        if (found != identity) {
          fail_input(
              "{}: an unfinished job with other inputs or options is here: {}; repeat that job, or delete "
              "the directory and start again",
              name, first_difference(found, identity));
        }
        first = false;
      } else {
        const Json line = parse_json(*json, name);
        done_.insert_or_assign(json_string(line, "item", name), json_string(line, "payload", name));
      }
      position = end + 1;
    }
    if (first && position < text.size() && text.find('\n') != std::string::npos) {
      fail_input("{}: its first line is damaged; delete the directory and start again", name);
    }
    end_ = static_cast<std::int64_t>(position);
    if (first) {
      const std::string line =
          make_line(Json{{"identity", identity}}.dump(-1, ' ', false, Json::error_handler_t::replace));
      append(line);
      sync_directory(path.has_parent_path() ? path.parent_path() : std::filesystem::path("."));
    }
  } catch (...) {
    ::close(std::exchange(fd_, -1));
    throw;
  }
}

Journal::~Journal() {
  if (fd_ >= 0) ::close(fd_);
}

std::optional<std::string> Journal::find(std::string_view item) const {
  const auto entry = done_.find(item);
  if (entry == done_.end()) return std::nullopt;
  return entry->second;
}

void Journal::record(std::string_view item, std::string_view payload_json) {
  // The payload is kept as a string, so that find() gives back the very bytes.
  const Json line{{"item", item}, {"payload", payload_json}};
  append(make_line(line.dump(-1, ' ', false, Json::error_handler_t::replace)));
  done_.insert_or_assign(std::string(item), std::string(payload_json));
}

void Journal::append(const std::string& line) {
  // At a fixed offset: what a failed or torn attempt left behind is overwritten, and cut off where it was
  // longer.
  const std::string name = printable(path_.string(), 400);
  std::size_t done = 0;
  while (done < line.size()) {
    const std::int64_t written = file_ops().pwrite(fd_, line.data() + done, line.size() - done,
                                                   end_ + static_cast<std::int64_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      fail(ErrorKind::kIo, "{}: write of {} bytes failed: {}", name, line.size(),
           std::strerror(written < 0 ? errno : ENOSPC));
    }
    done += static_cast<std::size_t>(written);
  }
  const std::int64_t end = end_ + static_cast<std::int64_t>(line.size());
  if (file_ops().truncate(fd_, end) != 0 || file_ops().sync(fd_) != 0) {
    fail(ErrorKind::kIo, "{}: sync failed: {}", name, std::strerror(errno));
  }
  end_ = end;
}

}  // namespace slidesparse
