// A sparse layer's feed-forward with packed experts, as one call over all threads.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"
#include "packed.h"

namespace qwen3 {

struct Expert {
  PackedMatrix gate, up, down;  // [F, D], [F, D], [D, F]; D and F are multiples of 32
};

struct SparseLayer {
  const Expert* experts;  // E of them, of one shape
  Router router;  // [E, D]
  const float* norm_weight_D;
  float eps;
  size_t top_k;      // 1..E
  bool renormalise;  // the chosen weights sum to one
};

size_t moe_scratch_bytes(const Kernels& kernels, const SparseLayer& layer, size_t num_tokens);

// y_TD = x_TD + sum over the chosen experts e of weight_e * down_e(silu(gate_e(z)) * up_e(z)), z = rms_norm(x_TD).
//
// z is float32 where the router reads it; the experts' formats say in which form they take it. The weights are the
// softmax over all experts, float32; the top_k largest are chosen, of equal ones those with the lower index. With
// renormalise they are divided by their sum, added from the largest to the smallest.
//
// Order of arithmetic: y = x; for each chosen expert in rising index, y = y + weight * down, each rounded. The
// rest is as in kernels.h. So a token's bits depend on no other token, and on neither instruction set nor threads.
//
// `scratch` has moe_scratch_bytes and begins at a multiple of 64. Weights are read once for all tokens.
void moe(const Kernels& kernels, const SparseLayer& layer, const float* x_TD, size_t num_tokens, void* scratch,
         float* y_TD);

}  // namespace qwen3
