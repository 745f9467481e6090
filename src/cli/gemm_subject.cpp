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
#include "gemm/probe.h"
#include "io/model_directory.h"
#include "io/packed_directory.h"
#include "model/presets.h"
#include "model/weight_reader.h"
#include "model/weights.h"

namespace slidesparse {
namespace {

// A probe's kernels run once; its process makes a CUDA context and prepares weights first.
constexpr double kProbeSeconds = 20;
constexpr double kProbeStartSeconds = 60;

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

// The fused linears of one layer: what every layer repeats. With `reader`, and its weights.
std::vector<GemmShape> layer_shapes(const ModelConfig& config, const std::string& name, std::int64_t layer,
                                    const std::shared_ptr<WeightReader>& reader) {
  std::vector<GemmShape> shapes;
  for (const FusedGroup& group : weight_table(config).groups) {
    if (group.layer != layer) continue;
    GemmShape shape{name + "/" + group.name.substr(group.name.rfind('.') + 1), 0, group.members.front().k,
                    false};
    for (const LinearSpec& member : group.members) {
      shape.n += member.n;
      shape.bias = shape.bias || member.bias;
    }
    if (reader) {
      auto stored = std::make_shared<StoredLayer>();
      stored->keeps_alive = reader;
      for (const LinearSpec& member : group.members) stored->members.push_back(reader->linear(member, group));
      shape.stored = std::move(stored);
    }
    shapes.push_back(std::move(shape));
  }
  return shapes;
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
    subject.shapes =
        layer_shapes(config, std::filesystem::path(options.directory).lexically_normal().filename().string(),
                     options.layer, open_weights(options.directory, config, /*validate=*/true));
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

std::vector<std::string> probe_kernels(const TrackShape& shape, const std::vector<RaceEntrant>& entrants) {
  std::vector<std::string> cases;
  cases.reserve(entrants.size());
  for (const RaceEntrant& entrant : entrants) cases.push_back(probe_line(shape, entrant));
  return probe_in_child({"/proc/self/exe", "probe-kernel"}, cases, kProbeSeconds, kProbeStartSeconds);
}

void add_probe_kernel(CLI::App& app) {
  CLI::App* command = app.add_subcommand("probe-kernel", "Try kernels that might end the process");
  command->group("");  // for this program's own use: not in the help
  command->callback([] { answer_probe(); });
}

}  // namespace slidesparse
