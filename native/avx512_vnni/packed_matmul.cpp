#include <immintrin.h>
#include <string.h>

#include "../packed_tile.h"

namespace qwen3::avx512_vnni {

static constexpr int kBytesAhead = 4096, kTileTokens = 12;

struct Vnni {
  static constexpr int kRowsPerVector = 16, kMaxSums = kTileTokens;
  using Sum = __m512i;
  using Weights = __m512i;
  using Floats = __m512;

  static Sum dot(Sum sum, Weights weights, const int8_t* four_activations) {
    int32_t four;
    memcpy(&four, four_activations, sizeof four);
    return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(four));
  }
  static Floats finish(Sum sum, int32_t) { return _mm512_cvtepi32_ps(sum); }
  static Floats scales(const uint16_t* fp16) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(fp16)));
  }
  static Floats zero() { return _mm512_setzero_ps(); }
  static Floats broadcast(const float* value) { return _mm512_set1_ps(*value); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static void store(float* to, Floats value) { _mm512_storeu_ps(to, value); }
  static void pin(Sum&) {}
  // Past the end it is harmless.
  static void prefetch(const uint8_t* unit) {
    _mm_prefetch(reinterpret_cast<const char*>(unit) + kBytesAhead, _MM_HINT_T0);
  }
};

struct Int4 : Vnni {
  static constexpr int kQuads = 2;
  static Sum start(int32_t offset) { return _mm512_set1_epi32(offset); }
  static void unpack(const uint8_t* unit, Weights* weights) {
    const __m512i nibble = _mm512_set1_epi8(15), bytes = _mm512_loadu_si512(unit);
    weights[0] = _mm512_and_si512(bytes, nibble);
    weights[1] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble);
  }
};

struct Int8 : Vnni {
  static constexpr int kQuads = 1;
  static Sum start(int32_t offset) { return _mm512_slli_epi32(_mm512_set1_epi32(offset), 4); }  // 16 * 8 = 128
  static void unpack(const uint8_t* unit, Weights* weights) { weights[0] = _mm512_loadu_si512(unit); }
};

void matmul_int4(const Panel& panel, const TokenBlock& block, float* y_T16) {
  for_num_tokens<Int4, kTileTokens>(panel, block, y_T16);
}

void matmul_int8(const Panel& panel, const TokenBlock& block, float* y_T16) {
  for_num_tokens<Int8, kTileTokens>(panel, block, y_T16);
}

}  // namespace qwen3::avx512_vnni
