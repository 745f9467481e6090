#include "gemm/backends/cuda_weights.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>

#include "core/checked.h"
#include "core/cuda/check.h"
#include "core/cuda/status.h"
#include "core/cuda/stream.h"
#include "core/fail.h"
#include "core/parallel.h"
#include "gemm/backends/common.h"
#include "kernels/cuda/expand.h"
#include "slidesparse/format/codes.h"
#include "slidesparse/format/pack.h"
#include "slidesparse/format/split.h"

namespace slidesparse {
namespace {

// One chunk of staging, on the host and on the card: long enough for full PCIe speed, short enough that the
// whole of it is nothing beside a layer. A single row may be longer.
constexpr std::int64_t kChunkBytes = std::int64_t{16} << 20;

// Two chunks, so that one is filled on the host while the other is on its way.
class Staging {
 public:
  explicit Staging(std::int64_t bytes) {
    for (Half& half : halves_) {
      half.host = PinnedBuffer(bytes);
      half.device = DeviceBuffer(bytes, "weight staging");
    }
  }

  ~Staging() {
    try {
      finish();
    } catch (const Error&) {
      // Only while another error is on its way already: finish() has been called otherwise.
    }
  }

  std::int64_t bytes() const { return halves_[0].host.size(); }
  std::mutex& mutex() { return mutex_; }
  void* stream() const { return stream_.handle(); }

  // fill(host) writes at most bytes() and returns how many; use(device) launches what reads them.
  template <typename Fill, typename Use>
  void pass(const Fill& fill, const Use& use) {
    Half& half = halves_[next_];
    next_ = 1 - next_;
    half.free.synchronize();
    const std::int64_t count = fill(half.host.data());
    copy_to_device(half.device.data(), half.host.data(), count, stream());
    use(half.device.data());
    half.free.record(stream());
  }

  void finish() const { stream_.synchronize(); }

 private:
  struct Half {
    PinnedBuffer host;
    DeviceBuffer device;
    CudaEvent free;  // what read it is done
  };
  std::mutex mutex_;
  CudaStream stream_;
  std::array<Half, 2> halves_;
  std::size_t next_ = 0;
};

std::mutex shared_staging_mutex;
std::weak_ptr<Staging>& shared_staging() {
  static std::weak_ptr<Staging> staging;
  return staging;
}

// The shared one, where it is held and long enough.
std::shared_ptr<Staging> staging_of(std::int64_t bytes) {
  {
    const std::scoped_lock lock(shared_staging_mutex);
    if (auto shared = shared_staging().lock(); shared && shared->bytes() >= bytes) return shared;
  }
  return std::make_shared<Staging>(bytes);
}

void copy_parallel(std::byte* to, const void* from, std::int64_t bytes) {
  parallel_for(bytes, std::int64_t{1} << 20, [&](std::int64_t begin, std::int64_t end) {
    std::memcpy(to + begin, static_cast<const std::byte*>(from) + begin,
                static_cast<std::size_t>(end - begin));
  });
}

// The card reads codes without asking: a damaged one must not get there.
void validate_codes(const WeightSource& source, const GemmDesc& desc) {
  const std::int64_t value_bytes =
      desc.pattern.values_per_row(desc.k) * static_cast<std::int64_t>(dtype_size(desc.w));
  const std::int64_t code_bytes = desc.pattern.code_bytes_per_row(desc.k);
  std::atomic<bool> damaged = false;
  parallel_for(desc.n, 64, [&](std::int64_t begin, std::int64_t end) {
    const PackedView part{desc.pattern,
                          desc.w,
                          end - begin,
                          desc.k,
                          static_cast<const std::byte*>(source.values) + begin * value_bytes,
                          source.codes + begin * code_bytes};
    try {
      validate_packed(part);
    } catch (const Error&) {
      damaged = true;
    }
  });
  // Once more from the top for a message with the right row.
  if (damaged)
    validate_packed({desc.pattern, desc.w, desc.n, desc.k, source.values, source.codes}, "weights");
}

// The codes of split rows are those of 2:4 over the sparse channels, which have no tail.
void validate_split_codes(const WeightSource& source, const GemmDesc& desc) {
  constexpr Pattern kQuads = Pattern::of_half_group(2);
  const std::int64_t quads = split_shape(desc.pattern, desc.k).sparse / 4;
  const std::int64_t code_bytes = stored_code_bytes_per_row(desc);
  std::atomic<std::int64_t> damaged = -1;
  parallel_for(desc.n, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t quad = 0; quad < quads; ++quad) {
        if (read_code(source.codes + row * code_bytes, kQuads.code_bits(), quad) >= code_count(kQuads))
          damaged = row * quads + quad;
      }
    }
  });
  if (damaged >= 0) {
    fail_input("weights: row {} quad {}: a code that names no mask", damaged / quads, damaged % quads);
  }
}

// Rows a chunk at a time through `staging`.
void pass_rows(const WeightSource& source, const GemmDesc& desc, std::int64_t multiple, Staging& staging,
               const std::function<void(const StoredChunk&)>& use) {
  const auto element = static_cast<std::int64_t>(dtype_size(desc.w));
  const std::int64_t value_bytes = stored_values_per_row(desc) * element;
  const std::int64_t code_bytes = stored_code_bytes_per_row(desc);
  // Codes stand behind the values of a chunk, on a boundary of 256 bytes.
  const std::int64_t rows_per_chunk = std::max<std::int64_t>(
      multiple, (staging.bytes() - 256) / (value_bytes + code_bytes) / multiple * multiple);
  for (std::int64_t first = 0; first < desc.n; first += rows_per_chunk) {
    const std::int64_t rows = std::min(rows_per_chunk, desc.n - first);
    const std::int64_t codes_at = round_up(rows * value_bytes, 256);
    staging.pass(
        [&](std::byte* host) {
          copy_parallel(host, static_cast<const std::byte*>(source.values) + first * value_bytes,
                        rows * value_bytes);
          if (code_bytes == 0) return rows * value_bytes;
          copy_parallel(host + codes_at, source.codes + first * code_bytes, rows * code_bytes);
          return codes_at + rows * code_bytes;
        },
        [&](std::byte* device) {
          const auto* codes = reinterpret_cast<const std::uint8_t*>(device) + codes_at;
          use({device, code_bytes == 0 ? nullptr : codes, first, rows, first + rows == desc.n,
               staging.stream()});
        });
  }
}

std::int64_t chunk_bytes(const GemmDesc& desc, std::int64_t rows) {
  const auto element = static_cast<std::int64_t>(dtype_size(desc.w));
  return rows * (stored_values_per_row(desc) * element + stored_code_bytes_per_row(desc)) + 256;
}

bool keeps_bf16_bias(const GemmDesc& desc, CudaForm form) {
  return form == CudaForm::kDense && desc.bias && desc.bias_dtype == DType::kBF16;
}

// Scales or bias in FP32, zero behind n.
DeviceBuffer upload_vector(const void* from, DType dtype, const GemmDesc& desc, std::int64_t n_padded,
                           std::string_view name, Staging& staging) {
  const auto element = static_cast<std::int64_t>(dtype_size(dtype));
  require(dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16, "{} cannot be {}", name,
          dtype_name(dtype));
  DeviceBuffer vector(n_padded * static_cast<std::int64_t>(sizeof(float)), name);
  const std::int64_t count_per_chunk = staging.bytes() / element;
  for (std::int64_t first = 0; first < desc.n; first += count_per_chunk) {
    const std::int64_t count = std::min(count_per_chunk, desc.n - first);
    const std::int64_t written = first + count == desc.n ? n_padded - first : count;
    staging.pass(
        [&](std::byte* host) {
          std::memcpy(host, static_cast<const std::byte*>(from) + first * element,
                      static_cast<std::size_t>(count * element));
          return count * element;
        },
        [&](const std::byte* device) {
          cuda_check(cuda::widen_vector(device, static_cast<int>(dtype), count, vector.as<float>() + first,
                                        written, staging.stream()),
                     "widen_vector", desc.to_string());
        });
  }
  return vector;
}

CudaVectors pass_vectors(const WeightSource& source, const GemmDesc& desc, std::int64_t n_padded,
                         Staging& staging) {
  CudaVectors vectors;
  if (source.scales != nullptr) {
    vectors.scales =
        upload_vector(source.scales, source.scale_dtype, desc, n_padded, "weight scales", staging);
  }
  if (source.bias != nullptr)
    vectors.bias = upload_vector(source.bias, source.bias_dtype, desc, n_padded, "bias", staging);
  return vectors;
}

}  // namespace

Feasibility check_cuda_problem(const GemmDesc& desc) {
  if (desc.device.kind != DeviceKind::kCuda) return Feasibility::no("runs on NVIDIA GPUs only");
  const CudaStatus& status = cuda_status();
  if (!status.available) return Feasibility::no(status.reason);
  if (desc.device.index < 0 || desc.device.index >= static_cast<int>(status.devices.size())) {
    return Feasibility::no(
        fmt::format("card {} of {} does not exist", desc.device.index, status.devices.size()));
  }
  return check_problem(desc);
}

void check_cuda_args(const GemmDesc& desc, const GemmArgs& args, std::int64_t x_alignment,
                     std::int64_t out_alignment) {
  const auto check = [&](const void* pointer, const char* name, std::int64_t alignment) {
    if (pointer == nullptr) fail_input("{}: no {}", desc.to_string(), name);
    if (reinterpret_cast<std::uintptr_t>(pointer) % static_cast<std::uintptr_t>(alignment) != 0) {
      fail_input("{}: {} at {} is not on a boundary of {} bytes", desc.to_string(), name, fmt::ptr(pointer),
                 alignment);
    }
  };
  check(args.x, "x", x_alignment);
  check(args.out, "out", out_alignment);
  if (desc.x != DType::kBF16) check(args.x_scale, "x_scale", sizeof(float));
}

Feasibility hopper_available() {
  const CudaStatus& status = cuda_status();
  if (!status.available) return Feasibility::no(status.reason);
  const bool any = std::any_of(status.devices.begin(), status.devices.end(),
                               [](const CudaDeviceInfo& card) { return card.compute_capability() == 90; });
  if (any) return {};
  const CudaDeviceInfo& first = status.devices.front();
  return Feasibility::no(fmt::format("its kernels are for Hopper (compute capability 9.0), {} has {}.{}",
                                     first.name, first.major, first.minor));
}

int multiprocessors(const GemmDesc& desc) {
  constexpr int kHopperMultiprocessors = 132;
  const std::vector<CudaDeviceInfo>& cards = cuda_status().devices;
  const auto index = static_cast<std::size_t>(desc.device.index);
  return index < cards.size() ? cards[index].multiprocessors : kHopperMultiprocessors;
}

CudaWeights upload_weights(const WeightSource& source, const GemmDesc& desc, CudaForm form, std::int64_t ld,
                           std::int64_t n_padded) {
  check_source(source, desc);
  if (desc.layout == Layout::kSplit) {
    fail(ErrorKind::kUnsupported, "{}: split weights have no form that a library multiplies",
         desc.to_string());
  }
  if (form == CudaForm::kSlid && desc.layout != Layout::kPacked) {
    fail(ErrorKind::kUnsupported,
         "{}: only packed weights can be slid; pack them first (slidesparse convert)", desc.to_string());
  }
  if (desc.layout == Layout::kDense && !desc.pattern.is_dense()) {
    fail(ErrorKind::kUnsupported,
         "{}: weights with a pattern come packed; pack them first (slidesparse convert)", desc.to_string());
  }
  const std::int64_t width = form == CudaForm::kSlid ? desc.pattern.lifted_k(desc.k) : desc.k;
  require(ld >= width && n_padded >= desc.n, "{}: {} x {} does not fit in {} x {}", desc.to_string(), desc.n,
          width, n_padded, ld);
  if (desc.layout == Layout::kPacked) validate_codes(source, desc);

  const auto element = static_cast<std::int64_t>(dtype_size(desc.w));
  CudaWeights weights;
  weights.n_padded = n_padded;
  weights.ld = ld;
  weights.values = DeviceBuffer(n_padded * ld * element, "weights");
  const std::shared_ptr<Staging> held = staging_of(std::max(kChunkBytes, chunk_bytes(desc, 1)));
  Staging& staging = *held;
  const std::scoped_lock lock(staging.mutex());
  pass_rows(source, desc, 1, staging, [&](const StoredChunk& chunk) {
    std::byte* to = weights.values.data() + chunk.first * ld * element;
    const std::int64_t rows_written = chunk.last ? n_padded - chunk.first : chunk.rows;
    if (desc.layout == Layout::kDense) {
      cuda_check(cuda::pad_dense(chunk.values, static_cast<int>(element), chunk.rows, desc.k, to, ld,
                                 rows_written, chunk.stream),
                 "pad_dense", desc.to_string());
      return;
    }
    const cuda::PackedRows packed{
        chunk.values, chunk.codes, static_cast<int>(element), desc.pattern.half_group(), chunk.rows, desc.k};
    const auto expand = form == CudaForm::kSlid ? cuda::expand_slid : cuda::expand_dense;
    cuda_check(expand(packed, to, ld, rows_written, chunk.stream), "expand", desc.to_string());
  });
  CudaVectors vectors = pass_vectors(source, desc, n_padded, staging);
  weights.scales = std::move(vectors.scales);
  weights.bias = std::move(vectors.bias);
  if (keeps_bf16_bias(desc, form)) {
    weights.bias_bf16 = DeviceBuffer(n_padded * 2, "bias");
    fill_device(weights.bias_bf16.data(), 0, n_padded * 2, staging.stream());
    const std::int64_t per_chunk = staging.bytes() / 2;
    for (std::int64_t first = 0; first < desc.n; first += per_chunk) {
      const std::int64_t bytes = 2 * std::min(per_chunk, desc.n - first);
      staging.pass(
          [&](std::byte* host) {
            std::memcpy(host, static_cast<const std::byte*>(source.bias) + 2 * first,
                        static_cast<std::size_t>(bytes));
            return bytes;
          },
          [&](const std::byte* device) {
            copy_on_device(weights.bias_bf16.data() + 2 * first, device, bytes, staging.stream());
          });
    }
  }
  staging.finish();
  return weights;
}

void upload_rows(const WeightSource& source, const GemmDesc& desc, std::int64_t multiple,
                 const std::function<void(const StoredChunk&)>& use) {
  check_source(source, desc);
  if (desc.layout == Layout::kPacked) validate_codes(source, desc);
  if (desc.layout == Layout::kSplit) validate_split_codes(source, desc);
  const std::shared_ptr<Staging> held = staging_of(std::max(kChunkBytes, chunk_bytes(desc, multiple)));
  const std::scoped_lock lock(held->mutex());
  pass_rows(source, desc, multiple, *held, use);
  held->finish();
}

CudaVectors upload_vectors(const WeightSource& source, const GemmDesc& desc, std::int64_t n_padded) {
  const std::shared_ptr<Staging> held = staging_of(kChunkBytes);
  const std::scoped_lock lock(held->mutex());
  CudaVectors vectors = pass_vectors(source, desc, n_padded, *held);
  held->finish();
  return vectors;
}

std::shared_ptr<const void> hold_weight_staging() {
  const std::scoped_lock lock(shared_staging_mutex);
  std::shared_ptr<Staging> shared = shared_staging().lock();
  if (!shared) shared_staging() = shared = std::make_shared<Staging>(kChunkBytes);
  return shared;
}

std::int64_t cuda_weight_bytes(const GemmDesc& desc, CudaForm form, std::int64_t ld, std::int64_t n_padded) {
  const std::int64_t row = ld * static_cast<std::int64_t>(dtype_size(desc.w)) +
                           (desc.w == DType::kBF16 ? 0 : 4) + (desc.bias ? 4 : 0) +
                           (keeps_bf16_bias(desc, form) ? 2 : 0);
  return n_padded * row;
}

}  // namespace slidesparse
