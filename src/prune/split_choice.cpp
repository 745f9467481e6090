#include "prune/split_choice.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "core/cpu.h"
#include "core/fail.h"
#include "core/isa_targets.h"
#include "core/parallel.h"

namespace slidesparse {
namespace {

// Partial sums, added in a fixed order: every instruction set gives the same total.
constexpr int kSums = 16;

// What three channels of a quad leave to the fourth: with their costs sorted l1 <= l2 <= l3 a fourth of cost
// y makes the quad lose l1 + min(l2, y).
struct Rest {
  std::vector<float> second;  // [rows] l2
  double first = 0;           // sum of l1
};

SLIDESPARSE_INLINE double sum_of(const std::array<float, kSums>& sums) {
  double total = 0;
  for (const float sum : sums) total += static_cast<double>(sum);
  return total;
}

SLIDESPARSE_INLINE double sum_min(const float* a, const float* b, std::int64_t rows) {
  std::array<float, kSums> sums{};
  std::int64_t i = 0;
  for (; i + kSums <= rows; i += kSums) {
    for (int j = 0; j < kSums; ++j) sums[static_cast<std::size_t>(j)] += std::min(a[i + j], b[i + j]);
  }
  for (; i < rows; ++i) sums[0] += std::min(a[i], b[i]);
  return sum_of(sums);
}

struct SumMin {
  using Function = double (*)(const float*, const float*, std::int64_t);
  static double portable(const float* a, const float* b, std::int64_t rows) { return sum_min(a, b, rows); }
  SLIDESPARSE_AVX2 static double avx2(const float* a, const float* b, std::int64_t rows) {
    return sum_min(a, b, rows);
  }
  SLIDESPARSE_AVX512 static double avx512(const float* a, const float* b, std::int64_t rows) {
    return sum_min(a, b, rows);
  }
  static Function best() {
    return active_isa() == Isa::kAvx512 ? avx512 : active_isa() == Isa::kAvx2 ? avx2 : portable;
  }
};

// Exchanges of channels between places; place p < sparse is lane p % 4 of quad p / 4, the others are dense.
class Exchange {
 public:
  Exchange(const SplitShape& shape, std::vector<float> costs, std::int64_t rows,
           std::vector<std::int32_t> places)
      : shape_(shape), rows_(rows), costs_(std::move(costs)), places_(std::move(places)) {
    const auto sparse = static_cast<std::size_t>(shape.sparse);
    rests_.resize(sparse);
    with_.resize(sparse * static_cast<std::size_t>(shape.k));
    quad_costs_.resize(sparse / 4);
    std::vector<std::int64_t> all(static_cast<std::size_t>(shape.sparse / 4));
    std::iota(all.begin(), all.end(), 0);
    refresh(all);
  }

  double cost() const { return std::accumulate(quad_costs_.begin(), quad_costs_.end(), 0.0); }
  const std::vector<std::int32_t>& places() const { return places_; }

  // Carries out the best exchange of each channel, best first, as far as their quads are still as they were.
  // False when none helps.
  bool round() {
    struct Move {
      double gain = 0;
      std::int64_t from = 0;
      std::int64_t to = 0;
    };
    std::vector<Move> moves(static_cast<std::size_t>(shape_.sparse));
    parallel_for(shape_.sparse, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) {
        Move& move = moves[static_cast<std::size_t>(p)];
        move.from = p;
        // Places before p found p themselves, but for its own quad.
        for (std::int64_t q = (p / 4 + 1) * 4; q < shape_.k; ++q) {
          const double gain = gain_of(p, q);
          if (gain > move.gain) {
            move.gain = gain;
            move.to = q;
          }
        }
      }
    });
    std::erase_if(moves, [&](const Move& move) {
      return move.gain <= kLeast * cost() / static_cast<double>(shape_.sparse);
    });
    std::stable_sort(moves.begin(), moves.end(),
                     [](const Move& a, const Move& b) { return a.gain > b.gain; });
    std::vector<bool> taken(static_cast<std::size_t>(shape_.k),
                            false);  // quads by number, dense places by place
    std::vector<std::int64_t> changed;
    const auto mark_of = [&](std::int64_t place) {
      return static_cast<std::size_t>(place < shape_.sparse ? place / 4 : place);
    };
    for (const Move& move : moves) {
      if (taken[mark_of(move.from)] || taken[mark_of(move.to)]) continue;
      for (const std::int64_t place : {move.from, move.to}) {
        taken[mark_of(place)] = true;
        if (place < shape_.sparse) changed.push_back(place / 4);
      }
      std::swap(places_[static_cast<std::size_t>(move.from)], places_[static_cast<std::size_t>(move.to)]);
    }
    std::sort(changed.begin(), changed.end());
    refresh(changed);
    return !changed.empty();
  }

 private:
  // Gains below this share of the mean cost of a place are rounding, or not worth a round.
  static constexpr double kLeast = 1e-4;

  const float* costs_of(std::int64_t channel) const { return costs_.data() + channel * rows_; }
  std::int64_t channel_at(std::int64_t place) const { return places_[static_cast<std::size_t>(place)]; }
  // Cost of place p's quad if its channel were `channel`.
  double& with(std::int64_t p, std::int64_t channel) {
    return with_[static_cast<std::size_t>(p * shape_.k + channel)];
  }
  double with(std::int64_t p, std::int64_t channel) const {
    return with_[static_cast<std::size_t>(p * shape_.k + channel)];
  }

  double gain_of(std::int64_t p, std::int64_t q) const {
    const double now = quad_costs_[static_cast<std::size_t>(p / 4)] +
                       (q < shape_.sparse ? quad_costs_[static_cast<std::size_t>(q / 4)] : 0.0);
    const double then = with(p, channel_at(q)) + (q < shape_.sparse ? with(q, channel_at(p)) : 0.0);
    return now - then;
  }

  void refresh(const std::vector<std::int64_t>& quads) {
    const auto sum = SumMin::best();
    parallel_for(static_cast<std::int64_t>(quads.size()) * 4, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t p = quads[static_cast<std::size_t>(i / 4)] * 4 + i % 4;
        Rest& rest = rests_[static_cast<std::size_t>(p)];
        find_rest(p, rest);
        for (std::int64_t c = 0; c < shape_.k; ++c)
          with(p, c) = rest.first + sum(rest.second.data(), costs_of(c), rows_);
      }
    });
    for (const std::int64_t quad : quads)
      quad_costs_[static_cast<std::size_t>(quad)] = with(quad * 4, channel_at(quad * 4));
  }

  void find_rest(std::int64_t p, Rest& rest) const {
    std::array<const float*, 3> others{};
    int found = 0;
    for (std::int64_t q = p / 4 * 4; q < p / 4 * 4 + 4; ++q) {
      if (q != p) others[static_cast<std::size_t>(found++)] = costs_of(channel_at(q));
    }
    rest.second.resize(static_cast<std::size_t>(rows_));
    rest.first = 0;
    for (std::int64_t r = 0; r < rows_; ++r) {
      const float a = others[0][r];
      const float b = others[1][r];
      const float c = others[2][r];
      const float low = std::min(a, b);
      const float high = std::max(a, b);
      rest.first += static_cast<double>(std::min(low, c));
      rest.second[static_cast<std::size_t>(r)] = std::max(low, std::min(high, c));
    }
  }

  SplitShape shape_;
  std::int64_t rows_;
  std::vector<float> costs_;          // [k, rows]
  std::vector<std::int32_t> places_;  // [k] channel at each place
  std::vector<Rest> rests_;           // [sparse]
  std::vector<double> with_;          // [sparse, k]
  std::vector<double> quad_costs_;    // [sparse / 4]
};

// Costs by channel, [k, count], of `count` evenly spread rows.
std::vector<float> transposed_costs(const SplitShape& shape, const float* w, std::int64_t rows,
                                    std::int64_t ld, std::span<const float> saliency, std::int64_t count) {
  std::vector<float> costs(static_cast<std::size_t>(shape.k * count));
  parallel_for(shape.k, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = 0; i < count; ++i) {
      const float* row = w + i * rows / count * ld;
      for (std::int64_t c = begin; c < end; ++c) {
        const float weight = saliency.empty() ? 1.0f : saliency[static_cast<std::size_t>(c)];
        costs[static_cast<std::size_t>(c * count + i)] = row[c] * row[c] * weight;
      }
    }
  });
  return costs;
}

}  // namespace

SplitChoice choose_split(const SplitShape& shape, const float* w, std::int64_t rows, std::int64_t ld,
                         std::span<const float> saliency, const SplitSearch& search) {
  require(saliency.empty() || static_cast<std::int64_t>(saliency.size()) == shape.k,
          "{} saliencies for {} channels", saliency.size(), shape.k);
  std::vector<double> totals(static_cast<std::size_t>(shape.k), 0.0);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < shape.k; ++c) {
      const auto value = static_cast<double>(w[r * ld + c]);
      totals[static_cast<std::size_t>(c)] += value * value;
    }
  }
  if (!saliency.empty()) {
    for (std::size_t c = 0; c < totals.size(); ++c) totals[c] *= static_cast<double>(saliency[c]);
  }
  SplitChoice choice;
  choice.perm.resize(totals.size());
  std::iota(choice.perm.begin(), choice.perm.end(), 0);
  std::stable_sort(choice.perm.begin(), choice.perm.end(), [&](std::int32_t a, std::int32_t b) {
    return totals[static_cast<std::size_t>(a)] < totals[static_cast<std::size_t>(b)];
  });
  if (shape.sparse > 0) {
    const std::int64_t count = std::min(rows, search.rows);
    Exchange exchange(shape, transposed_costs(shape, w, rows, ld, saliency, count), count,
                      std::move(choice.perm));
    choice.rule_cost = exchange.cost();
    while (choice.rounds < search.rounds && exchange.round()) ++choice.rounds;
    choice.cost = exchange.cost();
    choice.perm = exchange.places();
  }
  std::sort(choice.perm.begin() + shape.sparse, choice.perm.end());
  return choice;
}

}  // namespace slidesparse
