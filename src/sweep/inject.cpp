#include "sweep/inject.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <thread>

#include "core/buffer.h"
#include "core/fail.h"
#include "core/text.h"
#include "model/memory_plan.h"
#include "model/presets.h"

namespace slidesparse {
namespace {

constexpr std::array<std::string_view, 11> kFailures{
    "out_of_memory", "does_not_fit", "illegal_access", "illegal_instruction",
    "time_out",      "wrong_result", "unsupported",    "library_error",
    "killed",        "exit",         "failed"};
constexpr int kExitStatus = 3;
constexpr std::size_t kTooMuch = std::size_t{1} << 60;

bool read_number(std::string_view text, std::int64_t& value) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  return parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() && value >= 1;
}

// A process that handles or ignores a signal is to end by it all the same.
void end_by(int signal) {
  std::signal(signal, SIG_DFL);
  ::raise(signal);
}

}  // namespace

Injection parse_injection(std::string_view text) {
  const std::size_t at = text.find('@');
  Injection injection;
  injection.what = text.substr(0, at);
  std::string_view rest = at == std::string_view::npos ? std::string_view() : text.substr(at + 1);
  bool good = std::find(kFailures.begin(), kFailures.end(), injection.what) != kFailures.end();
  if (const std::size_t times = rest.find('x'); times != std::string_view::npos) {
    good = good && read_number(rest.substr(times + 1), injection.attempts);
    rest = rest.substr(0, times);
  }
  if (!good || !read_number(rest, injection.position)) {
    fail(ErrorKind::kUsage, "--inject {}: want WHAT@CELL or WHAT@CELLxATTEMPTS, WHAT one of {}",
         printable(text, 60), fmt::join(kFailures, ", "));
  }
  return injection;
}

std::string injected(const std::vector<Injection>& injections, std::int64_t position, std::int64_t number) {
  for (const Injection& injection : injections) {
    if (injection.position == position && number <= injection.attempts) return injection.what;
  }
  return {};
}

void inject_failure(std::string_view what) {
  if (what == "killed") end_by(SIGKILL);
  if (what == "illegal_access") end_by(SIGSEGV);
  if (what == "illegal_instruction") end_by(SIGILL);
  if (what == "exit") ::_exit(kExitStatus);
  if (what == "time_out") {
    while (true) std::this_thread::sleep_for(std::chrono::seconds(1));
  }
  if (what == "out_of_memory") const Buffer refused(kTooMuch);
  if (what == "unsupported") fail(ErrorKind::kUnsupported, "asked to say that this cannot be done");
  if (what == "failed") fail(ErrorKind::kIo, "asked to fail");
  if (what == "library_error") {
    ErrorFacts facts;
    facts.library = "cublaslt";
    facts.library_code = 14;
    fail_with(std::move(facts), ErrorKind::kInternal, "asked to fail as cublasLtMatmul does with status 14");
  }
  if (what == "does_not_fit") {
    MemoryDemand demand;
    demand.config = *preset_config(preset_names().front());
    check_memory(demand, MemoryBudget{1 << 20, {}});
  }
}

}  // namespace slidesparse
