#include "kernels.h"

#include <initializer_list>
#include <iterator>

#include "cpu.h"

namespace qwen3 {
namespace {

bool has_all(std::initializer_list<const char*> features) {
  for (const char* feature : features) {
    if (!cpu_has(feature)) return false;
  }
  return true;
}

constexpr Kernels kTables[] = {
    {"generic", [] { return true; }, 4, &generic::matmul, generic::quantize_token, generic::float_token,
     generic::pack_panel, &generic::attention, &generic::router, &generic::sampling},
#if defined(__x86_64__)
    {"avx2", [] { return has_all({"avx2", "fma", "f16c"}); }, 6, &avx2::matmul, avx2::quantize_token, avx2::float_token,
     avx2::pack_panel, &avx2::attention, &avx2::router, &avx2::sampling},
#if defined(QWEN3_AVX_VNNI)
    {"avx_vnni", [] { return has_all({"avx2", "fma", "f16c", "avx_vnni"}); }, 6, &avx_vnni::matmul, avx2::quantize_token,
     avx2::float_token, avx2::pack_panel, &avx_vnni::attention, &avx2::router, &avx2::sampling},
#endif
    {"avx512", [] { return has_all({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"}); }, 6,
     &avx2::matmul, avx512::quantize_token, avx512::float_token, avx512::pack_panel, &avx512::attention,
     &avx512::router, &avx512::sampling},
    {"avx512_vnni",
     [] { return has_all({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}); }, 12,
     &avx512_vnni::matmul, avx512::quantize_token, avx512::float_token, avx512::pack_panel, &avx512_vnni::attention,
     &avx512::router, &avx512::sampling},
#elif defined(__aarch64__)
    {"neon", [] { return has_all({"neon"}); }, 4, &generic::matmul, neon::quantize_token, neon::float_token,
     neon::pack_panel, &neon::attention, &neon::router, &neon::sampling},
    {"neon_dotprod", [] { return has_all({"neon", "dotprod"}); }, 4, &neon_dotprod::matmul, neon::quantize_token,
     neon::float_token, neon::pack_panel, &neon::attention, &neon::router, &neon::sampling},
    {"neon_i8mm", [] { return has_all({"neon", "dotprod", "i8mm"}); }, 8, &neon_i8mm::matmul, neon::quantize_token,
     neon::float_token, neon::pack_panel, &neon::attention, &neon::router, &neon::sampling},
#endif
};

}  // namespace

KernelTables compiled_kernels() { return {std::begin(kTables), std::end(kTables)}; }

}  // namespace qwen3
