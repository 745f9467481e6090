#pragma once

#include <cstdint>

// Stored weights to the forms that backends read. Device pointers; launches return a cudaError_t.
namespace slidesparse::cuda {

struct PackedRows {
  const void* values = nullptr;         // [n, groups * kept], rows contiguous
  const std::uint8_t* codes = nullptr;  // [n, code bytes of a row]
  int element_bytes = 1;                // 1 or 2
  int half_group = 0;                   // N of (2N-2):2N
  std::int64_t n = 0;
  std::int64_t k = 0;
};

// dense: [n_padded, ldd] elements; lanes k .. ldd and rows n .. n_padded are written as zero. Zeros are +0.
int expand_dense(const PackedRows& rows, void* dense, std::int64_t ldd, std::int64_t n_padded, void* stream);

// The dense form of the slid matrix, [n_padded, ldd] with lifted lanes: window j of group g at lanes
// (g (N-1) + j) * 4, its two slots where the 2:4 metadata says; what a library compresses itself.
int expand_slid(const PackedRows& rows, void* slid, std::int64_t ldd, std::int64_t n_padded, void* stream);

// Slid 2:4 with metadata, as format/slide defines it: values_out [n, groups * kept] are the stored values as
// they are; metadata [n, metadata_stride]: 2-bit indices, slot i at bits 2i, least significant first.
int slide_metadata(const PackedRows& rows, std::uint8_t* metadata, std::int64_t metadata_stride,
                   void* stream);

// Dense rows [n, k] to a padded copy [n_padded, ldd], zero outside.
int pad_dense(const void* from, int element_bytes, std::int64_t n, std::int64_t k, void* to, std::int64_t ldd,
              std::int64_t n_padded, void* stream);

// Scales or bias as stored (BF16, F16 or F32) to FP32, [n_padded], zero behind n.
int widen_vector(const void* from, int dtype, std::int64_t n, float* to, std::int64_t n_padded, void* stream);

}  // namespace slidesparse::cuda
