// Draws the next token from a row of logits without sorting the row.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

namespace qwen3 {

struct Sampling {
  float temperature;    // 0: always the largest
  size_t top_k;         // 0: all
  double top_p, min_p;  // 1 and 0: all
  double noise;         // in [0, 1)
};

// The token in whose share of the probability `noise` falls, or -1 if the largest logit is infinite or one is NaN.
//
// Tokens are ranked by logit / temperature in float32, equal ones by index. The first top_k stay; of these, the ones
// before which less than top_p of the probability lies, and whose probability is at least min_p of the first one's.
// Weights are float32, exp(logit / temperature - the largest) as in lanes.inc, and their sums float64, so neither the
// instruction set nor anything else changes the result.
int64_t draw(const Kernels& kernels, const float* logits, size_t num_logits, const Sampling& sampling);

// The indices of the `count` largest logits in that order. No logit is NaN, and there are as many.
void largest(const Kernels& kernels, const float* logits, size_t num_logits, size_t count, int64_t* ids);

}  // namespace qwen3
