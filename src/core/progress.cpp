#include "core/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include <fmt/core.h>

#include "core/text.h"

namespace slidesparse {

Progress::Progress(std::string title, std::int64_t total, Unit unit, bool quiet)
    : title_(std::move(title)),
      total_(total),
      unit_(unit),
      quiet_(quiet),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()),
      last_print_(start_) {}

Progress::~Progress() {
  finish();
}

void Progress::advance(std::int64_t amount) {
  done_ += amount;
  print(false);
}

void Progress::skip(std::int64_t amount) {
  done_ += amount;
  skipped_ += amount;
  print(false);
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  print(true);
}

void Progress::print(bool last) {
  if (quiet_) return;
  const auto now = std::chrono::steady_clock::now();
  const auto pause = terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(10000);
  if (!last && now - last_print_ < pause) return;
  last_print_ = now;
  const double seconds = std::max(1e-9, std::chrono::duration<double>(now - start_).count());
  const double rate = static_cast<double>(done_ - skipped_) / seconds;
  const auto amount = [this](double value) {
    return unit_ == Unit::kBytes ? format_bytes(value) : fmt::format("{:.0f}", value);
  };
  std::string line = fmt::format("{}: {} of {}", title_, amount(static_cast<double>(done_)),
                                 amount(static_cast<double>(total_)));
  if (total_ > 0)
    line += fmt::format(" ({:.0f} %)", 100.0 * static_cast<double>(done_) / static_cast<double>(total_));
  if (rate > 0) line += fmt::format(", {}/s", amount(rate));
  if (last) {
    line += fmt::format(", {:.1f} s", seconds);
  } else if (rate > 0) {
    line += fmt::format(", {:.0f} s left", static_cast<double>(total_ - done_) / rate);
  }
  if (!detail_.empty() && !last) line += ", " + detail_;
  if (terminal_) {
    std::fprintf(stderr, "\r\033[K%s%s", line.c_str(), last ? "\n" : "");
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
  std::fflush(stderr);
}

}  // namespace slidesparse
