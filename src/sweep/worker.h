#pragma once

namespace slidesparse {

// The worker's part of a sweep: reads tasks from the socket ChildProcess::kChildSocket, runs them and answers
// there, until the other end closes. Cells that fail are answers; throws kInput for lines that are no tasks.
void run_sweep_worker();

}  // namespace slidesparse
