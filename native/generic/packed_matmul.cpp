// The specification of matmul_int4 and matmul_int8, in plain scalar code.
#include <math.h>

#include "../float16.h"
#include "../kernels.h"

namespace qwen3::generic {

// The panel's weight at a row and a column, without its scale.
static int int4_at(const uint8_t* quants, size_t row, size_t column) {
  const uint8_t byte = quants[column / 8 * 64 + row * 4 + column % 4];
  return (column % 8 < 4 ? byte & 15 : byte >> 4) - 8;
}

static int int8_at(const uint8_t* quants, size_t row, size_t column) {
  return quants[column / 4 * 64 + row * 4 + column % 4] - 128;
}

template <int (*weight_at)(const uint8_t*, size_t, size_t)>
static void matmul(const Panel& panel, const TokenBlock& block, float* y_T16) {
  for (size_t t = 0; t < block.num_tokens; ++t) {
    for (size_t row = 0; row < kPanelRows; ++row) {
      float sum = 0;
      for (size_t g = 0; g < panel.num_columns / kActivationGroup; ++g) {
        int32_t dot = 0;
        for (size_t k = g * kActivationGroup; k < (g + 1) * kActivationGroup; ++k) {
          dot += weight_at(panel.quants, row, k) * block.quants[(k / 4 * block.num_tokens + t) * 4 + k % 4];
        }
        const size_t scale_group = g * kActivationGroup / panel.scale_columns;
        const float scale = float_of_fp16(panel.scales[scale_group * kPanelRows + row]);
        sum = fmaf(static_cast<float>(dot), scale * block.scales[g * block.num_tokens + t], sum);
      }
      y_T16[t * kPanelRows + row] = sum;
    }
  }
}

void matmul_int4(const Panel& panel, const TokenBlock& block, float* y_T16) { matmul<int4_at>(panel, block, y_T16); }

void matmul_int8(const Panel& panel, const TokenBlock& block, float* y_T16) { matmul<int8_at>(panel, block, y_T16); }

}  // namespace qwen3::generic
