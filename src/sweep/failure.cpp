#include "sweep/failure.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <cstring>

#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {
namespace {

// What another attempt changes; a class without one is final.
enum class Remedy {
  kNone,
  kAgainAlone,    // what others in the process or on the machine did may have been the cause
  kLessMemory,    // smaller chunks of a prefill, fewer forms of weights
  kSmallerCache,  // keys and values in 8 bits
  kOtherKernels,  // those of the rules instead of the measured ones
  kWithoutCount,  // not the cell's fault: as if it had not been tried
};

struct Rule {
  Class outcome;
  std::string_view name;
  bool spoils;           // the worker is not used again
  std::int64_t retries;  // at most so many after this class
  Remedy remedy;
};

constexpr std::array<Rule, kClasses> kRules{{
    {Class::kOk, "ok", false, 0, Remedy::kNone},
    {Class::kOutOfMemory, "out_of_memory", true, 2, Remedy::kLessMemory},
    {Class::kDoesNotFit, "does_not_fit", false, 1, Remedy::kSmallerCache},
    {Class::kIllegalAccess, "illegal_access", true, 2, Remedy::kOtherKernels},
    {Class::kIllegalInstruction, "illegal_instruction", true, 2, Remedy::kOtherKernels},
    {Class::kTimeOut, "time_out", true, 1, Remedy::kAgainAlone},
    {Class::kWrongResult, "wrong_result", true, 1, Remedy::kOtherKernels},
    {Class::kUnsupported, "unsupported", false, 0, Remedy::kNone},
    {Class::kLibraryError, "library_error", true, 2, Remedy::kOtherKernels},
    {Class::kKilled, "killed", true, 2, Remedy::kAgainAlone},
    {Class::kInterrupted, "interrupted", true, 0, Remedy::kWithoutCount},
    {Class::kFailed, "failed", true, 0, Remedy::kNone},
}};

const Rule& rule_of(Class outcome) {
  const Rule& rule = kRules.at(static_cast<std::size_t>(outcome));
  require(rule.outcome == outcome, "the table of classes is out of order at {}", rule.name);
  return rule;
}

// Numbers of cudaError_t, whose header a build without CUDA does not have.
struct CudaMeaning {
  int status;
  Class outcome;
};
constexpr CudaMeaning kCudaMeanings[]{
    {2, Class::kOutOfMemory},           // cudaErrorMemoryAllocation
    {35, Class::kUnsupported},          // cudaErrorInsufficientDriver
    {100, Class::kUnsupported},         // cudaErrorNoDevice
    {209, Class::kUnsupported},         // cudaErrorNoKernelImageForDevice
    {700, Class::kIllegalAccess},       // cudaErrorIllegalAddress
    {702, Class::kTimeOut},             // cudaErrorLaunchTimeout
    {714, Class::kIllegalAccess},       // cudaErrorHardwareStackError
    {715, Class::kIllegalInstruction},  // cudaErrorIllegalInstruction
    {716, Class::kIllegalAccess},       // cudaErrorMisalignedAddress
    {717, Class::kIllegalAccess},       // cudaErrorInvalidAddressSpace
    {718, Class::kIllegalAccess},       // cudaErrorInvalidPc
};

}  // namespace

std::string_view class_name(Class outcome) {
  return rule_of(outcome).name;
}

Class parse_class(std::string_view word, const std::string& where) {
  for (const Rule& rule : kRules) {
    if (rule.name == word) return rule.outcome;
  }
  fail_input("{}: there is no class \"{}\"", where, printable(word, 40));
}

Class classify(ErrorKind kind, const ErrorFacts* facts) {
  if (kind == ErrorKind::kInterrupted) return Class::kInterrupted;
  if (facts != nullptr) {
    if (facts->wrong_result) return Class::kWrongResult;
    if (facts->planned) return Class::kDoesNotFit;
    if (facts->cuda_status) {
      for (const CudaMeaning& meaning : kCudaMeanings) {
        if (meaning.status == *facts->cuda_status) return meaning.outcome;
      }
      return Class::kLibraryError;
    }
    // A library that says it cannot is no error of it.
    if (facts->library_code)
      return kind == ErrorKind::kUnsupported ? Class::kUnsupported : Class::kLibraryError;
    if (facts->needed_bytes) return Class::kOutOfMemory;
  }
  return kind == ErrorKind::kUnsupported ? Class::kUnsupported : Class::kFailed;
}

Class classify(const ProcessEnd& end) {
  if (end.timed_out) return Class::kTimeOut;
  if (end.signal) {
    if (*end.signal == SIGSEGV || *end.signal == SIGBUS) return Class::kIllegalAccess;
    if (*end.signal == SIGILL) return Class::kIllegalInstruction;
  }
  return Class::kKilled;
}

std::string process_end_words(const ProcessEnd& end, double seconds) {
  if (end.timed_out) return fmt::format("no answer after {:.1f} s: its process was ended", seconds);
  if (end.signal)
    return fmt::format("its process was killed by signal {} ({})", *end.signal, ::strsignal(*end.signal));
  return fmt::format("its process ended with exit status {} and no answer", end.exit_status.value_or(0));
}

bool spoils_worker(Class outcome) {
  return rule_of(outcome).spoils;
}

std::string changes_words(const Changes& changes) {
  std::string words;
  const auto add = [&](const std::string& word) { words += (words.empty() ? "" : ", ") + word; };
  if (changes.alone) add("alone");
  if (changes.by_rule) add("kernels by rule");
  if (!changes.weights.empty()) add("weights " + changes.weights);
  if (!changes.kv_cache_dtype.empty()) add("kv_cache_dtype " + changes.kv_cache_dtype);
  if (changes.chunks) add(fmt::format("in {} chunks", *changes.chunks));
  return words;
}

Changes parse_changes(const std::string& words) {
  constexpr std::string_view kWeights = "weights ", kCache = "kv_cache_dtype ", kChunks = "in ";
  Changes changes;
  for (std::string_view rest = words; !rest.empty();) {
    const std::size_t end = std::min(rest.find(", "), rest.size());
    const std::string_view word = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 2, rest.size()));
    if (word == "alone") changes.alone = true;
    if (word == "kernels by rule") changes.by_rule = true;
    if (word.starts_with(kWeights)) changes.weights = word.substr(kWeights.size());
    if (word.starts_with(kCache)) changes.kv_cache_dtype = word.substr(kCache.size());
    if (word.starts_with(kChunks)) {
      std::int64_t chunks = 0;
      const std::string_view number = word.substr(kChunks.size());
      if (std::from_chars(number.data(), number.data() + number.size(), chunks).ec == std::errc())
        changes.chunks = chunks;
    }
  }
  return changes;
}

std::string unlike_words(const Changes& changes) {
  Changes unlike = changes;
  unlike.alone = false;
  unlike.weights.clear();
  return changes_words(unlike);
}

NextStep next_step(const Cell& cell, std::span<const Class> past, const RetryRules& rules) {
  NextStep next;
  std::int64_t failures = 0;
  for (std::size_t i = 0; i < past.size(); ++i) {
    const Rule& rule = rule_of(past[i]);
    if (past[i] == Class::kOk) return {false, {}};
    if (rule.remedy == Remedy::kWithoutCount) {
      // The sweep ended with it: perhaps because of it.
      next.changes.alone = true;
      continue;
    }
    ++failures;
    const std::int64_t same =
        std::count(past.begin(), past.begin() + static_cast<std::ptrdiff_t>(i) + 1, past[i]);
    next.open = same <= rule.retries && failures < rules.attempts;
    const bool bench = cell.phase == Phase::kPrefill || cell.phase == Phase::kDecode;
    switch (rule.remedy) {
      case Remedy::kNone:
      case Remedy::kWithoutCount:
        next.open = false;
        break;
      case Remedy::kAgainAlone:
        next.changes.alone = true;
        break;
      case Remedy::kLessMemory:
        next.changes.alone = true;
        if (cell.phase == Phase::kPrefill) next.changes.chunks = next.changes.chunks.value_or(1) * 2;
        if (rules.card && bench && cell.options.weights != "smallest") next.changes.weights = "smallest";
        break;
      case Remedy::kSmallerCache:
        if (!rules.card || cell.phase != Phase::kDecode || cell.options.kv_cache_dtype != "bf16")
          next.open = false;
        if (next.open) next.changes.kv_cache_dtype = "fp8";
        break;
      case Remedy::kOtherKernels:
        next.changes.alone = true;
        next.changes.by_rule = bench || cell.phase == Phase::kEval;
        break;
    }
    if (!next.open) return next;
  }
  return next;
}

}  // namespace slidesparse
