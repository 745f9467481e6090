#include "core/parallel.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <exception>

#include "core/checked.h"

namespace slidesparse {
namespace {

int allowed_cores() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, omp_get_num_procs());
}

int& configured_threads() {
  static int threads = allowed_cores();
  return threads;
}

}  // namespace

int thread_count() {
  return configured_threads();
}

void set_thread_count(int count) {
  configured_threads() = count > 0 ? count : allowed_cores();
  omp_set_num_threads(configured_threads());
}

void parallel_for(std::int64_t count, std::int64_t grain,
                  const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (count <= 0) return;
  const std::int64_t chunks = ceil_div(count, grain);
  const int threads = static_cast<int>(std::min<std::int64_t>(thread_count(), chunks));
  if (threads <= 1 || omp_in_parallel() != 0) {
    body(0, count);
    return;
  }
  std::exception_ptr error;
#pragma omp parallel num_threads(threads)
  {
    const std::int64_t id = omp_get_thread_num();
    const std::int64_t team = omp_get_num_threads();
    const std::int64_t begin = std::min(count, chunks * id / team * grain);
    const std::int64_t end = std::min(count, chunks * (id + 1) / team * grain);
    try {
      if (begin < end) body(begin, end);
    } catch (...) {
#pragma omp critical(slidesparse_parallel_error)
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace slidesparse
