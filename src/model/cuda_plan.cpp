#include "model/cuda_plan.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <vector>

#include "core/cuda/memory.h"
#include "core/cuda/status.h"
#include "core/dtype_words.h"
#include "core/fail.h"
#include "model/card_model.h"
#include "model/cuda_step.h"
#include "model/head_reader.h"
#include "ops/prompt_attention.h"

namespace slidesparse {
namespace {

// No backend takes more: 64 MiB for a library and a tile of sums of at most 256 MiB, with room.
constexpr std::int64_t kMostScratch = std::int64_t{352} << 20;

}  // namespace

GemmDesc fused_desc(const std::string& name, std::span<const WeightSource> members, DType out) {
  for (const WeightSource& member : members) {
    const WeightSource& first = members.front();
    if (member.dtype == first.dtype && member.pattern == first.pattern && member.layout == first.layout)
      continue;
    fail(ErrorKind::kUnsupported,
         "{}: its parts are {} {} and {} {}: on a card, linears that read the same input need one dtype "
         "and pattern (run it with --device cpu)",
         name, dtype_word(first.dtype), first.pattern.to_string(), dtype_word(member.dtype),
         member.pattern.to_string());
  }
  const WeightSource& first = members.front();
  GemmDesc desc;
  desc.k = first.k;
  desc.x = desc.w = first.dtype;
  desc.out = out;
  desc.pattern = first.pattern;
  desc.layout = first.layout;
  desc.bias_dtype = DType::kBF16;
  desc.device = {DeviceKind::kCuda, 0};
  for (const WeightSource& member : members) {
    desc.n += member.n;
    if (member.bias == nullptr) continue;
    desc.bias = true;
    if (member.bias_dtype != DType::kBF16) desc.bias_dtype = DType::kF32;
  }
  return desc;
}

std::shared_ptr<const CudaLinearKernels> KernelSet::of(const GemmDesc& desc) {
  auto& kernels = made_[fmt::format("{} {} {} {}", desc.to_string(), desc.bias, dtype_name(desc.bias_dtype),
                                    dtype_name(desc.out))];
  if (!kernels) kernels = std::make_shared<CudaLinearKernels>(desc, options_);
  return kernels;
}

std::shared_ptr<const CudaLinearKernels> KernelSet::of_any(const GemmDesc& desc) {
  try {
    return of(desc);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported || options_.choice.backends.empty()) throw;
  }
  CudaLinearOptions any = options_;
  any.choice.backends.clear();
  return KernelSet(any).of(desc);
}

std::shared_ptr<const CudaLinearKernels> KernelSet::of_head(const GemmDesc& desc) {
  try {
    return of_any(desc);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported || desc.w == DType::kBF16) throw;
    fail(ErrorKind::kUnsupported, "the head in {}: {}; --head bf16 runs wherever a model does",
         dtype_word(desc.w), error.what());
  }
}

void StepKernels::add(FusedPlace place, std::shared_ptr<const CudaLinearKernels> kernels) {
  auto& known = at_[static_cast<std::size_t>(place)];
  if (std::ranges::find(known, kernels) == known.end()) known.push_back(std::move(kernels));
}

std::int64_t StepKernels::most(FusedPlace place, std::int64_t m) const {
  std::int64_t most = 0;
  for (const auto& kernels : at_[static_cast<std::size_t>(place)]) {
    // Fewer tokens may run on kernels that want more.
    most = std::max({most, kernels->workspace_bytes(m), kernels->input_bytes(m) + kMostScratch});
  }
  return most;
}

StepScratch StepKernels::scratch(const ModelConfig& config, std::int64_t tokens, std::int64_t wanted,
                                 std::int64_t sequences, std::int64_t longest_query,
                                 std::int64_t longest_context) const {
  StepScratch scratch;
  scratch.qkv = most(kQkv, tokens);
  scratch.output = most(kOutput, tokens);
  scratch.gate_up = most(kGateUp, tokens);
  scratch.down = most(kDown, tokens);
  if (wanted > 0) scratch.head = most(kHead, wanted);
  scratch.prompts = prompt_offsets_bytes(sequences);
  scratch.attention =
      std::max(kPromptWorkspace, cuda::paged_attention_workspace(attention_sizes(
                                     config, tokens, sequences, longest_query, longest_context)));
  return scratch;
}

cuda::PagedAttentionArgs attention_sizes(const ModelConfig& config, std::int64_t tokens,
                                         std::int64_t sequences, std::int64_t longest_query,
                                         std::int64_t longest_context) {
  cuda::PagedAttentionArgs attention;
  attention.m = tokens;
  attention.sequences = sequences;
  attention.longest_query = longest_query;
  attention.longest_context = longest_context;
  attention.heads = config.heads;
  attention.kv_heads = config.kv_heads;
  attention.head_dim = config.head_dim;
  return attention;
}

MemoryDemand card_memory(const ModelConfig& config, WeightReader& reader, const ModelOptions& options,
                         std::int64_t longest_context) {
  KernelSet set({options.linear, options.weights, options.ms});
  const auto step = std::make_shared<StepKernels>();
  MemoryDemand demand;
  demand.config = config;
  const WeightTable table = weight_table(config);
  for (std::size_t i = 0; i < table.groups.size(); ++i) {
    const FusedGroup& group = table.groups[i];
    std::vector<WeightSource> members;
    for (const LinearSpec& spec : group.members) members.push_back(reader.linear_shape(spec, group));
    const auto kernels = set.of(fused_desc(group.name, members, DType::kBF16));
    demand.linear_bytes += bytes_of(kernels->forms());
    step->add(static_cast<FusedPlace>(i % kPlacesOfLayer), kernels);
  }
  const LinearSpec spec{table.head, config.vocab, config.hidden};
  const WeightSource head =
      options.head ? HeadReader(reader, *options.head).head_shape(spec) : reader.head_shape(spec);
  const auto kernels = set.of_head(fused_desc(table.head, std::span(&head, 1), DType::kF32));
  step->add(kHead, kernels);
  demand.head = head.dtype;
  if (head.dtype != DType::kBF16) demand.head_bytes = bytes_of(kernels->forms());
  demand.embedding_on_host = embedding_on_host(config, options.weights, head.dtype);
  demand.padded = padded_sequences;
  demand.extra = [vocab = config.vocab](std::int64_t tokens, std::int64_t rows, std::int64_t blocks) {
    return step_extra_bytes(vocab, tokens, rows, blocks);
  };
  demand.scratch = [config, step, longest_context](std::int64_t tokens, std::int64_t wanted) {
    return step->scratch(config, tokens, wanted, wanted, tokens, longest_context);
  };
  return demand;
}

MemoryBudget card_budget() {
  const DeviceMemoryUse use = device_memory_use();
  MemoryBudget budget;
  budget.total = use.limit > 0 ? use.limit : use.in_use + free_device_memory() - kOthersBytes;
  for (const DeviceMemoryUse::Entry& entry : use.by_name) {
    if (entry.bytes > 0) budget.held.push_back({entry.name, entry.bytes});
  }
  return budget;
}

}  // namespace slidesparse
