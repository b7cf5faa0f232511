// 16 floats in one register: what native/lanes.inc and attention.inc are written in.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

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

struct Integers {  // 16 of 32 bits
  __m512i v;
};
struct Pairs {  // 16 pairs of 16 bits
  __m512i v;
};

static inline Integers zero_integers() { return {_mm512_setzero_si512()}; }
static inline Integers load(const int32_t* from) { return {_mm512_loadu_si512(from)}; }
static inline void store(int32_t* to, Integers a) { _mm512_storeu_si512(to, a.v); }
static inline Integers add(Integers a, Integers b) { return {_mm512_add_epi32(a.v, b.v)}; }
static inline Vector to_floats(Integers a) { return {_mm512_cvtepi32_ps(a.v)}; }
static inline void store_int16(int16_t* to, Vector a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(a.v)));
}
static inline Pairs load_int8_pairs(const int8_t* from) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
}
static inline Pairs broadcast_pair(const int16_t* from) {
  int32_t pair;
  memcpy(&pair, from, sizeof pair);
  return {_mm512_set1_epi32(pair)};
}
static inline Integers add_products(Integers sums, Pairs a, Pairs b) {
#if defined(__AVX512VNNI__)
  sums.v = _mm512_dpwssd_epi32(sums.v, a.v, b.v);
#else
  sums.v = _mm512_add_epi32(sums.v, _mm512_madd_epi16(a.v, b.v));
#endif
  __asm__("" : "+v"(sums.v));  // GCC 12 copies the sums of a loop from register to register
  return sums;
}

}  // namespace qwen3::avx512
