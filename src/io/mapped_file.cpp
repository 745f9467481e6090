#include "io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>
#include <string>

#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {
namespace {

// The live mappings, readable from a signal handler: slots are only ever added, and a slot's text outlives
// its mapping. `begin` is written last when a slot is taken and first when it is given back.
struct Slot {
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::uintptr_t> end{0};
  std::atomic<const std::string*> message{nullptr};
  bool taken = false;  // guarded by slots_mutex()
};

struct SlotBlock {
  std::array<Slot, 256> slots;
  std::atomic<SlotBlock*> next{nullptr};
};

SlotBlock first_block;

std::mutex& slots_mutex() {
  static std::mutex mutex;
  return mutex;
}

struct sigaction previous_action;

void write_all(const char* text, std::size_t length) {
  while (length > 0) {
    const ssize_t written = ::write(STDERR_FILENO, text, length);
    if (written <= 0) return;
    text += written;
    length -= static_cast<std::size_t>(written);
  }
}

// Only async-signal-safe calls. A fault inside one of our mappings means that the file lost that page;
// anything else goes to whoever had the signal before.
void on_bus_error(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  for (SlotBlock* block = &first_block; block != nullptr;
       block = block->next.load(std::memory_order_acquire)) {
    for (Slot& slot : block->slots) {
      const std::uintptr_t begin = slot.begin.load(std::memory_order_acquire);
      if (begin == 0 || address < begin || address >= slot.end.load(std::memory_order_relaxed)) continue;
      const std::string* message = slot.message.load(std::memory_order_relaxed);
      write_all(message->data(), message->size());
      ::_exit(1);
    }
  }
  if ((previous_action.sa_flags & SA_SIGINFO) != 0 && previous_action.sa_sigaction != nullptr) {
    previous_action.sa_sigaction(signal, info, context);
    return;
  }
  if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    previous_action.sa_handler(signal);
    return;
  }
  // Returning repeats the access under the default action, so the core dump shows the right place.
  struct sigaction plain {};
  plain.sa_handler = SIG_DFL;
  ::sigaction(SIGBUS, &plain, nullptr);
}

void install_handler() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    ::sigemptyset(&action.sa_mask);
    ::sigaction(SIGBUS, &action, &previous_action);
  });
}

Slot* take_slot() {
  const std::lock_guard lock(slots_mutex());
  SlotBlock* block = &first_block;
  while (true) {
    for (Slot& slot : block->slots) {
      if (!slot.taken) {
        slot.taken = true;
        return &slot;
      }
    }
    SlotBlock* next = block->next.load();
    if (next == nullptr) {
      next = new SlotBlock();  // never freed: the handler may walk the list at any time
      block->next.store(next, std::memory_order_release);
    }
    block = next;
  }
}

void give_back(Slot* slot) {
  const std::lock_guard lock(slots_mutex());
  slot->begin.store(0, std::memory_order_release);
  slot->taken = false;
}

}  // namespace

struct MappedFile::State {
  std::filesystem::path path;
  std::string message;  // what the signal handler prints
  std::byte* data = nullptr;
  std::size_t size = 0;
  Slot* slot = nullptr;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (slot != nullptr) give_back(slot);
    if (data != nullptr) ::munmap(data, size);
  }

  void advise(std::int64_t offset, std::int64_t length, int advice) const {
    const auto limit = static_cast<std::int64_t>(size);
    offset = std::clamp<std::int64_t>(offset, 0, limit);
    length = std::clamp<std::int64_t>(length, 0, limit - offset);
    if (length == 0) return;
    const std::int64_t page = ::sysconf(_SC_PAGESIZE);
    const std::int64_t begin = offset / page * page;
    ::madvise(data + begin, static_cast<std::size_t>(offset + length - begin), advice);  // a hint: may fail
  }
};

MappedFile::MappedFile(const std::filesystem::path& path) : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.path = path;
  const std::string name = printable(path.string(), 400);
  // Not blocking: opening a FIFO that nobody writes to would wait forever.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail(ErrorKind::kIo, "{}: cannot open: {}", name, std::strerror(errno));
  struct stat status {};
  if (::fstat(fd, &status) != 0) {
    const int error = errno;
    ::close(fd);
    fail(ErrorKind::kIo, "{}: cannot read its size: {}", name, std::strerror(error));
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(fd);
    fail(ErrorKind::kIo, "{}: not a regular file{}", name, S_ISDIR(status.st_mode) ? " (a directory)" : "");
  }
  static_assert(sizeof(status.st_size) == 8 && sizeof(std::size_t) == 8, "file sizes need 64 bits");
  state.size = static_cast<std::size_t>(status.st_size);
  if (state.size > 0) {
    void* address = ::mmap(nullptr, state.size, PROT_READ, MAP_SHARED, fd, 0);
    const int error = errno;
    ::close(fd);
    if (address == MAP_FAILED) {
      fail(ErrorKind::kIo, "{}: cannot map {} bytes: {}", name, state.size, std::strerror(error));
    }
    state.data = static_cast<std::byte*>(address);
    state.message = fmt::format(
        "error: {}: the file was {} bytes long when it was opened and lost a part of that while it was read "
        "(or its disk failed); run "
        "again when the file is whole\n",
        name, state.size);
    install_handler();
    state.slot = take_slot();
    state.slot->message.store(&state.message, std::memory_order_relaxed);
    const auto begin = reinterpret_cast<std::uintptr_t>(state.data);
    state.slot->end.store(begin + state.size, std::memory_order_relaxed);
    state.slot->begin.store(begin, std::memory_order_release);
  } else {
    ::close(fd);
  }
}

MappedFile::~MappedFile() = default;
MappedFile::MappedFile(MappedFile&&) noexcept = default;
MappedFile& MappedFile::operator=(MappedFile&&) noexcept = default;

std::span<const std::byte> MappedFile::bytes() const {
  return {state_->data, state_->size};
}
const std::filesystem::path& MappedFile::path() const {
  return state_->path;
}

void MappedFile::prefetch(std::int64_t offset, std::int64_t length) const {
  state_->advise(offset, length, MADV_WILLNEED);
}

void MappedFile::release(std::int64_t offset, std::int64_t length) const {
  state_->advise(offset, length, MADV_DONTNEED);
}

}  // namespace slidesparse
