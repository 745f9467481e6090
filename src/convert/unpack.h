#pragma once

#include <cstdint>
#include <filesystem>

namespace slidesparse {

struct UnpackOptions {
  std::filesystem::path source;  // a packed directory
  std::filesystem::path target;
  bool force = false;
  bool quiet = false;
  std::int64_t shard_bytes = 5'000'000'000;
};

// Writes a packed directory as the standard one that other engines load: compressed-tensors W8A8 (NAME.weight
// in the original channel order with its zeros, NAME.weight_scale [n, 1]) or plain BF16, bit for bit what
// quantising the pruned weights gives. A quantised head becomes lm_head.weight with lm_head.weight_scale, no
// longer tied; that needs --dtype int8 on conversion, because one directory has one number format. Every
// linear is checked as it is read. Atomic and resumable (directory_job.h).
void unpack_model(const UnpackOptions& options);

}  // namespace slidesparse
