// Attention of a step's tokens over a paged cache, and what prepares its queries and keys, over all threads.
//
// A page is kPageTokens positions of one sequence in all layers: layer after layer, in each its key-value heads, each
// as KvFormat says. The caller owns all memory and has checked shapes.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <vector>

#include "kernels.h"

namespace qwen3 {

struct CacheShape {
  KvFormat format;
  size_t num_layers, num_kv_heads, head_dim;

  size_t head_bytes() const;
  size_t layer_bytes() const { return num_kv_heads * head_bytes(); }
  size_t page_bytes() const { return num_layers * layer_bytes(); }
};

// Memory that grows to the largest request and is kept for the next.
class Workspace {
 public:
  // At a multiple of 64, with anything in it; the next call may move it.
  uintptr_t reserve(size_t num_bytes);

 private:
  std::unique_ptr<char[]> memory_;
  size_t num_bytes_ = 0;
};

// One step: tokens of several sequences, one after another. Each sees its own sequence up to itself.
class AttentionStep {
 public:
  struct Sequence {
    std::vector<uintptr_t> pages;  // addresses, enough for start + count positions
    size_t start, count;           // positions that the cache holds already; tokens of this step
  };

  AttentionStep(const Kernels& kernels, const CacheShape& shape, std::vector<Sequence> sequences)
      : kernels_(*kernels.attention), shape_(shape), sequences_(std::move(sequences)) {}

  size_t num_tokens() const;
  size_t head_dim() const { return shape_.head_dim; }

  // For whoever works on the step.
  uintptr_t scratch(size_t num_bytes) { return scratch_.reserve(num_bytes); }

  // Keys and values [T, kv heads, head_dim] of all the step's tokens into their slots.
  void write(size_t layer, const float* k_TKd, const float* v_TKd) const;

  // out [T, num_heads, head_dim] for q of that shape, once the layer's keys and values are written. A query sees the
  // positions 0 up to its own in splits of kSplitTokens, merged in rising order: the bits of its result depend on
  // nothing else. Takes memory by the number of threads, not by the length of the context.
  void attend(size_t layer, size_t num_heads, const float* q_THd, float* out_THd);

 private:
  struct Tile;
  std::vector<Tile> tiles(size_t group) const;

  const AttentionKernels& kernels_;
  CacheShape shape_;
  std::vector<Sequence> sequences_;
  Workspace scratch_, partials_;
};

// out [T, num_heads, head_dim] = norm over each head of x, then the rotation by its token's cos and sin [T, head_dim].
void norm_rope(const Kernels& kernels, const float* x_THd, size_t num_tokens, size_t num_heads, size_t head_dim,
               const float* weight_d, float eps, const float* cos_Td, const float* sin_Td, float* out_THd);

void rms_norm(const Kernels& kernels, const float* x_TD, size_t num_tokens, size_t num_columns, const float* weight_D,
              float eps, float* out_TD);

}  // namespace qwen3
