#include <optional>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "model/card_model.h"
#include "model/model.h"

namespace slidesparse {

std::int64_t KvCache::bytes_per_page(const ModelConfig& config, std::int64_t page_size, DType dtype) {
  const std::optional<std::int64_t> row = checked_mul(
      2 * static_cast<std::int64_t>(dtype_size(dtype)) * config.layers, config.kv_heads * config.head_dim);
  const std::optional<std::int64_t> page = row ? checked_mul(*row, page_size) : std::nullopt;
  if (!page) fail(ErrorKind::kUsage, "a cache page of {} tokens is too large", page_size);
  return *page;
}

KvCache::KvCache(const ModelConfig& config, std::int64_t pages, std::int64_t page_size, Device device,
                 KvCacheKind kind)
    : pages_(pages), page_size_(page_size), device_(device) {
  if (pages < 1 || page_size < 1)
    fail(ErrorKind::kUsage, "KV cache: {} pages of {} tokens", pages, page_size);
  if (kind.dtype != DType::kBF16 && kind.dtype != DType::kF8E4M3)
    fail(ErrorKind::kUsage, "KV cache of {}: BF16 and F8_E4M3 are possible", dtype_name(kind.dtype));
  if (kind.dtype != DType::kBF16 && device.kind == DeviceKind::kCpu)
    fail(ErrorKind::kUnsupported, "KV cache of {}: on a card only", dtype_name(kind.dtype));
  if (kind.rounded && device.kind != DeviceKind::kCpu)
    fail(ErrorKind::kUnsupported, "a KV cache that rounds to F8_E4M3 in BF16: on the CPU only");
  const std::int64_t layers = kind.current_layer ? 1 : config.layers;
  const std::optional<std::int64_t> bytes =
      checked_mul(pages, bytes_per_page(config, page_size, kind.dtype) / config.layers * layers);
  if (!bytes || pages > INT32_MAX) {
    fail(ErrorKind::kUsage, "KV cache: {} pages of {} tokens are too many", pages, page_size);
  }
  void* data = nullptr;
  if (device.kind == DeviceKind::kCuda) {
    storage_ = make_card_memory(*bytes, "KV cache", &data);
  } else {
    auto buffer = std::make_shared<Buffer>(static_cast<std::size_t>(*bytes));
    data = buffer->data();
    storage_ = std::move(buffer);
  }
  const Shape shape{pages, page_size, config.kv_heads, config.head_dim};
  const std::int64_t half = static_cast<std::int64_t>(dtype_size(kind.dtype)) * shape.count();
  for (std::int64_t i = 0; i < config.layers; ++i) {
    std::byte* layer = static_cast<std::byte*>(data) + (kind.current_layer ? 0 : 2 * i * half);
    layers_.push_back({TensorView::contiguous(static_cast<void*>(layer), kind.dtype, shape, device),
                       TensorView::contiguous(static_cast<void*>(layer + half), kind.dtype, shape, device),
                       kind.rounded});
  }
}

KvPages KvCache::layer(std::int64_t index) const {
  require(index >= 0 && index < static_cast<std::int64_t>(layers_.size()), "layer {} of a cache of {}", index,
          layers_.size());
  return layers_[static_cast<std::size_t>(index)];
}

}  // namespace slidesparse
