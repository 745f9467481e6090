#pragma once

namespace slidesparse {

// The style sheet of the page: light and dark, from the width of a phone up.
extern const char* const kPageStyle;

}  // namespace slidesparse
