// The specification of the packed products, in plain scalar code.
#include <math.h>

#include "../panel_layout.h"

namespace qwen3::generic {
namespace {

template <Encoding kEncoding>
float quantized_product(const Panel& panel, const TokenBlock& block, size_t row, size_t t) {
  constexpr size_t kColumns = kEncoding == Encoding::kQ6_K ? 16 : kActivationGroup;
  float y = 0;
  for (size_t first = 0; first < panel.num_columns; first += kColumns) {
    int32_t dot = 0;
    for (size_t k = first; k < first + kColumns; ++k) {
      dot += quant_at<kEncoding>(panel, row, k) * block.quants[(k / 4 * block.num_tokens + t) * 4 + k % 4];
    }
    const Scale weight = scale_at<kEncoding>(panel, row, first);
    const size_t group = first / kActivationGroup * block.num_tokens + t;
    if constexpr (has_minimum(kEncoding)) {
      const float offset = static_cast<float>(block.offsets[group]) * (weight.minimum * -0.125f);
      y = fmaf(fmaf(static_cast<float>(dot), weight.scale, offset), block.scales[group], y);
    } else {
      y = fmaf(static_cast<float>(dot), weight.scale * block.scales[group], y);
    }
  }
  return y;
}

template <Encoding kEncoding>
float float_product(const Panel& panel, const TokenBlock& block, size_t row, size_t t) {
  float lanes[2] = {};
  for (size_t k = 0; k < panel.num_columns; ++k) {
    lanes[k % 2] = fmaf(float_at<kEncoding>(panel, row, k), block.values[k * block.num_tokens + t], lanes[k % 2]);
  }
  return lanes[0] + lanes[1];
}

template <float (*product)(const Panel&, const TokenBlock&, size_t, size_t)>
void form(const Panel& panel, const TokenBlock& block, float* y_T16) {
  for (size_t t = 0; t < block.num_tokens; ++t) {
    for (size_t row = 0; row < kPanelRows; ++row) y_T16[t * kPanelRows + row] = product(panel, block, row, t);
  }
}

}  // namespace

extern const MatmulPanels matmul = {{
    form<quantized_product<Encoding::kInt4>>,
    form<quantized_product<Encoding::kInt8>>,
    form<quantized_product<Encoding::kQ4_1>>,
    form<quantized_product<Encoding::kQ5_0>>,
    form<quantized_product<Encoding::kQ5_1>>,
    form<quantized_product<Encoding::kQ4_K>>,
    form<quantized_product<Encoding::kQ5_K>>,
    form<quantized_product<Encoding::kQ6_K>>,
    form<float_product<Encoding::kFp16>>,
    form<float_product<Encoding::kBf16>>,
    form<float_product<Encoding::kFp32>>,
}};

}  // namespace qwen3::generic
