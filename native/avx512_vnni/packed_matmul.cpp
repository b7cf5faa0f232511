#include <immintrin.h>
#include <string.h>

#include "../packed_tile.h"

namespace qwen3::avx512_vnni {

static constexpr int kTileTokens = 12;

struct Zmm {
  static constexpr int kRowsPerVector = 16, kMaxSums = kTileTokens;
  static constexpr size_t kBytesAhead = 4096;
  using Bytes = __m512i;
  using Floats = __m512;

  static Floats zero() { return _mm512_setzero_ps(); }
  static Floats constant(float value) { return _mm512_set1_ps(value); }
  static Floats broadcast(const float* value) { return _mm512_set1_ps(*value); }
  static Floats integer(int32_t value) { return _mm512_cvtepi32_ps(_mm512_set1_epi32(value)); }
  static Floats plus(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static void store(float* to, Floats value) { _mm512_storeu_ps(to, value); }

  static __m256i load_32(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
  static __m128i load_16(const uint8_t* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }
  static Floats fp16(const uint8_t* at) { return _mm512_cvtph_ps(load_32(at)); }
  static Floats bf16(const uint8_t* at) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_32(at)), 16));
  }
  static Floats fp32(const uint8_t* at) { return _mm512_loadu_ps(at); }
  static Floats bytes(const uint8_t* at) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_16(at))); }
  static Floats signed_bytes(const uint8_t* at) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_16(at))); }

  static Bytes load(const uint8_t* at) { return _mm512_loadu_si512(at); }
  static Bytes low_nibbles(Bytes bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
  static Bytes high_nibbles(Bytes bytes) { return low_nibbles(_mm512_srli_epi16(bytes, 4)); }
  static Bytes with_high_bits(Bytes nibbles, Bytes bits, int from, int mask) {
    const Bytes shifted = from < 4 ? _mm512_slli_epi16(bits, 4 - from) : _mm512_srli_epi16(bits, from - 4);
    return _mm512_ternarylogic_epi32(nibbles, shifted, _mm512_set1_epi8(mask << 4), 0xf8);  // a | (b & c)
  }
  // Past the end it is harmless.
  static void prefetch(const uint8_t* at) {
    _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T0);
  }
};

struct Vnni : Zmm {
  using Sum = __m512i;
  using Weights = __m512i;

  static Sum start(int32_t offset, int shift) {
    const Sum sum = _mm512_set1_epi32(offset);
    return shift ? _mm512_slli_epi32(sum, shift) : sum;
  }
  static Sum dot(Sum sum, Weights weights, const int8_t* four_activations) {
    int32_t four;
    memcpy(&four, four_activations, sizeof four);
    return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(four));
  }
  static Floats finish(Sum sum, int32_t, int) { return _mm512_cvtepi32_ps(sum); }
  static void pin(Sum&) {}
};

template <int kHighBits>
struct Nibbles : NibbleGroups<Vnni, kHighBits> {};

struct Bytes8 : ByteGroups<Vnni> {
  static constexpr int kShift = 4;  // 2^4 * 8 = 128
  static void unpack(const uint8_t* group, int unit, Weights* weights) { weights[0] = load(group + 64 * unit); }
};

extern const MatmulPanels matmul = matmul_panels<Zmm, Nibbles, Bytes8, kTileTokens>();

}  // namespace qwen3::avx512_vnni
