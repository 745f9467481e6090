#include "engine/layer_shapes.h"

#include "gemm/probe.h"
#include "model/weights.h"

namespace slidesparse {
namespace {

// A probe's kernels run once; its process makes a CUDA context and prepares weights first.
constexpr double kProbeSeconds = 20;
constexpr double kProbeStartSeconds = 60;

// One a prompt or a sequence: prefill of 16,384 tokens wants 16. FP32 logits of more would take gigabytes.
constexpr std::int64_t kMostHeadRows = 1024;

}  // namespace

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

GemmShape head_shape(const ModelConfig& config, const std::string& name) {
  return {name + "/head", config.vocab, config.hidden, false};
}

TrackShape head_track(const GemmShape& head, DType dtype) {
  TrackShape shape{head.n, head.k, dtype};
  shape.out = DType::kF32;
  shape.never_pruned = true;
  shape.most_m = kMostHeadRows;
  return shape;
}

std::vector<std::string> probe_kernels(const TrackShape& shape, const std::vector<RaceEntrant>& entrants) {
  std::vector<std::string> cases;
  cases.reserve(entrants.size());
  for (const RaceEntrant& entrant : entrants) cases.push_back(probe_line(shape, entrant));
  return probe_in_child({"/proc/self/exe", "probe-kernel"}, cases, kProbeSeconds, kProbeStartSeconds);
}

}  // namespace slidesparse
