// The loops that all SIMD forms of the packed products share; an instruction set supplies the instructions.
//
// A struct V of primitives has
//   kRowsPerVector, kMaxSums (of several vectors side by side that fit the registers);
//   Floats: a vector with a lane for each of kRowsPerVector rows, with zero, constant, broadcast(float), integer(int32),
//   plus, multiply, fma, store;
//   fp16, bf16, fp32, bytes (unsigned), signed_bytes: Floats from the kRowsPerVector values of that kind at an address;
//   Bytes: a vector of kRowsPerVector * 4 bytes, with load, low_nibbles, high_nibbles, and with_high_bits(nibbles,
//   bits, from, mask): the bits of `mask`, which in `bits` begin at bit `from`, added from bit 4 on;
//   prefetch(address), and kBytesAhead, how far ahead of the weights it is called.
// From it derives, for the integers, one that adds
//   Sum, Weights; start(offset, shift), dot(sum, weights, four activations), finish(sum, offset, shift) -> float(the
//   exact sum), where either start or finish adds offset * 2^shift; or in place of dot, dot_two(sum, two weights, four
//   activations of the first, of the second), named so to NibbleGroups;
//   pin(sum), which may keep the compiler from moving the sum's instructions: left to itself it starts many sums ahead
//   and runs out of registers. Read the disassembly after any change.
// NibbleGroups and ByteGroups below complete it; for the latter the instruction set says `unpack`, one vector of
// weights from a unit, and the shift of the offset.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

namespace qwen3 {

// ---- Weights: groups of units ------------------------------------------------------------------------------------

// 4 to 6 bits; the high ones lie in the group's first unit. kAtOnce is the number of quads that V's dot takes.
template <class V, int kHighBits, int kAtOnce = 1>
struct NibbleGroups : V {
  static constexpr int kQuads = 2, kQuadsAtOnce = kAtOnce, kGroupColumns = kHighBits == 2 ? 16 : 32, kShift = kHighBits;
  static constexpr int kGroupBytes = kGroupColumns * 8 + (kHighBits ? 64 : 0);

  static void unpack(const uint8_t* group, int unit, typename V::Bytes* weights) {
    const auto bytes = V::load(group + 64 * (unit + (kHighBits > 0)));
    weights[0] = V::low_nibbles(bytes);
    weights[1] = V::high_nibbles(bytes);
    if constexpr (kHighBits > 0) {
      constexpr int kMask = (1 << kHighBits) - 1;
      const auto high = V::load(group);
      weights[0] = V::with_high_bits(weights[0], high, 2 * unit * kHighBits, kMask);
      weights[1] = V::with_high_bits(weights[1], high, (2 * unit + 1) * kHighBits, kMask);
    }
  }
};

template <class V>
struct ByteGroups : V {
  static constexpr int kQuads = 1, kQuadsAtOnce = 1, kGroupColumns = 32, kGroupBytes = 512;
};

// ---- Scales: what a group's integer sum is multiplied by. `at` points to the first row's in the block ----------

template <class W>
struct Symmetric : W {
  static constexpr bool kTakesFloats = false;
  static constexpr size_t kScaleBytes = 32;
  using Scale = typename W::Floats;

  static Scale scale(const uint8_t* at, size_t, size_t) { return W::fp16(at); }
  static typename W::Sum start(int32_t offset) { return W::start(offset, W::kShift); }
  static typename W::Floats add(typename W::Floats y, typename W::Sum sum, const Scale& scale, const float* token_scale,
                                int32_t offset) {
    return W::fma(W::finish(sum, offset, W::kShift), W::multiply(scale, W::broadcast(token_scale)), y);
  }
};

// Q6_K: each group's integer times the block's scale, a product of 19 bits at most.
template <class W>
struct ScaledSymmetric : Symmetric<W> {
  static constexpr size_t kScaleBytes = 288;

  static typename W::Floats scale(const uint8_t* at, size_t group, size_t row) {
    return W::multiply(W::fp16(at), W::signed_bytes(at - row + 32 + group * 16));
  }
};

template <class W>
struct Affine : W {
  static constexpr bool kTakesFloats = false;
  static constexpr size_t kScaleBytes = 64;
  struct Scale {
    typename W::Floats scale, minimum;  // the minimum times -1/8, because offsets are times -8
  };

  static Scale scale(const uint8_t* at, size_t, size_t) {
    return {W::fp16(at), W::multiply(W::fp16(at + 32), W::constant(-0.125f))};
  }
  static typename W::Sum start(int32_t) { return W::start(0, 0); }
  static typename W::Floats add(typename W::Floats y, typename W::Sum sum, const Scale& scale, const float* token_scale,
                                int32_t offset) {
    const auto minimum = W::multiply(W::integer(offset), scale.minimum);
    return W::fma(W::fma(W::finish(sum, 0, 0), scale.scale, minimum), W::broadcast(token_scale), y);
  }
};

// Q4_K and Q5_K: each group's integers times the block's scale and minimum; the minimum is subtracted.
template <class W>
struct ScaledAffine : Affine<W> {
  static constexpr size_t kScaleBytes = 320;

  static typename Affine<W>::Scale scale(const uint8_t* at, size_t group, size_t row) {
    const uint8_t* integers = at - row + 64 + group * 32;
    const auto minimum = W::multiply(W::fp16(at + 32), W::bytes(integers + 16));
    return {W::multiply(W::fp16(at), W::bytes(integers)), W::multiply(minimum, W::constant(0.125f))};
  }
};

// ---- Loops ---------------------------------------------------------------------------------------------------------

// kTokens tokens times kVectors * kRowsPerVector rows of the panel, from row `first_row` on.
template <class Set, int kTokens, int kVectors>
static inline void tile(const Panel& panel, const TokenBlock& block, int first_row, float* y_T16) {
  constexpr int kUnits = Set::kGroupColumns / 4 / Set::kQuads;
  constexpr size_t kGroupsPerScale = kActivationGroup / Set::kGroupColumns;
  const uint8_t* quants = panel.quants + first_row * 4;
  const uint8_t* scales = panel.scales + first_row * 2;
  const int8_t* activations = block.quants;
  const float* token_scales = block.scales;
  const int32_t* offsets = kGroupsPerScale == 1 ? block.offsets : block.half_offsets;
  const size_t groups = panel.block_columns / Set::kGroupColumns;
  const size_t scale_bytes_ahead = Set::kBytesAhead * Set::kScaleBytes / (groups * Set::kGroupBytes);

  typename Set::Floats y[kTokens][kVectors];
  QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
    QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) y[t][v] = Set::zero();
  }
  for (size_t column = 0; column < panel.num_columns; column += panel.block_columns) {
    QWEN3_UNROLL for (size_t i = 0; i < Set::kScaleBytes; i += 64) Set::prefetch(scales + scale_bytes_ahead + i);
    for (size_t group = 0; group < groups; ++group) {
      typename Set::Scale scale[kVectors];
      QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
        const int row = v * Set::kRowsPerVector;
        scale[v] = Set::scale(scales + row * 2, group, first_row + row);
      }
      typename Set::Sum sum[kTokens][kVectors];
      QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
        QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) sum[t][v] = Set::start(offsets[t]);
      }
      if constexpr (Set::kGroupBytes > 64 * kUnits) Set::prefetch(quants + Set::kBytesAhead + 64 * kUnits);
      QWEN3_UNROLL for (int u = 0; u < kUnits; ++u) {
        Set::prefetch(quants + Set::kBytesAhead + 64 * u);
        typename Set::Weights weights[kVectors][Set::kQuads];
        QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
          Set::unpack(quants + v * Set::kRowsPerVector * 4, u, weights[v]);
        }
        QWEN3_UNROLL for (int q = 0; q < Set::kQuads; q += Set::kQuadsAtOnce) {
          QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
            QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
              if constexpr (Set::kQuadsAtOnce == 1) {
                sum[t][v] = Set::dot(sum[t][v], weights[v][q], activations + 4 * t);
              } else {
                sum[t][v] = Set::dot_two(sum[t][v], weights[v], activations + 4 * t, activations + 4 * (kTokens + t));
              }
              Set::pin(sum[t][v]);
            }
          }
          activations += 4 * kTokens * Set::kQuadsAtOnce;
        }
      }
      quants += Set::kGroupBytes;
      QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
        QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
          y[t][v] = Set::add(y[t][v], sum[t][v], scale[v], token_scales + t, offsets[t]);
        }
      }
      offsets += kTokens;
      if (kGroupsPerScale == 1 || group % 2) token_scales += kTokens;
    }
    scales += Set::kScaleBytes;
  }
  QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
    QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
      Set::store(y_T16 + t * kPanelRows + first_row + v * Set::kRowsPerVector, y[t][v]);
    }
  }
}

// The same for weights that are floats: even columns make one sum, odd ones another.
template <class Set, int kTokens, int kVectors>
static inline void float_tile(const Panel& panel, const TokenBlock& block, int first_row, float* y_T16) {
  constexpr size_t kColumnBytes = kPanelRows * Set::kBytes;
  const uint8_t* weights = panel.quants + first_row * Set::kBytes;
  const float* values = block.values;

  typename Set::Floats y[2][kTokens][kVectors];
  QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
    QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) y[0][t][v] = y[1][t][v] = Set::zero();
  }
  for (size_t column = 0; column < panel.num_columns; column += 2) {
    Set::prefetch(weights + Set::kBytesAhead);
    QWEN3_UNROLL for (int odd = 0; odd < 2; ++odd) {
      typename Set::Floats weight[kVectors];
      QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
        weight[v] = Set::read(weights + v * Set::kRowsPerVector * Set::kBytes);
      }
      weights += kColumnBytes;
      QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
        QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
          y[odd][t][v] = Set::fma(weight[v], Set::broadcast(values + t), y[odd][t][v]);
        }
      }
      values += kTokens;
    }
  }
  QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
    QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
      const auto sum = Set::plus(y[0][t][v], y[1][t][v]);
      Set::store(y_T16 + t * kPanelRows + first_row + v * Set::kRowsPerVector, sum);
    }
  }
}

template <class V>
struct Fp16 : V {
  static constexpr bool kTakesFloats = true;
  static constexpr size_t kBytes = 2;
  static typename V::Floats read(const uint8_t* at) { return V::fp16(at); }
};

template <class V>
struct Bf16 : V {
  static constexpr bool kTakesFloats = true;
  static constexpr size_t kBytes = 2;
  static typename V::Floats read(const uint8_t* at) { return V::bf16(at); }
};

template <class V>
struct Fp32 : V {
  static constexpr bool kTakesFloats = true;
  static constexpr size_t kBytes = 4;
  static typename V::Floats read(const uint8_t* at) { return V::fp32(at); }
};

template <class Set, int kTokens>
static void all_rows(const Panel& panel, const TokenBlock& block, float* y_T16) {
  constexpr int kAll = static_cast<int>(kPanelRows) / Set::kRowsPerVector;
  constexpr int kVectors = kAll * kTokens <= Set::kMaxSums ? kAll : 2 * kTokens <= Set::kMaxSums ? 2 : 1;
  for (int row = 0; row < static_cast<int>(kPanelRows); row += kVectors * Set::kRowsPerVector) {
    if constexpr (Set::kTakesFloats) {
      float_tile<Set, kTokens, kVectors>(panel, block, row, y_T16);
    } else {
      tile<Set, kTokens, kVectors>(panel, block, row, y_T16);
    }
  }
}

// Calls the form for block.num_tokens, which is 1..kMost.
template <class Set, int kMost>
static void for_num_tokens(const Panel& panel, const TokenBlock& block, float* y_T16) {
  if constexpr (kMost > 1) {
    if (block.num_tokens < kMost) return for_num_tokens<Set, kMost - 1>(panel, block, y_T16);
  }
  all_rows<Set, kMost>(panel, block, y_T16);
}

// An instruction set's forms, in the order of Encoding.
template <class V, template <int> class Nibbles, class Bytes8, int kTileTokens>
constexpr MatmulPanels matmul_panels() {
  return {{
      for_num_tokens<Symmetric<Nibbles<0>>, kTileTokens>,
      for_num_tokens<Symmetric<Bytes8>, kTileTokens>,
      for_num_tokens<Affine<Nibbles<0>>, kTileTokens>,
      for_num_tokens<Symmetric<Nibbles<1>>, kTileTokens>,
      for_num_tokens<Affine<Nibbles<1>>, kTileTokens>,
      for_num_tokens<ScaledAffine<Nibbles<0>>, kTileTokens>,
      for_num_tokens<ScaledAffine<Nibbles<1>>, kTileTokens>,
      for_num_tokens<ScaledSymmetric<Nibbles<2>>, kTileTokens>,
      for_num_tokens<Fp16<V>, kTileTokens>,
      for_num_tokens<Bf16<V>, kTileTokens>,
      for_num_tokens<Fp32<V>, kTileTokens>,
  }};
}

}  // namespace qwen3
