#include "sweep/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>

#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {
namespace {

constexpr std::size_t kMostBytes = 4096;
constexpr int kLooks = 50;
constexpr unsigned kLookMicroseconds = 20'000;

std::filesystem::path lock_path(const std::filesystem::path& database) {
  return database.string() + ".lock";
}

std::string content(int fd) {
  std::array<char, kMostBytes> buffer{};
  const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), 0);
  return got > 0 ? std::string(buffer.data(), static_cast<std::size_t>(got)) : std::string();
}

// The owner's line of a lock file, made fit for a message.
std::string owner_line(int fd) {
  const std::string text = content(fd);
  return printable(text.substr(0, text.find('\n')), 300);
}

}  // namespace

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

SweepOwner SweepOwner::self() {
  SweepOwner owner;
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) == 0) owner.host = printable(host.data(), 100);
  std::string boot = "unknown";  // on a system without /proc
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  owner.boot_id = printable(boot, 60);
  owner.pid = ::getpid();
  owner.started_at = utc_now();
  return owner;
}

std::string SweepOwner::words() const {
  return fmt::format("pid {} on {} (boot {}), started at {}", pid, host, boot_id, started_at);
}

SweepLock::SweepLock(const std::filesystem::path& database, const SweepOwner& owner) {
  const std::string path = lock_path(database).string();
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) fail(ErrorKind::kIo, "{}: cannot be opened: {}", printable(path, 300), std::strerror(errno));
  // Who only looks holds it for a moment, and a process that a killed sweep was just starting until it runs.
  int refused = ::flock(fd_, LOCK_EX | LOCK_NB);
  for (int look = 0; refused != 0 && errno == EWOULDBLOCK && look < kLooks; ++look) {
    ::usleep(kLookMicroseconds);
    refused = ::flock(fd_, LOCK_EX | LOCK_NB);
  }
  if (refused != 0) {
    const bool taken = errno == EWOULDBLOCK;
    const std::string why = taken ? "another sweep is on it: " + owner_line(fd_) : std::strerror(errno);
    ::close(fd_);
    fail(ErrorKind::kIo, "{}: {}{}", printable(database.string(), 300), why,
         taken ? "; wait for it, or give another --db" : "");
  }
  left_by_ = owner_line(fd_);
  const std::string line = owner.words() + "\n";
  if (::ftruncate(fd_, 0) != 0 ||
      ::pwrite(fd_, line.data(), line.size(), 0) != static_cast<ssize_t>(line.size())) {
    const std::string why = std::strerror(errno);
    ::close(fd_);
    fail(ErrorKind::kIo, "{}: cannot be written: {}", printable(path, 300), why);
  }
}

SweepLock::~SweepLock() {
  // Left as it is, the next sweep only says that this one did not end cleanly.
  if (::ftruncate(fd_, 0) != 0) errno = 0;
  ::close(fd_);
}

std::string SweepLock::holder(const std::filesystem::path& database) {
  const int fd = ::open(lock_path(database).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  std::string owner;
  if (::flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK) owner = owner_line(fd);
  ::close(fd);
  return owner;
}

}  // namespace slidesparse
