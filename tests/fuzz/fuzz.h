#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "slidesparse/core/error.h"

namespace slidesparse::fuzz {

// Runs `body`; Error is the one exception that input may cause, and our own promises must hold whatever the
// input is. Returns whether the input was accepted.
template <typename Body>
bool accepts(const Body& body) {
  try {
    body();
    return true;
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal) std::abort();
    if (std::string_view(error.what()).find('\n') != std::string_view::npos)
      std::abort();  // errors are one line
    return false;
  }
}

// A property that no input may break.
inline void hold(bool property) {
  if (!property) std::abort();
}

}  // namespace slidesparse::fuzz
