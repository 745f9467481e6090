#pragma once

#include <cstdint>

// How Hopper's kernels of ours keep weights: in the order in which the threads of a warpgroup hold wgmma's A
// operand in registers, so that a load is 16 bytes a thread and nothing has to be rearranged. This header is
// the only definition: the kernel that writes weights, the kernels that read them and the tests all use it.
//
//   weights   [block of 64 rows][stage of 128 bytes of X's rows][2 steps of 64 bytes]
//   sparse    128 threads x 16 bytes of kept values, then words of metadata: 2048 + 512 bytes with 8-bit
//             elements, 2048 + 256 with BF16
//   dense     2 instructions x 128 threads x 16 bytes: 4096 bytes
//
// 64 bytes are 64 lanes of 8 bits or 32 of BF16. One instruction's 64 x 32 bytes of A (dense: those of 32
// bytes of X; sparse: what is kept of 64). Thread t: warp w = t / 32, g = t % 32 / 4, q = t % 4; its four
// registers hold
//
//                    bytes 4q .. 4q+3   16+4q .. 16+4q+3
//     row 16w+g           a0                 a2
//     row 16w+g+8         a1                 a3
//
// Metadata is another thread's business. A quad's four bits: index of the first kept lane, of the second
// << 2.
//   8 bits   t holds row 16w + 8 (t % 2) + g, quads 8 h .. 8 h + 7 of the step's 16 with h = t / 2 % 2
//   BF16     t and t + 2 hold, with h = t % 2, quads 4 h .. 4 h + 3 of the step's 8: of row 16w + g in the
//            low half of the word, of row 16w + g + 8 in the high half
namespace slidesparse::sm90 {

constexpr int kBlockRows = 64;  // M of wgmma
constexpr int kStepBytes = 64;  // of a row of X: K of a sparse instruction
constexpr int kStageBytes = 2 * kStepBytes;
constexpr int kWarpgroup = 128;  // threads
constexpr int kValueBytes = kWarpgroup * 16;
constexpr int kDenseStepBytes = 2 * kValueBytes;
constexpr int sparse_step_bytes(int element_bytes) {
  return kValueBytes + kWarpgroup * 4 / element_bytes;
}
// Both kept lanes of a quad of zeros: the first two.
constexpr std::uint32_t kIdleMetadata = 0x44444444u;

// Row of register a<reg> of a thread.
constexpr int fragment_row(int thread, int reg) {
  return thread / 32 * 16 + thread % 32 / 4 + reg % 2 * 8;
}
// The first of its four bytes of the row's 32.
constexpr int fragment_byte(int thread, int reg) {
  return reg / 2 * 16 + thread % 4 * 4;
}
// Whose metadata a thread's word holds: row and first of the quads in its low half, and in its high half.
struct MetadataPlace {
  int row[2];
  int quad[2];
};
constexpr MetadataPlace metadata_place(int thread, int element_bytes) {
  const int row = thread / 32 * 16 + thread % 32 / 4;
  if (element_bytes == 2) return {{row, row + 8}, {thread % 2 * 4, thread % 2 * 4}};
  const int quad = thread / 2 % 2 * 8;
  return {{row + thread % 2 * 8, row + thread % 2 * 8}, {quad, quad + 4}};
}
// Which word of a step's metadata it is.
constexpr int metadata_word(int thread, int element_bytes) {
  return element_bytes == 2 ? thread / 4 * 2 + thread % 2 : thread;
}

// Which steps of K are sparse, in the order in which they run: stages of two sparse ones, of a sparse and a
// dense one, of two dense ones. Sparse steps take the sparse lanes in their order, dense steps the dense
// lanes, so lanes that are padded with zeros are the last ones of K.
struct Schedule {
  int both = 0;           // stages of two sparse steps
  int mixed = 0;          // a sparse and a dense one
  int dense = 0;          // two dense ones
  int element_bytes = 1;  // 1 or 2

  constexpr int stages() const { return both + mixed + dense; }
  constexpr std::int64_t lanes() const { return std::int64_t{stages()} * kStageBytes / element_bytes; }
  constexpr int step_lanes() const { return kStepBytes / element_bytes; }
  constexpr int sparse_steps() const { return 2 * both + mixed; }
  constexpr std::int64_t block_bytes() const {
    return std::int64_t{sparse_steps()} * sparse_step_bytes(element_bytes) +
           std::int64_t{mixed + 2 * dense} * kDenseStepBytes;
  }
  constexpr bool operator==(const Schedule&) const = default;
};

// One step: what it is, which of its kind, where its weights begin in a block.
struct Step {
  bool sparse = false;
  int number = 0;  // among the sparse, or the dense, steps
  std::int64_t offset = 0;
};

constexpr Step step_at(const Schedule& schedule, int step) {
  const int stage = step / 2, half = step % 2;
  Step found;
  if (stage < schedule.both) {
    found = {true, step, 0};
  } else if (stage < schedule.both + schedule.mixed) {
    const int mixed = stage - schedule.both;
    found = half == 0 ? Step{true, 2 * schedule.both + mixed, 0} : Step{false, mixed, 0};
  } else {
    found = {false, schedule.mixed + 2 * (stage - schedule.both - schedule.mixed) + half, 0};
  }
  const int sparse = found.sparse ? found.number : step - found.number;  // steps before this one
  found.offset = std::int64_t{sparse} * sparse_step_bytes(schedule.element_bytes) +
                 std::int64_t{step - sparse} * kDenseStepBytes;
  return found;
}

// For so many 2:4 lanes and dense lanes. An odd number of steps gets a dense one of zeros at the end.
constexpr Schedule schedule_of(std::int64_t sparse_lanes, std::int64_t dense_lanes, int element_bytes = 1) {
  Schedule schedule;
  schedule.element_bytes = element_bytes;
  const int step = schedule.step_lanes();
  const auto sparse = static_cast<int>((sparse_lanes + step - 1) / step);
  auto dense = static_cast<int>((dense_lanes + step - 1) / step);
  const bool odd = (sparse + dense) % 2 != 0;
  const bool partial = odd && dense > 0;  // its padding and the added step have to be neighbours
  dense += odd ? 1 : 0;
  schedule.dense = dense > sparse ? (dense - sparse) / 2 : 0;
  if (partial && schedule.dense == 0) schedule.dense = 1;
  schedule.mixed = dense - 2 * schedule.dense;
  schedule.both = (sparse - schedule.mixed) / 2;
  return schedule;
}

}  // namespace slidesparse::sm90
