#include <cmath>
#include <cstddef>
#include <map>
#include <mutex>
#include <tuple>
#include <unordered_map>

// The library is opened by us, and only when it is wanted; plans are not written to files.
#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

#include "core/fail.h"
#include "core/shared_library.h"
#include "ops/prompt_attention.h"

namespace cudnn_frontend {
// Where the frontend looks functions up.
void* cudnn_dlhandle = nullptr;
}  // namespace cudnn_frontend

namespace slidesparse {
namespace {

namespace fe = cudnn_frontend;

// Before it, grouped queries of prompts were not yet what they are on Hopper.
constexpr std::size_t kOldestVersion = 90500;
// Before it, prompts without a token among others were not yet allowed.
constexpr std::size_t kOldestForUnequal = 90600;

const SharedLibrary& library() {
  static const SharedLibrary found(library_paths().cudnn, {"libcudnn.so.9", "libcudnn.so"});
  return found;
}

std::string version_text(std::size_t version) {
  return fmt::format("cuDNN {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

// Of a library that was found; throws what the frontend throws where the library lacks that function.
std::size_t library_version() {
  fe::cudnn_dlhandle = library().handle();
  return fe::detail::get_backend_version();
}

enum Tensor : std::int64_t {
  kQuery = 1,
  kKey,
  kValue,
  kOut,
  // Of unequal lengths. The library wants a tensor for each use, some of which share their memory.
  kQueryLengths,
  kKeyLengths,
  kQueryOffsets,
  kKeyOffsets,
  kValueOffsets,
  kOutOffsets
};

// A view of `heads` heads of every token.
fe::graph::Tensor_attributes heads_of(const PromptShape& shape, Tensor which, std::int64_t heads,
                                      std::int64_t ld) {
  return fe::graph::Tensor_attributes()
      .set_uid(which)
      .set_dim({shape.sequences, heads, shape.length, shape.head_dim})
      .set_stride({shape.length * ld, shape.head_dim, ld, 1});
}

fe::graph::Tensor_attributes indices(Tensor which, std::int64_t count, fe::DataType_t type) {
  return fe::graph::Tensor_attributes()
      .set_uid(which)
      .set_dim({count, 1, 1, 1})
      .set_stride({1, 1, 1, 1})
      .set_data_type(type);
}

}  // namespace

std::string prompt_attention_library() {
  if (!library().found()) return {};
  try {
    const std::size_t version = library_version();
    return version < kOldestVersion ? std::string() : version_text(version);
  } catch (const std::exception&) {
    return {};  // a library without that function
  }
}

struct PromptAttention::State {
  // The row strides are part of a plan.
  using Key = std::tuple<PromptShape, std::int64_t, std::int64_t>;

  std::string reason;
  std::size_t version = 0;
  cudnnHandle_t handle = nullptr;
  std::mutex mutex;                                        // a handle has one stream at a time
  std::map<Key, std::shared_ptr<fe::graph::Graph>> plans;  // null: there is none

  std::shared_ptr<fe::graph::Graph> make_plan(const Key& key);
};

PromptAttention::PromptAttention() : state_(std::make_unique<State>()) {
  if (!library().found()) {
    state_->reason = library().reason();
    return;
  }
  try {
    state_->version = library_version();
    if (state_->version < kOldestVersion) {
      state_->reason = fmt::format("{} at {} is older than {}", version_text(state_->version),
                                   library().path(), version_text(kOldestVersion));
    } else if (const cudnnStatus_t status = fe::detail::create_handle(&state_->handle);
               status != CUDNN_STATUS_SUCCESS) {
      state_->reason = fmt::format("{}: cudnnCreate: status {}", library().path(), static_cast<int>(status));
      state_->handle = nullptr;
    }
  } catch (const std::exception& error) {
    state_->reason = fmt::format("{}: {}", library().path(), error.what());
  }
}

PromptAttention::~PromptAttention() {
  if (state_->handle != nullptr) fe::detail::destroy_handle(state_->handle);
}

const std::string& PromptAttention::reason() const {
  return state_->reason;
}

std::string PromptAttention::version() const {
  return state_->version == 0 ? std::string() : version_text(state_->version);
}

std::shared_ptr<fe::graph::Graph> PromptAttention::State::make_plan(const Key& key) {
  const PromptShape& shape = std::get<0>(key);  // named: a lambda cannot capture a structured binding
  const std::int64_t ld = std::get<1>(key), ldout = std::get<2>(key);
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  fe::graph::Tensor_attributes q = heads_of(shape, kQuery, shape.heads, ld);
  fe::graph::Tensor_attributes k = heads_of(shape, kKey, shape.kv_heads, ld);
  fe::graph::Tensor_attributes v = heads_of(shape, kValue, shape.kv_heads, ld);
  auto options = fe::graph::SDPA_attributes().set_generate_stats(false).set_causal_mask(true).set_attn_scale(
      static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim))));
  std::shared_ptr<fe::graph::Tensor_attributes> out_offsets;
  if (shape.unequal) {
    if (version < kOldestForUnequal) return nullptr;
    const auto lengths = [&](Tensor which) {
      return graph->tensor(indices(which, shape.sequences, fe::DataType_t::INT32));
    };
    const auto offsets = [&](Tensor which) {
      return graph->tensor(indices(which, shape.sequences + 1, fe::DataType_t::INT64));
    };
    q.set_ragged_offset(offsets(kQueryOffsets));
    k.set_ragged_offset(offsets(kKeyOffsets));
    v.set_ragged_offset(offsets(kValueOffsets));
    out_offsets = offsets(kOutOffsets);
    options.set_padding_mask(true).set_seq_len_q(lengths(kQueryLengths)).set_seq_len_kv(lengths(kKeyLengths));
  }
  const auto query = graph->tensor(q);
  const auto keys = graph->tensor(k);
  const auto values = graph->tensor(v);
  const auto [out, stats] = graph->sdpa(query, keys, values, options);
  const fe::graph::Tensor_attributes like = heads_of(shape, kOut, shape.heads, ldout);
  out->set_output(true).set_uid(kOut).set_dim(like.get_dim()).set_stride(like.get_stride());
  if (out_offsets) out->set_ragged_offset(out_offsets);
  if (!graph->build(handle, {fe::HeurMode_t::A}).is_good()) return nullptr;
  return graph->get_workspace_size() <= kPromptWorkspace ? graph : nullptr;
}

bool PromptAttention::takes(const PromptShape& shape, std::int64_t ld, std::int64_t ldout) {
  if (!state_->reason.empty()) return false;
  const std::scoped_lock lock(state_->mutex);
  const auto [found, is_new] = state_->plans.try_emplace({shape, ld, ldout});
  if (is_new) {
    try {
      found->second = state_->make_plan(found->first);
    } catch (const std::exception&) {
      // The frontend throws for functions that an older library lacks: no plan, like any other shape without.
    }
  }
  return found->second != nullptr;
}

void PromptAttention::run(const PromptShape& shape, const PromptArgs& args, void* stream) {
  const std::scoped_lock lock(state_->mutex);
  const auto found = state_->plans.find({shape, args.ld, args.ldout});
  require(found != state_->plans.end() && found->second != nullptr, "attention of {} prompts of {}: no plan",
          shape.sequences, shape.length);
  if (const cudnnStatus_t status = fe::detail::set_stream(state_->handle, static_cast<cudaStream_t>(stream));
      status != CUDNN_STATUS_SUCCESS) {
    fail(ErrorKind::kInternal, "cudnnSetStream: status {}", static_cast<int>(status));
  }
  auto* const query = const_cast<std::byte*>(static_cast<const std::byte*>(args.qkv));
  std::byte* const keys = query + 2 * shape.heads * shape.head_dim;
  std::unordered_map<std::int64_t, void*> tensors{
      {kQuery, query}, {kKey, keys}, {kValue, keys + 2 * shape.kv_heads * shape.head_dim}, {kOut, args.out}};
  if (shape.unequal) {
    // The library only reads them.
    const auto add = [&](Tensor which, const void* data) { tensors[which] = const_cast<void*>(data); };
    for (const Tensor which : {kQueryLengths, kKeyLengths}) add(which, args.lengths);
    for (const Tensor which : {kQueryOffsets, kKeyOffsets, kValueOffsets}) add(which, args.offsets);
    add(kOutOffsets, args.offsets_out);
  }
  auto status = found->second->execute(state_->handle, tensors, args.workspace);
  if (!status.is_good()) {
    fail(ErrorKind::kInternal, "attention of {} prompts of {}: {}", shape.sequences, shape.length,
         status.get_message());
  }
}

}  // namespace slidesparse
