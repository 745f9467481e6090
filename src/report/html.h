#pragma once

#include <string>

#include "report/document.h"

namespace slidesparse {

// One page with everything in it: no script, no other file, nothing from a network.
std::string to_html(const Document& document);

}  // namespace slidesparse
