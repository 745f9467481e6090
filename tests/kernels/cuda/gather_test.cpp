#include "kernels/cuda/gather.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "core/random.h"
#include "kernels/cuda/device_test.h"

namespace slidesparse {
namespace {

struct GatherCase {
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::int64_t ldtable = 0;
  std::int64_t m = 0;
  std::int64_t offset = 0;  // bytes of table and out from an aligned address
};

void check_gather(const GatherCase& c, Random& random, const CudaStream& stream) {
  SCOPED_TRACE(
      fmt::format("{} of [{}, {}], ldtable {}, {} bytes off", c.m, c.rows, c.width, c.ldtable, c.offset));
  std::vector<std::uint16_t> table(static_cast<std::size_t>(c.rows * c.ldtable));
  for (std::uint16_t& bits : table) bits = static_cast<std::uint16_t>(random.bits());
  std::vector<std::int32_t> ids(static_cast<std::size_t>(c.m));
  for (std::int32_t& id : ids) id = static_cast<std::int32_t>(random.below(c.rows));
  if (c.m > 4) {
    ids[1] = -1;
    ids[2] = static_cast<std::int32_t>(c.rows);
    ids[3] = std::numeric_limits<std::int32_t>::min();
    ids[4] = std::numeric_limits<std::int32_t>::max();
  }
  OnDevice d_table(table, stream, c.offset);
  OnDevice d_ids(ids, stream);
  OnDevice d_out(poison<std::uint16_t>((c.m + 1) * c.width), stream, c.offset);
  cuda::GatherArgs args;
  args.table = d_table.data();
  args.ldtable = c.ldtable;
  args.rows = c.rows;
  args.ids = d_ids.data();
  args.m = c.m;
  args.width = c.width;
  args.out = d_out.data();
  cuda_check(cuda::gather_rows(args, stream.handle()), "gather_rows");
  const auto got = on_host(d_out.data(), (c.m + 1) * c.width, stream);
  for (std::int64_t i = 0; i <= c.m; ++i) {
    for (std::int64_t j = 0; j < c.width; ++j) {
      const std::uint16_t bits = got[static_cast<std::size_t>(i * c.width + j)];
      if (i == c.m) {
        ASSERT_EQ(bits, 0xffff) << "touched behind the last row, column " << j;
        continue;
      }
      const std::int64_t id = ids[static_cast<std::size_t>(i)];
      const bool there = id >= 0 && id < c.rows;
      ASSERT_EQ(bits, there ? table[static_cast<std::size_t>(id * c.ldtable + j)] : 0x7fc0)
          << "row " << i << ", column " << j << ", id " << id;
    }
  }
}

class CudaGather : public DeviceTest {};

TEST_F(CudaGather, CopiesRowsAndMarksThoseThatAreNotThere) {
  const CudaStream stream;
  Random random(1);
  for (const std::int64_t width : {1, 7, 8, 64, 576, 1000, 3584, 4104, 5119, 9000}) {
    for (const std::int64_t m : {1, 5, 33}) {
      check_gather({37, width, width, m, 0}, random, stream);
      check_gather({37, width, width + 8, m, 0}, random, stream);
      check_gather({37, width, width + 3, m, 2}, random, stream);
      check_gather({1, width, width, m, 14}, random, stream);
      if (HasFailure()) return;
    }
  }
}

TEST_F(CudaGather, RefusesWhatMeansNothing) {
  const CudaStream stream;
  DeviceBuffer buffer(4096, "test");
  fill_device(buffer.data(), 0, buffer.size(), stream.handle());
  cuda::GatherArgs good;
  good.table = buffer.data();
  good.ldtable = 16;
  good.rows = 4;
  good.ids = buffer.as<std::int32_t>() + 512;
  good.m = 2;
  good.width = 16;
  good.out = buffer.data() + 1024;
  EXPECT_EQ(cuda::gather_rows(good, stream.handle()), 0);
  const auto refused = [&](auto change) {
    cuda::GatherArgs args = good;
    change(args);
    return cuda::gather_rows(args, stream.handle()) != 0;
  };
  EXPECT_TRUE(refused([](auto& a) { a.ldtable = 15; }));
  EXPECT_TRUE(refused([](auto& a) { a.m = -1; }));
  EXPECT_TRUE(refused([](auto& a) { a.ids = nullptr; }));
  EXPECT_TRUE(refused([](auto& a) { a.out = static_cast<std::byte*>(a.out) + 1; }));
  EXPECT_FALSE(refused([](auto& a) { a.m = 0; }));
  stream.synchronize();
}

}  // namespace
}  // namespace slidesparse
