#pragma once

#include <string_view>

namespace slidesparse {

// Makes SIGINT and SIGTERM set a flag instead of ending the process; a second SIGINT ends it at once.
void install_interrupt_handler();
bool interrupt_requested();
// Throws kInterrupted with `how_to_go_on` when the flag is set. Long work calls it between units of work.
void check_interrupt(std::string_view how_to_go_on);

}  // namespace slidesparse
