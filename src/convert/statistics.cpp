#include "convert/statistics.h"

#include "core/fail.h"
#include "core/text.h"
#include "core/version.h"
#include "io/digest.h"
#include "io/json.h"

namespace slidesparse {
namespace {

constexpr const char* kSection = "slidesparse_statistics";
constexpr const char* kSuffix = ".second_moments";
constexpr std::int64_t kConfigBytes = 1 << 20;  // at most

Shape shape_of(const FusedGroup& group, bool full) {
  const std::int64_t k = group.members.front().k;
  return full ? Shape{k, k} : Shape{k};
}

Json to_json(const StatisticsOrigin& origin) {
  return {{"fingerprint", origin.fingerprint},
          {"calibration", origin.calibration},
          {"along", origin.along},
          {"full", origin.full},
          {"tool_version", kVersion}};
}

}  // namespace

std::string model_fingerprint(const ModelDirectory& model, const WeightTable& table) {
  Sha256 sha;
  sha.update(std::as_bytes(std::span(model.config_text().data(), model.config_text().size())));
  for (const PlainSpec& spec : table.plain) {
    if (!spec.name.ends_with("norm.weight")) continue;
    const TensorView norm = model.tensor(spec.name, spec.shape);
    sha.update({norm.as<const std::byte>(), static_cast<std::size_t>(norm.byte_size())});
  }
  return sha.finish();
}

StatisticsReader::StatisticsReader(const std::filesystem::path& directory, const std::string& fingerprint)
    : path_(directory), directory_(directory) {
  const std::string file = (directory / "config.json").string();
  const Json json = parse_json(directory_.config_text(), file);
  const Json* section = json_object_or_null(json, kSection, file);
  if (section == nullptr) {
    fail_input("{}: holds no statistics (its config.json has no {}); name another directory",
               printable(directory.string(), 400), kSection);
  }
  const std::string where = file + ": " + kSection;
  origin_ = {json_string(*section, "fingerprint", where), json_string(*section, "calibration", where),
             json_string(*section, "along", where), json_bool_or(*section, "full", where, false)};
  if (origin_.fingerprint != fingerprint) {
    fail_input(
        "{}: statistics of another model (fingerprint {:.12}..., this model's is {:.12}...); collect them "
        "again",
        printable(directory.string(), 400), origin_.fingerprint, fingerprint);
  }
}

std::vector<float> StatisticsReader::read(const FusedGroup& group, bool full) const {
  const std::string name = group.name + kSuffix;
  if (full && !origin_.full) {
    fail_input(
        "{}: holds the diagonals of the second moments only, which is enough for wanda; sparsegpt needs the "
        "matrices: collect them again with --method sparsegpt",
        printable(path_.string(), 400));
  }
  const TensorView stored = directory_.tensor(name, shape_of(group, origin_.full));
  if (stored.dtype != DType::kF32) {
    fail_input("{}: tensor {}: F32 was expected, found {}", printable(path_.string(), 400), name,
               dtype_name(stored.dtype));
  }
  const std::int64_t k = group.members.front().k;
  const auto* data = stored.as<const float>();
  if (full || !origin_.full) return {data, data + stored.shape.count()};
  std::vector<float> diagonal(static_cast<std::size_t>(k));
  for (std::int64_t c = 0; c < k; ++c) diagonal[static_cast<std::size_t>(c)] = data[c * k + c];
  return diagonal;
}

StatisticsWriter::StatisticsWriter(const std::filesystem::path& directory, const WeightTable& table,
                                   StatisticsOrigin origin, bool force)
    : origin_(std::move(origin)) {
  DirectoryPlan plan;
  plan.target = directory;
  plan.force = force;
  plan.side_bytes = kConfigBytes;
  Json identity = to_json(origin_);
  identity["job"] = "statistics";
  plan.identity_json = identity.dump(-1, ' ', false, Json::error_handler_t::replace);
  for (const FusedGroup& group : table.groups)
    plan.tensors.push_back({group.name + kSuffix, DType::kF32, shape_of(group, origin_.full), 0, 0});
  job_ = std::make_unique<DirectoryJob>(std::move(plan));
}

void StatisticsWriter::write(const FusedGroup& group, std::span<const float> moments) {
  if (job_->published()) return;
  job_->write(group.name + kSuffix, 0, std::as_bytes(moments));
}

void StatisticsWriter::finish_layer(std::int64_t layer) {
  if (job_->published()) return;
  job_->finish_item(fmt::format("layer {}", layer), "{}", 0);
  job_->commit();
}

void StatisticsWriter::publish() {
  if (job_->published()) return;  // by a run that died right behind it
  job_->publish(Json{{kSection, to_json(origin_)}}.dump(2, ' ', false, Json::error_handler_t::replace) +
                "\n");
}

}  // namespace slidesparse
