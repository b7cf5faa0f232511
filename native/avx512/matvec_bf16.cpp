#include <immintrin.h>

#include "../kernels.h"

namespace qwen3::avx512 {

static constexpr int kBytesAhead = 1024;

// A bfloat16 is the upper half of a float32.
static inline __m512 floats_of_bf16(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

static inline float sum_of_lanes(__m512 lanes) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Several rows at once: their chains of additions and their reads from memory overlap, and x_K is read once for all.
// The hardware does not read far enough ahead of eight streams, so the code does; a prefetch past the end is harmless.
template <int kRows>
static inline void rows(const uint16_t* weight_RK, const float* x_K, float* y_R, size_t num_columns) {
  __m512 lanes_R[kRows];
  for (int r = 0; r < kRows; ++r) lanes_R[r] = _mm512_setzero_ps();

  size_t k = 0;
  for (; k + 16 <= num_columns; k += 16) {
    const __m512 x = _mm512_loadu_ps(x_K + k);
    for (int r = 0; r < kRows; ++r) {
      const uint16_t* weight = weight_RK + r * num_columns + k;
      _mm_prefetch(reinterpret_cast<const char*>(weight) + kBytesAhead, _MM_HINT_T0);
      const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight));
      lanes_R[r] = _mm512_fmadd_ps(floats_of_bf16(bits), x, lanes_R[r]);
    }
  }
  if (k < num_columns) {
    const __mmask16 rest = static_cast<__mmask16>((1u << (num_columns - k)) - 1);
    const __m512 x = _mm512_maskz_loadu_ps(rest, x_K + k);
    for (int r = 0; r < kRows; ++r) {
      const __m256i bits = _mm256_maskz_loadu_epi16(rest, weight_RK + r * num_columns + k);
      lanes_R[r] = _mm512_mask3_fmadd_ps(floats_of_bf16(bits), x, lanes_R[r], rest);
    }
  }
  for (int r = 0; r < kRows; ++r) y_R[r] = sum_of_lanes(lanes_R[r]);
}

void matvec_bf16(const uint16_t* weight_NK, const float* x_K, float* y_N, size_t num_columns, size_t row_begin,
                 size_t row_end) {
  size_t n = row_begin;
  for (; n + 8 <= row_end; n += 8) rows<8>(weight_NK + n * num_columns, x_K, y_N + n, num_columns);
  for (; n < row_end; ++n) rows<1>(weight_NK + n * num_columns, x_K, y_N + n, num_columns);
}

}  // namespace qwen3::avx512
