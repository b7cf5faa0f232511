// A block type is a struct: its sizes, how one block becomes quants in the order of columns, and where its scales go.
// The layouts of the blocks are described in src/qwen3/quant/blocks.py.
#include "repack.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <stdexcept>

#include "threads.h"

namespace qwen3 {
namespace {

bool is_finite_fp16(const uint8_t* half) { return (half[1] & 0x7c) != 0x7c; }

// Two bytes into the place of a row among 16.
void put_fp16(const uint8_t* half, size_t row, uint8_t* halves_16) { memcpy(halves_16 + 2 * row, half, 2); }

// Low nibbles, then high ones.
template <int kBytes>
void unpack_nibbles(const uint8_t* bytes, uint8_t* quants) {
  for (int i = 0; i < kBytes; ++i) {
    quants[i] = bytes[i] & 15;
    quants[kBytes + i] = bytes[i] >> 4;
  }
}

// Bit i of a word of 32 becomes bit 4 of quant i.
void add_fifth_bits(const uint8_t* word, uint8_t* quants) {
  for (int i = 0; i < 32; ++i) quants[i] |= (word[i / 8] >> i % 8 & 1) << 4;
}

// The 6-bit scales and minima of Q4_K and Q5_K, for each 32 columns 16 scales and 16 minima as bytes.
void put_k_scales(const uint8_t* packed_12, size_t row, uint8_t* integers) {
  for (int i = 0; i < 8; ++i) {
    const uint8_t* low = packed_12 + i % 4;
    const bool is_first = i < 4;
    integers[i * 32 + row] = is_first ? low[0] & 63 : (low[8] & 15) | low[0] >> 6 << 4;
    integers[i * 32 + 16 + row] = is_first ? low[4] & 63 : low[8] >> 4 | low[4] >> 6 << 4;
  }
}

struct Q4_0 {
  static constexpr Encoding kEncoding = Encoding::kInt4;
  static constexpr size_t kValues = 32, kBytes = 18;
  static constexpr auto write = write_nibbles<0>;

  static void quants(const uint8_t* block, uint8_t* to) { unpack_nibbles<16>(block + 2, to); }
  static bool scales(const uint8_t* block, size_t row, uint8_t* to) {
    put_fp16(block, row, to);
    return is_finite_fp16(block);
  }
};

struct Q8_0 : Q4_0 {
  static constexpr Encoding kEncoding = Encoding::kInt8;
  static constexpr size_t kBytes = 34;
  static constexpr auto write = write_bytes;

  static void quants(const uint8_t* block, uint8_t* to) {
    for (int i = 0; i < 32; ++i) to[i] = block[2 + i] ^ 128;
  }
};

struct Q5_0 : Q4_0 {
  static constexpr Encoding kEncoding = Encoding::kQ5_0;
  static constexpr size_t kBytes = 22;
  static constexpr auto write = write_nibbles<1>;

  static void quants(const uint8_t* block, uint8_t* to) {
    unpack_nibbles<16>(block + 6, to);
    add_fifth_bits(block + 2, to);
  }
};

struct Q4_1 {
  static constexpr Encoding kEncoding = Encoding::kQ4_1;
  static constexpr size_t kValues = 32, kBytes = 20;
  static constexpr auto write = write_nibbles<0>;

  static void quants(const uint8_t* block, uint8_t* to) { unpack_nibbles<16>(block + 4, to); }
  static bool scales(const uint8_t* block, size_t row, uint8_t* to) {
    put_fp16(block, row, to);
    put_fp16(block + 2, row, to + 32);
    return is_finite_fp16(block) && is_finite_fp16(block + 2);
  }
};

struct Q5_1 : Q4_1 {
  static constexpr Encoding kEncoding = Encoding::kQ5_1;
  static constexpr size_t kBytes = 24;
  static constexpr auto write = write_nibbles<1>;

  static void quants(const uint8_t* block, uint8_t* to) {
    unpack_nibbles<16>(block + 8, to);
    add_fifth_bits(block + 4, to);
  }
};

struct Q4_K {
  static constexpr Encoding kEncoding = Encoding::kQ4_K;
  static constexpr size_t kValues = 256, kBytes = 144;
  static constexpr auto write = write_nibbles<0>;

  static void quants(const uint8_t* block, uint8_t* to) {
    for (int i = 0; i < 4; ++i) unpack_nibbles<32>(block + 16 + i * 32, to + i * 64);
  }
  static bool scales(const uint8_t* block, size_t row, uint8_t* to) {
    put_k_scales(block + 4, row, to + 64);
    return Q4_1::scales(block, row, to);
  }
};

struct Q5_K : Q4_K {
  static constexpr Encoding kEncoding = Encoding::kQ5_K;
  static constexpr size_t kBytes = 176;
  static constexpr auto write = write_nibbles<1>;

  static void quants(const uint8_t* block, uint8_t* to) {
    for (int i = 0; i < 4; ++i) unpack_nibbles<32>(block + 48 + i * 32, to + i * 64);
    for (int i = 0; i < 8; ++i) {
      for (int j = 0; j < 32; ++j) to[i * 32 + j] |= (block[16 + j] >> i & 1) << 4;
    }
  }
};

struct Q6_K {
  static constexpr Encoding kEncoding = Encoding::kQ6_K;
  static constexpr size_t kValues = 256, kBytes = 210;
  static constexpr auto write = write_nibbles<2>;

  static void quants(const uint8_t* block, uint8_t* to) {
    for (int half = 0; half < 2; ++half, to += 128) {
      unpack_nibbles<64>(block + half * 64, to);
      const uint8_t* high = block + 128 + half * 32;
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 32; ++j) to[i * 32 + j] |= (high[j] >> 2 * i & 3) << 4;
      }
    }
  }
  static bool scales(const uint8_t* block, size_t row, uint8_t* to) {
    for (size_t i = 0; i < 16; ++i) to[32 + i * 16 + row] = block[192 + i];
    put_fp16(block + 208, row, to);
    return is_finite_fp16(block + 208);
  }
};

template <class Type>
bool repack_blocks(const uint8_t* rows, size_t num_rows, const PackedMatrix& to, size_t index) {
  const size_t blocks = to.num_columns / Type::kValues;
  const size_t quant_bytes = to.panel_quants() / blocks, scale_bytes = to.panel_scales() / blocks;
  uint8_t* quants = to.quants + index * to.panel_quants();
  uint8_t* scales = to.scales + index * to.panel_scales();
  bool is_good = true;
  for (size_t b = 0; b < blocks; ++b) {
    for (size_t row = 0; row < num_rows; ++row) {
      const uint8_t* block = rows + (row * blocks + b) * Type::kBytes;
      uint8_t values[Type::kValues];
      Type::quants(block, values);
      Type::write(values, Type::kValues, row, quants);
      is_good &= Type::scales(block, row, scales);
    }
    quants += quant_bytes;
    scales += scale_bytes;
  }
  return is_good;
}

// Floats: a transposition. The bits of kExponent are all set in an infinity or a NaN.
template <class Bits, Bits kExponent>
bool repack_floats(const uint8_t* rows, size_t num_rows, const PackedMatrix& to, size_t index) {
  uint8_t* panel = to.quants + index * to.panel_quants();
  bool is_good = true;
  for (size_t row = 0; row < num_rows; ++row) {
    uint8_t* out = panel + row * sizeof(Bits);
    for (size_t k = 0; k < to.num_columns; ++k, rows += sizeof(Bits), out += kPanelRows * sizeof(Bits)) {
      Bits bits;
      memcpy(&bits, rows, sizeof bits);
      memcpy(out, &bits, sizeof bits);
      is_good &= (bits & kExponent) != kExponent;
    }
  }
  return is_good;
}

struct BlockType {
  const char* name;
  Encoding encoding;
  size_t num_values, num_bytes;
  bool (*repack)(const uint8_t* rows, size_t num_rows, const PackedMatrix& to, size_t index);
};

template <class Type>
constexpr BlockType blocks(const char* name) {
  return {name, Type::kEncoding, Type::kValues, Type::kBytes, repack_blocks<Type>};
}

constexpr BlockType kBlockTypes[] = {
    blocks<Q4_0>("Q4_0"),
    blocks<Q4_1>("Q4_1"),
    blocks<Q5_0>("Q5_0"),
    blocks<Q5_1>("Q5_1"),
    blocks<Q8_0>("Q8_0"),
    blocks<Q4_K>("Q4_K"),
    blocks<Q5_K>("Q5_K"),
    blocks<Q6_K>("Q6_K"),
    {"F16", Encoding::kFp16, 1, 2, repack_floats<uint16_t, 0x7c00>},
    {"BF16", Encoding::kBf16, 1, 2, repack_floats<uint16_t, 0x7f80>},
    {"F32", Encoding::kFp32, 1, 4, repack_floats<uint32_t, 0x7f800000>},
};

}  // namespace

bool repack(const std::string& block_type, const uint8_t* blocks_NB, const PackedMatrix& to, size_t first_panel,
            size_t num_panels) {
  const auto type = std::find_if(std::begin(kBlockTypes), std::end(kBlockTypes),
                                 [&](const BlockType& each) { return each.name == block_type; });
  // Groups of 64 or 128 columns have the encoding of Q4_0, but not its scales.
  if (type == std::end(kBlockTypes) || type->encoding != to.format->encoding ||
      to.format->block_columns != std::max(type->num_values, kActivationGroup)) {
    throw std::invalid_argument("blocks of " + block_type + " do not fit panels of " + to.format->name);
  }
  const size_t row_bytes = to.num_columns / type->num_values * type->num_bytes;
  std::atomic<bool> is_good{true};
  parallel_for(num_panels, [&](size_t i) {
    const size_t index = first_panel + i, num_rows = std::min(kPanelRows, to.num_rows - index * kPanelRows);
    if (num_rows < kPanelRows) {
      memset(to.quants + index * to.panel_quants(), 0, to.panel_quants());
      memset(to.scales + index * to.panel_scales(), 0, to.panel_scales());
    }
    if (!type->repack(blocks_NB + i * kPanelRows * row_bytes, num_rows, to, index)) is_good = false;
  });
  return is_good;
}

}  // namespace qwen3
