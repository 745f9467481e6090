#include "core/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "core/fail.h"
#include "core/samples.h"

namespace slidesparse {
namespace {

constexpr std::size_t kLogBytes = 4096;
constexpr std::size_t kLongestLine = std::size_t{64} << 20;
constexpr int kLogged = 1;
// A killed process that is still there then waits for something in the kernel.
constexpr double kKilledSeconds = 30;

[[noreturn]] void fail_start(const char* what) {
  fail(ErrorKind::kIo, "cannot start another process: {}: {}", what, std::strerror(errno));
}

// Between fork and exec: only what may be called there.
[[noreturn]] void become(char* const* words, pid_t parent, int socket, int log) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);  // it ended before it could be watched
  const int empty = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ::dup2(empty, 0);
  ::dup2(log, 1);
  ::dup2(log, 2);
  if (socket == ChildProcess::kChildSocket) {
    ::fcntl(socket, F_SETFD, 0);
  } else {
    ::dup2(socket, ChildProcess::kChildSocket);
  }
  ::execv(words[0], words);
  ::_exit(127);
}

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& command) {
  std::array<int, 2> sockets{}, pipe{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets.data()) != 0) fail_start("socketpair");
  if (::pipe2(pipe.data(), O_CLOEXEC | O_NONBLOCK) != 0) {
    ::close(sockets[0]);
    ::close(sockets[1]);
    fail_start("pipe");
  }
  socket_ = sockets[0];
  log_ = pipe[0];
  ::fcntl(pipe[1], F_SETFL, 0);  // only our end must not block
  std::vector<char*> words;
  words.reserve(command.size() + 1);
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) become(words.data(), parent, sockets[1], pipe[1]);
  const int error = errno;
  ::close(sockets[1]);
  ::close(pipe[1]);
  if (pid_ > 0) {
    ::setpgid(pid_, pid_);  // whoever comes first
    return;
  }
  ::close(socket_);
  ::close(log_);
  errno = error;
  fail_start("fork");
}

ChildProcess::~ChildProcess() {
  if (pid_ > 0) {
    kill();
    int status = 0;
    reap(now_seconds() + kKilledSeconds, status);
  }
  if (socket_ >= 0) ::close(socket_);
  ::close(log_);
}

bool ChildProcess::send_line(std::string_view line) {
  std::string text(line);
  text += '\n';
  for (std::size_t sent = 0; sent < text.size();) {
    const ssize_t now = ::send(socket_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (now < 0 && errno == EINTR) continue;
    if (now <= 0) return false;
    sent += static_cast<std::size_t>(now);
  }
  return true;
}

ChildProcess::Got ChildProcess::next_line(double deadline, std::string& line) {
  while (true) {
    if (const auto end = pending_.find('\n'); end != std::string::npos) {
      line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      return Got::kLine;
    }
    if (socket_ < 0 || pending_.size() > kLongestLine) return Got::kClosed;
    const double left = deadline - now_seconds();
    std::array<pollfd, 2> waiting{{{socket_, POLLIN, 0}, {log_, POLLIN, 0}}};
    const int milliseconds = static_cast<int>(std::clamp(left, 0.0, 3600.0) * 1000) + (left > 0 ? 1 : 0);
    // Without the log once it is at its end: its socket alone says that the child is gone.
    const int ready = ::poll(waiting.data(), text_open_ ? 2 : 1, milliseconds);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      if (now_seconds() >= deadline) return Got::kTimeOut;
      continue;
    }
    if (waiting[kLogged].revents != 0) read_log();
    if (waiting[0].revents == 0) continue;
    std::array<char, 16384> buffer{};
    const ssize_t got = ::read(socket_, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return Got::kClosed;
    pending_.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

void ChildProcess::read_log() {
  std::array<char, 16384> buffer{};
  while (text_open_) {
    const ssize_t got = ::read(log_, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return;  // nothing more for now
    if (got == 0) text_open_ = false;
    text_.append(buffer.data(), static_cast<std::size_t>(got));
    if (text_.size() > 4 * kLogBytes) text_.erase(0, text_.size() - kLogBytes);
  }
}

std::string ChildProcess::take_log() {
  read_log();
  std::string text = std::exchange(text_, {});
  if (text.size() > kLogBytes) text.erase(0, text.size() - kLogBytes);
  return text;
}

void ChildProcess::close_input() {
  ::shutdown(socket_, SHUT_WR);
}

void ChildProcess::kill() {
  if (pid_ > 0) ::kill(-pid_, SIGKILL);
}

bool ChildProcess::reap(double deadline, int& status) const {
  while (::waitpid(pid_, &status, WNOHANG) == 0) {
    if (now_seconds() >= deadline) return false;
    ::usleep(1000);
  }
  return true;
}

int ChildProcess::wait(double seconds) {
  const double deadline = now_seconds() + seconds;
  int status = 0;
  std::string line;
  // Its socket closes when it ends; what it still sends is of no use any more.
  while (next_line(deadline, line) == Got::kLine) {
  }
  if (!reap(deadline, status)) {
    kill();
    if (!reap(now_seconds() + kKilledSeconds, status))
      fail(ErrorKind::kIo, "process {} does not end when it is killed: a driver holds it", pid_);
  }
  read_log();
  pid_ = -1;
  return status;
}

}  // namespace slidesparse
