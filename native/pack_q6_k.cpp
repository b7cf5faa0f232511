// Weights to Q6_K: 6 bits, a signed byte of scale for 16 columns, an fp16 scale for 256.
//
// The weight of largest magnitude in a group becomes -32, as in Q4_0 the -8: so a group's scale has a sign.
#include <math.h>
#include <string.h>

#include <algorithm>
#include <atomic>

#include "packed.h"
#include "threads.h"

namespace qwen3 {
namespace {

constexpr size_t kBlock = 256, kGroup = 16, kGroups = kBlock / kGroup;

void load(WeightRows::Type type, const char* from, float* to_256) {
  if (type == WeightRows::kFloat32) {
    memcpy(to_256, from, kBlock * sizeof(float));
    return;
  }
  uint16_t halves[kBlock];
  memcpy(halves, from, sizeof halves);
  for (size_t i = 0; i < kBlock; ++i) {
    to_256[i] = type == WeightRows::kBfloat16 ? float_of_bf16(halves[i]) : float_of_fp16(halves[i]);
  }
}

struct Block {
  uint8_t quants[kBlock];  // 0..63 for -32..31
  int8_t scales[kGroups];
  uint16_t scale;
};

// False if a weight is not finite or the scale exceeds fp16's range.
bool quantize(const float* weights_256, Block& block) {
  float wanted[kGroups], largest = 0;
  for (size_t g = 0; g < kGroups; ++g) {
    float extreme = 0;
    for (size_t i = g * kGroup; i < (g + 1) * kGroup; ++i) {
      if (!(fabsf(weights_256[i]) <= 3.402823466e38f)) return false;
      if (fabsf(weights_256[i]) > fabsf(extreme)) extreme = weights_256[i];
    }
    wanted[g] = extreme / -32.0f;
    largest = std::max(largest, fabsf(wanted[g]));
  }
  block.scale = fp16_of_float(largest / 127.0f);
  if ((block.scale & 0x7fff) == 0x7c00) return false;
  const float scale = float_of_fp16(block.scale);
  for (size_t g = 0; g < kGroups; ++g) {
    const float multiple = scale == 0 ? 0 : nearbyintf(wanted[g] / scale);
    block.scales[g] = static_cast<int8_t>(std::max(-127.0f, std::min(127.0f, multiple)));
    const float step = scale * static_cast<float>(block.scales[g]), inverse = step == 0 ? 0 : 1.0f / step;
    for (size_t i = g * kGroup; i < (g + 1) * kGroup; ++i) {
      const float quant = std::max(-32.0f, std::min(31.0f, nearbyintf(weights_256[i] * inverse)));
      block.quants[i] = static_cast<uint8_t>(quant + 32.0f);
    }
  }
  return true;
}

}  // namespace

bool pack_q6_k(const void* weight_NK, WeightRows::Type type, const PackedMatrix& to) {
  const size_t K = to.num_columns, value_bytes = type == WeightRows::kFloat32 ? 4 : 2;
  std::atomic<bool> is_good{true};
  parallel_for(to.num_panels(), [&](size_t index) {
    const size_t num_rows = std::min(kPanelRows, to.num_rows - index * kPanelRows);
    if (num_rows < kPanelRows) clear_panel(to, index);
    uint8_t* quants = to.quants + index * to.panel_quants();
    uint8_t* scales = to.scales + index * to.panel_scales();
    for (size_t row = 0; row < num_rows; ++row) {
      const char* weights = static_cast<const char*>(weight_NK) + (index * kPanelRows + row) * K * value_bytes;
      for (size_t k = 0; k < K; k += kBlock) {
        float weights_256[kBlock];
        Block block;
        load(type, weights + k * value_bytes, weights_256);
        if (!quantize(weights_256, block)) is_good = false;
        write_nibbles<2>(block.quants, kBlock, row, quants + k / kBlock * to.format->quant_bytes);
        uint8_t* of_block = scales + k / kBlock * to.format->scale_bytes;
        memcpy(of_block + 2 * row, &block.scale, 2);
        for (size_t g = 0; g < kGroups; ++g) memcpy(of_block + 32 + g * kPanelRows + row, block.scales + g, 1);
      }
    }
  });
  return is_good;
}

}  // namespace qwen3
