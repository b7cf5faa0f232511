#include <arm_neon.h>
#include <math.h>

#include "../kernels.h"

namespace qwen3::neon {

// A bfloat16 is the upper half of a float32.
static inline float32x4_t floats_of_bf16(uint16x4_t bits) {
  return vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
}

// Several rows at once: their chains of additions hide each other's latency, and x_K is read once for all.
template <int kRows>
static inline void rows(const uint16_t* weight_RK, const float* x_K, float* y_R, size_t num_columns) {
  float32x4_t lanes_R4[kRows][4];
  for (int r = 0; r < kRows; ++r) {
    for (int q = 0; q < 4; ++q) lanes_R4[r][q] = vdupq_n_f32(0.0f);
  }
  const size_t whole = num_columns - num_columns % 16;
  for (size_t k = 0; k < whole; k += 16) {
    for (int q = 0; q < 4; ++q) {
      const float32x4_t x = vld1q_f32(x_K + k + 4 * q);
      for (int r = 0; r < kRows; ++r) {
        const uint16x4_t bits = vld1_u16(weight_RK + r * num_columns + k + 4 * q);
        lanes_R4[r][q] = vfmaq_f32(lanes_R4[r][q], floats_of_bf16(bits), x);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float32x4_t* lanes_4 = lanes_R4[r];
    if (whole < num_columns) {
      float lanes[16];
      for (int q = 0; q < 4; ++q) vst1q_f32(lanes + 4 * q, lanes_4[q]);
      for (size_t k = whole; k < num_columns; ++k) {
        const float weight = vgetq_lane_f32(floats_of_bf16(vdup_n_u16(weight_RK[r * num_columns + k])), 0);
        lanes[k - whole] = fmaf(weight, x_K[k], lanes[k - whole]);
      }
      for (int q = 0; q < 4; ++q) lanes_4[q] = vld1q_f32(lanes + 4 * q);
    }
    const float32x4_t four = vaddq_f32(vaddq_f32(lanes_4[0], lanes_4[2]), vaddq_f32(lanes_4[1], lanes_4[3]));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    y_R[r] = vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
  }
}

void matvec_bf16(const uint16_t* weight_NK, const float* x_K, float* y_N, size_t num_columns, size_t row_begin,
                 size_t row_end) {
  size_t n = row_begin;
  for (; n + 4 <= row_end; n += 4) rows<4>(weight_NK + n * num_columns, x_K, y_N + n, num_columns);
  for (; n < row_end; ++n) rows<1>(weight_NK + n * num_columns, x_K, y_N + n, num_columns);
}

}  // namespace qwen3::neon
