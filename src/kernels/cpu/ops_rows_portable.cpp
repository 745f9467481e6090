#define SLIDESPARSE_TARGET
#define SLIDESPARSE_ROWS kPortableRows
#include "kernels/cpu/ops_rows_body.h"

namespace slidesparse::kernels {

const RowKernels& row_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kAvx512Rows;
    case Isa::kAvx2:
      return kAvx2Rows;
    case Isa::kPortable:
      break;
  }
  return kPortableRows;
}

}  // namespace slidesparse::kernels
