// The loop that every SIMD form of matmul_int4 and matmul_int8 shares; `Set` supplies the instructions.
//
// A Set has
//   kRowsPerVector, kMaxSums (of several vectors side by side that fit the registers), kQuads (4-column quads in a unit of 64 bytes);
//   Sum, Weights, Floats: vectors with a lane for each of kRowsPerVector rows;
//   unpack(unit, weights): kQuads vectors of weights from kRowsPerVector * 4 bytes;
//   start(offset), dot(sum, weights, four activations), finish(sum, offset) -> float(dot of the group, exact);
//   scales(fp16), broadcast(float), multiply, fma, zero, store, prefetch;
//   pin(sum), which may keep the compiler from moving the sum's instructions: left to itself it starts many sums ahead
//   and runs out of registers. Read the disassembly after any change.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

namespace qwen3 {

// kTokens tokens times kVectors * kRowsPerVector rows of the panel, from row `first_row` on.
template <class Set, int kTokens, int kVectors>
static inline void tile(const Panel& panel, const TokenBlock& block, int first_row, float* y_T16) {
  constexpr int kUnits = kActivationGroup / 4 / Set::kQuads;
  const uint8_t* unit = panel.quants + first_row * 4;
  const uint16_t* scales = panel.scales + first_row;
  const int8_t* activations = block.quants;
  const float* token_scales = block.scales;
  const int32_t* offsets = block.offsets;

  typename Set::Floats y[kTokens][kVectors];
  QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
    QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) y[t][v] = Set::zero();
  }
  for (size_t column = 0; column < panel.num_columns; column += panel.scale_columns) {
    typename Set::Floats scale[kVectors];
    QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) scale[v] = Set::scales(scales + v * Set::kRowsPerVector);
    scales += kPanelRows;

    for (size_t group = 0; group < panel.scale_columns; group += kActivationGroup) {
      typename Set::Sum sum[kTokens][kVectors];
      QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
        QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) sum[t][v] = Set::start(offsets[t]);
      }
      QWEN3_UNROLL for (int u = 0; u < kUnits; ++u) {
        Set::prefetch(unit);
        typename Set::Weights weights[kVectors][Set::kQuads];
        QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
          Set::unpack(unit + v * Set::kRowsPerVector * 4, weights[v]);
        }
        unit += kPanelRows * 4;
        QWEN3_UNROLL for (int q = 0; q < Set::kQuads; ++q) {
          QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
            QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
              sum[t][v] = Set::dot(sum[t][v], weights[v][q], activations + 4 * t);
              Set::pin(sum[t][v]);
            }
          }
          activations += 4 * kTokens;
        }
      }
      QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
        QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
          const auto product = Set::multiply(scale[v], Set::broadcast(token_scales + t));
          y[t][v] = Set::fma(Set::finish(sum[t][v], offsets[t]), product, y[t][v]);
        }
      }
      token_scales += kTokens;
      offsets += kTokens;
    }
  }
  QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
    QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
      Set::store(y_T16 + t * kPanelRows + first_row + v * Set::kRowsPerVector, y[t][v]);
    }
  }
}

template <class Set, int kTokens>
static void all_rows(const Panel& panel, const TokenBlock& block, float* y_T16) {
  constexpr int kAll = static_cast<int>(kPanelRows) / Set::kRowsPerVector;
  constexpr int kVectors = kAll * kTokens <= Set::kMaxSums ? kAll : 2 * kTokens <= Set::kMaxSums ? 2 : 1;
  for (int row = 0; row < static_cast<int>(kPanelRows); row += kVectors * Set::kRowsPerVector) {
    tile<Set, kTokens, kVectors>(panel, block, row, y_T16);
  }
}

// Calls the form for block.num_tokens, which is 1..kMost.
template <class Set, int kMost>
static inline void for_num_tokens(const Panel& panel, const TokenBlock& block, float* y_T16) {
  if constexpr (kMost > 1) {
    if (block.num_tokens < kMost) return for_num_tokens<Set, kMost - 1>(panel, block, y_T16);
  }
  all_rows<Set, kMost>(panel, block, y_T16);
}

}  // namespace qwen3
