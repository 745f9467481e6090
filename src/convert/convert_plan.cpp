#include "convert/convert_plan.h"

#include <algorithm>
#include <set>

#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/text.h"
#include "io/compressed_tensors.h"
#include "model/weights.h"

namespace slidesparse {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

class Planner {
 public:
  Planner(const ModelDirectory& source, const ModelConfig& config, const ConvertOptions& options)
      : source_(source),
        config_(config),
        options_(options),
        table_(weight_table(config)),
        file_((source.path() / "config.json").string()),
        quantised_(parse_compressed_tensors(source.config_text(), file_)),
        glob_matched_(options.skip.size(), false),
        rule_matched_(options.rules.size(), false) {}

  ConvertPlan make() {
    for (const PlainSpec& spec : table_.plain) add_plain(spec.name, spec.shape);
    for (const FusedGroup& group : table_.groups) {
      const Treatment treatment = treatment_of(group);
      for (const LinearSpec& spec : group.members) add_linear(group, spec, treatment);
      if (treatment.layout == PackedLayout::kSplit) {
        plan_.outputs.push_back({group.perm_name, DType::kI32, {group.members.front().k}, 0, 0});
      }
    }
    add_head();
    for (std::size_t i = 0; i < glob_matched_.size(); ++i) {
      if (!glob_matched_[i]) refuse_glob("--skip", options_.skip[i]);
    }
    for (std::size_t i = 0; i < rule_matched_.size(); ++i) {
      if (!rule_matched_[i]) refuse_glob("--pattern", options_.rules[i].glob);
    }
    check_unknown();
    return std::move(plan_);
  }

 private:
  [[noreturn]] void refuse(const std::string& tensor, const std::string& why) const {
    fail_input("{}: tensor {}: {}", printable((source_.path() / source_.file_of(tensor)).string(), 400),
               printable(tensor), why);
  }

  void add_plain(const std::string& name, const Shape& shape) {
    const TensorView view = source_.tensor(name, shape);
    if (!is_float(view.dtype)) {
      refuse(name, fmt::format("expected dtype BF16, F16 or F32, found {}", dtype_name(view.dtype)));
    }
    plan_.plain.push_back(name);
    plan_.outputs.push_back({name, view.dtype, shape, 0, 0});
    used_.insert(name);
  }

  [[noreturn]] void refuse_glob(const char* option, const std::string& glob) const {
    fail(ErrorKind::kUsage, "{} {}: matches no linear of this model; names look like {} and {}", option,
         printable(glob), table_.groups.front().members.front().name, table_.groups.front().name);
  }

  // What becomes of a fused group, and why, where it is not what the directory's default says.
  struct Treatment {
    Pattern pattern;
    PackedLayout layout = PackedLayout::kSlide;
    std::string reason;
  };

  // Whether a glob names the group, in words for the reason; nothing when it does not. A glob that names one
  // member names them all.
  static std::optional<std::string> match(const std::string& option, const std::string& glob,
                                          const FusedGroup& group) {
    std::vector<std::string> hits;
    for (const LinearSpec& spec : group.members) {
      if (glob_match(glob, spec.name)) hits.push_back(spec.name);
    }
    if (glob_match(glob, group.name) || hits.size() == group.members.size())
      return fmt::format("{} {}", option, printable(glob));
    if (hits.empty()) return std::nullopt;
    return fmt::format("{} {} matches {}: the fused group {} is {} as a whole", option, printable(glob),
                       fmt::join(hits, ", "), group.name, option == "--skip" ? "skipped" : "treated");
  }

  Treatment treatment_of(const FusedGroup& group) {
    Treatment treatment{options_.pattern, options_.layout, ""};
    bool decided = false;
    for (std::size_t i = 0; i < options_.skip.size(); ++i) {
      const auto reason = match("--skip", options_.skip[i], group);
      if (!reason) continue;
      glob_matched_[i] = true;
      if (!decided) treatment = {Pattern(), PackedLayout::kSlide, *reason};
      decided = true;
    }
    for (std::size_t i = 0; i < options_.rules.size(); ++i) {
      const PatternRule& rule = options_.rules[i];
      const auto reason = match("--pattern", rule.glob, group);
      if (!reason) continue;
      rule_matched_[i] = true;
      if (!decided) treatment = {rule.pattern, rule.layout, rule.reason.empty() ? *reason : rule.reason};
      decided = true;
    }
    if (treatment.pattern.is_dense()) treatment.layout = PackedLayout::kSlide;
    return treatment;
  }

  void add_linear(const FusedGroup& group, const LinearSpec& spec, const Treatment& treatment) {
    LinearTask task;
    task.name = spec.name;
    task.group = group.name;
    task.weight = spec.name + ".weight";
    task.n = spec.n;
    task.k = spec.k;
    task.pattern = treatment.pattern;
    task.layout = treatment.layout;
    if (task.layout == PackedLayout::kSplit) task.perm = group.perm_name;
    task.reason = treatment.reason;
    task.target = options_.dtype;
    if (!task.reason.empty()) plan_.exceptions[spec.name] = {task.pattern, task.layout, task.reason};
    add_task(std::move(task));
  }

  void add_head() {
    const std::string weight = table_.head + ".weight";
    if (options_.head == DType::kBF16) {
      if (config_.tied_embeddings) return;
      if (quantised_ && quantised_->quantises(table_.head)) {
        refuse(weight, "the head is quantised in the source; use --head int8");
      }
      add_plain(weight, {config_.vocab, config_.hidden});
      return;
    }
    LinearTask task;
    task.name = table_.head;
    task.weight = config_.tied_embeddings ? table_.embedding : weight;
    task.hash = !config_.tied_embeddings;
    task.n = config_.vocab;
    task.k = config_.hidden;
    task.target = DType::kI8;
    add_task(std::move(task));
  }

  void add_task(LinearTask task) {
    const TensorView weight = source_.tensor(task.weight, {task.n, task.k});
    DType scale = weight.dtype;
    if (quantised_ && task.weight == task.name + ".weight" && quantised_->quantises(task.name)) {
      scale = check_quantised(task, weight);
      if (!task.pattern.is_dense() &&
          (needs_calibration(options_.method) || task.layout == PackedLayout::kSplit)) {
        fail(ErrorKind::kUnsupported,
             "{}: tensor {} is quantised already; {} works on the original BF16 model only",
             printable(source_.path().string(), 400), printable(task.weight),
             needs_calibration(options_.method)
                 ? fmt::format("--method {}", prune_method_name(options_.method))
                 : "--layout split");
      }
    } else if (!is_float(weight.dtype)) {
      refuse(task.weight, fmt::format("expected dtype BF16, F16 or F32, found {}", dtype_name(weight.dtype)));
    }
    used_.insert(task.weight);
    plan_.outputs.push_back({task.name + ".values", task.target, {task.n, task.values_per_row()}, 0, 0});
    if (!task.pattern.is_dense()) {
      plan_.outputs.push_back({task.name + ".codes", DType::kU8, {task.n, task.code_bytes_per_row()}, 0, 0});
    }
    if (task.target != DType::kBF16)
      plan_.outputs.push_back({task.name + ".scale", scale, {task.n, 1}, 0, 0});
    plan_.linears.push_back(std::move(task));
  }

  // A linear of a compressed-tensors source; returns the dtype of its scales.
  DType check_quantised(LinearTask& task, const TensorView& weight) {
    if (weight.dtype != quantised_->dtype()) {
      refuse(task.weight, fmt::format("quantization_config promises {}, found {}",
                                      dtype_name(quantised_->dtype()), dtype_name(weight.dtype)));
    }
    if (weight.dtype != task.target) {
      fail(ErrorKind::kUnsupported,
           "{}: tensor {} holds {} codes, which cannot become {}: rounding twice would lose what one "
           "rounding keeps; use "
           "{}, or convert the original BF16 model",
           printable(source_.path().string(), 400), printable(task.weight), dtype_name(weight.dtype),
           dtype_name(task.target),
           task.name == table_.head ? "--head bf16" : fmt::format("--dtype {}", dtype_word(weight.dtype)));
    }
    const std::string name = task.weight + "_scale";
    const TensorView scale = source_.tensor(name);
    const bool channel = scale.shape == Shape{task.n, 1} || scale.shape == Shape{task.n};
    const bool tensor = scale.shape == Shape{1} || scale.shape == Shape{} || scale.shape == Shape{1, 1};
    if (!channel && !tensor) {
      refuse(name, fmt::format("expected shape [{}, 1] or [1], found {}", task.n, scale.shape.to_string()));
    }
    if (!is_float(scale.dtype)) {
      refuse(name, fmt::format("expected dtype BF16, F16 or F32, found {}", dtype_name(scale.dtype)));
    }
    task.scale = name;
    used_.insert(name);
    return scale.dtype;
  }

  // A tensor that nobody reads would be lost: only those that are known to be copies may be.
  void check_unknown() {
    for (const TensorEntry& tensor : source_.tensors()) {
      if (used_.contains(tensor.name)) continue;
      const bool frequencies = tensor.name.ends_with(".rotary_emb.inv_freq");
      const bool tied_head = config_.tied_embeddings && tensor.name == table_.head + ".weight";
      if (!frequencies && !tied_head) {
        refuse(tensor.name, fmt::format("not a tensor that {} has; converting would lose it",
                                        family_name(config_.family)));
      }
      plan_.ignored.push_back(tensor.name);
    }
  }

  const ModelDirectory& source_;
  const ModelConfig& config_;
  const ConvertOptions& options_;
  const WeightTable table_;
  const std::string file_;
  const std::optional<CompressedTensorsConfig> quantised_;
  std::vector<bool> glob_matched_;
  std::vector<bool> rule_matched_;
  std::set<std::string> used_;
  ConvertPlan plan_;
};

}  // namespace

std::span<const LinearTask> group_tasks(const ConvertPlan& plan, std::size_t& next) {
  const std::size_t first = next;
  while (next < plan.linears.size() && plan.linears[next].group == plan.linears[first].group) ++next;
  return std::span(plan.linears).subspan(first, next - first);
}

ConvertPlan plan_conversion(const ModelDirectory& source, const ModelConfig& config,
                            const ConvertOptions& options) {
  const bool known_dtype =
      options.dtype == DType::kI8 || options.dtype == DType::kF8E4M3 || options.dtype == DType::kBF16;
  if (!known_dtype) {
    fail(ErrorKind::kUsage, "--dtype {}: there are int8, fp8 and bf16", dtype_name(options.dtype));
  }
  if (options.head != DType::kBF16 && options.head != DType::kI8) {
    fail(ErrorKind::kUsage, "--head {}: there are bf16 and int8", dtype_word(options.head));
  }
  if (options.layout == PackedLayout::kSplit && options.pattern.is_dense()) {
    fail(ErrorKind::kUsage, "--layout split: dense has none");
  }
  if (options.method == PruneMethod::kNone) {
    const bool split = options.layout == PackedLayout::kSplit ||
                       std::ranges::any_of(options.rules, [](const PatternRule& rule) {
                         return rule.layout == PackedLayout::kSplit;
                       });
    if (split) {
      fail(ErrorKind::kUsage,
           "--method none: the split layout chooses channels by what pruning them costs; use magnitude, "
           "wanda or "
           "sparsegpt");
    }
  }
  const std::string file = (source.path() / "config.json").string();
  if (parse_packed_info(source.config_text(), file)) {
    fail_input(
        "{}: is a packed directory already; unpack it first (slidesparse unpack SRC DST) and convert that",
        printable(source.path().string(), 400));
  }
  return Planner(source, config, options).make();
}

}  // namespace slidesparse
