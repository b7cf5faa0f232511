// 16 floats in two registers: what native/lanes.inc and attention.inc are written in.
#pragma once

#include <immintrin.h>
#include <stdint.h>

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
static inline __m256 eight_int8(const int8_t* from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
static inline Vector load_bf16(const uint16_t* from) { return {eight_bf16(from), eight_bf16(from + 8)}; }
static inline Vector load_fp16(const uint16_t* from) { return {eight_fp16(from), eight_fp16(from + 8)}; }
static inline Vector load_int8(const int8_t* from) { return {eight_int8(from), eight_int8(from + 8)}; }

}  // namespace qwen3::avx2
