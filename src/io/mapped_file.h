#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace slidesparse {

// A file mapped read-only. When the file shrinks while it is mapped, touching the lost part ends the process
// with exit code 1 and one line that names the file (a SIGBUS handler that knows the live mappings), not with
// a bare signal.
class MappedFile {
 public:
  // Throws kIo (cannot open, not a regular file); an empty file maps to an empty span.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&&) noexcept;
  MappedFile& operator=(MappedFile&&) noexcept;

  std::span<const std::byte> bytes() const;
  std::int64_t size() const { return static_cast<std::int64_t>(bytes().size()); }
  const std::filesystem::path& path() const;
  // Hints: the range will be read soon, or will not be needed again (gives page-cache references back).
  void prefetch(std::int64_t offset, std::int64_t length) const;
  void release(std::int64_t offset, std::int64_t length) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace slidesparse
