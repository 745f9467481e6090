#pragma once

#include <string>

#include "report/results.h"

namespace slidesparse {

// The command that measures a cell again, quoted for a POSIX shell. `device` is that of the machine ("cpu",
// "cuda"; empty: the default).
std::string repeat_command(const ReportCell& cell, const std::string& device);

// Quoted unless the shell takes the text as it is.
std::string shell_word(const std::string& text);

}  // namespace slidesparse
