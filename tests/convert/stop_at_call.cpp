// Loaded into the program before everything else (LD_PRELOAD): the process stops itself (SIGSTOP) just before
// the calls that change files whose numbers SLIDESPARSE_STOP_AT lists ("12" or "12,13"; the first is 1), so
// that a test can send it a signal at a moment of its choice. SLIDESPARSE_COUNT_TO names a file that gets the
// number of calls when the process exits.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>

namespace {

std::atomic<long> calls{0};

bool is_listed(long number) {
  const char* text = std::getenv("SLIDESPARSE_STOP_AT");
  while (text != nullptr && *text != '\0') {
    char* end = nullptr;
    if (std::strtol(text, &end, 10) == number) return true;
    text = *end == ',' ? end + 1 : nullptr;
  }
  return false;
}

void tick() {
  if (is_listed(++calls)) ::raise(SIGSTOP);
}

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

__attribute__((destructor)) void report() {
  const char* path = std::getenv("SLIDESPARSE_COUNT_TO");
  if (path == nullptr) return;
  if (std::FILE* file = std::fopen(path, "w")) {
    std::fprintf(file, "%ld\n", calls.load());
    std::fclose(file);
  }
}

}  // namespace

extern "C" {

ssize_t pwrite(int fd, const void* data, size_t bytes, off_t offset) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite");
  tick();
  return real(fd, data, bytes, offset);
}

ssize_t pwrite64(int fd, const void* data, size_t bytes, off_t offset) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite64");
  tick();
  return real(fd, data, bytes, offset);
}

int fsync(int fd) {
  static const auto real = next<int (*)(int)>("fsync");
  tick();
  return real(fd);
}

int rename(const char* from, const char* to) {
  static const auto real = next<int (*)(const char*, const char*)>("rename");
  tick();
  return real(from, to);
}

}  // extern "C"
