#pragma once

#include <string>

#include "report/document.h"

namespace slidesparse {

// GitHub's Markdown, without plots. Texts cannot make tables, emphasis, HTML or links to
// another place than they show.
std::string to_markdown(const Document& document);

// One line of text; and one line of code.
std::string escape_markdown(const std::string& text);
std::string markdown_code(const std::string& text);

}  // namespace slidesparse
