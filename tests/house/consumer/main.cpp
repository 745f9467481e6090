// What a user of the installed package writes first: packs one group and gets it back. Exit code 0 when it
// does.
#include <slidesparse/format/pack.h>

#include <array>
#include <cstdint>
#include <cstdio>

int main() {
  using namespace slidesparse;
  const Pattern pattern = Pattern::parse("6:8");
  const std::array<std::int8_t, 8> dense{1, 0, -3, 4, 5, 0, 7, -128};
  std::array<std::int8_t, 6> values{};
  std::array<std::uint8_t, 1> codes{};
  pack_rows(pattern, DType::kI8, dense.data(), 1, 8, 8, values.data(), codes.data());
  std::array<std::int8_t, 8> back{};
  unpack_rows({pattern, DType::kI8, 1, 8, values.data(), codes.data()}, 0, 1, back.data(), 8);
  std::printf("%s code %d\n", pattern.to_string().c_str(), codes[0]);
  return back == dense ? 0 : 1;
}
