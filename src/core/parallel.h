#pragma once

#include <cstdint>
#include <functional>

namespace slidesparse {

// Threads that parallel work uses: the cores this process may run on, unless set.
int thread_count();
// 0 restores the default. Not to be called while work is running.
void set_thread_count(int count);

// Calls body(begin, end) on disjoint ranges that cover [0, count), one range a thread at a time, and returns
// when all are done. Ranges hold a multiple of `grain` elements but for the last. Exceptions thrown by the
// body are rethrown here (the first one). Nested calls run serially. The threads are OpenMP's, because oneDNN
// uses the same pool: two pools would fight for the cores.
void parallel_for(std::int64_t count, std::int64_t grain,
                  const std::function<void(std::int64_t begin, std::int64_t end)>& body);

}  // namespace slidesparse
