#include "gemm/probe.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <optional>

#include "core/fail.h"
#include "core/samples.h"
#include "core/text.h"
#include "gemm/tuning_cache.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

// A running child whose standard output we read. Killed when it is still there at the end.
class Child {
 public:
  Child(const std::vector<std::string>& command, const std::string& input) {
    const int in = ::memfd_create("cases", MFD_CLOEXEC);
    if (in < 0 || ::write(in, input.data(), input.size()) != static_cast<ssize_t>(input.size()) ||
        ::lseek(in, 0, SEEK_SET) != 0) {
      fail(ErrorKind::kIo, "probe: cannot hand over {} bytes: {}", input.size(), std::strerror(errno));
    }
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) fail(ErrorKind::kIo, "probe: no pipe: {}", std::strerror(errno));
    std::vector<char*> words;
    words.reserve(command.size() + 1);
    for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ < 0) fail(ErrorKind::kIo, "probe: cannot start a process: {}", std::strerror(errno));
    if (pid_ == 0) {
      ::dup2(in, 0);
      ::dup2(ends[1], 1);
      ::execv(words[0], words.data());
      ::_exit(127);
    }
    ::close(in);
    ::close(ends[1]);
    out_ = ends[0];
  }
  ~Child() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(out_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // The next line, or nothing at the end of the output or when `seconds` have passed (timed_out()).
  std::optional<std::string> line(double seconds) {
    const double until = now_seconds() + seconds;
    while (true) {
      if (const auto end = pending_.find('\n'); end != std::string::npos) {
        std::string found = pending_.substr(0, end);
        pending_.erase(0, end + 1);
        return found;
      }
      const double left = until - now_seconds();
      pollfd waiting{out_, POLLIN, 0};
      const int ready = left <= 0 ? 0 : ::poll(&waiting, 1, static_cast<int>(left * 1000) + 1);
      if (ready < 0 && errno == EINTR) continue;
      timed_out_ = ready == 0;
      if (ready <= 0) return {};
      char buffer[4096];
      const auto got = ::read(out_, buffer, sizeof(buffer));
      if (got <= 0) return {};
      pending_.append(buffer, static_cast<std::size_t>(got));
    }
  }

  // How it ended; waits for it, or kills it when it had timed out.
  std::string end() {
    if (timed_out_) ::kill(pid_, SIGKILL);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    if (timed_out_) return "did not end in time";
    if (WIFSIGNALED(status))
      return fmt::format("killed by signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
    return WEXITSTATUS(status) == 0 ? "" : fmt::format("exit code {}", WEXITSTATUS(status));
  }

 private:
  pid_t pid_ = -1;
  int out_ = -1;
  bool timed_out_ = false;
  std::string pending_;
};

struct Answer {
  std::string word;
  std::size_t index = 0;
  std::string rest;
};

std::optional<Answer> parse_answer(const std::string& line) {
  const auto space = line.find(' ');
  if (space == std::string::npos) return {};
  Answer answer{line.substr(0, space), 0, {}};
  const char* end = line.data() + line.size();
  const auto parsed = std::from_chars(line.data() + space + 1, end, answer.index);
  if (parsed.ec != std::errc()) return {};
  if (parsed.ptr != end) answer.rest.assign(parsed.ptr + 1, end);
  return answer;
}

// Runs one child over cases [first, end); returns the first case that is still open: behind the last one.
std::size_t run_child(const std::vector<std::string>& command, const std::vector<std::string>& cases,
                      std::size_t first, double seconds, double start_seconds,
                      std::vector<std::string>& reasons) {
  std::string input;
  for (std::size_t i = first; i < cases.size(); ++i) input += cases[i] + "\n";
  Child child(command, input);
  std::size_t next = first;  // the first one without an answer
  double patience = seconds + start_seconds;
  while (next < cases.size()) {
    const auto line = child.line(patience);
    if (!line) break;
    patience = seconds;
    const auto answer = parse_answer(*line);
    if (!answer || first + answer->index != next) continue;  // a library's own words
    if (answer->word == "ok") ++next;
    if (answer->word == "bad") {
      reasons[next++] = answer->rest.empty() ? "failed" : printable(answer->rest);
      return next;
    }
  }
  if (next == cases.size()) return next;
  const std::string why = child.end();
  reasons[next] = why.empty() ? "ended without an answer" : why;
  return next + 1;
}

}  // namespace

std::vector<std::string> probe_in_child(const std::vector<std::string>& command,
                                        const std::vector<std::string>& cases, double seconds,
                                        double start_seconds) {
  std::vector<std::string> reasons(cases.size());
  for (std::size_t next = 0; next < cases.size();)
    next = run_child(command, cases, next, seconds, start_seconds, reasons);
  return reasons;
}

std::string probe_line(const TrackShape& shape, const RaceEntrant& entrant) {
  return fmt::format("{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}", shape.n, shape.k, dtype_name(shape.dtype),
                     shape.bias ? 1 : 0, entrant.desc.pattern.to_string(), entrant.desc.m,
                     entrant.backend->name(), entrant.kernel.id, entrant.kernel.name, entrant.kernel.config,
                     dtype_name(shape.out));
}

namespace {

std::int64_t number(const std::string& text, std::int64_t low, std::int64_t high) {
  std::int64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || value < low || value > high)
    fail_input("probe: {} is no number in [{}, {}]", printable(text, 40), low, high);
  return value;
}

struct Case {
  TrackShape shape;
  RaceEntrant entrant;
};

Case parse_case(const std::string& line) {
  std::vector<std::string> parts{""};
  for (const char c : line) {
    if (c == '\t') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  if (parts.size() != 11) fail_input("probe: {} fields instead of 11", parts.size());
  const auto dtype = parse_dtype(parts[2]), out = parse_dtype(parts[10]);
  if (!dtype || !out) fail_input("probe: {} is no dtype", printable(parts[dtype ? 10 : 2], 40));
  constexpr std::int64_t kLargest = std::int64_t{1} << 30;
  Case made;
  made.shape = {number(parts[0], 1, kLargest), number(parts[1], 1, kLargest), *dtype,
                number(parts[3], 0, 1) == 1};
  made.shape.out = *out;
  TunedKernel kernel;
  kernel.backend = parts[6];
  kernel.id = static_cast<int>(number(parts[7], INT32_MIN, INT32_MAX));
  kernel.name = parts[8];
  kernel.config = parts[9];
  const auto found = find_kernel(kernel);
  if (!found) fail_input("probe: there is no kernel {}", printable(kernel.name));
  made.entrant = {track_desc(made.shape, Pattern::parse(parts[4]), number(parts[5], 1, kLargest),
                             {found->first->device(), 0}),
                  found->first, found->second};
  return made;
}

}  // namespace

void answer_probe() {
  std::map<std::string, std::unique_ptr<RaceTrack>> tracks;
  std::string line;
  for (std::size_t index = 0; std::getline(std::cin, line); ++index) {
    fmt::print("try {}\n", index);
    std::fflush(stdout);
    try {
      const Case test = parse_case(line);
      auto& track =
          tracks[fmt::format("{} {} {} {} {}", test.shape.n, test.shape.k, dtype_name(test.shape.dtype),
                             test.shape.bias, dtype_name(test.shape.out))];
      if (!track) track = make_race_track(test.shape, test.entrant.desc.device.kind, 1);
      track->prepare(test.entrant)->check();  // whether it is right is for the race to say
    } catch (const Error& error) {
      // What a kernel did to the card's context would meet all that follow.
      fmt::print("bad {} {}\n", index, error.what());
      std::fflush(stdout);
      return;
    }
    fmt::print("ok {}\n", index);
    std::fflush(stdout);
  }
}

}  // namespace slidesparse
