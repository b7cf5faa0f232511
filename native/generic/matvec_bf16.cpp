// The specification of matvec_bf16, in plain scalar code.
#include <math.h>
#include <string.h>

#include "../kernels.h"

namespace qwen3::generic {

static float float_of_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

void matvec_bf16(const uint16_t* weight_NK, const float* x_K, float* y_N, size_t num_columns, size_t row_begin,
                 size_t row_end) {
  for (size_t n = row_begin; n < row_end; ++n) {
    const uint16_t* weight_K = weight_NK + n * num_columns;
    float lanes[16] = {};
    for (size_t k = 0; k < num_columns; ++k) {
      lanes[k % 16] = fmaf(float_of_bf16(weight_K[k]), x_K[k], lanes[k % 16]);
    }
    for (size_t half = 8; half > 0; half /= 2) {
      for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    y_N[n] = lanes[0];
  }
}

}  // namespace qwen3::generic
