#include "core/replace_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_io(const std::string& path, const char* what, int error) {
  fail(ErrorKind::kIo, "{}: cannot {}: {}", printable(path, 400), what, std::strerror(error));
}

void make_parent(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  std::error_code error;
  if (!parent.empty() && !fs::is_directory(parent, error)) {
    fs::create_directories(parent, error);
    if (error) fail_io(parent.string(), "create the folder", error.value());
  }
}

// What is written goes to the disk before the name does.
void write_synced(const std::string& path, std::string_view content) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0) fail_io(path, "create", errno);
  while (!content.empty()) {
    const auto written = ::write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      const int error = written < 0 ? errno : ENOSPC;
      ::close(fd);
      ::unlink(path.c_str());
      fail_io(path, "write", error);
    }
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  const int result = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  if (result != 0) {
    ::unlink(path.c_str());
    fail_io(path, "sync", error);
  }
}

}  // namespace

void replace_file(const std::string& path, std::string_view content) {
  make_parent(path);
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  write_synced(temporary, content);
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary.c_str());
    fail_io(path, "rename a new file to it", error);
  }
  // The folder's entry too; file systems that cannot sync a folder order renames themselves.
  const fs::path parent = fs::path(path).parent_path();
  const int folder = ::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    ::fsync(folder);
    ::close(folder);
  }
}

FileLock::FileLock(const std::string& path) {
  make_parent(path);
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd_ < 0) fail_io(path, "open the lock", errno);
  while (::flock(fd_, LOCK_EX) != 0) {
    if (errno == EINTR) continue;
    const int error = errno;
    ::close(fd_);
    fail_io(path, "lock", error);
  }
}

FileLock::~FileLock() {
  ::close(fd_);  // gives the lock up
}

}  // namespace slidesparse
