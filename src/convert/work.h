#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "core/parallel.h"

namespace slidesparse {

// Calls task(i, worker) for i in [0, count), the next one whenever a worker is free; workers are numbered
// from 0, and two tasks never run on the same worker at once. The first exception stops the handing out and
// is rethrown.
inline void run_tasks(std::int64_t count, const std::function<void(std::int64_t task, int worker)>& task) {
  std::atomic<std::int64_t> next{0};
  parallel_for(thread_count(), 1, [&](std::int64_t begin, std::int64_t end) {
    // Nested or single-threaded calls get all workers' numbers in one range: one loop does it all.
    if (begin >= end) return;
    try {
      for (std::int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1))
        task(i, static_cast<int>(begin));
    } catch (...) {
      next.store(count);
      throw;
    }
  });
}

}  // namespace slidesparse
