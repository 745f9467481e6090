#include "convert/calibration_text.h"

#include <algorithm>

#include "core/fail.h"
#include "core/random.h"
#include "core/text.h"
#include "io/digest.h"
#include "io/text_file.h"
#include "io/tokenizer/tokenizer.h"

namespace slidesparse {
namespace {

// The numbers below `total` in an order that `seed` gives: the first `count` of a shuffle, then the others.
std::vector<std::int64_t> draw(std::int64_t total, std::int64_t count, std::uint64_t seed) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(total));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::int64_t>(i);
  Random random(seed);
  for (std::int64_t i = 0; i < count; ++i) {
    std::swap(numbers[static_cast<std::size_t>(i)],
              numbers[static_cast<std::size_t>(i + random.below(total - i))]);
  }
  return numbers;
}

}  // namespace

CalibrationText read_calibration_text(const CalibrationOptions& options,
                                      const std::filesystem::path& directory, const ModelConfig& config) {
  if (options.samples < 1) fail(ErrorKind::kUsage, "--samples {}: 1 or more", options.samples);
  if (options.sample_length < 1 || options.sample_length > config.max_position) {
    fail(ErrorKind::kUsage, "--sample-length {}: 1 to {} (the model's positions)", options.sample_length,
         config.max_position);
  }
  const std::string text = read_text_input(options.text);
  const std::string name = printable(options.text, 400);
  if (text.empty()) fail_input("{}: the calibration text is empty", name);
  const Tokenizer tokenizer = Tokenizer::from_file(directory / "tokenizer.json");
  std::vector<std::int32_t> tokens;
  try {
    tokens = tokenizer.encode(text);
  } catch (const Error& error) {
    fail(error.kind(), "{}: {}", name, error.what());
  }
  const auto count = static_cast<std::int64_t>(tokens.size());
  const std::int64_t windows = count / options.sample_length;
  if (windows < options.samples) {
    fail_input(
        "{}: {} tokens are {} windows of {}, but --samples {}: give a longer text, fewer or shorter samples",
        name, count, windows, options.sample_length, options.samples);
  }
  CalibrationText result;
  const std::int64_t others = std::min(kHeldOutWindows, windows - options.samples);
  std::vector<std::int64_t> order = draw(windows, options.samples + others, options.seed);
  const auto drawn = order.begin() + options.samples;
  std::sort(order.begin(), drawn);
  for (auto window = order.begin(); window != drawn; ++window) {
    const auto first = tokens.begin() + *window * options.sample_length;
    result.tokens.insert(result.tokens.end(), first, first + options.sample_length);
  }
  result.held_out_length = std::min(options.sample_length, kHeldOutTokens / kHeldOutWindows);
  const auto held = others > 0 ? drawn : order.begin();
  for (auto window = held; window != held + std::min(kHeldOutWindows, others > 0 ? others : options.samples);
       ++window) {
    const auto first = tokens.begin() + *window * options.sample_length;
    result.held_out.insert(result.held_out.end(), first, first + result.held_out_length);
  }
  result.sha256 = sha256_hex(text);
  result.description =
      fmt::format("{} (sha256 {}), {} of {} windows of {} tokens, seed {}",
                  printable(std::filesystem::path(options.text).filename().string()), result.sha256,
                  options.samples, windows, options.sample_length, options.seed);
  return result;
}

}  // namespace slidesparse
