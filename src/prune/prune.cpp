#include "prune/prune.h"

#include <algorithm>
#include <array>
#include <bit>
#include <type_traits>
#include <utility>

#include "core/cpu.h"
#include "core/fail.h"
#include "core/isa_targets.h"
#include "core/numeric.h"
#include "core/text.h"

namespace slidesparse {
namespace {

// Element types. magnitude() orders like |value|, 0 for both zeros; kNotFinite is the first magnitude that is
// infinity or NaN.
struct Int8Element {
  using Bits = std::uint8_t;
  static constexpr std::uint32_t kNotFinite = 0x100;
  static SLIDESPARSE_INLINE std::uint32_t magnitude(Bits bits) {
    const int value = static_cast<std::int8_t>(bits);
    return static_cast<std::uint32_t>(value < 0 ? -value : value);
  }
  static SLIDESPARSE_INLINE float to_float(Bits bits) {
    return static_cast<float>(static_cast<std::int8_t>(bits));
  }
};

struct E4M3Element {
  using Bits = std::uint8_t;
  static constexpr std::uint32_t kNotFinite = 0x7f;
  static SLIDESPARSE_INLINE std::uint32_t magnitude(Bits bits) { return bits & 0x7fu; }
  static SLIDESPARSE_INLINE float to_float(Bits bits) {
    // The exponent moves up by 120; subnormals come out right because the multiplication is exact.
    return std::bit_cast<float>((bits & 0x7fu) << 20) * 0x1p120f;
  }
};

struct Bf16Element {
  using Bits = std::uint16_t;
  static constexpr std::uint32_t kNotFinite = 0x7f80;
  static SLIDESPARSE_INLINE std::uint32_t magnitude(Bits bits) { return bits & 0x7fffu; }
  static SLIDESPARSE_INLINE float to_float(Bits bits) { return bf16_to_float(bits); }
};

struct F16Element {
  using Bits = std::uint16_t;
  static constexpr std::uint32_t kNotFinite = 0x7c00;
  static SLIDESPARSE_INLINE std::uint32_t magnitude(Bits bits) { return bits & 0x7fffu; }
  static SLIDESPARSE_INLINE float to_float(Bits bits) {
    return std::bit_cast<float>((bits & 0x7fffu) << 13) * 0x1p112f;
  }
};

struct F32Element {
  using Bits = std::uint32_t;
  static constexpr std::uint32_t kNotFinite = 0x7f800000;
  static SLIDESPARSE_INLINE std::uint32_t magnitude(Bits bits) { return bits & 0x7fffffffu; }
  static SLIDESPARSE_INLINE float to_float(Bits bits) { return std::bit_cast<float>(bits); }
};

// What is known of one row before pruning. to_float() may drop the sign: only squares are summed.
struct RowFacts {
  std::uint32_t largest = 0;  // magnitude
  std::int64_t zeros = 0;
  double energy = 0;
};

// Eight partial sums, added in a fixed order: every instruction set gives the same energy.
template <typename Element>
SLIDESPARSE_INLINE RowFacts row_facts_of(const void* row, std::int64_t k) {
  constexpr int kSums = 8;
  const auto* w = static_cast<const typename Element::Bits*>(row);
  RowFacts facts;
  std::array<double, kSums> sums{};
  std::array<std::uint32_t, kSums> largest{};
  std::array<std::uint32_t, kSums> zeros{};
  std::int64_t i = 0;
  for (; i + kSums <= k; i += kSums) {
    for (int j = 0; j < kSums; ++j) {
      const auto lane = static_cast<std::size_t>(j);
      const std::uint32_t magnitude = Element::magnitude(w[i + j]);
      const double value = static_cast<double>(Element::to_float(w[i + j]));
      sums[lane] += value * value;
      largest[lane] = std::max(largest[lane], magnitude);
      zeros[lane] += magnitude == 0 ? 1u : 0u;
    }
  }
  for (; i < k; ++i) {
    const std::uint32_t magnitude = Element::magnitude(w[i]);
    const double value = static_cast<double>(Element::to_float(w[i]));
    sums[0] += value * value;
    largest[0] = std::max(largest[0], magnitude);
    zeros[0] += magnitude == 0 ? 1u : 0u;
  }
  for (std::size_t lane = 0; lane < kSums; ++lane) {
    facts.energy += sums[lane];
    facts.largest = std::max(facts.largest, largest[lane]);
    facts.zeros += zeros[lane];
  }
  return facts;
}

template <typename Element>
struct FactLoops {
  static RowFacts portable(const void* row, std::int64_t k) { return row_facts_of<Element>(row, k); }
  SLIDESPARSE_AVX2 static RowFacts avx2(const void* row, std::int64_t k) {
    return row_facts_of<Element>(row, k);
  }
  SLIDESPARSE_AVX512 static RowFacts avx512(const void* row, std::int64_t k) {
    return row_facts_of<Element>(row, k);
  }
  using Function = RowFacts (*)(const void*, std::int64_t);
  static Function best() {
    return active_isa() == Isa::kAvx512 ? avx512 : active_isa() == Isa::kAvx2 ? avx2 : portable;
  }
};

// A magnitude and its lane in one number that orders by magnitude, then by lane.
template <typename Element>
using Key = std::conditional_t<sizeof(typename Element::Bits) == 4, std::uint64_t, std::uint32_t>;
constexpr int kLaneBits = 4;
constexpr std::uint32_t kLaneMask = (1u << kLaneBits) - 1;

// The two lanes that magnitude pruning drops from a group, and the larger of their magnitudes: 0 when the
// group obeys the pattern already.
struct Smallest {
  int lane = 0;
  int second_lane = 0;
  std::uint32_t second_magnitude = 0;
};

template <typename Element, int kGroup>
SLIDESPARSE_INLINE Smallest two_smallest(const typename Element::Bits* group) {
  using K = Key<Element>;
  K first = ~K{0};
  K second = ~K{0};
  for (int i = 0; i < kGroup; ++i) {
    const K key = (static_cast<K>(Element::magnitude(group[i])) << kLaneBits) | static_cast<unsigned>(i);
    second = std::min(second, std::max(first, key));
    first = std::min(first, key);
  }
  const auto lane_of = [](K key) { return static_cast<int>(key & kLaneMask); };
  return {lane_of(first), lane_of(second), static_cast<std::uint32_t>(second >> kLaneBits)};
}

// What must be known to name a place in a message.
struct Place {
  const std::string& what;
  std::int64_t row;
};

template <typename Element>
[[noreturn]] void refuse_violation(Pattern pattern, const typename Element::Bits* group, std::int64_t lanes,
                                   std::int64_t number, const Place& place) {
  std::string list;
  int count = 0;
  for (std::int64_t i = 0; i < lanes; ++i) {
    if (Element::magnitude(group[i]) == 0) continue;
    list += fmt::format("{}{}", list.empty() ? "" : ",", i);
    ++count;
  }
  fail_input(
      "{}: row {}, group {}: {} non-zeros (lanes {}), {} allows {}; prune with --method magnitude or choose "
      "a "
      "wider pattern",
      printable(place.what), place.row, number, count, list, pattern.to_string(), pattern.kept());
}

// Prunes one row; returns what was lost.
struct Lost {
  std::int64_t count = 0;
  double energy = 0;
};

template <typename Element, int kGroup>
Lost prune_row(bool check_only, Pattern pattern, typename Element::Bits* row, std::int64_t k,
               const Place& place) {
  using Bits = typename Element::Bits;
  Lost lost;
  const auto drop = [&](Bits& element) {
    if (Element::magnitude(element) != 0) ++lost.count;
    const double value = static_cast<double>(Element::to_float(element));
    lost.energy += value * value;
    element = 0;
  };
  const std::int64_t full = k / kGroup;
  for (std::int64_t g = 0; g < full; ++g) {
    Bits* group = row + g * kGroup;
    const Smallest smallest = two_smallest<Element, kGroup>(group);
    if (smallest.second_magnitude == 0) continue;
    if (check_only) refuse_violation<Element>(pattern, group, kGroup, g, place);
    drop(group[smallest.lane]);
    drop(group[smallest.second_lane]);
  }
  const std::int64_t tail = k - full * kGroup;
  if (tail > 0) {
    // Lanes >= k are zeros, which are the first to be dropped.
    std::array<Bits, kGroup> group{};
    std::copy_n(row + full * kGroup, tail, group.begin());
    const Smallest smallest = two_smallest<Element, kGroup>(group.data());
    if (smallest.second_magnitude != 0) {
      if (check_only) refuse_violation<Element>(pattern, row + full * kGroup, tail, full, place);
      for (const int lane : {smallest.lane, smallest.second_lane}) {
        if (lane < tail) drop(row[full * kGroup + lane]);
      }
    }
  }
  return lost;
}

template <typename Element>
using RowFunction = Lost (*)(bool, Pattern, typename Element::Bits*, std::int64_t, const Place&);

template <typename Element>
RowFunction<Element> row_function(Pattern pattern) {
  constexpr std::array<RowFunction<Element>, 7> kFunctions = {
      prune_row<Element, 4>,  prune_row<Element, 6>,  prune_row<Element, 8>, prune_row<Element, 10>,
      prune_row<Element, 12>, prune_row<Element, 14>, prune_row<Element, 16>};
  return kFunctions.at(static_cast<std::size_t>(pattern.half_group() - 2));
}

template <typename Element>
[[noreturn]] void refuse_not_finite(const typename Element::Bits* row, std::int64_t k, const Place& place) {
  std::int64_t column = 0;
  while (column < k && Element::magnitude(row[column]) < Element::kNotFinite) ++column;
  const bool infinite = Element::kNotFinite != 0x7f && Element::magnitude(row[column]) == Element::kNotFinite;
  fail_input("{}: the weight at row {}, column {} is {}; weights must be finite", printable(place.what),
             place.row, column, infinite ? "infinite" : "NaN");
}

template <typename Element>
PruneReport prune_matrix(Pattern pattern, PruneMethod method, typename Element::Bits* w, std::int64_t rows,
                         std::int64_t k, std::int64_t ld, std::int64_t first_row, const std::string& what) {
  const auto facts_of = FactLoops<Element>::best();
  const RowFunction<Element> prune = pattern.is_dense() ? nullptr : row_function<Element>(pattern);
  PruneReport report;
  for (std::int64_t r = 0; r < rows; ++r) {
    typename Element::Bits* row = w + r * ld;
    const Place place{what, first_row + r};
    const RowFacts facts = facts_of(row, k);
    if (facts.largest >= Element::kNotFinite) refuse_not_finite<Element>(row, k, place);
    const Lost lost = prune == nullptr ? Lost{} : prune(method == PruneMethod::kNone, pattern, row, k, place);
    report += {k, facts.zeros + lost.count, lost.count, facts.energy, facts.energy - lost.energy};
  }
  return report;
}

}  // namespace

PruneMethod parse_prune_method(std::string_view name) {
  for (const PruneMethod method :
       {PruneMethod::kNone, PruneMethod::kMagnitude, PruneMethod::kWanda, PruneMethod::kSparseGpt}) {
    if (prune_method_name(method) == name) return method;
  }
  fail(ErrorKind::kUsage, "\"{}\" is no pruning method; there are none, magnitude, wanda and sparsegpt",
       printable(name));
}

std::string_view prune_method_name(PruneMethod method) {
  switch (method) {
    case PruneMethod::kNone:
      return "none";
    case PruneMethod::kMagnitude:
      return "magnitude";
    case PruneMethod::kWanda:
      return "wanda";
    case PruneMethod::kSparseGpt:
      break;
  }
  return "sparsegpt";
}

PruneReport& PruneReport::operator+=(const PruneReport& other) {
  elements += other.elements;
  zeros += other.zeros;
  pruned += other.pruned;
  energy += other.energy;
  energy_kept += other.energy_kept;
  return *this;
}

PruneReport prune_rows(Pattern pattern, PruneMethod method, DType dtype, void* w, std::int64_t rows,
                       std::int64_t k, std::int64_t ld, std::int64_t first_row, const std::string& what) {
  require(pattern.is_dense() || !needs_calibration(method), "{}: rows cannot be pruned with {}", what,
          prune_method_name(method));
  const auto run = [&]<typename Element>(Element) {
    return prune_matrix<Element>(pattern, method, static_cast<typename Element::Bits*>(w), rows, k, ld,
                                 first_row, what);
  };
  switch (dtype) {
    case DType::kI8:
      return run(Int8Element{});
    case DType::kF8E4M3:
      return run(E4M3Element{});
    case DType::kBF16:
      return run(Bf16Element{});
    case DType::kF16:
      return run(F16Element{});
    case DType::kF32:
      return run(F32Element{});
    default:
      break;
  }
  fail(ErrorKind::kInternal, "{}: pruning of {} is not defined", what, dtype_name(dtype));
}

}  // namespace slidesparse
