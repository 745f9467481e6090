// What a step costs the host: time, and allocations of memory (none).
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "core/samples.h"
#include "engine/scheduler.h"
#include "engine/scheduler_test_tools.h"

namespace {
std::atomic<std::int64_t> allocations = 0;  // of this program so far
}

// AddressSanitizer has its own; nothing is counted there.
#ifndef __SANITIZE_ADDRESS__
void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
#endif

namespace slidesparse {
namespace {

constexpr std::int64_t kSequences = 256;

struct Cost {
  std::vector<double> schedule;  // seconds, one a step
  std::vector<double> complete;
  std::int64_t allocations = 0;
};

// Decode steps of 256 running sequences, each with one step in flight while the next is scheduled.
Cost decode(std::int64_t warmup, std::int64_t steps) {
  Scheduler scheduler({.max_batched_tokens = 8192, .max_sequences = kSequences, .max_context = 8192}, 1 << 16,
                      16);
  for (std::int64_t id = 0; id < kSequences; ++id) {
    Request made = test::request(id, 1024, 4096);
    made.stop_tokens = {1, 2};
    scheduler.add(made);
  }
  const std::vector<std::int32_t> sampled(kSequences, 7);
  Cost cost;
  cost.schedule.reserve(static_cast<std::size_t>(steps));
  cost.complete.reserve(static_cast<std::size_t>(steps));
  const Step* flying = scheduler.schedule();
  for (std::int64_t i = 0; i < warmup + steps; ++i) {
    if (i == warmup) cost.allocations = allocations;
    const double start = now_seconds();
    const Step* next = scheduler.schedule();
    const double scheduled = now_seconds();
    scheduler.complete(*flying, std::span(sampled).first(static_cast<std::size_t>(flying->wanted)));
    const double completed = now_seconds();
    flying = next;
    if (i < warmup) continue;
    EXPECT_TRUE(next->all_decode() && next->sequences() == kSequences) << next->sequences();
    cost.schedule.push_back(scheduled - start);
    cost.complete.push_back(completed - scheduled);
  }
  cost.allocations = allocations - cost.allocations;
  return cost;
}

TEST(SchedulerSpeed, AStepOf256SequencesCostsMicroseconds) {
  const Cost cost = decode(64, 2000);
  const Spread schedule = summarise(cost.schedule);
  const Spread complete = summarise(cost.complete);
  std::printf("256 running: schedule %.1f us (90th percentile %.1f), complete %.1f us (%.1f)\n",
              schedule.median * 1e6, schedule.high * 1e6, complete.median * 1e6, complete.high * 1e6);
  EXPECT_EQ(cost.allocations, 0);
#ifdef NDEBUG
  EXPECT_LT(schedule.median, 50e-6);
#endif
}

}  // namespace
}  // namespace slidesparse
