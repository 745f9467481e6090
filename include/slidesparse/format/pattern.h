#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace slidesparse {

// A (2N-2):2N structured sparsity pattern: at most `kept` non-zeros in each `group` consecutive input
// channels (arXiv 2603.05232 writes the zeros, "2:8"; we write what is kept, "6:8"). Dense is the pattern
// 1:1.
class Pattern {
 public:
  // Dense.
  constexpr Pattern() = default;

  // "dense", "2:4", "4:6", "6:8", "8:10", "10:12", "12:14" or "14:16". Anything else throws kInput with the
  // list of what is possible (and, where the text looks like zeros:group, with the kept:group that was
  // probably meant).
  static Pattern parse(std::string_view text);
  // The pattern with 2n lanes a group, 2 <= n <= 8.
  static constexpr Pattern of_half_group(int n) { return Pattern(2 * n - 2, 2 * n); }

  constexpr bool is_dense() const { return group_ == 1; }
  constexpr int kept() const { return kept_; }
  constexpr int group() const { return group_; }
  constexpr int zeroed() const { return group_ - kept_; }
  // N of (2N-2):2N; 0 for dense.
  constexpr int half_group() const { return group_ / 2; }
  // Bits of the code of one group's mask: ceil(log2(C(2N, 2))); 0 for dense.
  constexpr int code_bits() const {
    int bits = 0;
    while ((1 << bits) < group_ * (group_ - 1) / 2) ++bits;
    return bits;
  }

  // Groups that k input channels make; a tail counts as one, padded with zero lanes.
  constexpr std::int64_t groups(std::int64_t k) const { return (k + group_ - 1) / group_; }
  // Kept values of one row (elements), padding included.
  constexpr std::int64_t values_per_row(std::int64_t k) const { return groups(k) * kept_; }
  // Bytes of one row's codes: byte-aligned rows.
  constexpr std::int64_t code_bytes_per_row(std::int64_t k) const {
    return (groups(k) * code_bits() + 7) / 8;
  }
  // K' = lanes after lifting: groups * 4 (N - 1); k itself for dense.
  constexpr std::int64_t lifted_k(std::int64_t k) const {
    return is_dense() ? k : groups(k) * 4 * (half_group() - 1);
  }
  // Share of the multiplications that sparse tensor cores do, K' / (2 K) in the limit: (N-1)/N; 1 for dense.
  constexpr double density() const { return static_cast<double>(kept_) / group_; }

  std::string to_string() const;  // "6:8" or "dense"
  constexpr bool operator==(const Pattern&) const = default;

 private:
  constexpr Pattern(int kept, int group) : kept_(kept), group_(group) {}
  int kept_ = 1;
  int group_ = 1;
};

// "dense, 2:4, 4:6, 6:8, 8:10, 10:12, 12:14, 14:16"
std::string pattern_list();

}  // namespace slidesparse
