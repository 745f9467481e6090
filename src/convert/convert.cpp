#include "convert/convert.h"

#include <algorithm>

#include "convert/convert_plan.h"
#include "convert/directory_job.h"
#include "convert/linear_writer.h"
#include "convert/source_digest.h"
#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/progress.h"
#include "core/samples.h"
#include "core/text.h"
#include "core/version.h"
#include "io/json.h"
#include "model/config.h"

namespace slidesparse {
namespace {

std::string identity_of(const ModelDirectory& source, const ConvertOptions& options) {
  const Json identity = {{"job", "convert"},
                         {"tool_version", kVersion},
                         {"format_version", PackedInfo::kFormatVersion},
                         {"source", Json::parse(source_identity(source))},
                         {"pattern", options.pattern.to_string()},
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
  std::erase_if(names, [](const std::string& name) { return name == kReportFile; });
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
  Conversion(const ModelDirectory& source, const ConvertOptions& options, ConvertPlan plan, DirectoryJob& job)
      : source_(source),
        options_(options),
        plan_(std::move(plan)),
        job_(job),
        progress_("convert", total_bytes(), Progress::Unit::kBytes, options.quiet),
        streamer_(source, job, [this](std::int64_t bytes) { progress_.advance(bytes); }) {}

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
    for (const LinearTask& task : plan_.linears) {
      const std::string layer =
          do_item(task.name, input_bytes(task), bytes_of(task.weight), [&](TensorDigests& digests) {
            return layer_report_to_json(streamer_.convert(task, options_.method, digests));
          });
      report_.layers.push_back(layer_report_from_json(layer));
    }
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
      ++report_.resumed_items;
      progress_.skip(input);
    } else {
      progress_.set_detail(item);
      layer = work(digests);
      job_.finish_item(item, item_payload(digests, layer), output);
    }
    digests_.merge(digests);
    return layer;
  }

  const ModelDirectory& source_;
  const ConvertOptions& options_;
  const ConvertPlan plan_;
  DirectoryJob& job_;
  ConvertReport report_;
  TensorDigests digests_;
  Progress progress_;
  TensorStreamer streamer_;
};

PackedInfo packed_info(const ConvertOptions& options, const ConvertPlan& plan) {
  PackedInfo info;
  info.pattern = options.pattern;
  info.layout = options.layout;
  info.dtype = options.dtype;
  info.method = prune_method_name(options.method);
  info.head = options.head;
  info.tool_version = kVersion;
  info.exceptions = plan.exceptions;
  return info;
}

}  // namespace

ConvertReport convert_model(const ConvertOptions& options) {
  const double start = now_seconds();
  check_source_and_target(options.source, options.target);
  const ModelDirectory source(options.source);
  const ModelConfig config =
      parse_model_config(source.config_text(), (options.source / "config.json").string());
  ConvertPlan plan = plan_conversion(source, config, options);
  PackedInfo info = packed_info(options, plan);
  const std::vector<std::string> sides = side_files(source);

  DirectoryPlan directory;
  directory.target = options.target;
  directory.force = options.force;
  directory.identity_json = identity_of(source, options);
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
    return report;
  }
  ConvertReport report = Conversion(source, options, std::move(plan), job).run();
  info.source_sha256 = report.source_sha256;
  for (const std::string& name : sides) job.copy_side_file(source.path() / name);
  job.write_side_file(kReportFile, report_to_json(report));
  job.publish(config_with_packed_info(source.config_text(), info));
  report.seconds = now_seconds() - start;
  return report;
}

}  // namespace slidesparse
