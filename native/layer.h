// One layer of a model with packed weights, as one call: what its operations give one by one, to the bit.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "attention.h"
#include "packed.h"

namespace qwen3 {

struct Layer {
  size_t index, num_heads;
  float eps;  // of all norms
  const float *input_norm_D, *q_norm_d, *k_norm_d, *post_norm_D;
  PackedMatrix q, k, v, o;
  bool has_mlp;  // else the layer ends behind attention: a sparse feed-forward follows by itself
  PackedMatrix gate, up, down;
};

// y_TD = the layer's residual stream behind x_TD, for all tokens of the step; both may be the same memory. Scratch
// memory is the step's.
void run_layer(const Kernels& kernels, const Layer& layer, AttentionStep& step, const float* x_TD, const float* cos_Td,
               const float* sin_Td, float* y_TD);

}  // namespace qwen3
