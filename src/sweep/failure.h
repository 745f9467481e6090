#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "slidesparse/core/error.h"
#include "sweep/cell.h"

// What became of an attempt, told from facts alone, and whether another one can help.
namespace slidesparse {

// The classes of docs/sweep.md, as words of the table `outcome`.
enum class Class {
  kOk,
  kOutOfMemory,
  kDoesNotFit,
  kIllegalAccess,
  kIllegalInstruction,
  kTimeOut,
  kWrongResult,
  kUnsupported,
  kLibraryError,
  kKilled,
  kInterrupted,
  kFailed,
};
inline constexpr int kClasses = 12;
std::string_view class_name(Class outcome);
// Throws kInput, beginning with `where`, for other words.
Class parse_class(std::string_view word, const std::string& where);

// How a worker process ended without an answer.
struct ProcessEnd {
  bool timed_out = false;  // ended by us, after its time
  std::optional<int> signal;
  std::optional<int> exit_status;
};

// Of an exception that a worker caught, by its kind and facts.
Class classify(ErrorKind kind, const ErrorFacts* facts);
Class classify(const ProcessEnd& end);
// "killed by signal 9 (Killed)", "exit status 3", "no answer after 12 s".
std::string process_end_words(const ProcessEnd& end, double seconds);

// Whether what failed may have left the process (its heap, its card's context) unusable.
bool spoils_worker(Class outcome);

// What is done differently when a cell is tried again.
struct Changes {
  bool alone = false;                  // in a process of its own
  bool by_rule = false;                // kernels by rule, not by measured times: other algorithms
  std::string weights;                 // other forms of the weights; empty: as asked for
  std::string kv_cache_dtype;          // empty: as asked for
  std::optional<std::int64_t> chunks;  // prefill in so many steps at least

  bool operator==(const Changes&) const = default;
};
// "alone, weights smallest"; empty without any. What the column `changed` holds.
std::string changes_words(const Changes& changes);
// Back from those words; others are passed over.
Changes parse_changes(const std::string& words);
// Those words that make a figure another one's than the cell's: kernels by rule, other keys and values,
// chunks. Figures are compared where these are the same. A process of its own and other forms of the weights
// are how it was measured, not what.
std::string unlike_words(const Changes& changes);

// What is to be done with a cell after the attempts `past` (oldest first).
struct NextStep {
  bool open = true;  // another attempt is to be made
  Changes changes;
};
struct RetryRules {
  std::int64_t attempts = 3;  // that fail, of a cell; interrupted ones do not count
  bool card = false;          // it runs on a card
};
NextStep next_step(const Cell& cell, std::span<const Class> past, const RetryRules& rules);

}  // namespace slidesparse
