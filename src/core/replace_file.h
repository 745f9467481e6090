#pragma once

#include <string>
#include <string_view>

namespace slidesparse {

// Puts `content` into `path` at once: a temporary file beside it, synced, then renamed, so that a reader or a
// crash sees the old file or the new one. Makes missing folders. Throws kIo with path and reason.
void replace_file(const std::string& path, std::string_view content);

// While it lives, no other process that takes the same lock goes on: an empty file `path` that stays. Throws
// kIo.
class FileLock {
 public:
  explicit FileLock(const std::string& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace slidesparse
