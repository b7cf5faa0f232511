// What the forms on 32-byte registers share. Nameless, because two folders with different flags compile it.
#pragma once

#include <immintrin.h>
#include <string.h>

#include "../packed_tile.h"

namespace qwen3::ymm {
namespace {

constexpr int kTileTokens = 6;

struct Ymm {
  static constexpr int kRowsPerVector = 8, kMaxSums = 4;
  static constexpr size_t kBytesAhead = 4096;
  using Bytes = __m256i;
  using Sum = __m256i;
  using Floats = __m256;

  static Floats zero() { return _mm256_setzero_ps(); }
  static Floats constant(float value) { return _mm256_set1_ps(value); }
  static Floats broadcast(const float* value) { return _mm256_broadcast_ss(value); }
  static Floats integer(int32_t value) { return _mm256_cvtepi32_ps(_mm256_set1_epi32(value)); }
  static Floats plus(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static void store(float* to, Floats value) { _mm256_storeu_ps(to, value); }

  static __m128i load_16(const uint8_t* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }
  static __m128i load_8(const uint8_t* at) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at)); }
  static Floats fp16(const uint8_t* at) { return _mm256_cvtph_ps(load_16(at)); }
  static Floats bf16(const uint8_t* at) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16(at)), 16));
  }
  static Floats fp32(const uint8_t* at) { return _mm256_castsi256_ps(load(at)); }
  static Floats bytes(const uint8_t* at) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_8(at))); }
  static Floats signed_bytes(const uint8_t* at) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_8(at))); }

  static Bytes load(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
  static Bytes low_nibbles(Bytes bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
  static Bytes high_nibbles(Bytes bytes) { return low_nibbles(_mm256_srli_epi16(bytes, 4)); }
  static Bytes with_high_bits(Bytes nibbles, Bytes bits, int from, int mask) {
    const Bytes shifted = from < 4 ? _mm256_slli_epi16(bits, 4 - from) : _mm256_srli_epi16(bits, from - 4);
    return _mm256_or_si256(nibbles, _mm256_and_si256(shifted, _mm256_set1_epi8(static_cast<char>(mask << 4))));
  }
  static __m256i four_times_eight(const int8_t* four_activations) {
    int32_t four;
    memcpy(&four, four_activations, sizeof four);
    return _mm256_set1_epi32(four);
  }
  static Sum shifted(int32_t offset, int shift) {
    const Sum sum = _mm256_set1_epi32(offset);
    return shift ? _mm256_slli_epi32(sum, shift) : sum;
  }
  static void pin(Sum& sum) { __asm__ volatile("" : "+x"(sum)); }
  // Past the end it is harmless.
  static void prefetch(const uint8_t* at) {
    _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T0);
  }
};

}  // namespace
}  // namespace qwen3::ymm
