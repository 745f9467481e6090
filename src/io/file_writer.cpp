#include "io/file_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {
namespace {

// Bytes of one pwrite: Linux moves at most 0x7ffff000 at a time anyway.
constexpr std::size_t kMaxWrite = std::size_t{1} << 30;

std::string name_of(const std::filesystem::path& path) {
  return printable(path.string(), 400);
}

// Adds what a person needs to mend a full disk.
[[noreturn]] void fail_write(const std::filesystem::path& path, const char* operation, std::int64_t bytes,
                             int error) {
  std::string space;
  struct statvfs status {};
  const std::filesystem::path directory =
      path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  if ((error == ENOSPC || error == EDQUOT) && ::statvfs(directory.c_str(), &status) == 0) {
    const double free_bytes = static_cast<double>(status.f_bavail) * static_cast<double>(status.f_frsize);
    space = fmt::format(" ({} free there; make room and run again)", format_bytes(free_bytes));
  }
  fail(ErrorKind::kIo, "{}: {} of {} bytes failed: {}{}", name_of(path), operation, bytes,
       std::strerror(error), space);
}

void write_all(int fd, const std::filesystem::path& path, std::int64_t offset,
               std::span<const std::byte> data) {
  while (!data.empty()) {
    const std::size_t chunk = std::min(data.size(), kMaxWrite);
    const std::int64_t written = file_ops().pwrite(fd, data.data(), chunk, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_write(path, "write", static_cast<std::int64_t>(data.size()), errno);
    // A regular file that takes nothing and reports nothing is out of space; going on would never end.
    if (written == 0) fail_write(path, "write", static_cast<std::int64_t>(data.size()), ENOSPC);
    data = data.subspan(static_cast<std::size_t>(written));
    offset += written;
  }
}

// Sets the size and, when the file grows, reserves the blocks.
int set_size(int fd, std::int64_t size) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return -1;
  if (status.st_size > size) return ::ftruncate(fd, size);
  if (size == 0) return 0;
  while (::fallocate(fd, 0, 0, size) != 0) {
    if (errno == EINTR) continue;
    if (errno != EOPNOTSUPP && errno != ENOSYS) return -1;
    return ::ftruncate(fd, size);  // this file system reserves nothing: a full disk shows at the write
  }
  return 0;
}

}  // namespace

FileOps FileOps::system() {
  FileOps ops;
  ops.open = [](const char* path, int flags, int mode) { return ::open(path, flags, mode); };
  ops.pwrite = [](int fd, const void* data, std::size_t bytes, std::int64_t offset) -> std::int64_t {
    return ::pwrite(fd, data, bytes, offset);
  };
  ops.truncate = set_size;
  ops.sync = [](int fd) { return ::fsync(fd); };
  ops.rename = [](const char* from, const char* to) { return std::rename(from, to); };
  return ops;
}

FileOps& file_ops() {
  static FileOps ops = FileOps::system();
  return ops;
}

OutputFile::OutputFile(const std::filesystem::path& path, std::int64_t size) : path_(path) {
  require(size >= 0, "{}: output size {}", name_of(path), size);
  // A link left where the output goes would make us overwrite something else.
  fd_ = file_ops().open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd_ < 0) fail(ErrorKind::kIo, "{}: cannot open for writing: {}", name_of(path), std::strerror(errno));
  if (file_ops().truncate(fd_, size) != 0) {
    const int error = errno;
    ::close(std::exchange(fd_, -1));
    fail_write(path, "reserving", size, error);
  }
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    path_ = std::move(other.path_);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void OutputFile::write_at(std::int64_t offset, std::span<const std::byte> data) {
  require(fd_ >= 0 && offset >= 0, "{}: write at {} of a file that is not open", name_of(path_), offset);
  write_all(fd_, path_, offset, data);
}

void OutputFile::sync() {
  if (file_ops().sync(fd_) != 0)
    fail(ErrorKind::kIo, "{}: sync failed: {}", name_of(path_), std::strerror(errno));
}

void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  // Always the same temporary name, so that a run that was killed leaves nothing that the next one does not
  // replace.
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  const int fd =
      file_ops().open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0) fail(ErrorKind::kIo, "{}: cannot create: {}", name_of(temporary), std::strerror(errno));
  try {
    write_all(fd, temporary, 0, std::as_bytes(std::span(content.data(), content.size())));
    if (file_ops().sync(fd) != 0) {
      fail(ErrorKind::kIo, "{}: sync failed: {}", name_of(temporary), std::strerror(errno));
    }
  } catch (...) {
    ::close(fd);
    ::unlink(temporary.c_str());
    throw;
  }
  ::close(fd);
  if (file_ops().rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary.c_str());
    fail(ErrorKind::kIo, "{}: cannot rename {} to it: {}", name_of(path), name_of(temporary.filename()),
         std::strerror(error));
  }
  sync_directory(path.has_parent_path() ? path.parent_path() : std::filesystem::path("."));
}

void sync_directory(const std::filesystem::path& path) {
  const int fd = file_ops().open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (fd < 0) fail(ErrorKind::kIo, "{}: cannot open the directory: {}", name_of(path), std::strerror(errno));
  const int result = file_ops().sync(fd);
  const int error = errno;
  ::close(fd);
  // Some file systems (FUSE, network) cannot sync directories; they order renames themselves.
  if (result != 0 && error != EINVAL && error != ENOTSUP) {
    fail(ErrorKind::kIo, "{}: sync of the directory failed: {}", name_of(path), std::strerror(error));
  }
}

}  // namespace slidesparse
