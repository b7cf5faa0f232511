// The table of CPU kernels.
//
// A kernel is one file name, written once per instruction set in the folder of that name. native/generic is the
// specification: plain scalar code whose order of arithmetic the other folders reproduce bit for bit.
//
// Kernels take plain addresses that the caller has checked, allocate nothing and keep no state. Files in the folders
// of instruction sets include no C++ library header: an inline function that such a file compiles could replace the
// one that the rest of the module uses, and bring instructions that the CPU lacks.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace qwen3 {

// y_N[n] = sum over k of weight_NK[n, k] * x_K[k], for n in [row_begin, row_end).
//
// weight_NK: bfloat16, rows of num_columns without gaps. x_K, y_N: float32.
//
// Order of arithmetic: a row has 16 lanes, all +0 at first. Element k goes to lane k % 16 by a fused multiply-add, in
// rising k. Then halves are added, lane i and lane i + 8, then + 4, + 2, + 1. What a row gives depends on no other row.
using MatvecBf16 = void(const uint16_t* weight_NK, const float* x_K, float* y_N, size_t num_columns, size_t row_begin,
                        size_t row_end);

namespace generic {
MatvecBf16 matvec_bf16;
}
namespace avx2 {
MatvecBf16 matvec_bf16;
}
namespace avx512 {
MatvecBf16 matvec_bf16;
}
namespace neon {
MatvecBf16 matvec_bf16;
}

struct Kernels {
  const char* instruction_set;
  bool (*can_run_here)();
  MatvecBf16* matvec_bf16;
};

struct KernelTables {
  const Kernels *first, *last;
  const Kernels* begin() const { return first; }
  const Kernels* end() const { return last; }
};

// The tables in this build, slowest first. The first runs on any CPU.
KernelTables compiled_kernels();

}  // namespace qwen3
