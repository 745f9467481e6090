#include <algorithm>
#include <cstring>

#include "core/buffer.h"
#include "core/cuda/memory.h"
#include "core/cuda/status.h"
#include "core/cuda/stream.h"
#include "core/fail.h"
#include "model/card_model.h"
#include "model/cuda_decoder.h"
#include "model/decoder.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kMostHeadsOfOne = 16;  // kernels/cuda/paged_attention.h

class CudaModel final : public CardModel {
 public:
  CudaModel(const ModelConfig& config, WeightReader& reader, const ModelOptions& options)
      : decoder_(config, reader, {options.linear, options.weights, options.ms}, options.attention,
                 options.progress) {}

  ModelSummary summary() const override { return decoder_.summary(); }
  const CudaDecoder& decoder() const override { return decoder_; }

  std::vector<LinearUse> linears_at(std::int64_t m, std::int64_t wanted) const override {
    std::vector<LinearUse> uses;
    for (const CudaLinear& linear : decoder_.linears()) {
      const bool head = &linear == &decoder_.linears().back();
      const auto bound = linear.kernels().at(head ? wanted : m);
      const GemmDesc& desc = bound->plan.desc;
      uses.push_back({linear.name(), desc.m, desc.n, desc.k, desc.w, desc.out, desc.pattern, bound->choice,
                      bound->footprint.weight_bytes_read});
    }
    return uses;
  }

  void forward(const Batch& batch, const KvCache& cache, const TensorView& logits) override {
    const CudaStep step = begin(batch, cache, step_rows(batch));
    decoder_.run(context(), step, cache, logits_.as<float>());
    copy_rows(logits, step.wanted);
  }

  void forward_blocks(const Batch& batch, const KvCache& cache,
                      const std::function<void(std::int64_t, const TensorView&)>& consume) override {
    const std::int64_t block = logit_block_rows(decoder_.config());
    const CudaStep step = begin(batch, cache, std::min(block, step_rows(batch)));
    Buffer host(static_cast<std::size_t>(std::min(block, step.wanted) * vocab() * 4));
    decoder_.run_blocks(
        context(), step, cache, logits_.as<float>(), block, [&](std::int64_t first, std::int64_t rows) {
          const TensorView view =
              TensorView::contiguous(static_cast<void*>(host.data()), DType::kF32, {rows, vocab()});
          copy_rows(view, rows);
          consume(first, view);
        });
  }

 private:
  std::int64_t vocab() const { return decoder_.config().vocab; }
  static std::int64_t step_rows(const Batch& batch) {
    return static_cast<std::int64_t>(batch.wanted_rows.size());
  }

  Context context() {
    Context context;
    context.device = {DeviceKind::kCuda, 0};
    context.stream = stream_.handle();
    context.arena = &arena_;
    return context;
  }

  // Indices on their way, memory there; `rows`: logits that are held at a time.
  CudaStep begin(const Batch& batch, const KvCache& cache, std::int64_t rows) {
    require(cache.device().kind == DeviceKind::kCuda, "a model on a card needs its cache there");
    const CudaStep step = indices_.upload(batch, cache.page_size(), stream_.handle());
    const std::int64_t bytes =
        decoder_.workspace_bytes(step.tokens, rows, step.sequences, step.longest_query, step.longest_context);
    if (workspace_.size() < bytes) {
      workspace_ = DeviceBuffer();
      workspace_ = DeviceBuffer(bytes, "activations and scratch");
      arena_ = Arena(workspace_.data(), static_cast<std::size_t>(workspace_.size()));
    }
    if (logits_.size() < rows * vocab() * 4) {
      logits_ = DeviceBuffer();
      logits_ = DeviceBuffer(rows * vocab() * 4, "logits");
    }
    return step;
  }

  // The first `rows` rows of the logits, to the host or to where the view is. Waits.
  void copy_rows(const TensorView& to, std::int64_t rows) {
    if (to.device.kind == DeviceKind::kCuda) {
      copy_on_device(to.data, logits_.data(), rows * vocab() * 4, stream_.handle());
    } else {
      copy_to_host(to.data, logits_.data(), rows * vocab() * 4, stream_.handle());
    }
    stream_.synchronize();
  }

  CudaDecoder decoder_;
  CudaStream stream_;
  CudaStepBuffers indices_;
  DeviceBuffer workspace_;
  DeviceBuffer logits_;
  Arena arena_;
};

}  // namespace

std::unique_ptr<CardModel> make_card_model(const ModelConfig& config, WeightReader& reader,
                                           const ModelOptions& options) {
  if (!cuda_status().available) fail(ErrorKind::kUnsupported, "--device cuda: {}", cuda_status().reason);
  if ((config.head_dim != 64 && config.head_dim != 128) || config.heads > kMostHeadsOfOne * config.kv_heads) {
    fail(ErrorKind::kUnsupported,
         "{}: {} heads of {}, {} of keys and values: attention on a card knows heads of 64 and 128, at most "
         "{} to one "
         "of keys and values; run it with --device cpu",
         reader.describe(), config.heads, config.head_dim, config.kv_heads, kMostHeadsOfOne);
  }
  if (options.check_memory) {
    options.check_memory(config,
                         [&](std::int64_t longest) { return card_memory(config, reader, options, longest); });
  }
  return std::make_unique<CudaModel>(config, reader, options);
}

std::shared_ptr<void> make_card_memory(std::int64_t bytes, const char* name, void** data) {
  auto buffer = std::make_shared<DeviceBuffer>(bytes, name);
  const CudaStream stream;
  fill_device(buffer->data(), 0, bytes, stream.handle());
  stream.synchronize();
  *data = buffer->data();
  return buffer;
}

}  // namespace slidesparse
