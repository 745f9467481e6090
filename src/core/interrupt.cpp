#include "core/interrupt.h"

#include <atomic>
#include <csignal>

#include "core/fail.h"

namespace slidesparse {
namespace {

std::atomic<bool> requested{false};

void on_signal(int signal) {
  requested.store(true);
  std::signal(signal, SIG_DFL);
}

}  // namespace

void install_interrupt_handler() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
}

bool interrupt_requested() {
  return requested.load(std::memory_order_relaxed);
}

void check_interrupt(std::string_view how_to_go_on) {
  if (interrupt_requested()) fail(ErrorKind::kInterrupted, "interrupted; {}", how_to_go_on);
}

}  // namespace slidesparse
