#include "../avx2/ymm.h"

namespace qwen3::avx_vnni {

using ymm::kTileTokens, ymm::Ymm;

// vpdpbusd adds four products of unsigned weights and signed activations into 32 bits, exactly.
struct Vnni : Ymm {
  using Weights = __m256i;

  static Sum dot(Sum sum, Weights weights, const int8_t* four) {
    return _mm256_dpbusd_avx_epi32(sum, weights, four_times_eight(four));
  }
  static Floats finish(Sum sum, int32_t) { return _mm256_cvtepi32_ps(sum); }
};

struct Int4 : Vnni {
  static constexpr int kQuads = 2;
  static Sum start(int32_t offset) { return _mm256_set1_epi32(offset); }
  static void unpack(const uint8_t* unit, Weights* weights) { nibbles(unit, weights); }
};

struct Int8 : Vnni {
  static constexpr int kQuads = 1;
  static Sum start(int32_t offset) { return _mm256_slli_epi32(_mm256_set1_epi32(offset), 4); }  // 16 * 8 = 128
  static void unpack(const uint8_t* unit, Weights* weights) { weights[0] = load(unit); }
};

void matmul_int4(const Panel& panel, const TokenBlock& block, float* y_T16) {
  for_num_tokens<Int4, kTileTokens>(panel, block, y_T16);
}

void matmul_int8(const Panel& panel, const TokenBlock& block, float* y_T16) {
  for_num_tokens<Int8, kTileTokens>(panel, block, y_T16);
}

}  // namespace qwen3::avx_vnni
