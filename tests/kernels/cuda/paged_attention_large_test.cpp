#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/paged_attention_case.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kTokens = 16384;
constexpr std::int64_t kStride = 139264;     // elements of a row of q and of out
constexpr std::int64_t kFirstPage = 530000;  // of the only sequence that the cache has
constexpr std::int64_t kPageElements = 16 * 2 * 128;
static_assert(kTokens * kStride > (std::int64_t{1} << 31) &&
              kFirstPage * kPageElements > (std::int64_t{1} << 31));

class CudaPagedAttentionLarge : public DeviceTest {
 protected:
  // A batch of copies of one sequence at the end of a large cache; the last copy, whose rows begin below
  // element 2^31 of q and out and end behind it, is the one that the CPU computes too.
  static void check(std::int64_t tokens, std::int64_t context) {
    AttentionCase c{4, 2, 128};
    c.sequences = {{tokens, context}};
    AttentionScene scene(c, 1);
    const CudaStream& stream = scene.stream();
    const cuda::PagedAttentionArgs small = scene.args();
    const std::int64_t sequences = kTokens / tokens;
    const std::int64_t blocks = small.max_blocks;

    std::vector<std::int32_t> offsets{0}, contexts, tables;
    const auto pages = on_host(small.block_tables, blocks, stream);
    for (std::int64_t s = 0; s < sequences; ++s) {
      offsets.push_back(static_cast<std::int32_t>((s + 1) * tokens));
      contexts.push_back(static_cast<std::int32_t>(context));
      for (const std::int32_t page : pages) tables.push_back(page + static_cast<std::int32_t>(kFirstPage));
    }
    OnDevice d_offsets(offsets, stream);
    OnDevice d_contexts(contexts, stream);
    OnDevice d_tables(tables, stream);
    const std::int64_t all_pages = kFirstPage + small.cache.pages;
    DeviceBuffer keys(all_pages * kPageElements * 2, "test: keys");
    DeviceBuffer values(all_pages * kPageElements * 2, "test: values");
    const std::int64_t used = small.cache.pages * kPageElements * 2;
    copy_on_device(keys.data() + kFirstPage * kPageElements * 2, small.cache.keys, used, stream.handle());
    copy_on_device(values.data() + kFirstPage * kPageElements * 2, small.cache.values, used, stream.handle());
    DeviceBuffer q(kTokens * kStride * 2, "test: q");
    DeviceBuffer out(kTokens * kStride * 2, "test: out");
    fill_device(q.data(), 0, q.size(), stream.handle());
    const std::int64_t row = small.heads * small.head_dim * 2;  // bytes
    const auto at = [&](DeviceBuffer& buffer, std::int64_t token) {
      return buffer.data() + (kTokens - tokens + token) * kStride * 2;
    };
    for (std::int64_t t = 0; t < tokens; ++t)
      copy_on_device(at(q, t), static_cast<const std::byte*>(small.q) + t * small.ldq * 2, row,
                     stream.handle());

    cuda::PagedAttentionArgs args = small;
    args.q = q.data();
    args.out = out.data();
    args.ldq = args.ldout = kStride;
    args.m = kTokens;
    args.cache.keys = keys.data();
    args.cache.values = values.data();
    args.cache.pages = all_pages;
    args.sequences = sequences;
    args.cu_seqlens = d_offsets.data();
    args.context_lengths = d_contexts.data();
    args.block_tables = d_tables.data();
    args.workspace_bytes = cuda::paged_attention_workspace(args);
    DeviceBuffer workspace(args.workspace_bytes + 16, "test: workspace");
    args.workspace = workspace.data();
    cuda_check(cuda::paged_attention(args, stream.handle()), "paged_attention");
    scene.poison_out();
    for (std::int64_t t = 0; t < tokens; ++t)
      copy_on_device(static_cast<std::byte*>(small.out) + t * small.ldout * 2, at(out, t), row,
                     stream.handle());
    scene.compare();
  }
};

TEST_F(CudaPagedAttentionLarge, Beyond32Bits) {
  SLIDESPARSE_NEED_MEMORY(2 * 2 * (kTokens * kStride + (kFirstPage + 1000) * kPageElements));
  check(1024, 1100);
  if (!HasFatalFailure()) check(1, 777);
}

}  // namespace
}  // namespace slidesparse
