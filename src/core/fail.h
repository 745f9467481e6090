#pragma once

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <utility>

#include "slidesparse/core/error.h"

namespace slidesparse {

// Throws Error with a formatted message.
template <typename... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

// The same with facts.
template <typename... Args>
[[noreturn]] void fail_with(ErrorFacts facts, ErrorKind kind, fmt::format_string<Args...> format,
                            Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...), std::move(facts));
}

// The common case: input that cannot be accepted.
template <typename... Args>
[[noreturn]] void fail_input(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::kInput, fmt::format(format, std::forward<Args>(args)...));
}

// For promises between our own functions: throws kInternal with the values when `ok` is false.
template <typename... Args>
void require(bool ok, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) throw Error(ErrorKind::kInternal, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace slidesparse
