#include "gemm/cuda/case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <numeric>
#include <set>

#include "core/checked.h"
#include "core/cuda/memory.h"
#include "core/cuda/status.h"
#include "core/cuda/stream.h"
#include "core/fail.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "core/random.h"
#include "core/samples.h"
#include "gemm/backends/common.h"
#include "gemm/random_problem.h"
#include "slidesparse/format/codes.h"
#include "slidesparse/format/pack.h"
#include "slidesparse/format/slide.h"
#include "slidesparse/format/split.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kAllUpTo = std::int64_t{1} << 27;  // multiplications that the reference does in full
constexpr std::int64_t kSampled = 64;                     // rows, and columns, of larger problems
constexpr std::int64_t kGuardRows = 2;
constexpr std::int64_t kGuardBytes = 4096;
constexpr std::int64_t kChunkBytes = std::int64_t{64} << 20;

// Element i of a random matrix: any finite value; -128 often among the integers.
unsigned random_element(DType dtype, std::uint64_t seed, std::int64_t i) {
  const auto counter = static_cast<std::uint64_t>(i);
  if (dtype == DType::kBF16) return float_to_bf16(random_normal(seed, counter));
  const std::uint64_t bits = random_bits(seed, counter);
  const auto low = static_cast<unsigned>(bits & 0xff);
  if (dtype == DType::kI8) return (bits >> 8) % 16 == 0 ? 0x80u : low;
  return (low & 0x7fu) == 0x7fu ? 0x01u : low;
}

// Bits of a small integer in any of the three types.
unsigned small_integer(DType dtype, int value) {
  if (dtype == DType::kI8) return static_cast<std::uint8_t>(value);
  if (dtype == DType::kF8E4M3) return float_to_e4m3(static_cast<float>(value));
  return float_to_bf16(static_cast<float>(value));
}

void put(DType dtype, void* data, std::int64_t i, unsigned bits) {
  if (dtype_size(dtype) == 1) {
    static_cast<std::uint8_t*>(data)[i] = static_cast<std::uint8_t>(bits);
  } else {
    static_cast<std::uint16_t*>(data)[i] = static_cast<std::uint16_t>(bits);
  }
}

double get(DType dtype, const void* data, std::int64_t i) {
  switch (dtype) {
    case DType::kI8:
      return static_cast<const std::int8_t*>(data)[i];
    case DType::kF8E4M3:
      return e4m3_to_float(static_cast<const std::uint8_t*>(data)[i]);
    default:
      return bf16_to_float(static_cast<const std::uint16_t*>(data)[i]);
  }
}

// One random row in packed form: any masks; what a tail group holds behind k is zero.
void make_packed_row(const CaseSpec& spec, std::int64_t row, std::byte* values, std::uint8_t* codes,
                     const std::function<unsigned(std::int64_t)>& element) {
  const Pattern pattern = spec.pattern;
  const std::int64_t per_row = pattern.values_per_row(spec.k);
  const int pairs = pattern.group() * (pattern.group() - 1) / 2;
  for (std::int64_t g = 0; g < pattern.groups(spec.k); ++g) {
    const auto code = static_cast<int>(
        random_bits(spec.seed + 101, static_cast<std::uint64_t>(row * pattern.groups(spec.k) + g)) %
        static_cast<std::uint64_t>(pairs));
    for (int bit = 0; bit < pattern.code_bits(); ++bit) {
      const std::int64_t at = g * pattern.code_bits() + bit;
      if (((code >> bit) & 1) != 0)
        codes[at / 8] = static_cast<std::uint8_t>(codes[at / 8] | (1u << (at % 8)));
    }
    const DroppedPair dropped = decode_pair(code);
    std::int64_t slot = g * pattern.kept();
    for (int lane = 0; lane < pattern.group(); ++lane) {
      if (lane == dropped.a || lane == dropped.b) continue;
      const bool real = g * pattern.group() + lane < spec.k;
      put(spec.dtype, values, slot, real ? element(row * per_row + slot) : 0);
      ++slot;
    }
  }
}

// Which of `count` rows or columns are looked at: the first and last ones and random ones between.
std::vector<std::int64_t> pick(std::int64_t count, std::int64_t wanted, std::uint64_t seed) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(std::min(count, wanted)));
  std::iota(all.begin(), all.end(), std::int64_t{0});
  if (count <= wanted) return all;
  std::set<std::int64_t> chosen;
  for (std::int64_t i = 0; i < 8; ++i) chosen.insert(i);
  for (std::int64_t i = 1; i <= 16; ++i) chosen.insert(count - i);
  Random random(seed);
  while (static_cast<std::int64_t>(chosen.size()) < wanted) chosen.insert(random.below(count));
  return {chosen.begin(), chosen.end()};
}

// Shares of the tolerance that were used, by backend and type; printed once at the end.
class WorstErrors : public testing::Environment {
 public:
  void note(const std::string& key, double share, const std::string& where) {
    const std::scoped_lock lock(mutex_);
    auto& [worst, place] = worst_[key];
    if (share >= worst) {
      worst = share;
      place = where;
    }
  }
  void TearDown() override {
    for (const auto& [key, entry] : worst_)
      fmt::print("largest error of {}: {:.3f} of the tolerance, {}\n", key, entry.first, entry.second);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::pair<double, std::string>> worst_;
};

// GoogleTest owns it.
WorstErrors& worst_errors() {
  static auto* const kErrors = static_cast<WorstErrors*>(testing::AddGlobalTestEnvironment(new WorstErrors));
  return *kErrors;
}
[[maybe_unused]] const WorstErrors& g_registered_before_main = worst_errors();

// What one pass over the outputs found.
struct Seen {
  std::uint64_t digest = 0;
  std::vector<float> samples;  // rows x columns
  std::string breach;          // first element that was not written, or written and nobody's
};

struct Places {
  std::vector<std::int64_t> rows;
  std::vector<std::int64_t> columns;
};

// Reads D and its guard rows back, a chunk of rows at a time.
Seen read_back(const CudaCase& problem, const DeviceBuffer& out, const Places& places,
               const CudaStream& stream) {
  const GemmDesc& desc = problem.desc();
  const std::int64_t ldout = desc.ldout != 0 ? desc.ldout : desc.n;
  const auto size = static_cast<std::int64_t>(dtype_size(desc.out));
  const std::int64_t row_bytes = ldout * size;
  const std::int64_t rows = desc.m + kGuardRows;
  const std::int64_t chunk_rows = std::max<std::int64_t>(1, std::min(rows, kChunkBytes / row_bytes));
  PinnedBuffer chunk(chunk_rows * row_bytes);
  Seen seen;
  seen.samples.assign(places.rows.size() * places.columns.size(), 0.0f);
  std::mutex mutex;
  for (std::int64_t first = 0; first < rows; first += chunk_rows) {
    const std::int64_t count = std::min(chunk_rows, rows - first);
    copy_to_host(chunk.data(), out.data() + first * row_bytes, count * row_bytes, stream.handle());
    stream.synchronize();
    parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end) {
      std::uint64_t digest = 0;
      std::string breach;
      for (std::int64_t r = begin; r < end; ++r) {
        const std::int64_t row = first + r;
        const std::byte* data = chunk.data() + r * row_bytes;
        std::uint64_t hash = static_cast<std::uint64_t>(row) + 1;
        for (std::int64_t i = 0; i < row_bytes / 2; ++i)
          hash = hash * 0x9e3779b97f4a7c15ull + reinterpret_cast<const std::uint16_t*>(data)[i];
        digest += hash ^ (hash >> 29);
        const std::int64_t real = row < desc.m ? desc.n : 0;
        const bool may_be_nan = problem.spec().nan_token && row == 0;
        for (std::int64_t n = 0; n < real && !may_be_nan && breach.empty(); ++n) {
          if (std::isnan(output_at(desc.out, data, n)))
            breach = fmt::format("row {} column {} is NaN or was not written", row, n);
        }
        for (std::int64_t i = real * size; i < row_bytes && breach.empty(); ++i) {
          if (data[i] != std::byte{0xff})
            breach = fmt::format("row {} byte {} is nobody's and was written", row, i);
        }
      }
      const std::scoped_lock lock(mutex);
      seen.digest += digest;
      if (seen.breach.empty()) seen.breach = breach;
    });
    for (std::size_t i = 0; i < places.rows.size(); ++i) {
      if (places.rows[i] < first || places.rows[i] >= first + count) continue;
      const std::byte* data = chunk.data() + (places.rows[i] - first) * row_bytes;
      for (std::size_t j = 0; j < places.columns.size(); ++j)
        seen.samples[i * places.columns.size() + j] = output_at(desc.out, data, places.columns[j]);
    }
  }
  return seen;
}

// The order in which a kernel reads the lanes of X, on the host; empty where it is their own.
std::vector<std::int32_t> order_of(const PreparedWeights& weights, const Footprint& footprint, std::int64_t k,
                                   const CudaStream& stream) {
  EXPECT_EQ(footprint.gathered, weights.input_order() != nullptr);
  if (!footprint.gathered) return {};
  std::vector<std::int32_t> order(static_cast<std::size_t>(k));
  copy_to_host(order.data(), weights.input_order(), k * 4, stream.handle());
  stream.synchronize();
  return order;
}

DeviceBuffer upload(const void* host, std::int64_t bytes, const char* name, const CudaStream& stream) {
  DeviceBuffer buffer(bytes, name);
  copy_to_device(buffer.data(), host, bytes, stream.handle());
  stream.synchronize();
  return buffer;
}

}  // namespace

std::string CaseSpec::to_string() const {
  return fmt::format("{}_{}{}_M{}_N{}_K{}{}{}{}{}_seed{}", dtype_name(dtype), pattern.to_string(),
                     split ? "_split" : "", m, n, k,
                     bias ? (bias_dtype == DType::kBF16 ? "_bias_bf16" : "_bias") : "",
                     out == DType::kF32 ? "_F32" : "", exact ? "_exact" : "", nan_token ? "_nan" : "", seed);
}

std::ostream& operator<<(std::ostream& out, const CaseSpec& spec) {
  return out << spec.to_string();
}

std::string case_name(const testing::TestParamInfo<CaseSpec>& info) {
  std::string name = info.param.to_string();
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
}

std::string no_gpu_reason() {
  const CudaStatus& status = cuda_status();
  return status.available ? std::string() : "no GPU: " + status.reason;
}

// A part of the problem that the reference can do in a moment.
struct CudaCase::Sample {
  Places places;
  std::vector<float> expected;  // rows x columns
  std::vector<double> norm1;    // empty for I8
  std::vector<double> norm2;
};

CudaCase::CudaCase(const CaseSpec& spec) : spec_(spec) {
  desc_.m = spec.m;
  desc_.n = spec.n;
  desc_.k = spec.k;
  desc_.x = desc_.w = spec.dtype;
  desc_.out = spec.out;
  desc_.pattern = spec.pattern;
  desc_.layout = spec.pattern.is_dense() ? Layout::kDense : spec.split ? Layout::kSplit : Layout::kPacked;
  desc_.bias = spec.bias;
  desc_.bias_dtype = spec.bias_dtype;
  desc_.ldout = spec.ldout;
  desc_.device = {DeviceKind::kCuda, 0};

  const auto size = static_cast<std::int64_t>(dtype_size(spec.dtype));
  // Weights: -2 .. 2 in exact cases.
  const auto weight = [&spec](std::int64_t i) {
    if (!spec.exact) return random_element(spec.dtype, spec.seed, i);
    return small_integer(spec.dtype,
                         static_cast<int>(random_bits(spec.seed, static_cast<std::uint64_t>(i)) % 5) - 2);
  };
  const std::int64_t per_row = stored_values_per_row(desc_);
  const std::int64_t code_bytes = stored_code_bytes_per_row(desc_);
  const SplitShape shape = split_shape(spec.pattern, spec.k);
  if (spec.split) perm_ = random_split_order(shape, spec.seed + 9);
  values_ = Buffer(static_cast<std::size_t>(spec.n * per_row * size));
  codes_ = Buffer(static_cast<std::size_t>(spec.n * code_bytes));
  std::memset(codes_.data(), 0, codes_.size());
  parallel_for(spec.n, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::byte* values = values_.data() + row * per_row * size;
      if (spec.pattern.is_dense()) {
        for (std::int64_t i = 0; i < spec.k; ++i) put(spec.dtype, values, i, weight(row * spec.k + i));
      } else if (spec.split) {
        CaseSpec quads = spec;
        quads.pattern = Pattern::of_half_group(2);
        quads.k = shape.sparse;
        make_packed_row(quads, row, values, codes_.as<std::uint8_t>() + row * code_bytes, weight);
        for (std::int64_t i = shape.sparse / 2; i < per_row; ++i)
          put(spec.dtype, values, i, weight(row * per_row + i));
      } else {
        make_packed_row(spec, row, values, codes_.as<std::uint8_t>() + row * code_bytes, weight);
      }
    }
  });

  // Activations: in exact cases 128 lanes of a token are +-1, so that |sum| <= 128 * 2. Every fifth token is
  // one of zeros.
  x_ = Buffer(static_cast<std::size_t>(spec.m * spec.k * size));
  x_scale_.resize(spec.dtype == DType::kBF16 ? 0 : static_cast<std::size_t>(spec.m));
  parallel_for(spec.m, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::byte* x = x_.data() + row * spec.k * size;
      const bool no_codes = row % 5 == 4 || (spec.nan_token && row == 0);
      if (no_codes || spec.exact) std::memset(x, 0, static_cast<std::size_t>(spec.k * size));
      if (!no_codes && spec.exact) {
        Random random(spec.seed + 7 * static_cast<std::uint64_t>(row) + 3);
        for (int i = 0; i < 128; ++i) {
          put(spec.dtype, x, random.below(spec.k), small_integer(spec.dtype, random.below(2) == 0 ? 1 : -1));
        }
      } else if (!no_codes) {
        for (std::int64_t i = 0; i < spec.k; ++i)
          put(spec.dtype, x, i, random_element(spec.dtype, spec.seed + 1, row * spec.k + i));
      }
      if (spec.dtype == DType::kBF16) continue;
      float scale =
          spec.exact ? 1.0f : 0.01f + random_uniform(spec.seed + 2, static_cast<std::uint64_t>(row));
      if (row % 5 == 4) scale = 0.0f;
      if (spec.nan_token && row == 0) scale = std::numeric_limits<float>::quiet_NaN();
      x_scale_[static_cast<std::size_t>(row)] = scale;
    }
  });

  Random random(spec.seed + 5);
  for (std::int64_t n = 0; n < spec.n; ++n) {
    const float uniform = random.uniform();
    scales_.push_back(float_to_bf16(spec.exact ? 1.0f : 0.001f + 0.01f * uniform));
    bias_.push_back(spec.exact ? static_cast<float>(random.below(17) - 8) : 20.0f * random.normal());
    if (spec.bias_dtype == DType::kBF16) {
      bias_bf16_.push_back(float_to_bf16(bias_.back()));
      bias_.back() = bf16_to_float(bias_bf16_.back());
    }
  }
}

WeightSource CudaCase::source() const {
  WeightSource source;
  source.layout = desc_.layout;
  source.pattern = desc_.pattern;
  source.dtype = desc_.w;
  source.n = desc_.n;
  source.k = desc_.k;
  source.values = values_.data();
  if (desc_.layout != Layout::kDense) source.codes = codes_.as<std::uint8_t>();
  source.perm = perm_;
  if (desc_.w != DType::kBF16) source.scales = scales_.data();
  if (desc_.bias) {
    const bool narrow = spec_.bias_dtype == DType::kBF16;
    source.bias = narrow ? static_cast<const void*>(bias_bf16_.data()) : bias_.data();
    source.bias_dtype = spec_.bias_dtype;
  }
  return source;
}

Buffer CudaCase::activations(const Footprint& footprint, std::span<const std::int32_t> order) const {
  const auto size = static_cast<std::int64_t>(dtype_size(desc_.x));
  const Pattern lift = footprint.lift == 0 ? Pattern() : Pattern::of_half_group(footprint.lift);
  const std::int64_t width = lift.lifted_k(desc_.k);
  require(footprint.m_padded >= desc_.m && footprint.k_padded >= width, "footprint pads {} x {} to {} x {}",
          desc_.m, width, footprint.m_padded, footprint.k_padded);
  Buffer padded(static_cast<std::size_t>(footprint.m_padded * footprint.k_padded * size));
  parallel_for(footprint.m_padded, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::byte* to = padded.data() + row * footprint.k_padded * size;
      std::memset(to, 0, static_cast<std::size_t>(footprint.k_padded * size));
      const std::byte* from = x_.data() + row * desc_.k * size;
      for (std::size_t i = 0; i < order.size() && row < desc_.m; ++i)
        std::memcpy(to + static_cast<std::int64_t>(i) * size, from + order[i] * size,
                    static_cast<std::size_t>(size));
      if (row < desc_.m && order.empty())
        lift_rows(lift, desc_.x, x_.data() + row * desc_.k * size, 1, desc_.k, desc_.k, to);
    }
  });
  return padded;
}

std::vector<float> CudaCase::token_scales(const Footprint& footprint) const {
  std::vector<float> padded = x_scale_;
  if (desc_.x != DType::kBF16) padded.resize(static_cast<std::size_t>(footprint.m_padded), 0.0f);
  return padded;
}

CudaCase::Sample CudaCase::make_sample() const {
  Sample part;
  const bool all = desc_.m * desc_.n * desc_.k <= kAllUpTo;
  part.places.rows = pick(desc_.m, all ? desc_.m : kSampled, spec_.seed + 11);
  part.places.columns = pick(desc_.n, all ? desc_.n : kSampled, spec_.seed + 12);
  const auto rows = static_cast<std::int64_t>(part.places.rows.size());
  const auto columns = static_cast<std::int64_t>(part.places.columns.size());
  if (rows == 0) return part;

  const auto size = static_cast<std::int64_t>(dtype_size(desc_.w));
  const std::int64_t per_row = stored_values_per_row(desc_) * size;
  const std::int64_t code_bytes = static_cast<std::int64_t>(codes_.size()) / desc_.n;
  std::vector<std::byte> x, values;
  std::vector<std::uint8_t> codes;
  std::vector<float> x_scale, bias;
  std::vector<std::uint16_t> scales;
  for (const std::int64_t row : part.places.rows) {
    x.insert(x.end(), x_.data() + row * desc_.k * size, x_.data() + (row + 1) * desc_.k * size);
    if (!x_scale_.empty()) x_scale.push_back(x_scale_[static_cast<std::size_t>(row)]);
  }
  for (const std::int64_t column : part.places.columns) {
    values.insert(values.end(), values_.data() + column * per_row, values_.data() + (column + 1) * per_row);
    const auto* code = codes_.as<std::uint8_t>() + column * code_bytes;
    codes.insert(codes.end(), code, code + code_bytes);
    scales.push_back(scales_[static_cast<std::size_t>(column)]);
    bias.push_back(bias_[static_cast<std::size_t>(column)]);
  }

  GemmDesc small = desc_;
  small.m = rows;
  small.n = columns;
  small.ldout = 0;
  small.device = {};
  small.out = DType::kF32;  // rounded by the comparison, so that it sees both sides of a rounding
  WeightSource from = source();
  from.n = columns;
  from.values = values.data();
  if (from.codes != nullptr) from.codes = codes.data();
  if (from.scales != nullptr) from.scales = scales.data();
  if (from.bias != nullptr) {
    from.bias = bias.data();
    from.bias_dtype = small.bias_dtype = DType::kF32;
  }
  part.expected.resize(static_cast<std::size_t>(rows * columns));
  const Backend& backend = backend_named("reference");
  const KernelDesc kernel = backend.kernels().front();
  const auto prepared = backend.prepare_weights(from, small, kernel);
  const GemmPlan plan = backend.plan(small, kernel);
  Arena arena(static_cast<std::size_t>(plan.workspace_bytes));
  Context context;
  context.arena = &arena;
  backend.run(plan, *prepared, {x.data(), x_scale.empty() ? nullptr : x_scale.data(), part.expected.data()},
              context);

  if (desc_.w == DType::kI8 || spec_.exact) return part;
  std::vector<std::byte> dense(static_cast<std::size_t>(columns * desc_.k * size));
  if (desc_.layout == Layout::kPacked) {
    unpack_rows({desc_.pattern, desc_.w, columns, desc_.k, values.data(), codes.data()}, 0, columns,
                dense.data(), desc_.k);
  } else if (desc_.layout == Layout::kSplit) {
    split_unpack_rows(split_shape(desc_.pattern, desc_.k), perm_, desc_.w, values.data(), codes.data(),
                      columns, dense.data(), desc_.k);
  } else {
    dense = values;
  }
  part.norm1.resize(part.expected.size());
  part.norm2.resize(part.expected.size());
  std::vector<float> xf(static_cast<std::size_t>(rows * desc_.k)),
      wf(static_cast<std::size_t>(columns * desc_.k));
  for (std::size_t i = 0; i < xf.size(); ++i)
    xf[i] = static_cast<float>(get(desc_.x, x.data(), static_cast<std::int64_t>(i)));
  for (std::size_t i = 0; i < wf.size(); ++i)
    wf[i] = static_cast<float>(get(desc_.w, dense.data(), static_cast<std::int64_t>(i)));
  parallel_for(columns, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t j = begin; j < end; ++j) {
      const float* w = wf.data() + j * desc_.k;
      const double w_scale =
          desc_.w == DType::kBF16 ? 1.0 : bf16_to_float(scales[static_cast<std::size_t>(j)]);
      for (std::int64_t i = 0; i < rows; ++i) {
        const float* row = xf.data() + i * desc_.k;
        double sum = 0, squares = 0;
        for (std::int64_t k = 0; k < desc_.k; ++k) {
          const double product = std::fabs(double{row[k]} * w[k]);
          sum += product;
          squares += product * product;
        }
        const double scale = w_scale * (x_scale.empty() ? 1.0 : x_scale[static_cast<std::size_t>(i)]);
        part.norm1[static_cast<std::size_t>(i * columns + j)] = sum * scale;
        part.norm2[static_cast<std::size_t>(i * columns + j)] = std::sqrt(squares) * scale;
      }
    }
  });
  return part;
}

double gpu_tolerance(const GemmDesc& desc, const KernelDesc& kernel, double norm1, double norm2, double bias,
                     double expected) {
  // One rounding to BF16, taken as a whole ulp; two where the kernel rounds its sums before the scales too,
  // in FP32 outputs the 2^-8 of that rounding.
  const double product = std::fabs(expected - bias);
  const double magnitude = std::max(std::fabs(expected), 0x1p-126);
  const double ulp = std::exp2(std::floor(std::log2(magnitude)) - 7);
  double error = desc.out == DType::kBF16 ? ulp : 0;
  if (kernel.two_roundings) error += std::max(ulp, 0x1p-8 * product);
  // float(acc) * sx * sw + bias in FP32, in any order.
  error += 0x1p-22 * (product + std::fabs(bias));
  const auto k = static_cast<double>(desc.k);
  if (desc.w == DType::kF8E4M3) {
    // Hopper keeps about 14 bits of a sum within a chain of instructions of 32 lanes: everything that is
    // added is cut at 2^-13 of the largest one. Sums of random products grow like norm2, so the cuts of the
    // running sum are a drift of K / 32 units and those of the products a random walk of sqrt(K); 2 for sums
    // that outgrow norm2. Never more than what cutting each addend alone could do.
    const double units = k / 32 + std::sqrt(k);
    error += std::min(2 * units * norm2, (k / 32 + 33) * norm1) * 0x1p-13;
  } else if (desc.w == DType::kBF16) {
    // FP32 sums of 16 lanes at a time whose lowest bits are cut.
    error += std::min(8 * (k / 16 + std::sqrt(k)) * norm2, (k / 16 + 17) * norm1) * 0x1p-22;
  }
  return error;
}

void print_host_times(const Backend& backend, const CudaCase& problem) {
  const GemmDesc& desc = problem.desc();
  for (const KernelDesc& kernel : backend.kernels()) {
    if (!backend.feasible(desc, kernel).ok) continue;
    const Footprint footprint = backend.footprint(desc, kernel);
    const CudaStream stream;
    const auto weights = backend.prepare_weights(problem.source(), desc, kernel);
    const GemmPlan plan = backend.plan(desc, kernel);
    const Buffer x_host = problem.activations(footprint, order_of(*weights, footprint, desc.k, stream));
    const std::vector<float> scale_host = problem.token_scales(footprint);
    const DeviceBuffer x = upload(x_host.data(), static_cast<std::int64_t>(x_host.size()), "test: x", stream);
    const DeviceBuffer scales =
        upload(scale_host.data(), static_cast<std::int64_t>(scale_host.size() * sizeof(float)),
               "test: token scales", stream);
    DeviceBuffer out(desc.m * desc.n * 4, "test: out");
    DeviceBuffer workspace(plan.workspace_bytes, "test: workspace");
    Arena arena(workspace.data(), static_cast<std::size_t>(plan.workspace_bytes));
    const Context context{desc.device, stream.handle(), &arena};
    const GemmArgs args{x.data(), scale_host.empty() ? nullptr : scales.as<float>(), out.data()};
    std::vector<double> seconds;
    for (int i = 0; i < 200; ++i) {
      const double start = now_seconds();
      backend.run(plan, *weights, args, context);
      seconds.push_back(now_seconds() - start);
      if (i % 20 == 19) stream.synchronize();
    }
    const double median = summarise(seconds).median;
    fmt::print("host time of {}: {:.2f} us\n", kernel.name, 1e6 * median);
    EXPECT_LT(median, 50e-6) << kernel.name;
  }
}

void CudaCase::check(const Backend& backend, const KernelDesc& kernel) const {
  SCOPED_TRACE(
      fmt::format("{} {} [{}] on {}", backend.name(), kernel.name, kernel.config, spec_.to_string()));
  const Feasibility feasible = backend.feasible(desc_, kernel);
  ASSERT_TRUE(feasible.ok) << feasible.reason;
  const Footprint footprint = backend.footprint(desc_, kernel);
  const CudaStream stream;
  const auto weights = backend.prepare_weights(source(), desc_, kernel);
  EXPECT_EQ(weights->allocated_bytes(), footprint.weight_bytes);
  const GemmPlan plan = backend.plan(desc_, kernel);
  EXPECT_EQ(plan.workspace_bytes, footprint.workspace_bytes);

  const Buffer x_host = activations(footprint, order_of(*weights, footprint, desc_.k, stream));
  const std::vector<float> scale_host = token_scales(footprint);
  const DeviceBuffer x = upload(x_host.data(), static_cast<std::int64_t>(x_host.size()), "test: x", stream);
  const DeviceBuffer scales =
      upload(scale_host.data(), static_cast<std::int64_t>(scale_host.size() * sizeof(float)),
             "test: token scales", stream);
  const std::int64_t ldout = desc_.ldout != 0 ? desc_.ldout : desc_.n;
  DeviceBuffer out((desc_.m + kGuardRows) * ldout * static_cast<std::int64_t>(dtype_size(desc_.out)),
                   "test: out");
  DeviceBuffer workspace(plan.workspace_bytes + kGuardBytes, "test: workspace");
  Arena arena(workspace.data(), static_cast<std::size_t>(plan.workspace_bytes));
  const Context context{desc_.device, stream.handle(), &arena};
  const GemmArgs args{x.data(), scale_host.empty() ? nullptr : scales.as<float>(), out.data()};

  if (sample_ == nullptr) sample_ = std::make_shared<const Sample>(make_sample());
  const Sample& part = *sample_;
  const auto poison = [&] {
    fill_device(out.data(), 0xff, out.size(), stream.handle());
    fill_device(workspace.data(), 0xff, workspace.size(), stream.handle());
  };
  poison();
  backend.run(plan, *weights, args, context);
  const Seen first = read_back(*this, out, part.places, stream);
  EXPECT_EQ(first.breach, "");
  EXPECT_EQ(arena.used(), 0u) << "scratch was not given back";
  std::vector<std::uint8_t> guard(static_cast<std::size_t>(kGuardBytes));
  copy_to_host(guard.data(), workspace.data() + plan.workspace_bytes, kGuardBytes, stream.handle());
  stream.synchronize();
  EXPECT_TRUE(std::all_of(guard.begin(), guard.end(), [](std::uint8_t byte) { return byte == 0xff; }))
      << "written behind the workspace";

  poison();
  backend.run(plan, *weights, args, context);
  const Seen second = read_back(*this, out, part.places, stream);
  if (kernel.reproducible) {
    EXPECT_EQ(first.digest, second.digest) << "not the same bits twice";
  }
  poison();
  stream.synchronize();
  const CudaGraph graph(stream, [&] { backend.run(plan, *weights, args, context); });
  graph.launch(stream.handle());
  const Seen third = read_back(*this, out, part.places, stream);
  EXPECT_EQ(third.breach, "");
  if (kernel.reproducible) {
    EXPECT_EQ(first.digest, third.digest) << "not the same bits from a graph";
  }

  const std::string key = fmt::format("{} {}", backend.name(), dtype_name(desc_.w));
  const std::string where = fmt::format("{} [{}] {}", kernel.name, kernel.config, spec_.to_string());
  const std::size_t columns = part.places.columns.size();
  int wrong = 0;
  for (std::size_t at = 0; at < part.expected.size() && wrong < 5; ++at) {
    const auto row = part.places.rows[at / columns];
    const auto column = part.places.columns[at % columns];
    const float expected = part.expected[at];
    for (const Seen* seen : {&first, &second, &third}) {
      const float got = seen->samples[at];
      if (std::isnan(expected) && std::isnan(got)) continue;
      const double error = std::fabs(double{got} - expected);
      double allowed = 0;
      if (spec_.exact) {
        const double rounded = desc_.out == DType::kBF16 ? round_to_bf16(expected) : expected;
        if (double{got} == rounded) continue;
      } else {
        allowed = gpu_tolerance(desc_, kernel, part.norm1.empty() ? 0 : part.norm1[at],
                                part.norm2.empty() ? 0 : part.norm2[at],
                                desc_.bias ? bias_[static_cast<std::size_t>(column)] : 0, expected);
        // What is left when the roundings at the end have taken half of theirs: the sums' own.
        const double ends = gpu_tolerance(desc_, kernel, 0, 0,
                                          desc_.bias ? bias_[static_cast<std::size_t>(column)] : 0, expected);
        if (allowed > ends) {
          worst_errors().note(key + " sums", std::max(0.0, error - ends / 2) / (allowed - ends), where);
        }
        worst_errors().note(key, error / allowed, where);
        if (error <= allowed) continue;
      }
      ++wrong;
      ADD_FAILURE() << fmt::format("row {} column {}: {} where {} is right; {} off, {} allowed", row, column,
                                   got, expected, error, allowed);
      break;
    }
  }
}

}  // namespace slidesparse
