// 16 floats in two registers: what native/lanes.inc and attention.inc are written in.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace qwen3::avx2 {

constexpr int kTileRows = 2;  // rows of queries whose sums, two vectors each, fit the registers

struct Vector {
  __m256 low, high;
};

static inline Vector zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline Vector broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
static inline Vector load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
static inline void store(float* to, Vector a) {
  _mm256_storeu_ps(to, a.low);
  _mm256_storeu_ps(to + 8, a.high);
}
static inline Vector add(Vector a, Vector b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
static inline Vector subtract(Vector a, Vector b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
static inline Vector multiply(Vector a, Vector b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
static inline Vector divide(Vector a, Vector b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
static inline Vector fma(Vector a, Vector b, Vector c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
static inline Vector larger(Vector a, Vector b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
static inline Vector smaller(Vector a, Vector b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
static inline __m256 low_bits_as_exponent(__m256 a) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23));
}
static inline Vector low_bits_as_exponent(Vector a) {
  return {low_bits_as_exponent(a.low), low_bits_as_exponent(a.high)};
}
static inline __m256 eight_bf16(const uint16_t* from) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
static inline __m256 eight_fp16(const uint16_t* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
static inline Vector load_bf16(const uint16_t* from) { return {eight_bf16(from), eight_bf16(from + 8)}; }
static inline Vector load_fp16(const uint16_t* from) { return {eight_fp16(from), eight_fp16(from + 8)}; }

struct Integers {  // 16 of 32 bits
  __m256i low, high;
};
struct Pairs {  // 16 pairs of 16 bits
  __m256i low, high;
};

static inline Integers zero_integers() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
static inline Integers load(const int32_t* from) {
  const __m256i* halves = reinterpret_cast<const __m256i*>(from);
  return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
static inline void store(int32_t* to, Integers a) {
  __m256i* halves = reinterpret_cast<__m256i*>(to);
  _mm256_storeu_si256(halves, a.low);
  _mm256_storeu_si256(halves + 1, a.high);
}
static inline Integers add(Integers a, Integers b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
static inline Vector to_floats(Integers a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
static inline void store_int16(int16_t* to, Vector a) {
  const __m256i mixed = _mm256_packs_epi32(_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(mixed, 0xd8));
}
static inline Pairs load_int8_pairs(const int8_t* from) {
  const __m128i* halves = reinterpret_cast<const __m128i*>(from);
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(halves)), _mm256_cvtepi8_epi16(_mm_loadu_si128(halves + 1))};
}
static inline Pairs broadcast_pair(const int16_t* from) {
  int32_t pair;
  memcpy(&pair, from, sizeof pair);
  return {_mm256_set1_epi32(pair), _mm256_set1_epi32(pair)};
}
static inline __m256i add_products(__m256i sums, __m256i a, __m256i b) {
#if defined(__AVXVNNI__)
  sums = _mm256_dpwssd_avx_epi32(sums, a, b);
#else
  sums = _mm256_add_epi32(sums, _mm256_madd_epi16(a, b));
#endif
  __asm__("" : "+x"(sums));  // GCC 12 copies the sums of a loop from register to register
  return sums;
}
static inline Integers add_products(Integers sums, Pairs a, Pairs b) {
  return {add_products(sums.low, a.low, b.low), add_products(sums.high, a.high, b.high)};
}

}  // namespace qwen3::avx2
