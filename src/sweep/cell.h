#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "slidesparse/core/dtype.h"
#include "slidesparse/format/pattern.h"

// One thing that a sweep measures, as docs/sweep.md describes it.
namespace slidesparse {

enum class Phase { kConvert, kTune, kGemm, kPrefill, kDecode, kEval };
std::string_view phase_name(Phase phase);  // "prefill"

// What a phase leaves to choose; unset where the phase has no such thing.
struct CellOptions {
  std::optional<std::int64_t> runs, steps, prompt, seed, max_windows;
  std::optional<double> min_seconds;  // of timed steps at least
  std::string weights, kv_cache_dtype, head, text;
  std::vector<std::int64_t> m;  // tune: every M that is tuned

  auto operator<=>(const CellOptions&) const = default;  // NOLINT(modernize-use-nullptr): there is no zero
};

struct Cell {
  Phase phase = Phase::kPrefill;
  std::string model;  // a known shape, or a directory
  std::string dtype;
  std::string backend;
  std::string pattern;
  std::string layout;  // "slide" or "split"
  std::optional<std::int64_t> m;
  std::optional<std::int64_t> memory_limit;  // bytes
  CellOptions options;

  bool operator==(const Cell&) const = default;
};

// Compact JSON objects with their members always in the same order: equal text is an equal cell.
std::string options_json(const CellOptions& options);
std::string cell_key(const Cell& cell);
// A cell of its key. Throws kInput, beginning with `where`, for text that is none.
Cell parse_cell_key(std::string_view key, const std::string& where);

// Cells with the same one run in one process, one after another, and share what it loads.
std::string worker_key(const Cell& cell);
// "prefill qwen2.5-7b int8 cusparselt 6:8 M=512".
std::string cell_words(const Cell& cell);

// "int8", "fp8" or "bf16". Throws kInput, beginning with `where`, for other words.
DType dtype_of(std::string_view word, const std::string& where);

// Whether a backend of this name, or `auto`, is one that cells may ask for; which of them run on the CPU.
bool is_sweep_backend(std::string_view name);
std::string sweep_backend_list();

}  // namespace slidesparse
