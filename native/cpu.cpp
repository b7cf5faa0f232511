#include "cpu.h"

#include <algorithm>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace qwen3 {
namespace {

#if defined(__x86_64__)

// Intel SDM volume 2, CPUID; volume 1, 13.3: XCR0 says which registers the operating system saves.
std::vector<std::string> detect() {
  struct Registers {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  };
  const auto leaf = [](unsigned number, unsigned part) {
    Registers r;
    __get_cpuid_count(number, part, &r.eax, &r.ebx, &r.ecx, &r.edx);  // leaves zeros where there is no such leaf
    return r;
  };
  const Registers basic = leaf(1, 0), extended = leaf(7, 0), extended_1 = leaf(7, 1);

  unsigned xcr0 = 0;
  const bool has_xgetbv = basic.ecx >> 27 & 1;
  if (has_xgetbv) {
    unsigned high;
    __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
  }
  constexpr unsigned kNone = 0, kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;

  const struct {
    const char* name;
    unsigned word;
    int bit;
    unsigned saved;
  } table[] = {
      {"sse4_2", basic.ecx, 20, kNone},
      {"avx", basic.ecx, 28, kYmm},
      {"f16c", basic.ecx, 29, kYmm},
      {"fma", basic.ecx, 12, kYmm},
      {"avx2", extended.ebx, 5, kYmm},
      {"avx_vnni", extended_1.eax, 4, kYmm},
      {"avx512f", extended.ebx, 16, kZmm},
      {"avx512bw", extended.ebx, 30, kZmm},
      {"avx512dq", extended.ebx, 17, kZmm},
      {"avx512vl", extended.ebx, 31, kZmm},
      {"avx512vbmi", extended.ecx, 1, kZmm},
      {"avx512_vnni", extended.ecx, 11, kZmm},
      {"avx512_bf16", extended_1.eax, 5, kZmm},
      {"avx512_fp16", extended.edx, 23, kZmm},
      {"amx_tile", extended.edx, 24, kTiles},
      {"amx_int8", extended.edx, 25, kTiles},
      {"amx_bf16", extended.edx, 22, kTiles},
  };
  std::vector<std::string> features;
  for (const auto& row : table) {
    if ((row.word >> row.bit & 1) && (xcr0 & row.saved) == row.saved) features.emplace_back(row.name);
  }
  return features;
}

#elif defined(__aarch64__) && defined(__linux__)

// Bits of the kernel's arch/arm64/include/uapi/asm/hwcap.h, as numbers: older C libraries lack the names.
std::vector<std::string> detect() {
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  const struct {
    const char* name;
    unsigned long word;
    int bit;
  } table[] = {
      {"neon", first, 1},   {"fp16", first, 10},  {"dotprod", first, 20}, {"sve", first, 22},
      {"sve2", second, 1}, {"i8mm", second, 13}, {"bf16", second, 14},
  };
  std::vector<std::string> features;
  for (const auto& row : table) {
    if (row.word >> row.bit & 1) features.emplace_back(row.name);
  }
  return features;
}

#elif defined(__aarch64__) && defined(__APPLE__)

std::vector<std::string> detect() {
  const struct {
    const char* name;
    const char* key;
  } table[] = {
      {"neon", "hw.optional.neon"},          {"fp16", "hw.optional.arm.FEAT_FP16"},
      {"dotprod", "hw.optional.arm.FEAT_DotProd"}, {"i8mm", "hw.optional.arm.FEAT_I8MM"},
      {"bf16", "hw.optional.arm.FEAT_BF16"},
  };
  std::vector<std::string> features;
  for (const auto& row : table) {
    int present = 0;
    size_t size = sizeof(present);
    if (sysctlbyname(row.key, &present, &size, nullptr, 0) == 0 && present) features.emplace_back(row.name);
  }
  return features;
}

#else

std::vector<std::string> detect() { return {}; }

#endif

}  // namespace

const std::vector<std::string>& cpu_features() {
  static const std::vector<std::string> features = detect();
  return features;
}

bool cpu_has(const std::string& feature) {
  const auto& features = cpu_features();
  return std::find(features.begin(), features.end(), feature) != features.end();
}

}  // namespace qwen3
