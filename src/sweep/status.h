#pragma once

#include <filesystem>
#include <string>

namespace slidesparse {

// What a database's sweeps have come to and what is running, in lines for people; changes nothing. Throws kIo
// and kInput for what is no sweep's database.
std::string sweep_status(const std::filesystem::path& database);

}  // namespace slidesparse
