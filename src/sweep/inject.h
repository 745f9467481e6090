#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// Failures that are had on purpose, by `sweep --inject`: tests see with them that each class is recognised.
namespace slidesparse {

// One failure: of the cell at `position` of the plan (from 1), at its first `attempts` attempts.
struct Injection {
  std::string what;
  std::int64_t position = 0;
  std::int64_t attempts = 1;
};
// "killed@3", or "time_out@2x3" for three attempts. Throws kUsage for others.
Injection parse_injection(std::string_view text);
// What is to go wrong with attempt `number` (from 1) of the cell at `position`; empty: nothing.
std::string injected(const std::vector<Injection>& injections, std::int64_t position, std::int64_t number);

// Makes it happen in this process, which need not survive it: a real signal, a sleep without end, memory that
// is asked for and refused, a plan that does not fit, what a library's failure throws. `wrong_result` is left
// to the comparison that finds it.
void inject_failure(std::string_view what);

}  // namespace slidesparse
