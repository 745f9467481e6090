#include "convert/calibrated_run.h"

#include <algorithm>
#include <fstream>

#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/log.h"
#include "core/text.h"
#include "io/digest.h"
#include "io/journal.h"
#include "io/json.h"
#include "io/mapped_file.h"

namespace slidesparse {
namespace {

// Journal item that says how many layers are done, and what the residual stream after them must be.
constexpr const char* kItem = "calibration";

std::string state_name(std::int64_t layer) {
  return fmt::format("calibration.layer-{}", layer);
}

std::string digest_of(std::span<const std::byte> bytes) {
  Sha256 sha;
  sha.update(bytes);
  return sha.finish();
}

bool is_full(const ConvertOptions& options) {
  return options.method == PruneMethod::kSparseGpt;
}

bool can_use_gptq(const ConvertOptions& options) {
  return is_full(options) && options.dtype == DType::kF8E4M3;
}

}  // namespace

bool uses_gptq(const ConvertOptions& options) {
  return options.gptq.value_or(can_use_gptq(options));
}

std::string pruned_along(const ConvertOptions& options) {
  std::string text = fmt::format("{} {} {}", prune_method_name(options.method), options.pattern.to_string(),
                                 packed_layout_name(options.layout));
  for (const PatternRule& rule : options.rules) {
    text += fmt::format(", {}={} {}", printable(rule.glob), rule.pattern.to_string(),
                        packed_layout_name(rule.layout));
  }
  for (const std::string& glob : options.skip) text += fmt::format(", {} dense", printable(glob));
  if (is_full(options)) text += fmt::format(", dampening {}, {} refits", options.dampening, options.refits);
  if (uses_gptq(options)) text += ", gptq";
  return text;
}

namespace {

// Memory that can be had without swapping, bytes; 0 when the system does not say.
std::int64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  std::int64_t kib = 0;
  while (file >> word) {
    if (word == "MemAvailable:" && file >> kib) return kib * 1024;
  }
  return 0;
}

}  // namespace

GroupPrune group_prune(const ConvertOptions& options, const LinearTask& task) {
  GroupPrune prune;
  prune.method = options.method;
  prune.pattern = task.pattern;
  prune.split = task.layout == PackedLayout::kSplit;
  prune.dampening = options.dampening;
  prune.refits = options.refits;
  prune.round_to_fp8 = uses_gptq(options);
  return prune;
}

CalibrationSource open_calibration(const ConvertOptions& options, const ModelDirectory& source,
                                   const ModelConfig& config) {
  CalibrationSource result;
  const bool given = !options.calibration.text.empty() || !options.statistics.empty();
  if (options.gptq.value_or(false) && !can_use_gptq(options)) {
    fail(ErrorKind::kUsage,
         "--rounding gptq: for --method sparsegpt and --dtype fp8, not {} and {}; it needs full second "
         "moments, and codes of INT8 and BF16 are fine enough without",
         prune_method_name(options.method), dtype_word(options.dtype));
  }
  if (!needs_calibration(options.method)) {
    if (given) {
      fail(ErrorKind::kUsage,
           "--method {} looks at weights only: leave --calibration and --statistics out, or use "
           "wanda or sparsegpt",
           prune_method_name(options.method));
    }
    return result;
  }
  if (!(options.dampening > 0 && options.dampening <= 1))
    fail(ErrorKind::kUsage, "--dampening {}: more than 0, at most 1", options.dampening);
  if (options.refits < 0) fail(ErrorKind::kUsage, "--refits {}: 0 or more", options.refits);
  result.origin.fingerprint = model_fingerprint(source, weight_table(config));
  // With a journal inside it waits for its last step, which the writer does.
  std::error_code error;
  if (!options.statistics.empty() && std::filesystem::exists(options.statistics, error) &&
      !std::filesystem::exists(options.statistics / kJournalName, error)) {
    result.statistics.emplace(options.statistics, result.origin.fingerprint);
    result.origin = result.statistics->origin();
    return result;
  }
  if (options.calibration.text.empty()) {
    if (given) {
      fail(ErrorKind::kUsage, "--statistics {}: is not there yet; give --calibration FILE to make it",
           printable(options.statistics.string(), 400));
    }
    fail(ErrorKind::kUsage,
         "--method {} keeps the weights that matter for the inputs which the model really sees, so it has to "
         "run on "
         "some text: give --calibration FILE (a few hundred thousand tokens of what the model will be used "
         "for)",
         prune_method_name(options.method));
  }
  result.text = read_calibration_text(options.calibration, source.path(), config);
  result.origin.calibration = result.text->description;
  result.origin.along = pruned_along(options);
  result.origin.full = is_full(options);
  result.write_statistics = !options.statistics.empty();
  return result;
}

std::string CalibratedRun::describe_memory(const ModelConfig& config, const ConvertOptions& options,
                                           const CalibrationText& text, const ConvertPlan& plan,
                                           std::int64_t trials) {
  const auto tokens = static_cast<std::int64_t>(text.tokens.size());
  const std::int64_t activations = Calibrator::activation_bytes(config, tokens);
  std::int64_t pruning = 0;
  std::int64_t matrix = 0;
  for (std::size_t next = 0; next < plan.linears.size();) {
    const auto tasks = group_tasks(plan, next);
    if (tasks.front().pattern.is_dense()) continue;
    std::int64_t rows = 0;
    for (const LinearTask& task : tasks) rows += task.n;
    const std::int64_t k = tasks.front().k;
    const std::int64_t moments = is_full(options) ? 4 * k * k : 4 * k;
    matrix = std::max(matrix, moments);
    pruning = std::max(pruning, moments + pruned_group_bytes(group_prune(options, tasks.front()), rows, k));
  }
  const std::int64_t total = activations + pruning + trials;
  const auto words = [](std::int64_t bytes) { return format_bytes(static_cast<double>(bytes)); };
  const std::int64_t available = available_memory();
  std::string line = fmt::format(
      "calibration on {} tokens: {} of memory ({} activations, {} for pruning one fused group, its second "
      "moments "
      "alone {})",
      tokens, words(total), words(activations), words(pruning), words(matrix));
  if (trials > 0) line.insert(line.size() - 1, fmt::format(", {} for trials", words(trials)));
  if (available > 0 && total > available) {
    fail(ErrorKind::kInput, "{}, {} are free: use fewer --samples or a shorter --sample-length", line,
         words(available));
  }
  return line;
}

CalibratedRun::CalibratedRun(const ModelDirectory& source, const ModelConfig& config,
                             const ConvertOptions& options, const CalibrationSource& calibration,
                             const ConvertPlan& plan, DirectoryJob& job)
    : source_(source),
      config_(config),
      options_(options),
      text_(*calibration.text),
      plan_(plan),
      job_(job),
      table_(weight_table(config)),
      calibrator_(config, source.path(), text_.tokens, options.calibration.sample_length) {
  if (calibration.write_statistics)
    writer_.emplace(options.statistics, table_, calibration.origin, options.force);
  restore();
}

void CalibratedRun::restore() {
  const auto payload = job_.finished(kItem);
  if (!payload) return;
  const Json json = parse_json(*payload, "journal");
  first_layer_ = json_int(json, "layer", "journal", 0, config_.layers);
  if (first_layer_ == 0 || first_layer_ == config_.layers) return;
  const MappedFile file(job_.scratch(state_name(first_layer_)));
  if (digest_of(file.bytes()) != json_string(json, "sha256", "journal")) {
    fail_input("{}: the activations of layer {} are damaged; delete the directory and start again",
               printable(file.path().string(), 400), first_layer_);
  }
  calibrator_.restore(first_layer_, file.bytes());
}

// What the next run needs to go on behind the layer before `layer`; becomes valid with the journal's item.
void CalibratedRun::save(std::int64_t layer) {
  Json payload = {{"layer", layer}, {"sha256", ""}};
  if (layer < config_.layers) {
    const std::span<const std::byte> state = calibrator_.state();
    OutputFile file(job_.scratch(state_name(layer)), static_cast<std::int64_t>(state.size()));
    file.write_at(0, state);
    file.sync();
    payload["sha256"] = digest_of(state);
  }
  job_.finish_item(kItem, payload.dump(), 0);
  job_.commit();
  std::error_code error;
  std::filesystem::remove(job_.scratch(state_name(layer - 1)), error);
}

void CalibratedRun::run(const std::function<void(std::span<const LinearTask>, const PrunedGroup*)>& write,
                        const std::function<void()>& layer_done) {
  const std::int64_t samples =
      static_cast<std::int64_t>(text_.tokens.size()) / options_.calibration.sample_length;
  constexpr std::int64_t kPasses = kGroupsPerLayer + 1;
  Progress progress("calibrate", config_.layers * kPasses * samples, Progress::Unit::kItems, options_.quiet);
  progress.skip(first_layer_ * kPasses * samples);
  const auto advance = [&](std::int64_t count) { progress.advance(count); };
  std::size_t next = 0;
  for (std::int64_t skipped = 0; skipped < first_layer_ * kGroupsPerLayer; ++skipped)
    group_tasks(plan_, next);
  for (std::int64_t layer = first_layer_; layer < config_.layers; ++layer) {
    PrunedGroup pruned;  // lives until the calibrator has run it
    for (int g = 0; g < kGroupsPerLayer; ++g) {
      const FusedGroup& group = table_.groups[static_cast<std::size_t>(layer * kGroupsPerLayer + g)];
      const auto tasks = group_tasks(plan_, next);
      require(tasks.front().group == group.name, "{} is planned where {} runs", tasks.front().group,
              group.name);
      progress.set_detail(group.name);
      const bool dense = tasks.front().pattern.is_dense();
      const std::int64_t k = tasks.front().k;
      std::vector<float> moments;
      if (!dense || writer_) moments.resize(static_cast<std::size_t>(is_full(options_) ? k * k : k));
      calibrator_.collect(moments, advance);
      if (writer_) writer_->write(group, moments);
      if (dense) {
        write(tasks, nullptr);
        continue;
      }
      pruned = prune_source_group(source_, tasks, group_prune(options_, tasks.front()), moments);
      std::vector<const std::uint16_t*> weights;
      for (const PrunedGroup::Member& member : pruned.members) weights.push_back(member.as_bf16());
      calibrator_.set_weights(weights);
      write(tasks, &pruned);
    }
    calibrator_.end_layer(advance);
    if (writer_) writer_->finish_layer(layer);
    layer_done();
    save(layer + 1);
  }
  if (writer_) writer_->publish();
}

}  // namespace slidesparse
