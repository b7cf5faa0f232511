// Where each bit of a panel lies, for scalar code: the formats' sizes, writing a row, reading a weight.
//
// A quad is 4 columns of the 16 rows, 64 values: value j is row j / 4, column j % 4. Quants are unsigned.
// - 8 bits: a unit of 64 bytes is a quad.
// - 4 bits: a unit is two quads, byte j holding value j of the first in its low nibble and of the second in its high.
// - 5 bits: 32 columns are one unit whose byte j holds, in bit i, the fifth bit of value j of quad i, and then the
//   low nibbles as in 4 bits. 6 bits likewise for 16 columns, quad i's high bits in bits 2i and 2i + 1.
// - Floats: 16 rows of a column, then of the next.
// Blocks of scales are in kFormats; the numbers in them are those of GGUF's blocks of the same name. Everything here
// is static, so that each file that includes this keeps a copy compiled for its own instruction set.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "float16.h"
#include "kernels.h"

namespace qwen3 {

// Sizes are of 16 rows and block_columns columns.
struct Format {
  const char* name;
  Encoding encoding;
  size_t block_columns, quant_bytes, scale_bytes;

  bool takes_floats() const { return scale_bytes == 0; }
};

// A block of scales has, each for 16 rows: the fp16 scale; the fp16 minimum where there are minima; and in Q4_K and
// Q5_K for each 32 columns the scale and the minimum as bytes, in Q6_K for each 16 the scale as a signed byte.
static constexpr Format kFormats[] = {
    {"int4-g32", Encoding::kInt4, 32, 256, 32},
    {"int4-g64", Encoding::kInt4, 64, 512, 32},
    {"int4-g128", Encoding::kInt4, 128, 1024, 32},
    {"int8-g32", Encoding::kInt8, 32, 512, 32},
    {"int8-g64", Encoding::kInt8, 64, 1024, 32},
    {"int8-g128", Encoding::kInt8, 128, 2048, 32},
    {"q4_1", Encoding::kQ4_1, 32, 256, 64},
    {"q5_0", Encoding::kQ5_0, 32, 320, 32},
    {"q5_1", Encoding::kQ5_1, 32, 320, 64},
    {"q4_k", Encoding::kQ4_K, 256, 2048, 64 + 8 * 32},
    {"q5_k", Encoding::kQ5_K, 256, 2560, 64 + 8 * 32},
    {"q6_k", Encoding::kQ6_K, 256, 3072, 32 + 16 * 16},
    {"fp16", Encoding::kFp16, 32, 1024, 0},
    {"bf16", Encoding::kBf16, 32, 1024, 0},
    {"fp32", Encoding::kFp32, 32, 2048, 0},
};

// Bits above the nibble, and columns that share a unit of them.
static constexpr size_t group_columns(int high_bits) { return high_bits == 2 ? 16 : 32; }
static constexpr size_t group_bytes(int high_bits) { return group_columns(high_bits) * 8 + (high_bits ? 64 : 0); }

// One row of quants, a byte each, into its places among the 16 rows of `panel`.
template <int kHighBits>
static inline void write_nibbles(const uint8_t* quants_K, size_t num_columns, size_t row, uint8_t* panel) {
  constexpr size_t kQuads = group_columns(kHighBits) / 4;
  constexpr uint32_t kHigh = kHighBits == 2 ? 0x03030303 : 0x01010101, kLow = 0x0f0f0f0f;
  uint8_t* to = panel + row * 4;
  for (size_t k = 0; k < num_columns; k += 4 * kQuads) {
    uint32_t quads[kQuads], high = 0;
    memcpy(quads, quants_K + k, sizeof quads);
    if constexpr (kHighBits > 0) {
      for (size_t i = 0; i < kQuads; ++i) high |= (quads[i] >> 4 & kHigh) << (i * kHighBits);
      memcpy(to, &high, 4);
      to += 64;
    }
    for (size_t i = 0; i < kQuads; i += 2, to += 64) {
      const uint32_t unit = (quads[i] & kLow) | (quads[i + 1] & kLow) << 4;
      memcpy(to, &unit, 4);
    }
  }
}

static inline void write_bytes(const uint8_t* quants_K, size_t num_columns, size_t row, uint8_t* panel) {
  for (size_t k = 0; k < num_columns; k += 4) memcpy(panel + k * 16 + row * 4, quants_K + k, 4);
}

// The quant of a row and a column.
template <int kHighBits>
static inline int nibbles_at(const uint8_t* panel, size_t row, size_t column) {
  const size_t in_group = column % group_columns(kHighBits), quad = in_group / 4, value = row * 4 + column % 4;
  const uint8_t* group = panel + column / group_columns(kHighBits) * group_bytes(kHighBits);
  const int nibble = group[(kHighBits ? 64 : 0) + quad / 2 * 64 + value] >> quad % 2 * 4 & 15;
  if constexpr (kHighBits == 0) return nibble;
  return nibble | (group[value] >> quad * kHighBits & ((1 << kHighBits) - 1)) << 4;
}

static inline int bytes_at(const uint8_t* panel, size_t row, size_t column) {
  return panel[column / 4 * 64 + row * 4 + column % 4];
}

static inline float fp16_at(const uint8_t* halves, size_t row) {
  uint16_t half;
  memcpy(&half, halves + 2 * row, 2);
  return float_of_fp16(half);
}

// A weight of integers is quant * scale + minimum, the last two those of its row and column.
struct Scale {
  float scale, minimum;
};

template <Encoding kEncoding>
static inline int quant_at(const Panel& panel, size_t row, size_t column) {
  switch (kEncoding) {
    case Encoding::kInt4: return nibbles_at<0>(panel.quants, row, column) - 8;
    case Encoding::kInt8: return bytes_at(panel.quants, row, column) - 128;
    case Encoding::kQ5_0: return nibbles_at<1>(panel.quants, row, column) - 16;
    case Encoding::kQ5_1:
    case Encoding::kQ5_K: return nibbles_at<1>(panel.quants, row, column);
    case Encoding::kQ6_K: return nibbles_at<2>(panel.quants, row, column) - 32;
    default: return nibbles_at<0>(panel.quants, row, column);
  }
}

static constexpr bool has_minimum(Encoding encoding) {
  return encoding == Encoding::kQ4_1 || encoding == Encoding::kQ5_1 || encoding == Encoding::kQ4_K ||
         encoding == Encoding::kQ5_K;
}

template <Encoding kEncoding>
static inline Scale scale_at(const Panel& panel, size_t row, size_t column) {
  constexpr bool kIsK = kEncoding == Encoding::kQ4_K || kEncoding == Encoding::kQ5_K;
  constexpr bool kHasMinimum = has_minimum(kEncoding);
  constexpr size_t kScaleBytes = kIsK ? 320 : kEncoding == Encoding::kQ6_K ? 288 : kHasMinimum ? 64 : 32;
  const uint8_t* block = panel.scales + column / panel.block_columns * kScaleBytes;
  const float scale = fp16_at(block, row);
  if constexpr (kIsK) {
    const uint8_t* group = block + 64 + column % 256 / 32 * 32;
    return {scale * group[row], -(fp16_at(block + 32, row) * group[16 + row])};
  } else if constexpr (kEncoding == Encoding::kQ6_K) {
    return {scale * static_cast<int8_t>(block[32 + column % 256 / 16 * 16 + row]), 0.0f};
  } else {
    return {scale, kHasMinimum ? fp16_at(block + 32, row) : 0.0f};
  }
}

template <Encoding kEncoding>
static inline float float_at(const Panel& panel, size_t row, size_t column) {
  const size_t index = column * kPanelRows + row;
  uint16_t bits;
  float value;
  if constexpr (kEncoding == Encoding::kFp32) {
    memcpy(&value, panel.quants + 4 * index, 4);
    return value;
  }
  memcpy(&bits, panel.quants + 2 * index, 2);
  return kEncoding == Encoding::kBf16 ? float_of_bf16(bits) : float_of_fp16(bits);
}

}  // namespace qwen3
