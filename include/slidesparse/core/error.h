#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

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

// What is known of a failure besides its line, where it was found: for callers who sort failures.
struct ErrorFacts {
  std::optional<int> cuda_status;            // a cudaError_t
  std::string library;                       // whose code that is: "cuda", "cublaslt", "cusparselt"
  std::optional<std::int64_t> library_code;  // as it counts them
  std::optional<std::int64_t> needed_bytes;
  std::optional<std::int64_t> free_bytes;
  std::vector<std::pair<std::string, std::int64_t>> holders;  // of memory: name and bytes
  bool planned = false;       // added up beforehand: nothing was allocated or started
  bool wrong_result = false;  // something ran and its result is wrong
};

// The one exception type of the library. what() is one line: what was wrong, where, with the numbers, and
// how to mend it.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  Error(ErrorKind kind, const std::string& message, ErrorFacts facts)
      : std::runtime_error(message),
        kind_(kind),
        facts_(std::make_shared<const ErrorFacts>(std::move(facts))) {}
  ErrorKind kind() const { return kind_; }
  // Null where nothing more is known.
  const ErrorFacts* facts() const { return facts_.get(); }

 private:
  ErrorKind kind_;
  std::shared_ptr<const ErrorFacts> facts_;  // shared: copies of an exception must not throw
};

}  // namespace slidesparse
