#include "convert/unpack.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

#include "convert/directory_job.h"
#include "convert/linear_writer.h"
#include "convert/pattern_budget.h"
#include "convert/report.h"
#include "convert/source_digest.h"
#include "convert/work.h"
#include "core/buffer.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "core/progress.h"
#include "core/text.h"
#include "core/version.h"
#include "io/compressed_tensors.h"
#include "io/json.h"
#include "io/packed_directory.h"
#include "model/config.h"
#include "model/weights.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kBlockBytes = 1 << 20;

std::string identity_of(const ModelDirectory& source, const UnpackOptions& options) {
  const Json identity = {{"job", "unpack"},
                         {"tool_version", kVersion},
                         {"source", Json::parse(source_identity(source))},
                         {"shard_bytes", options.shard_bytes}};
  return identity.dump();
}

struct UnpackPlan {
  std::vector<std::string> plain;
  std::vector<PackedLinear> linears;
  std::vector<TensorEntry> outputs;
};

UnpackPlan plan_unpacking(const ModelDirectory& source, const PackedInfo& info, const ModelConfig& config) {
  const WeightTable table = weight_table(config);
  UnpackPlan plan;
  const auto add_plain = [&](const std::string& name, const Shape& shape) {
    plan.outputs.push_back({name, source.tensor(name, shape).dtype, shape, 0, 0});
    plan.plain.push_back(name);
  };
  const auto add_linear = [&](const std::string& name, std::int64_t n, std::int64_t k,
                              const std::string& perm) {
    const PackedLinear linear = read_packed_linear(source, info, name, n, k, perm);
    plan.outputs.push_back({name + ".weight", linear.dtype, {n, k}, 0, 0});
    if (linear.scale) plan.outputs.push_back({name + ".weight_scale", linear.scale->dtype, {n, 1}, 0, 0});
    plan.linears.push_back(linear);
  };
  for (const PlainSpec& spec : table.plain) add_plain(spec.name, spec.shape);
  for (const FusedGroup& group : table.groups) {
    for (const LinearSpec& spec : group.members) add_linear(spec.name, spec.n, spec.k, group.perm_name);
  }
  if (info.head == DType::kI8) {
    add_linear(table.head, config.vocab, config.hidden, "");
  } else if (!config.tied_embeddings) {
    add_plain(table.head + ".weight", {config.vocab, config.hidden});
  }
  return plan;
}

// Rows [row, row + count) of a packed linear as dense rows.
void unpack_block(const PackedLinear& linear, std::int64_t row, std::int64_t count, void* out) {
  if (linear.layout == PackedLayout::kSlide) {
    unpack_rows(linear.view(), row, count, out, linear.k, linear.name);
    return;
  }
  const SplitShape shape = split_shape(linear.pattern, linear.k);
  const auto size = static_cast<std::int64_t>(dtype_size(linear.dtype));
  const auto* values = static_cast<const std::byte*>(linear.values) + row * shape.values_per_row() * size;
  split_unpack_rows(shape, linear.perm, linear.dtype, values, linear.codes + row * shape.code_bytes_per_row(),
                    count, out, linear.k, linear.name);
}

void unpack_linear(const PackedLinear& linear, DirectoryJob& job, std::vector<Buffer>& buffers) {
  validate_packed_linear(linear);
  const std::int64_t row_bytes = linear.k * static_cast<std::int64_t>(dtype_size(linear.dtype));
  const std::int64_t block = std::max<std::int64_t>(1, kBlockBytes / row_bytes);
  run_tasks((linear.n + block - 1) / block, [&](std::int64_t task, int worker) {
    check_interrupt("what is finished is kept: run the same command again to go on");
    const std::int64_t row = task * block;
    const std::int64_t count = std::min(block, linear.n - row);
    Buffer& buffer = buffers[static_cast<std::size_t>(worker)];
    const auto bytes = static_cast<std::size_t>(count * row_bytes);
    if (buffer.size() < bytes) buffer = Buffer(bytes);
    unpack_block(linear, row, count, buffer.data());
    job.write(linear.name + ".weight", row * row_bytes, {buffer.data(), bytes});
  });
  if (linear.scale) {
    job.write(linear.name + ".weight_scale", 0,
              {linear.scale->as<const std::byte>(), static_cast<std::size_t>(linear.scale->byte_size())});
  }
}

std::string unpacked_config(const ModelDirectory& source, const PackedInfo& info) {
  const bool quantised_head = info.head == DType::kI8;
  const std::vector<std::string> ignore =
      quantised_head ? std::vector<std::string>{} : std::vector<std::string>{"lm_head"};
  std::string text = config_with_compressed_tensors(source.config_text(), info.dtype, ignore);
  if (!quantised_head) return text;
  // The head has weights of its own now.
  OrderedJson config = OrderedJson::parse(text);
  config["tie_word_embeddings"] = false;
  return config.dump(2) + "\n";
}

}  // namespace

void unpack_model(const UnpackOptions& options) {
  check_source_and_target(options.source, options.target);
  const ModelDirectory source(options.source);
  const std::string file = (options.source / "config.json").string();
  const std::optional<PackedInfo> info = parse_packed_info(source.config_text(), file);
  if (!info) {
    fail_input("{}: not a packed directory: its config.json has no slidesparse section; nothing to unpack",
               printable(options.source.string(), 400));
  }
  if (info->head == DType::kI8 && info->dtype != DType::kI8) {
    fail(ErrorKind::kUnsupported,
         "{}: an INT8 head beside {} linears has no standard form; convert again with --head bf16 to unpack",
         printable(options.source.string(), 400), dtype_name(info->dtype));
  }
  const ModelConfig config = parse_model_config(source.config_text(), file);
  const UnpackPlan plan = plan_unpacking(source, *info, config);
  std::vector<std::string> sides = source.side_files();
  std::erase_if(sides,
                [](const std::string& name) { return name == kReportFile || name == kSensitivitiesFile; });

  DirectoryPlan directory;
  directory.target = options.target;
  directory.force = options.force;
  directory.identity_json = identity_of(source, options);
  directory.tensors = plan.outputs;
  directory.shard_bytes = options.shard_bytes;
  directory.side_bytes = 1 << 20;
  for (const std::string& name : sides) {
    directory.side_bytes += static_cast<std::int64_t>(std::filesystem::file_size(options.source / name));
  }
  DirectoryJob job(std::move(directory));
  if (job.published()) return;

  std::int64_t total = 0;
  for (const TensorEntry& tensor : plan.outputs) {
    total += tensor.shape.count() * static_cast<std::int64_t>(dtype_size(tensor.dtype));
  }
  Progress progress("unpack", total, Progress::Unit::kBytes, options.quiet);
  const auto do_item = [&](const std::string& item, std::int64_t bytes, const auto& work) {
    if (job.finished(item)) {
      progress.skip(bytes);
      return;
    }
    work();
    job.finish_item(item, "{}", bytes);
    progress.advance(bytes);
  };
  TensorStreamer streamer(source, job, [](std::int64_t) {});
  for (const std::string& name : plan.plain) {
    do_item(name, source.tensor(name).byte_size(), [&] { streamer.copy(name); });
  }
  std::vector<Buffer> buffers(static_cast<std::size_t>(thread_count()));
  for (const PackedLinear& linear : plan.linears) {
    do_item(linear.name, linear.n * linear.k * static_cast<std::int64_t>(dtype_size(linear.dtype)), [&] {
      unpack_linear(linear, job, buffers);
      source.release(linear.name + ".values");
    });
  }
  progress.finish();
  for (const std::string& name : sides) job.copy_side_file(source.path() / name);
  job.publish(unpacked_config(source, *info));
}

}  // namespace slidesparse
