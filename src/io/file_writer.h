#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace slidesparse {

// Every system call that writes, so that tests can inject short writes, ENOSPC, EIO and sudden death. Each
// returns what the call returns and sets errno.
struct FileOps {
  std::function<int(const char* path, int flags, int mode)> open;
  std::function<std::int64_t(int fd, const void* data, std::size_t bytes, std::int64_t offset)> pwrite;
  std::function<int(int fd, std::int64_t size)>
      truncate;  // also reserves the space (posix_fallocate) so that a full disk shows early
  std::function<int(int fd)> sync;
  std::function<int(const char* from, const char* to)> rename;
  static FileOps system();
};
// The operations in use; tests replace them.
FileOps& file_ops();

// A file written in place at known offsets (resumable output). Errors throw kIo: path, operation, strerror,
// bytes asked and free.
class OutputFile {
 public:
  // Creates or reopens; never truncates below `size`, extends to `size`.
  OutputFile(const std::filesystem::path& path, std::int64_t size);
  ~OutputFile();
  OutputFile(OutputFile&&) noexcept;
  OutputFile& operator=(OutputFile&&) noexcept;
  // Writes all of it (short writes are continued); thread-safe for disjoint ranges.
  void write_at(std::int64_t offset, std::span<const std::byte> data);
  void sync();

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

// Writes a whole small file atomically: temporary name in the same directory, fsync, rename, fsync of the
// directory.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);
// fsync of a directory after renames inside it.
void sync_directory(const std::filesystem::path& path);

}  // namespace slidesparse
