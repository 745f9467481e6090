#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "convert/convert_plan.h"
#include "convert/directory_job.h"
#include "convert/source_digest.h"
#include "core/buffer.h"

namespace slidesparse {

// What is read, in what steps: called with bytes of input that were finished.
using Advance = std::function<void(std::int64_t bytes)>;

// A linear that was pruned in memory already.
struct PrunedRows {
  const void* rows = nullptr;          // [n, k] in the dtype of the source
  std::span<const std::int32_t> perm;  // split: [k]
};

// Streams tensors of a source through a DirectoryJob with all cores, in blocks of rows. Its scratch memory is
// a few MiB a core.
class TensorStreamer {
 public:
  TensorStreamer(const ModelDirectory& source, DirectoryJob& job, Advance advance);

  // Copies a tensor; returns the digest of its bytes.
  std::string copy(const std::string& name);
  // Only reads it.
  std::string hash(const std::string& name);
  // Prunes, quantises and packs a linear; with `pruned`, quantises and packs that. Digests of what was read
  // are added to `digests`.
  LayerReport convert(const LinearTask& task, PruneMethod method, const PrunedRows* pruned,
                      TensorDigests& digests);

 private:
  struct Scratch {
    Buffer rows, codes8, values, codes, scales;
  };
  struct Block;
  // Runs `body` on blocks of rows of a matrix, hashing it meanwhile when `digest` is given.
  void for_blocks(
      const std::string& name, std::int64_t rows, std::int64_t row_bytes, std::string* digest,
      const std::function<void(std::int64_t block, std::int64_t row, std::int64_t count, Scratch&)>& body);
  void convert_block(const LinearTask& task, PruneMethod method, const PrunedRows* pruned, std::int64_t row,
                     std::int64_t count, Scratch& scratch, LayerReport& report);
  void pack_block(const LinearTask& task, std::span<const std::int32_t> perm, const void* rows,
                  std::int64_t row, std::int64_t count, Scratch& scratch, LayerReport& report);
  void quantise_block(const LinearTask& task, DType dtype, std::int64_t row, std::int64_t count,
                      Scratch& scratch, LayerReport& report);
  void take_codes(const LinearTask& task, PruneMethod method, std::int64_t row, std::int64_t count,
                  Scratch& scratch, LayerReport& report);

  const ModelDirectory& source_;
  DirectoryJob& job_;
  Advance advance_;
  std::vector<Scratch> scratch_;
};

}  // namespace slidesparse
