#pragma once

#include <string>

namespace slidesparse {

// The bytes of a text file that a user names, or of standard input for "-". Throws kIo / kInput with the
// name; at most 4 GiB.
std::string read_text_input(const std::string& path);
// The same with CRLF read as LF, as Python's text mode does, with which people make the figures to compare.
std::string read_text_lines(const std::string& path);

}  // namespace slidesparse
