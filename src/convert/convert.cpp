#include "convert/convert.h"

#include <algorithm>
#include <optional>
#include <set>
#include <span>

#include "convert/calibrated_run.h"
#include "convert/convert_plan.h"
#include "convert/directory_job.h"
#include "convert/linear_writer.h"
#include "convert/pattern_budget.h"
#include "convert/pruned_group.h"
#include "convert/source_digest.h"
#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "core/log.h"
#include "core/progress.h"
#include "core/samples.h"
#include "core/text.h"
#include "core/version.h"
#include "io/json.h"
#include "model/config.h"
#include "model/weights.h"

namespace slidesparse {
namespace {

std::string identity_of(const ModelDirectory& source, const ConvertOptions& options,
                        const CalibrationSource& calibration) {
  Json rules = Json::array();
  for (const PatternRule& rule : options.rules)
    rules.push_back({rule.glob, rule.pattern.to_string(), packed_layout_name(rule.layout), rule.reason});
  const Json identity = {{"job", "convert"},
                         {"tool_version", kVersion},
                         {"format_version", PackedInfo::kFormatVersion},
                         {"source", Json::parse(source_identity(source))},
                         {"pattern", options.pattern.to_string()},
                         {"layout", packed_layout_name(options.layout)},
                         {"rules", rules},
                         {"calibration", calibration.origin.calibration},
                         {"statistics", calibration.origin.along},
                         {"dampening", options.dampening},
                         {"refits", options.refits},
                         {"gptq", uses_gptq(options)},
                         {"dtype", dtype_name(options.dtype)},
                         {"method", prune_method_name(options.method)},
                         {"skip", options.skip},
                         {"head", dtype_word(options.head)},
                         {"shard_bytes", options.shard_bytes}};
  return identity.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::int64_t file_bytes(const ModelDirectory& source, const std::vector<std::string>& names) {
  std::int64_t total = 1 << 20;  // the files that we write ourselves
  for (const std::string& name : names) {
    total += static_cast<std::int64_t>(std::filesystem::file_size(source.path() / name));
  }
  return total;
}

// Names of side files that are copied: all but those that the job writes itself.
std::vector<std::string> side_files(const ModelDirectory& source) {
  std::vector<std::string> names = source.side_files();
  std::erase_if(names,
                [](const std::string& name) { return name == kReportFile || name == kSensitivitiesFile; });
  return names;
}

// One item of the journal: digests of what was read, and the report of a linear.
std::string item_payload(const TensorDigests& digests, const std::string& layer_json) {
  Json payload = {{"digests", digests}};
  if (!layer_json.empty()) payload["layer"] = layer_json;
  return payload.dump();
}

class Conversion {
 public:
  Conversion(const ModelDirectory& source, const ModelConfig& config, const ConvertOptions& options,
             const CalibrationSource& calibration, ConvertPlan plan, DirectoryJob& job)
      : source_(source),
        config_(config),
        options_(options),
        calibration_(calibration),
        plan_(std::move(plan)),
        job_(job),
        progress_("convert", total_bytes(), Progress::Unit::kBytes, options.quiet),
        streamer_(source, job, [this](std::int64_t bytes) {
          if (!calibrating_) progress_.advance(bytes);
        }) {}

  ConvertReport run() {
    for (const std::string& name : plan_.plain) {
      do_item(name, bytes_of(name), bytes_of(name), [&](TensorDigests& digests) {
        digests[name] = streamer_.copy(name);
        return std::string();
      });
    }
    for (const std::string& name : plan_.ignored) {
      do_item(name, bytes_of(name), 0, [&](TensorDigests& digests) {
        digests[name] = streamer_.hash(name);
        return std::string();
      });
    }
    if (calibration_.text) run_calibrated();
    convert_linears();
    report_.source_sha256 = source_digest(source_, digests_);
    report_.source_bytes = source_.total_tensor_bytes();
    for (const TensorEntry& tensor : plan_.outputs) {
      report_.target_bytes += tensor.shape.count() * static_cast<std::int64_t>(dtype_size(tensor.dtype));
    }
    progress_.finish();
    return std::move(report_);
  }

 private:
  std::int64_t bytes_of(const std::string& name) const { return source_.tensor(name).byte_size(); }

  std::int64_t input_bytes(const LinearTask& task) const {
    return bytes_of(task.weight) + (task.scale ? bytes_of(*task.scale) : 0);
  }

  std::int64_t total_bytes() const {
    std::int64_t total = 0;
    for (const std::string& name : plan_.plain) total += bytes_of(name);
    for (const std::string& name : plan_.ignored) total += bytes_of(name);
    for (const LinearTask& task : plan_.linears) total += input_bytes(task);
    return total;
  }

  // Does an item unless an earlier run did; returns the linear's report as JSON.
  std::string do_item(const std::string& item, std::int64_t input, std::int64_t output,
                      const std::function<std::string(TensorDigests&)>& work) {
    TensorDigests digests;
    std::string layer;
    if (const auto payload = job_.finished(item)) {
      const Json json = parse_json(*payload, "journal");
      for (const auto& entry : json.at("digests").items())
        digests[entry.key()] = entry.value().get<std::string>();
      layer = json_string_or(json, "layer", "journal", "");
      // What this run did itself, calibrating, is in the journal too.
      if (!done_here_.contains(item)) ++report_.resumed_items;
      progress_.skip(input);
    } else {
      progress_.set_detail(item);
      layer = work(digests);
      job_.finish_item(item, item_payload(digests, layer), output);
    }
    digests_.merge(digests);
    return layer;
  }

  // All groups of all layers that no earlier run finished, together with the layers' activations.
  void run_calibrated() {
    struct Item {
      const LinearTask* task;
      std::string payload;
    };
    std::vector<Item> items;
    CalibratedRun run(source_, config_, options_, calibration_, plan_, job_);
    calibrating_ = true;  // which has a progress of its own
    run.run(
        [&](std::span<const LinearTask> tasks, const PrunedGroup* pruned) {
          write_group(tasks, pruned,
                      [&](const LinearTask& task, const TensorDigests& digests, const std::string& layer) {
                        items.push_back({&task, item_payload(digests, layer)});
                      });
        },
        [&] {
          for (const Item& item : items) {
            job_.finish_item(item.task->name, item.payload, bytes_of(item.task->weight));
            done_here_.insert(item.task->name);
          }
          items.clear();
        });
    calibrating_ = false;
  }

  // Those that are pruned row by row, and groups that need no more than statistics at hand.
  void convert_linears() {
    for (std::size_t next = 0; next < plan_.linears.size();) {
      const auto tasks = group_tasks(plan_, next);
      // Made for the first member that is not finished yet.
      std::optional<PrunedGroup> pruned;
      for (std::size_t i = 0; i < tasks.size(); ++i) {
        const LinearTask& task = tasks[i];
        const std::string layer =
            do_item(task.name, input_bytes(task), bytes_of(task.weight), [&](TensorDigests& digests) {
              if (!in_memory(task)) {
                return layer_report_to_json(streamer_.convert(task, options_.method, nullptr, digests));
              }
              if (!pruned) pruned = prune_in_memory(tasks);
              return member_report(task, *pruned, i, digests);
            });
        report_.layers.push_back(layer_report_from_json(layer));
      }
    }
  }

  bool in_memory(const LinearTask& task) const {
    return !task.pattern.is_dense() &&
           (needs_calibration(options_.method) || task.layout == PackedLayout::kSplit);
  }

  PrunedGroup prune_in_memory(std::span<const LinearTask> tasks) {
    check_interrupt("what is finished is kept: run the same command again to go on");
    std::vector<float> moments;
    if (needs_calibration(options_.method)) {
      const WeightTable table = weight_table(config_);
      const auto group = std::ranges::find(table.groups, tasks.front().group, &FusedGroup::name);
      moments = calibration_.statistics->read(*group, options_.method == PruneMethod::kSparseGpt);
    }
    PrunedGroup pruned = prune_source_group(source_, tasks, group_prune(options_, tasks.front()), moments);
    write_perm(tasks.front(), pruned);
    return pruned;
  }

  void write_perm(const LinearTask& task, const PrunedGroup& pruned) {
    if (task.layout == PackedLayout::kSplit)
      job_.write(task.perm, 0, std::as_bytes(std::span(pruned.result.perm)));
  }

  std::string member_report(const LinearTask& task, const PrunedGroup& pruned, std::size_t member,
                            TensorDigests& digests) {
    const PrunedRows rows{pruned.members[member].rows.data(), pruned.result.perm};
    LayerReport report = streamer_.convert(task, PruneMethod::kNone, &rows, digests);
    report.error_masked = pruned.result.error_masked;
    report.error = pruned.result.error;
    report.dampening = pruned.result.dampening;
    report.dead_channels = pruned.result.dead;
    return layer_report_to_json(report);
  }

  void write_group(std::span<const LinearTask> tasks, const PrunedGroup* pruned,
                   const std::function<void(const LinearTask&, const TensorDigests&, std::string)>& done) {
    if (pruned != nullptr) write_perm(tasks.front(), *pruned);
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      TensorDigests digests;
      std::string layer;
      if (pruned == nullptr) {
        layer = layer_report_to_json(streamer_.convert(tasks[i], options_.method, nullptr, digests));
      } else {
        layer = member_report(tasks[i], *pruned, i, digests);
      }
      done(tasks[i], digests, std::move(layer));
    }
  }

  const ModelDirectory& source_;
  const ModelConfig& config_;
  const ConvertOptions& options_;
  const CalibrationSource& calibration_;
  const ConvertPlan plan_;
  DirectoryJob& job_;
  ConvertReport report_;
  TensorDigests digests_;
  std::set<std::string> done_here_;
  bool calibrating_ = false;
  Progress progress_;
  TensorStreamer streamer_;
};

PackedInfo packed_info(const ConvertOptions& options, const ConvertPlan& plan,
                       const CalibrationSource& calibration, const std::optional<PatternBudget>& budget) {
  PackedInfo info;
  info.pattern = options.pattern;
  info.layout = options.layout;
  info.dtype = options.dtype;
  info.method = prune_method_name(options.method);
  if (calibration.wanted()) {
    info.calibration =
        fmt::format("{}; second moments along {}", calibration.origin.calibration, calibration.origin.along);
  }
  if (uses_gptq(options)) info.calibration += "; codes by gptq";
  if (budget) {
    info.calibration += fmt::format("; patterns chosen for {} times dense, {:.4f} by the speeds of {}",
                                    budget->target, budget->speed, printable(budget->speeds, 400));
  }
  info.head = options.head;
  info.tool_version = kVersion;
  info.exceptions = plan.exceptions;
  return info;
}

// They are in the target now; a file that options name is theirs to keep.
void remove_sensitivities(const ConvertOptions& options) {
  std::error_code error;
  if (options.target_speed && options.sensitivities.empty())
    std::filesystem::remove(sensitivities_path(options), error);
}

}  // namespace

ConvertReport convert_model(const ConvertOptions& given) {
  const double start = now_seconds();
  check_source_and_target(given.source, given.target);
  const ModelDirectory source(given.source);
  const ModelConfig config =
      parse_model_config(source.config_text(), (given.source / "config.json").string());
  ConvertOptions options = given;
  if (!options.target_speed) plan_conversion(source, config, options);  // refuses before text is read
  CalibrationSource calibration = open_calibration(options, source, config);
  std::optional<PatternBudget> budget;
  if (options.target_speed) {
    check_target_is_free(options.target, options.force);
    budget = budget_of(source, config, options, calibration);
    apply_budget(*budget, options);
    if (calibration.text) calibration.origin.along = pruned_along(options);
  }
  ConvertPlan plan = plan_conversion(source, config, options);
  if (calibration.text) {
    const std::string memory = CalibratedRun::describe_memory(config, options, *calibration.text, plan);
    if (!options.quiet) spdlog::info("{}", memory);
  }
  PackedInfo info = packed_info(options, plan, calibration, budget);
  const std::vector<std::string> sides = side_files(source);

  DirectoryPlan directory;
  directory.target = options.target;
  directory.force = options.force;
  directory.identity_json = identity_of(source, options, calibration);
  directory.tensors = plan.outputs;
  directory.side_bytes = file_bytes(source, sides);
  directory.shard_bytes = options.shard_bytes;
  directory.commit_bytes = options.commit_bytes;
  DirectoryJob job(std::move(directory));
  if (job.published()) {
    const std::filesystem::path file = options.target / kReportFile;
    ConvertReport report = report_from_json(read_text_file(file), file.string());
    report.resumed_items = static_cast<std::int64_t>(report.layers.size());
    report.seconds = now_seconds() - start;
    remove_sensitivities(options);
    return report;
  }
  ConvertReport report = Conversion(source, config, options, calibration, std::move(plan), job).run();
  info.source_sha256 = report.source_sha256;
  for (const std::string& name : sides) job.copy_side_file(source.path() / name);
  if (budget) {
    report.budget = budget;
    job.write_side_file(kSensitivitiesFile, read_text_file(sensitivities_path(options)));
  }
  job.write_side_file(kReportFile, report_to_json(report));
  job.publish(config_with_packed_info(source.config_text(), info));
  remove_sensitivities(options);
  report.seconds = now_seconds() - start;
  return report;
}

}  // namespace slidesparse
