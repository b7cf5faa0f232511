#include <immintrin.h>
#include <math.h>

#include "../kernels.h"

namespace qwen3::avx2 {

static constexpr int kBytesAhead = 2048;

// A bfloat16 is the upper half of a float32.
static inline __m256 floats_of_bf16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

static inline float float_of_bf16(uint16_t bits) {
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(static_cast<uint32_t>(bits) << 16))));
}

static inline float sum_of_lanes(__m256 low, __m256 high) {
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Several rows at once: their chains of additions and their reads from memory overlap, and x_K is read once for all.
// The hardware does not read far enough ahead of four streams, so the code does; a prefetch past the end is harmless.
template <int kRows>
static inline void rows(const uint16_t* weight_RK, const float* x_K, float* y_R, size_t num_columns) {
  __m256 low_R[kRows], high_R[kRows];
  for (int r = 0; r < kRows; ++r) low_R[r] = high_R[r] = _mm256_setzero_ps();

  const size_t whole = num_columns - num_columns % 16;
  for (size_t k = 0; k < whole; k += 16) {
    const __m256 x_low = _mm256_loadu_ps(x_K + k), x_high = _mm256_loadu_ps(x_K + k + 8);
    for (int r = 0; r < kRows; ++r) {
      const uint16_t* weight = weight_RK + r * num_columns + k;
      _mm_prefetch(reinterpret_cast<const char*>(weight) + kBytesAhead, _MM_HINT_T0);
      const __m128i* bits = reinterpret_cast<const __m128i*>(weight);
      low_R[r] = _mm256_fmadd_ps(floats_of_bf16(_mm_loadu_si128(bits)), x_low, low_R[r]);
      high_R[r] = _mm256_fmadd_ps(floats_of_bf16(_mm_loadu_si128(bits + 1)), x_high, high_R[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    if (whole < num_columns) {
      float lanes[16];
      _mm256_storeu_ps(lanes, low_R[r]);
      _mm256_storeu_ps(lanes + 8, high_R[r]);
      for (size_t k = whole; k < num_columns; ++k) {
        lanes[k - whole] = fmaf(float_of_bf16(weight_RK[r * num_columns + k]), x_K[k], lanes[k - whole]);
      }
      low_R[r] = _mm256_loadu_ps(lanes);
      high_R[r] = _mm256_loadu_ps(lanes + 8);
    }
    y_R[r] = sum_of_lanes(low_R[r], high_R[r]);
  }
}

void matvec_bf16(const uint16_t* weight_NK, const float* x_K, float* y_N, size_t num_columns, size_t row_begin,
                 size_t row_end) {
  size_t n = row_begin;
  for (; n + 4 <= row_end; n += 4) rows<4>(weight_NK + n * num_columns, x_K, y_N + n, num_columns);
  for (; n < row_end; ++n) rows<1>(weight_NK + n * num_columns, x_K, y_N + n, num_columns);
}

}  // namespace qwen3::avx2
