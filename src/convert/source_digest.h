#pragma once

#include <map>
#include <string>

#include "io/model_directory.h"

namespace slidesparse {

// SHA-256 of each tensor's bytes, by name.
using TensorDigests = std::map<std::string, std::string>;

// The digest of a whole source (docs/format.md, "Directory"): SHA-256 over a line "NAME DTYPE SHAPE SHA256\n"
// for each tensor, sorted by name, and a last line "config.json SHA256\n". `digests` must have every tensor
// of the directory.
std::string source_digest(const ModelDirectory& source, const TensorDigests& digests);

// What a resumed job compares to see that its source is the same, without reading it: JSON with config.json's
// digest and each shard's name, size and time of change.
std::string source_identity(const ModelDirectory& source);

}  // namespace slidesparse
