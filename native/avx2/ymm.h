// What the forms on 32-byte registers share. Nameless, because two folders with different flags compile it.
#pragma once

#include <immintrin.h>
#include <string.h>

#include "../packed_tile.h"

namespace qwen3::ymm {
namespace {

constexpr int kBytesAhead = 4096, kTileTokens = 6;

struct Ymm {
  static constexpr int kRowsPerVector = 8, kMaxSums = 4;
  using Sum = __m256i;
  using Floats = __m256;

  static __m256i four_times_eight(const int8_t* four_activations) {
    int32_t four;
    memcpy(&four, four_activations, sizeof four);
    return _mm256_set1_epi32(four);
  }
  static __m256i load(const uint8_t* bytes) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)); }
  static void nibbles(const uint8_t* unit, __m256i* weights) {
    const __m256i nibble = _mm256_set1_epi8(15), bytes = load(unit);
    weights[0] = _mm256_and_si256(bytes, nibble);
    weights[1] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
  }
  static Floats scales(const uint16_t* fp16) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(fp16)));
  }
  static Floats zero() { return _mm256_setzero_ps(); }
  static Floats broadcast(const float* value) { return _mm256_broadcast_ss(value); }
  static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static void store(float* to, Floats value) { _mm256_storeu_ps(to, value); }
  static void pin(Sum& sum) { __asm__ volatile("" : "+x"(sum)); }
  // Past the end it is harmless.
  static void prefetch(const uint8_t* unit) {
    _mm_prefetch(reinterpret_cast<const char*>(unit) + kBytesAhead, _MM_HINT_T0);
  }
};

}  // namespace
}  // namespace qwen3::ymm
