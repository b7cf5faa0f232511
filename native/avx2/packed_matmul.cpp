#include "ymm.h"

namespace qwen3::avx2 {

using ymm::kTileTokens, ymm::Ymm;

// vpmaddubsw adds two products of an unsigned and a signed byte into 16 bits. A lane gets 8 such pairs in a group, at
// most 8 * 2 * 15 * 127 = 30,480: the group's sum fits, and is widened once.
struct Int4 : Ymm {
  static constexpr int kQuads = 2;
  using Weights = __m256i;

  static Sum start(int32_t) { return _mm256_setzero_si256(); }
  static void unpack(const uint8_t* unit, Weights* weights) { nibbles(unit, weights); }
  static Sum dot(Sum sum, Weights weights, const int8_t* four) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, four_times_eight(four)));
  }
  static Floats finish(Sum sum, int32_t offset) {
    const __m256i wide = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
    return _mm256_cvtepi32_ps(_mm256_add_epi32(wide, _mm256_set1_epi32(offset)));
  }
};

// Unsigned 8-bit weights would overflow those 16 bits: the sign moves to the activation instead. |weight| is at most
// 128, a pair at most 2 * 128 * 127 = 32,512, and is widened at once.
struct Int8 : Ymm {
  static constexpr int kQuads = 1;
  struct Weights {
    __m256i signed_, absolute;
  };

  static Sum start(int32_t) { return _mm256_setzero_si256(); }
  static void unpack(const uint8_t* unit, Weights* weights) {
    weights->signed_ = _mm256_xor_si256(load(unit), _mm256_set1_epi8(-128));
    weights->absolute = _mm256_abs_epi8(weights->signed_);
  }
  static Sum dot(Sum sum, Weights weights, const int8_t* four) {
    const __m256i activations = _mm256_sign_epi8(four_times_eight(four), weights.signed_);
    const __m256i pairs = _mm256_maddubs_epi16(weights.absolute, activations);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static Floats finish(Sum sum, int32_t) { return _mm256_cvtepi32_ps(sum); }
};

void matmul_int4(const Panel& panel, const TokenBlock& block, float* y_T16) {
  for_num_tokens<Int4, kTileTokens>(panel, block, y_T16);
}

void matmul_int8(const Panel& panel, const TokenBlock& block, float* y_T16) {
  for_num_tokens<Int8, kTileTokens>(panel, block, y_T16);
}

}  // namespace qwen3::avx2
