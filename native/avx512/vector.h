// 16 floats in one register: what native/lanes.inc and attention.inc are written in.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace qwen3::avx512 {

constexpr int kTileRows = 8;  // rows of queries whose sums, two vectors each, fit the registers

struct Vector {
  __m512 v;
};

static inline Vector zero() { return {_mm512_setzero_ps()}; }
static inline Vector broadcast(float value) { return {_mm512_set1_ps(value)}; }
static inline Vector load(const float* from) { return {_mm512_loadu_ps(from)}; }
static inline void store(float* to, Vector a) { _mm512_storeu_ps(to, a.v); }
static inline Vector add(Vector a, Vector b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline Vector subtract(Vector a, Vector b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline Vector multiply(Vector a, Vector b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline Vector divide(Vector a, Vector b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline Vector fma(Vector a, Vector b, Vector c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline Vector larger(Vector a, Vector b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline Vector smaller(Vector a, Vector b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline Vector low_bits_as_exponent(Vector a) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a.v), 23))};
}
static inline Vector load_bf16(const uint16_t* from) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
static inline Vector load_fp16(const uint16_t* from) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
}
static inline Vector load_int8(const int8_t* from) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))))};
}

}  // namespace qwen3::avx512
