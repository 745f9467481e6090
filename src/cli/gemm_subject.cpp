#include "cli/gemm_subject.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <memory>

#include "cli/commands.h"
#include "cli/dtype_names.h"
#include "cli/pattern_option.h"
#include "core/fail.h"
#include "core/text.h"
#include "engine/layer_shapes.h"
#include "gemm/probe.h"
#include "io/model_directory.h"
#include "io/packed_directory.h"
#include "model/presets.h"
#include "model/weight_reader.h"

namespace slidesparse {
namespace {

GemmShape parse_shape(const std::string& text) {
  std::int64_t n = 0, k = 0;
  const char* end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, n);
  const bool comma = first.ec == std::errc() && first.ptr != end && *first.ptr == ',';
  const auto second = comma ? std::from_chars(first.ptr + 1, end, k) : first;
  if (!comma || second.ec != std::errc() || second.ptr != end || n < 1 || k < 1 || n > (1 << 24) ||
      k > (1 << 24)) {
    fail(ErrorKind::kUsage, "--shape {}: want N,K with both in [1, {}], for example 4608,3584",
         printable(text, 40), 1 << 24);
  }
  return {fmt::format("{}x{}", n, k), n, k, false, nullptr};
}

}  // namespace

ModelConfig known_model(const std::string& name) {
  const auto config = preset_config(name);
  if (!config)
    fail(ErrorKind::kUsage, "--model {}: known are {}", printable(name, 40), fmt::join(preset_names(), ", "));
  return *config;
}

GemmSubject gemm_subject(const std::string& command, const GemmSubjectOptions& options) {
  const int given =
      (options.directory.empty() ? 0 : 1) + (options.model.empty() ? 0 : 1) + (options.shape.empty() ? 0 : 1);
  if (given != 1) fail(ErrorKind::kUsage, "{}: give exactly one of DIR, --model NAME, --shape N,K", command);
  if (!options.directory.empty() && (!options.dtypes.empty() || !options.patterns.empty())) {
    fail(ErrorKind::kUsage,
         "{} {}: a directory has its own dtype and pattern; --dtype and --patterns go with --model", command,
         options.directory);
  }
  GemmSubject subject;
  if (!options.directory.empty()) {
    const ModelDirectory directory(options.directory);
    const std::string file = options.directory + "/config.json";
    const auto info = parse_packed_info(directory.config_text(), file);
    if (!info)
      fail_input("{} is not a packed directory: convert it first, or use --model or --shape",
                 options.directory);
    const ModelConfig config = parse_model_config(directory.config_text(), file);
    subject.layers = config.layers;
    if (options.layer < 0 || options.layer >= config.layers) {
      fail(ErrorKind::kUsage, "--layer {}: {} has layers 0 to {}", options.layer, options.directory,
           config.layers - 1);
    }
    const std::string name = std::filesystem::path(options.directory).lexically_normal().filename().string();
    subject.shapes =
        layer_shapes(config, name, options.layer, open_weights(options.directory, config, /*validate=*/true));
    subject.head = head_shape(config, name);
    subject.dtypes = {info->dtype};
    for (const GemmShape& shape : subject.shapes) {
      const Pattern pattern = shape.stored->members.front().pattern;
      if (std::find(subject.patterns.begin(), subject.patterns.end(), pattern) == subject.patterns.end())
        subject.patterns.push_back(pattern);
    }
    return subject;
  }
  if (options.shape.empty()) {
    const ModelConfig config = known_model(options.model);
    subject.layers = config.layers;
    subject.shapes = layer_shapes(config, options.model, 0, nullptr);
    subject.head = head_shape(config, options.model);
  } else {
    subject.shapes = {parse_shape(options.shape)};
  }
  for (const std::string& text : options.dtypes) subject.dtypes.push_back(parse_dtype_option(text));
  if (subject.dtypes.empty()) subject.dtypes = {DType::kI8};
  subject.patterns = parse_pattern_list(options.patterns);
  if (subject.patterns.empty()) subject.patterns = {Pattern(), Pattern::of_half_group(4)};
  if (parse_layout_option(options.layout) == PackedLayout::kSplit) {
    for (GemmShape& shape : subject.shapes) shape.layout = Layout::kSplit;
  }
  return subject;
}

void add_probe_kernel(CLI::App& app) {
  CLI::App* command = app.add_subcommand("probe-kernel", "Try kernels that might end the process");
  command->group("");  // for this program's own use: not in the help
  command->callback([] { answer_probe(); });
}

}  // namespace slidesparse
