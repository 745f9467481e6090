#pragma once

#include <fmt/core.h>

#include <string>
#include <vector>

#include "engine/scheduler.h"

namespace slidesparse::test {

// A request of `prompt` tokens: id * 1000, id * 1000 + 1, ...
inline Request request(std::int64_t id, std::int64_t prompt, std::int64_t max_new_tokens) {
  Request made;
  made.id = id;
  for (std::int64_t i = 0; i < prompt; ++i) made.prompt.push_back(static_cast<std::int32_t>(id * 1000 + i));
  made.max_new_tokens = max_new_tokens;
  return made;
}

// What a step does, in short: "1:0+4 2:7+1!" feeds tokens 0 to 3 of request 1 and token 7 of request 2, of
// which a token is drawn (!); "<3" after that: the input is wanted row 3 of the step before.
inline std::string text(const Step* step) {
  if (step == nullptr) return "nothing";
  std::string all;
  for (const StepEntry& entry : step->entries) {
    if (!all.empty()) all += ' ';
    all += fmt::format("{}:{}+{}", entry.id, entry.start, entry.count);
    if (entry.want_last) all += '!';
    if (entry.input_row != kNone) all += fmt::format("<{}", entry.input_row);
  }
  return all;
}

// Completes a step with the tokens id * 1000 + 500 + output index.
inline StepResult finish(Scheduler& scheduler, const Step* step) {
  std::vector<std::int32_t> sampled;
  for (const StepEntry& entry : step->entries) {
    if (entry.want_last)
      sampled.push_back(static_cast<std::int32_t>(entry.id * 1000 + 500 + entry.output_index));
  }
  return scheduler.complete(*step, sampled);
}

// Schedules a step and completes it at once; its text.
inline std::string run(Scheduler& scheduler) {
  const Step* step = scheduler.schedule();
  std::string done = text(step);
  if (step != nullptr) finish(scheduler, step);
  return done;
}

}  // namespace slidesparse::test
