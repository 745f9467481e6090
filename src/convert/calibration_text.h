#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/config.h"

namespace slidesparse {

// Text that a model runs on while methods that need it look on.
struct CalibrationOptions {
  std::string text;                   // a UTF-8 file, or "-"; empty: none
  std::int64_t samples = 128;         // windows of the text
  std::int64_t sample_length = 2048;  // tokens of a window
  std::uint64_t seed = 0;             // which windows
};

struct CalibrationText {
  std::vector<std::int32_t> tokens;  // [samples * sample_length]
  // Beginnings of other windows, for trials of what came out: [samples of held_out_length]. Of the same ones
  // when the text has no others.
  std::vector<std::int32_t> held_out;
  std::int64_t held_out_length = 0;
  std::string sha256;       // of the text
  std::string description;  // for config.json: name, samples, seed, digest
};

// At most so many tokens are held out, in so many windows.
inline constexpr std::int64_t kHeldOutTokens = 1024;
inline constexpr std::int64_t kHeldOutWindows = 4;

// Tokenises the text with the tokenizer of `directory`, cuts it into windows without overlap, and takes
// `samples` of them, drawn by `seed`, in the order of the text. Throws kIo / kInput for a text that cannot be
// read, is not UTF-8, or is too short (says how many windows it has), kUsage for counts below 1 or beyond the
// model's positions.
CalibrationText read_calibration_text(const CalibrationOptions& options,
                                      const std::filesystem::path& directory, const ModelConfig& config);

}  // namespace slidesparse
