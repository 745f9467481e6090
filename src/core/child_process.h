#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace slidesparse {

// Another process that talks with this one in lines over a socket, its descriptor kChildSocket; its standard
// input is empty, and the last bytes of its standard output and error are kept. It is the leader of a process
// group of its own, so that a terminal's Ctrl-C does not reach it, and the kernel ends it with this process.
class ChildProcess {
 public:
  static constexpr int kChildSocket = 3;

  // The first word of `command` is the program's path. Throws kIo when it cannot be started; a program that
  // is not there ends with exit status 127.
  explicit ChildProcess(const std::vector<std::string>& command);
  ~ChildProcess();  // ends its group with SIGKILL
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  // False when it has closed its end.
  bool send_line(std::string_view line);

  enum class Got { kLine, kClosed, kTimeOut };
  // Waits for the next line until `deadline` (now_seconds()). Whole lines that came before the end are given
  // first. Lines longer than 64 MiB count as the end.
  Got next_line(double deadline, std::string& line);

  // What it has printed since the last call, at most the last 4 KiB.
  std::string take_log();

  // No more lines are sent; a child that reads them then ends.
  void close_input();
  void kill();
  // Waits for it for `seconds`, then kills it; the status of waitpid(). Throws kIo when that does not end it.
  int wait(double seconds);

 private:
  void read_log();
  bool reap(double deadline, int& status) const;  // false when it is still there

  pid_t pid_ = -1;
  int socket_ = -1;
  int log_ = -1;
  bool text_open_ = true;
  std::string pending_, text_;
};

}  // namespace slidesparse
