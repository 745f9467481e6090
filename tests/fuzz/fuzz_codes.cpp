// Packed rows, 2-bit metadata and permutations of arbitrary bytes: checking and unpacking agree, and nothing
// is read or written out of bounds (exact heap blocks under AddressSanitizer).
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/parallel.h"
#include "fuzz.h"
#include "slidesparse/format/codes.h"
#include "slidesparse/format/pack.h"
#include "slidesparse/format/slide.h"
#include "slidesparse/format/split.h"

namespace {

using namespace slidesparse;

std::vector<std::uint8_t> content(FuzzedDataProvider& choose, std::int64_t bytes) {
  std::vector<std::uint8_t> result = choose.ConsumeBytes<std::uint8_t>(static_cast<std::size_t>(bytes));
  result.resize(static_cast<std::size_t>(bytes));
  result.shrink_to_fit();
  return result;
}

void check_packed(FuzzedDataProvider& choose, Pattern pattern, DType dtype, std::int64_t rows,
                  std::int64_t k) {
  PackedView packed{pattern, dtype, rows, k};
  const std::vector<std::uint8_t> codes = content(choose, packed.code_bytes());
  const std::vector<std::uint8_t> values = content(choose, packed.value_bytes());
  packed.values = values.data();
  packed.codes = codes.data();
  const bool valid = fuzz::accepts([&] { validate_packed(packed); });
  std::vector<std::uint8_t> dense(static_cast<std::size_t>(rows * k) * dtype_size(dtype), 0xaa);
  fuzz::hold(fuzz::accepts([&] { unpack_rows(packed, 0, rows, dense.data(), k); }) == valid);
  if (!valid) return;
  fuzz::hold(!find_violation(pattern, dtype, dense.data(), rows, k, k));
  std::vector<std::uint8_t> metadata(
      static_cast<std::size_t>(rows * slide_metadata_bytes_per_row(pattern, k)));
  slide_metadata(packed, metadata.data());
  std::vector<std::uint8_t> again(codes.size());
  codes_from_metadata(pattern, rows, k, metadata.data(), again.data());
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t offset = row * pattern.code_bytes_per_row(k);
    for (std::int64_t g = 0; g < pattern.groups(k); ++g) {
      fuzz::hold(read_code(codes.data() + offset, pattern.code_bits(), g) ==
                 read_code(again.data() + offset, pattern.code_bits(), g));
    }
  }
}

void check_metadata(FuzzedDataProvider& choose, Pattern pattern, std::int64_t rows, std::int64_t k) {
  const std::vector<std::uint8_t> metadata = content(choose, rows * slide_metadata_bytes_per_row(pattern, k));
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows * pattern.code_bytes_per_row(k)));
  if (!fuzz::accepts([&] { codes_from_metadata(pattern, rows, k, metadata.data(), codes.data()); })) return;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t g = 0; g < pattern.groups(k); ++g) {
      fuzz::hold(read_code(codes.data() + row * pattern.code_bytes_per_row(k), pattern.code_bits(), g) <
                 code_count(pattern));
    }
  }
}

void check_split(FuzzedDataProvider& choose, Pattern pattern, DType dtype, std::int64_t rows,
                 std::int64_t k) {
  const SplitShape shape = split_shape(pattern, k);
  std::vector<std::int32_t> perm(static_cast<std::size_t>(k));
  for (std::size_t i = 0; i < perm.size(); ++i) perm[i] = static_cast<std::int32_t>(i);
  const std::vector<std::uint8_t> changes = content(choose, 8);
  for (std::size_t i = 0; i + 1 < changes.size(); i += 2)
    std::swap(perm[changes[i] % perm.size()], perm[changes[i + 1] % perm.size()]);
  if (choose.ConsumeProbability<float>() < 0.1f) perm[0] = choose.ConsumeIntegral<std::int32_t>();
  if (!fuzz::accepts([&] { validate_perm(shape, perm, "perm"); })) return;
  const std::vector<std::uint8_t> codes = content(choose, rows * shape.code_bytes_per_row());
  const std::vector<std::uint8_t> values =
      content(choose, rows * shape.values_per_row() * static_cast<std::int64_t>(dtype_size(dtype)));
  std::vector<std::uint8_t> dense(static_cast<std::size_t>(rows * k) * dtype_size(dtype), 0xaa);
  fuzz::accepts(
      [&] { split_unpack_rows(shape, perm, dtype, values.data(), codes.data(), rows, dense.data(), k); });
}

}  // namespace

// One thread: the matrices are tiny, and starting a team for each of them takes most of the time.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  slidesparse::set_thread_count(1);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider choose(data, size);
  const Pattern pattern = Pattern::of_half_group(choose.ConsumeIntegralInRange<int>(2, 8));
  const DType dtype = choose.PickValueInArray({DType::kI8, DType::kF8E4M3, DType::kBF16});
  const auto rows = choose.ConsumeIntegralInRange<std::int64_t>(1, 3);
  const auto k = choose.ConsumeIntegralInRange<std::int64_t>(1, 400);
  switch (choose.ConsumeIntegralInRange<int>(0, 3)) {
    case 0:
      check_metadata(choose, pattern, rows, k);
      break;
    case 1:
      check_split(choose, pattern, dtype, rows, k);
      break;
    default:
      check_packed(choose, pattern, dtype, rows, k);
      break;
  }
  return 0;
}
