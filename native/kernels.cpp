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
    {"generic", [] { return true; }, generic::matvec_bf16},
#if defined(__x86_64__)
    {"avx2", [] { return has_all({"avx2", "fma", "f16c"}); }, avx2::matvec_bf16},
    {"avx512",
     [] { return has_all({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"}); },
     avx512::matvec_bf16},
#elif defined(__aarch64__)
    {"neon", [] { return has_all({"neon"}); }, neon::matvec_bf16},
#endif
};

}  // namespace

KernelTables compiled_kernels() { return {std::begin(kTables), std::end(kTables)}; }

}  // namespace qwen3
