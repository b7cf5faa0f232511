#include "../neon_dotprod/dot.h"

// smmla multiplies 2 rows of 8 columns with 2 tokens of 8 columns: four sums of eight products in one instruction,
// where sdot makes four of four. One token is left to sdot, it is bound by memory.

namespace qwen3::neon_i8mm {

static constexpr int kTileTokens = 8, kMaxSums = 8;

// Tokens 2p and 2p + 1 side by side, 8 columns each: two quads of the block's stream, kTokens * 4 bytes apart. Without a
// second token its half is zero.
template <int kTokens>
static inline int8x16_t two_tokens(const int8_t* quad, int p) {
  int32_t values[4] = {};
  constexpr int kPair = 8;
  const int bytes = 2 * p + 1 < kTokens ? kPair : kPair / 2;
  memcpy(values, quad + kPair * p, bytes);
  memcpy(values + 2, quad + 4 * kTokens + kPair * p, bytes);
  const int32x4_t columns = vld1q_s32(values);
  return vreinterpretq_s8_s32(vzip1q_s32(columns, vextq_s32(columns, columns, 2)));
}

// `tile` of packed_tile.h, with the same sums: integers are exact in any order.
template <class Set, int kTokens, int kVectors>
static inline void pair_tile(const Panel& panel, const TokenBlock& block, int first_row, float* y_T16) {
  constexpr int kPairs = (kTokens + 1) / 2, kOctets = Set::kGroupColumns / 8, kRows = Set::kRowsPerVector;
  constexpr size_t kGroupsPerScale = kActivationGroup / Set::kGroupColumns;
  const uint8_t* quants = panel.quants + first_row * 4;
  const uint8_t* scales = panel.scales + first_row * 2;
  const int8_t* activations = block.quants;
  const float* token_scales = block.scales;
  const int32_t* offsets = kGroupsPerScale == 1 ? block.offsets : block.half_offsets;
  const size_t groups = panel.block_columns / Set::kGroupColumns;

  float32x4_t y[kTokens][kVectors];
  QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
    QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) y[t][v] = Set::zero();
  }
  for (size_t column = 0; column < panel.num_columns; column += panel.block_columns) {
    for (size_t group = 0; group < groups; ++group) {
      // Of rows 0, 1 and of rows 2, 3 of a vector, each with both tokens of a pair.
      int32x4_t upper[kPairs][kVectors], lower[kPairs][kVectors];
      QWEN3_UNROLL for (int p = 0; p < kPairs; ++p) {
        QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) upper[p][v] = lower[p][v] = vdupq_n_s32(0);
      }
      QWEN3_UNROLL for (int octet = 0; octet < kOctets; ++octet) {
        int8x16_t tokens[kPairs];
        QWEN3_UNROLL for (int p = 0; p < kPairs; ++p) tokens[p] = two_tokens<kTokens>(activations, p);
        activations += 8 * kTokens;
        QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
          int8x16_t quads[2];
          QWEN3_UNROLL for (int unit = 0; unit < 2 / Set::kQuads; ++unit) {
            Set::unpack(quants + v * kRows * 4, octet * 2 / Set::kQuads + unit, quads + unit);
          }
          const int32x4_t first = vreinterpretq_s32_s8(quads[0]), second = vreinterpretq_s32_s8(quads[1]);
          const int8x16_t rows_01 = vreinterpretq_s8_s32(vzip1q_s32(first, second));
          const int8x16_t rows_23 = vreinterpretq_s8_s32(vzip2q_s32(first, second));
          QWEN3_UNROLL for (int p = 0; p < kPairs; ++p) {
            upper[p][v] = vmmlaq_s32(upper[p][v], rows_01, tokens[p]);
            lower[p][v] = vmmlaq_s32(lower[p][v], rows_23, tokens[p]);
          }
        }
      }
      quants += Set::kGroupBytes;
      QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
        const int row = v * kRows;
        const auto scale = Set::scale(scales + row * 2, group, first_row + row);
        QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
          const int32x4_t up = upper[t / 2][v], low = lower[t / 2][v];
          const int32x4_t dot = t % 2 ? vuzp2q_s32(up, low) : vuzp1q_s32(up, low);
          const int32x4_t sum = vaddq_s32(dot, Set::start(offsets[t]));
          y[t][v] = Set::add(y[t][v], sum, scale, token_scales + t, offsets[t]);
        }
      }
      offsets += kTokens;
      if (kGroupsPerScale == 1 || group % 2) token_scales += kTokens;
    }
    scales += Set::kScaleBytes;
  }
  QWEN3_UNROLL for (int t = 0; t < kTokens; ++t) {
    QWEN3_UNROLL for (int v = 0; v < kVectors; ++v) {
      Set::store(y_T16 + t * kPanelRows + first_row + v * kRows, y[t][v]);
    }
  }
}

// Calls the form for block.num_tokens, which is 1..kMost.
template <class Set, int kMost>
static void in_pairs(const Panel& panel, const TokenBlock& block, float* y_T16) {
  if constexpr (kMost == 1) {
    all_rows<Set, 1>(panel, block, y_T16);
  } else if (block.num_tokens < kMost) {
    in_pairs<Set, kMost - 1>(panel, block, y_T16);
  } else {
    constexpr int kVectors = 2 * kMost <= kMaxSums ? 2 : 1;
    for (int row = 0; row < static_cast<int>(kPanelRows); row += kVectors * Set::kRowsPerVector) {
      pair_tile<Set, kMost, kVectors>(panel, block, row, y_T16);
    }
  }
}

template <template <class> class Scales, class Weights>
static constexpr MatmulPanel* form() {
  return in_pairs<Scales<Weights>, kTileTokens>;
}

// In the order of Encoding; floats have no products of integers.
extern const MatmulPanels matmul = {{
    form<Symmetric, dot::Nibbles<0>>(),
    form<Symmetric, dot::Bytes8>(),
    form<Affine, dot::Nibbles<0>>(),
    form<Symmetric, dot::Nibbles<1>>(),
    form<Affine, dot::Nibbles<1>>(),
    form<ScaledAffine, dot::Nibbles<0>>(),
    form<ScaledAffine, dot::Nibbles<1>>(),
    form<ScaledSymmetric, dot::Nibbles<2>>(),
    for_num_tokens<Fp16<dot::Neon>, kTileTokens>,
    for_num_tokens<Bf16<dot::Neon>, kTileTokens>,
    for_num_tokens<Fp32<dot::Neon>, kTileTokens>,
}};

}  // namespace qwen3::neon_i8mm
