#include "gemm/bench.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "core/random.h"
#include "gemm/backends/common.h"
#include "slidesparse/format/codes.h"

namespace slidesparse {
namespace {

// Up to this many tokens memory decides, so weights must not come from a cache.
constexpr std::int64_t kStreamingM = 64;
constexpr int kFewestRounds = 7;
constexpr int kSampledChannels = 16;

// Fills `count` elements with finite random values.
void fill_values(DType dtype, std::byte* data, std::int64_t count, std::uint64_t seed) {
  const std::int64_t per_word = dtype == DType::kBF16 ? 4 : 8;
  parallel_for(ceil_div(count, per_word), 4096, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t word = begin; word < end; ++word) {
      std::uint64_t bits = random_bits(seed, static_cast<std::uint64_t>(word));
      // The exponent's top bit off: E4M3 below 2, BF16 below 2, so that sums stay moderate and nothing is
      // NaN.
      if (dtype == DType::kF8E4M3) bits &= 0xbfbfbfbfbfbfbfbfull;
      if (dtype == DType::kBF16) bits = (bits & 0x80ff80ff80ff80ffull) | 0x3f003f003f003f00ull;
      const std::int64_t here = std::min(per_word, count - word * per_word);
      std::memcpy(data + word * 8, &bits, static_cast<std::size_t>(here) * dtype_size(dtype));
    }
  });
}

// Random codes that name a pair, for `rows` rows of `groups` groups.
void fill_codes(Pattern pattern, std::uint8_t* codes, std::int64_t rows, std::int64_t groups,
                std::uint64_t seed) {
  const std::int64_t stride = ceil_div(groups * pattern.code_bits(), 8);
  const auto count = static_cast<std::uint64_t>(code_count(pattern));
  parallel_for(rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::uint8_t* out = codes + row * stride;
      std::memset(out, 0, static_cast<std::size_t>(stride));
      for (std::int64_t g = 0; g < groups; ++g) {
        const auto code = static_cast<unsigned>(
            (random_bits(seed, static_cast<std::uint64_t>(row * groups + g)) >> 32) * count >> 32);
        const std::int64_t bit = g * pattern.code_bits();
        out[bit / 8] = static_cast<std::uint8_t>(out[bit / 8] | code << (bit % 8));
        if (bit % 8 + pattern.code_bits() > 8) {
          out[bit / 8 + 1] = static_cast<std::uint8_t>(out[bit / 8 + 1] | code >> (8 - bit % 8));
        }
      }
    }
  });
}

// Lanes of a tail group that do not exist hold zero, as in a file.
void clear_tails(const GemmDesc& desc, std::byte* values, const std::uint8_t* codes) {
  const std::int64_t tail = desc.k % desc.pattern.group();
  if (tail == 0) return;
  const std::int64_t a_row = desc.pattern.values_per_row(desc.k);
  const std::int64_t groups = desc.pattern.groups(desc.k);
  const auto size = static_cast<std::int64_t>(dtype_size(desc.w));
  for (std::int64_t row = 0; row < desc.n; ++row) {
    const DroppedPair dropped = decode_pair(read_code(codes + row * desc.pattern.code_bytes_per_row(desc.k),
                                                      desc.pattern.code_bits(), groups - 1));
    std::int64_t at = row * a_row + (groups - 1) * desc.pattern.kept();
    for (int lane = 0; lane < desc.pattern.group(); ++lane) {
      if (lane == dropped.a || lane == dropped.b) continue;
      if (lane >= tail) std::memset(values + at * size, 0, static_cast<std::size_t>(size));
      ++at;
    }
  }
}

// The weights of one pattern, several times over.
class Weights {
 public:
  Weights(const GemmDesc& desc, std::uint64_t seed) : desc_(desc) {
    const std::int64_t values = desc.n * stored_values_per_row(desc);
    value_bytes_ = values * static_cast<std::int64_t>(dtype_size(desc.w));
    code_bytes_ = desc.n * stored_code_bytes_per_row(desc);
    const std::int64_t wanted = desc.m <= kStreamingM ? 2 * last_level_cache_bytes() : 0;
    copies_ = 1 + wanted / (value_bytes_ + code_bytes_);
    values_ = Buffer(static_cast<std::size_t>(value_bytes_ * copies_));
    codes_ = Buffer(static_cast<std::size_t>(code_bytes_ * copies_));
    fill_values(desc.w, values_.data(), values, seed);
    if (!desc.pattern.is_dense()) {
      fill_codes(desc.pattern, codes_.as<std::uint8_t>(), desc.n, desc.pattern.groups(desc.k), seed + 1);
      clear_tails(desc, values_.data(), codes_.as<std::uint8_t>());
    }
    for (std::int64_t copy = 1; copy < copies_; ++copy) {
      std::memcpy(values_.data() + copy * value_bytes_, values_.data(),
                  static_cast<std::size_t>(value_bytes_));
      std::memcpy(codes_.data() + copy * code_bytes_, codes_.data(), static_cast<std::size_t>(code_bytes_));
    }
    for (std::int64_t n = 0; n < desc.n; ++n) {
      scales_.push_back(0x1p-8f * (1.0f + random_uniform(seed + 2, static_cast<std::uint64_t>(n))));
    }
  }

  std::int64_t copies() const { return copies_; }

  // Rows [row, row + rows) of a copy.
  WeightSource source(std::int64_t copy, std::int64_t row, std::int64_t rows) const {
    WeightSource source;
    source.layout = desc_.layout;
    source.pattern = desc_.pattern;
    source.dtype = desc_.w;
    source.n = rows;
    source.k = desc_.k;
    source.values = values_.data() + copy * value_bytes_ + row * (value_bytes_ / desc_.n);
    if (code_bytes_ != 0)
      source.codes = codes_.as<std::uint8_t>() + copy * code_bytes_ + row * (code_bytes_ / desc_.n);
    if (desc_.w != DType::kBF16) {
      source.scales = scales_.data() + row;
      source.scale_dtype = DType::kF32;
    }
    return source;
  }

 private:
  GemmDesc desc_;
  std::int64_t value_bytes_ = 0;
  std::int64_t code_bytes_ = 0;
  std::int64_t copies_ = 1;
  Buffer values_;
  Buffer codes_;
  std::vector<float> scales_;
};

double norm(DType dtype, const void* data, std::int64_t count) {
  double squares = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double value = dtype == DType::kF8E4M3 ? e4m3_to_float(static_cast<const std::uint8_t*>(data)[i])
                                                 : bf16_to_float(static_cast<const std::uint16_t*>(data)[i]);
    squares += value * value;
  }
  return std::sqrt(squares);
}

// One kernel in the race.
struct Candidate {
  GemmBenchRow row;
  const Backend* backend = nullptr;
  GemmPlan plan;
  const Weights* weights = nullptr;
  std::vector<std::shared_ptr<PreparedWeights>> prepared;  // one a copy
  std::vector<double> samples;
};

// Everything of one shape, dtype and M.
class Race {
 public:
  Race(const GemmBenchOptions& options, const MachineLimits& limits, const GemmShape& shape, DType dtype,
       std::int64_t m)
      : options_(options), limits_(limits), shape_(shape), dtype_(dtype), m_(m) {
    x_ = Buffer(static_cast<std::size_t>(m * shape.k) * dtype_size(dtype));
    fill_values(dtype, x_.data(), m * shape.k, options.seed + 17);
    for (std::int64_t i = 0; i < m; ++i) {
      x_scales_.push_back(0x1p-6f *
                          (1.0f + random_uniform(options.seed + 18, static_cast<std::uint64_t>(i))));
    }
    out_ = Buffer(static_cast<std::size_t>(m * shape.n) * dtype_size(DType::kBF16));
    std::vector<Pattern> patterns{Pattern()};
    for (const Pattern& pattern : options.patterns) {
      if (!pattern.is_dense()) patterns.push_back(pattern);
    }
    for (const Pattern& pattern : patterns) add_pattern(pattern);
  }

  std::vector<GemmBenchRow> run() {
    for (Candidate& candidate : candidates_) candidate.row.check = check(candidate);
    double total = 0;
    const double enough = options_.min_seconds * static_cast<double>(candidates_.size());
    for (int round = -1; round < kFewestRounds || total < enough; ++round) {
      for (Candidate& candidate : candidates_) {
        if (candidate.row.check != "ok") continue;
        check_interrupt("the rows measured so far are lost; run the command again");
        const double start = now_seconds();
        run_once(candidate, round + 1);
        const double seconds = now_seconds() - start;
        total += seconds;
        if (round >= 0) candidate.samples.push_back(seconds);  // the first round warms up
      }
      if (total == 0) break;
    }
    return rows();
  }

 private:
  void add_pattern(Pattern pattern) {
    GemmDesc desc;
    desc.m = m_;
    desc.n = shape_.n;
    desc.k = shape_.k;
    desc.x = desc.w = dtype_;
    desc.pattern = pattern;
    desc.layout = pattern.is_dense() ? Layout::kDense : Layout::kPacked;
    weights_.push_back(std::make_unique<Weights>(desc, options_.seed));
    if (options_.every_kernel) {
      for (const Backend* backend : backends()) {
        const bool wanted = options_.backends.empty()
                                ? backend->name() != "reference"
                                : std::find(options_.backends.begin(), options_.backends.end(),
                                            backend->name()) != options_.backends.end();
        if (!wanted) continue;
        for (const KernelDesc& kernel : backend->kernels()) {
          if (backend->feasible(desc, kernel).ok) add(*backend, desc, kernel);
        }
      }
    } else if (options_.backends.empty()) {
      const Choice choice = choose(desc);
      add(*choice.backend, desc, choice.kernel);
    } else {
      for (const std::string& name : options_.backends) {
        const Choice choice = choose(desc, std::span(&name, 1));
        add(*choice.backend, desc, choice.kernel);
      }
    }
  }

  void add(const Backend& backend, const GemmDesc& desc, const KernelDesc& kernel) {
    Candidate candidate;
    candidate.backend = &backend;
    candidate.weights = weights_.back().get();
    candidate.plan = backend.plan(desc, kernel);
    for (std::int64_t copy = 0; copy < candidate.weights->copies(); ++copy) {
      candidate.prepared.push_back(
          backend.prepare_weights(candidate.weights->source(copy, 0, desc.n), desc, kernel));
    }
    arena_.reserve(static_cast<std::size_t>(candidate.plan.workspace_bytes));
    GemmBenchRow& row = candidate.row;
    row.shape = shape_.name;
    row.n = shape_.n;
    row.k = shape_.k;
    row.m = m_;
    row.dtype = dtype_;
    row.pattern = desc.pattern;
    row.layout = desc.layout;
    row.backend = backend.name();
    row.kernel = kernel.name;
    row.weight_bytes = backend.footprint(desc, kernel).weight_bytes_read;
    row.sparse_share = kernel.sparse ? 1 : 0;
    candidates_.push_back(std::move(candidate));
  }

  Context context() {
    Context context;
    context.arena = &arena_;
    return context;
  }

  GemmArgs args(std::int64_t token, void* out) const {
    return {x_.data() + static_cast<std::size_t>(token * shape_.k) * dtype_size(dtype_),
            dtype_ == DType::kBF16 ? nullptr : x_scales_.data() + token, out};
  }

  void run_once(const Candidate& candidate, std::int64_t round) {
    const auto copy = static_cast<std::size_t>(round % candidate.weights->copies());
    candidate.backend->run(candidate.plan, *candidate.prepared[copy], args(0, out_.data()), context());
  }

  // "ok", or the first sampled output that is wrong.
  std::string check(const Candidate& candidate) {
    std::memset(out_.data(), 0xff, out_.size());
    run_once(candidate, 0);
    const Backend& reference = backend_named("reference");
    const KernelDesc kernel = reference.kernels().front();
    for (int sample = 0; sample < kSampledChannels; ++sample) {
      const std::int64_t n = sample * (shape_.n - 1) / (kSampledChannels - 1);
      const std::int64_t token = sample * (m_ - 1) / (kSampledChannels - 1);
      const WeightSource source = candidate.weights->source(0, n, 1);
      GemmDesc one = candidate.plan.desc;
      one.m = one.n = 1;
      const GemmPlan plan = reference.plan(one, kernel);
      arena_.reserve(static_cast<std::size_t>(plan.workspace_bytes));
      std::uint16_t expected = 0;
      reference.run(plan, *reference.prepare_weights(source, one, kernel), args(token, &expected), context());
      const std::uint16_t got = out_.as<std::uint16_t>()[token * shape_.n + n];
      const double wanted = bf16_to_float(expected);
      const double allowed = dtype_ == DType::kI8 ? 0 : tolerance(source, token, wanted);
      if (!(std::fabs(bf16_to_float(got) - wanted) <= allowed)) {
        return fmt::format("token {} channel {} is {}, not {}", token, n, bf16_to_float(got), wanted);
      }
    }
    return "ok";
  }

  // |x| |w| bounds the sum of the products' magnitudes; FP32 adds in at least eight parts, then one rounding
  // to BF16.
  double tolerance(const WeightSource& source, std::int64_t token, double expected) const {
    double scale = norm(dtype_, args(token, nullptr).x, shape_.k) *
                   norm(dtype_, source.values, source.pattern.values_per_row(source.k));
    if (dtype_ != DType::kBF16) {
      scale *= double{x_scales_[static_cast<std::size_t>(token)]} * *static_cast<const float*>(source.scales);
    }
    return (static_cast<double>(shape_.k) / 8 + 24) * 0x1p-24 * scale + 0x1p-7 * std::fabs(expected);
  }

  std::vector<GemmBenchRow> rows() {
    double dense = 0;
    for (Candidate& candidate : candidates_) {
      candidate.row.seconds = summarise(candidate.samples);
      const double median = candidate.row.seconds.median;
      if (candidate.row.pattern.is_dense() && median > 0 && (dense == 0 || median < dense)) dense = median;
    }
    std::vector<GemmBenchRow> rows;
    for (Candidate& candidate : candidates_) {
      GemmBenchRow& row = candidate.row;
      if (const double median = row.seconds.median; median > 0) {
        const double ops =
            2.0 * static_cast<double>(m_) * static_cast<double>(shape_.n) * static_cast<double>(shape_.k);
        const double peak = limits_.ops_per_second(dtype_);
        const double bytes = static_cast<double>(row.weight_bytes);
        row.ops_per_second = ops / median;
        row.bytes_per_second = bytes / median;
        row.share_of_limit =
            std::max(bytes / limits_.read_bytes_per_second, peak > 0 ? ops / peak : 0) / median;
        row.dense_ratio = dense / median;
      }
      rows.push_back(row);
    }
    return rows;
  }

  const GemmBenchOptions& options_;
  const MachineLimits& limits_;
  const GemmShape& shape_;
  DType dtype_;
  std::int64_t m_;
  Buffer x_;
  std::vector<float> x_scales_;
  Buffer out_;
  Arena arena_;
  std::vector<std::unique_ptr<Weights>> weights_;
  std::vector<Candidate> candidates_;
};

}  // namespace

GemmBenchResult bench_gemm(const GemmBenchOptions& options) {
  for (const GemmShape& shape : options.shapes) {
    const auto elements = checked_mul(shape.n, shape.k);
    if (shape.n < 1 || shape.k < 1 || !elements || *elements > (std::int64_t{1} << 40)) {
      fail(ErrorKind::kUsage,
           "shape {} ({} x {}): both sides must be positive and the matrix below 2^40 elements", shape.name,
           shape.n, shape.k);
    }
  }
  for (const std::int64_t m : options.ms) {
    if (m < 1 || m > (std::int64_t{1} << 20)) fail(ErrorKind::kUsage, "M={}: between 1 and {}", m, 1 << 20);
  }
  GemmBenchResult result;
  result.limits = measure_machine_limits();
  for (const GemmShape& shape : options.shapes) {
    for (const DType dtype : options.dtypes) {
      for (const std::int64_t m : options.ms) {
        if (options.on_progress)
          options.on_progress(fmt::format("{} {} M={}", shape.name, dtype_name(dtype), m));
        const std::vector<GemmBenchRow> rows = Race(options, result.limits, shape, dtype, m).run();
        result.rows.insert(result.rows.end(), rows.begin(), rows.end());
      }
    }
  }
  return result;
}

}  // namespace slidesparse
