#pragma once

#include <stdexcept>
#include <string>

namespace slidesparse {

// What kind of thing went wrong; it decides the exit code of the program (docs/map.md).
enum class ErrorKind {
  kInput,        // a file, tensor, shape or text that cannot be accepted
  kUsage,        // options that make no sense together
  kIo,           // the operating system refused a read or a write
  kUnsupported,  // well-formed, but not something this build or machine can do
  kInterrupted,  // the user asked to stop; work done so far is kept
  kInternal,     // a broken promise of ours
};

// The one exception type of the library. what() is one line: what was wrong, where, with the numbers, and
// how to mend it.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace slidesparse
