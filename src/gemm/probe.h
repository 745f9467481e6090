#pragma once

#include <string>
#include <vector>

#include "gemm/race_track.h"

namespace slidesparse {

// Some kernels of some libraries bring a process down, or leave a card's context unusable. Another process
// tries them first: it reads one case a line, writes "try 0" (counting from 0) before a case, "ok 0" behind
// it, or "bad 0 WHY" and ends.
// Runs `command` on `cases` and again on what is left each time it dies; returns why each case is bad, empty
// for a good one. A case may take `seconds`, the first of a process `start_seconds` more. Throws kIo when
// processes cannot be started.
std::vector<std::string> probe_in_child(const std::vector<std::string>& command,
                                        const std::vector<std::string>& cases, double seconds,
                                        double start_seconds);

// One case as a line, and back; throws kInput for lines that are none.
std::string probe_line(const TrackShape& shape, const RaceEntrant& entrant);
// The child's part: reads standard input, tries each case, answers on standard output. Returns when all are
// done; a case that throws ends it.
void answer_probe();

}  // namespace slidesparse
