// Products of packed weights and quantized activations, over all threads. docs/kernels.md draws the layouts.
//
// Everything lies in memory of the caller, who has checked shapes and life times; sizes are below. K, the number of
// columns, is a multiple of the format's block_columns; N, the number of rows, is any.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "panel_layout.h"

namespace qwen3 {

inline size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

// Weights [N, K]: panels of 16 rows one after the other, the last one filled up with zeros.
struct PackedMatrix {
  uint8_t* quants;  // num_panels * panel_quants() bytes
  uint8_t* scales;  // num_panels * panel_scales() bytes
  size_t num_rows, num_columns;
  const Format* format;

  size_t num_panels() const { return ceil_div(num_rows, kPanelRows); }
  size_t num_blocks() const { return num_columns / format->block_columns; }
  size_t panel_quants() const { return num_blocks() * format->quant_bytes; }
  size_t panel_scales() const { return num_blocks() * format->scale_bytes; }
  Panel panel(size_t index) const {
    return {quants + index * panel_quants(), scales + index * panel_scales(), num_columns, format->block_columns};
  }
};

// Activations [M, K]: blocks of at most tile_tokens tokens of nearly equal size, each as TokenBlock says. The quantized
// form or the values may be null; a matrix needs one of them, as its format says.
struct Activations {
  int8_t* quants;         // M * K bytes
  float* scales;          // M * K / 32
  int32_t* offsets;       // M * K / 32
  int32_t* half_offsets;  // M * K / 16
  float* values;          // M * K
  size_t num_tokens, num_columns, tile_tokens;

  size_t num_blocks() const { return ceil_div(num_tokens, tile_tokens); }
  size_t first_token(size_t block) const { return block * num_tokens / num_blocks(); }
  TokenBlock block(size_t index) const {
    const size_t first = first_token(index), count = first_token(index + 1) - first;
    const size_t groups = num_columns / kActivationGroup;
    TokenBlock block{nullptr, nullptr, nullptr, nullptr, nullptr, count};
    if (quants) {
      block.quants = quants + first * num_columns;
      block.scales = scales + first * groups;
      block.offsets = offsets + first * groups;
      block.half_offsets = half_offsets + first * groups * 2;
    }
    if (values) block.values = values + first * num_columns;
    return block;
  }
};

// Which forms a buffer of activations holds, as bits.
constexpr int kQuantizedForm = 1, kValuesForm = 2;

// The form that a matrix is multiplied with.
inline int form_of(const PackedMatrix& matrix) { return matrix.format->takes_floats() ? kValuesForm : kQuantizedForm; }

size_t activation_bytes(size_t num_tokens, size_t num_columns, int forms);

// Activations that lie in a buffer of activation_bytes.
Activations activations_at(const Kernels& kernels, void* buffer, size_t num_tokens, size_t num_columns, int forms);

// The kernel that multiplies this matrix.
inline MatmulPanel* matmul_of(const Kernels& kernels, const PackedMatrix& matrix) {
  return kernels.matmul->forms[static_cast<int>(matrix.format->encoding)];
}

enum class Precision : int { kFloat32, kBfloat16 };

// Fills a panel with zeros, for rows beyond the last: they weigh nothing.
void clear_panel(const PackedMatrix& matrix, size_t index);

// Quantizes to 4 or 8 bits. False if a weight is not finite or too large for an fp16 scale; the result is then of no
// use.
bool pack(const Kernels& kernels, const void* weight_NK, WeightRows::Type type, const PackedMatrix& to);
bool pack_q6_k(const void* weight_NK, WeightRows::Type type, const PackedMatrix& to);

// Weights of 4 or 8 bits that are quantized already: quants_NK one byte each, and fp16 scales_NG. Loses nothing.
void pack_quantized(const uint8_t* quants_NK, const uint16_t* scales_NG, const PackedMatrix& to);

// The weights that `rows` name, as their format defines them, in float32: out_RK.
void unpack_rows(const PackedMatrix& matrix, const int64_t* rows, size_t num_rows, float* out_RK);

// Writes what `source` says of num_columns columns into those of token t of a block, from first_column on, in the forms
// that the block has. Both are multiples of kActivationGroup.
void quantize_columns(const Kernels& kernels, const TokenSource& source, size_t num_columns, const TokenBlock& to,
                      size_t first_column, size_t t);

// All of the activations likewise. `first` describes token 0; x and up advance by K values a token.
void quantize(const Kernels& kernels, const TokenSource& first, const Activations& to);

// A matrix, and where the activations [M, K] times its transpose go; residual_MN is added if it is not null.
struct Product {
  const PackedMatrix* matrix;
  const void* residual_MN;
  void* y_MN;
};

// All products of the same activations, as one job: threads wait for each other once.
void matmul(const Kernels& kernels, const Product* products, size_t num_products, const Activations& activations,
            Precision precision);

// hidden = silu(input times gate's transpose) * (input times up's), in the forms that hidden has. What the two products
// give goes through the caches only. The second form makes columns [32 * begin, 32 * end) by the calling thread.
void gate_and_up(const Kernels& kernels, const PackedMatrix& gate, const PackedMatrix& up, const Activations& input,
                 const Activations& hidden);
void gate_and_up(const Kernels& kernels, const PackedMatrix& gate, const PackedMatrix& up, const Activations& input,
                 size_t begin, size_t end, const Activations& hidden);

// Asks for huge pages in a region; nothing happens where the system has none to give.
void advise_huge_pages(void* address, size_t num_bytes);

// Reads a region once with all threads, as fast as memory gives it; returns the exclusive or of its words.
uint64_t read_all(const void* address, size_t num_bytes);

}  // namespace qwen3
