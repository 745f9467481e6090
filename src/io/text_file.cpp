#include "io/text_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "core/fail.h"

namespace slidesparse {
namespace {

constexpr std::size_t kLimit = std::size_t{4} << 30;

struct Close {
  void operator()(std::FILE* file) const {
    if (file != stdin) std::fclose(file);
  }
};

}  // namespace

std::string read_text_input(const std::string& path) {
  std::error_code error;
  if (path != "-" && std::filesystem::is_directory(path, error))
    fail_input("{} is a directory, not a text file", path);
  const std::unique_ptr<std::FILE, Close> file(path == "-" ? stdin : std::fopen(path.c_str(), "rb"));
  if (!file) fail(ErrorKind::kIo, "cannot open {}: {}", path, std::strerror(errno));
  std::string text;
  std::string block(std::size_t{1} << 20, '\0');
  while (const std::size_t count = std::fread(block.data(), 1, block.size(), file.get())) {
    if (text.size() + count > kLimit) fail_input("{}: more than {} bytes of text", path, kLimit);
    text.append(block, 0, count);
  }
  if (std::ferror(file.get()) != 0) fail(ErrorKind::kIo, "cannot read {}: {}", path, std::strerror(errno));
  return text;
}

std::string read_text_lines(const std::string& path) {
  std::string text = read_text_input(path);
  std::size_t kept = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\r' || i + 1 == text.size() || text[i + 1] != '\n') text[kept++] = text[i];
  }
  text.resize(kept);
  return text;
}

}  // namespace slidesparse
