#include "packed.h"

#include <string.h>

#include <algorithm>
#include <atomic>
#include <type_traits>

#include "threads.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace qwen3 {
namespace {

// Panels of a matrix in one piece of work, of at most `fair` if they are not tiny. With many tokens the piece should stay
// in a core's cache while their blocks pass, and be large, because all activations are read for each piece. Else it
// should be long, because memory is read fastest so. But waking another thread takes longer than a few thousand bytes.
size_t panels_in_piece(const PackedMatrix& matrix, const Activations& activations, size_t fair) {
  const size_t most = (activations.num_blocks() > 1 ? 256 : 512) * 1024 / matrix.panel_quants();
  const size_t least = ceil_div(32 * 1024, matrix.panel_quants() * std::max<size_t>(1, activations.num_tokens));
  return std::max(least, std::min(most, fair));
}

int bits_of(const PackedMatrix& matrix) { return matrix.format->encoding == Encoding::kInt4 ? 4 : 8; }

template <Encoding kEncoding>
void quantized_row(const Panel& panel, size_t row, float* out_K) {
  for (size_t k = 0; k < panel.num_columns; ++k) {
    const Scale scale = scale_at<kEncoding>(panel, row, k);
    const float value = static_cast<float>(quant_at<kEncoding>(panel, row, k)) * scale.scale;
    out_K[k] = has_minimum(kEncoding) ? value + scale.minimum : value;
  }
}

template <Encoding kEncoding>
void float_row(const Panel& panel, size_t row, float* out_K) {
  for (size_t k = 0; k < panel.num_columns; ++k) out_K[k] = float_at<kEncoding>(panel, row, k);
}

// In the order of Encoding.
constexpr void (*kUnpackRow[kNumEncodings])(const Panel&, size_t, float*) = {
    quantized_row<Encoding::kInt4>, quantized_row<Encoding::kInt8>, quantized_row<Encoding::kQ4_1>,
    quantized_row<Encoding::kQ5_0>, quantized_row<Encoding::kQ5_1>, quantized_row<Encoding::kQ4_K>,
    quantized_row<Encoding::kQ5_K>, quantized_row<Encoding::kQ6_K>, float_row<Encoding::kFp16>,
    float_row<Encoding::kBf16>,     float_row<Encoding::kFp32>,
};

size_t bytes_of(Precision precision) { return precision == Precision::kFloat32 ? 4 : 2; }

// One token's results from a panel to where they belong. `count` is a constant, except for a last panel that reaches
// past the rows: as a variable it makes memcpy a call, which takes 1 to 2% of a prompt's product.
template <class Count>
void store(const float* y_16, Count count, const char* residual, char* y, Precision precision) {
  if (precision == Precision::kFloat32) {
    float sums[kPanelRows] = {};
    if (residual) memcpy(sums, residual, count * sizeof(float));
    for (size_t i = 0; i < kPanelRows; ++i) sums[i] = residual ? sums[i] + y_16[i] : y_16[i];
    memcpy(y, sums, count * sizeof(float));
  } else {
    const uint16_t* from = reinterpret_cast<const uint16_t*>(residual);
    uint16_t* to = reinterpret_cast<uint16_t*>(y);
    for (size_t i = 0; i < count; ++i) to[i] = bf16_of_float(from ? float_of_bf16(from[i]) + y_16[i] : y_16[i]);
  }
}

}  // namespace

// The quantized form is quants, then scales, offsets, half_offsets; the values follow it.
static size_t quantized_bytes(size_t num_values, int forms) {
  return forms & kQuantizedForm ? num_values + num_values / kActivationGroup * 16 : 0;
}

size_t activation_bytes(size_t num_tokens, size_t num_columns, int forms) {
  const size_t num_values = num_tokens * num_columns;
  return quantized_bytes(num_values, forms) + (forms & kValuesForm ? num_values * sizeof(float) : 0);
}

Activations activations_at(const Kernels& kernels, void* buffer, size_t num_tokens, size_t num_columns, int forms) {
  const size_t num_values = num_tokens * num_columns, num_groups = num_values / kActivationGroup;
  Activations at{nullptr, nullptr, nullptr, nullptr, nullptr, num_tokens, num_columns, kernels.tile_tokens};
  char* start = static_cast<char*>(buffer);
  if (forms & kQuantizedForm) {
    at.quants = reinterpret_cast<int8_t*>(start);
    at.scales = reinterpret_cast<float*>(start + num_values);
    at.offsets = reinterpret_cast<int32_t*>(at.scales + num_groups);
    at.half_offsets = at.offsets + num_groups;
  }
  if (forms & kValuesForm) at.values = reinterpret_cast<float*>(start + quantized_bytes(num_values, forms));
  return at;
}

void clear_panel(const PackedMatrix& matrix, size_t index) {
  std::fill_n(matrix.quants + index * matrix.panel_quants(), matrix.panel_quants(), uint8_t{0});
  std::fill_n(matrix.scales + index * matrix.panel_scales(), matrix.panel_scales(), uint8_t{0});
}

bool pack(const Kernels& kernels, const void* weight_NK, WeightRows::Type type, const PackedMatrix& to) {
  if (to.format->encoding == Encoding::kQ6_K) return pack_q6_k(weight_NK, type, to);
  const size_t panel_bytes = kPanelRows * to.num_columns * (type == WeightRows::kFloat32 ? 4 : 2);
  std::atomic<bool> is_good{true};
  parallel_for(to.num_panels(), [&](size_t index) {
    const size_t num_rows = std::min(kPanelRows, to.num_rows - index * kPanelRows);
    const WeightRows rows{type, static_cast<const char*>(weight_NK) + index * panel_bytes, num_rows};
    if (!kernels.pack_panel(rows, to.num_columns, bits_of(to), to.format->block_columns,
                            to.quants + index * to.panel_quants(),
                            reinterpret_cast<uint16_t*>(to.scales + index * to.panel_scales()))) {
      is_good = false;
    }
  });
  return is_good;
}

void pack_quantized(const uint8_t* quants_NK, const uint16_t* scales_NG, const PackedMatrix& to) {
  const size_t K = to.num_columns, G = to.num_blocks();
  const auto write = bits_of(to) == 4 ? write_nibbles<0> : write_bytes;
  parallel_for(to.num_panels(), [&](size_t index) {
    uint8_t* quants = to.quants + index * to.panel_quants();
    uint8_t* scales = to.scales + index * to.panel_scales();
    // Rows beyond the last weigh nothing: their scales are zero.
    const size_t first = index * kPanelRows, num_rows = std::min(kPanelRows, to.num_rows - first);
    if (num_rows < kPanelRows) clear_panel(to, index);
    for (size_t row = 0; row < num_rows; ++row) {
      write(quants_NK + (first + row) * K, K, row, quants);
      for (size_t g = 0; g < G; ++g) memcpy(scales + (g * kPanelRows + row) * 2, scales_NG + (first + row) * G + g, 2);
    }
  });
}

void unpack_rows(const PackedMatrix& matrix, const int64_t* rows, size_t num_rows, float* out_RK) {
  const auto unpack = kUnpackRow[static_cast<int>(matrix.format->encoding)];
  parallel_for(num_rows, [&](size_t i) {
    const size_t row = static_cast<size_t>(rows[i]);
    unpack(matrix.panel(row / kPanelRows), row % kPanelRows, out_RK + i * matrix.num_columns);
  });
}

void quantize_columns(const Kernels& kernels, const TokenSource& source, size_t num_columns, const TokenBlock& to,
                      size_t first_column, size_t t) {
  const size_t T = to.num_tokens, group = first_column / kActivationGroup;
  // The block is ours to fill: only a TokenBlock that is read is constant.
  if (to.quants) {
    kernels.quantize_token(source, num_columns, T, const_cast<int8_t*>(to.quants) + first_column * T + 4 * t,
                           const_cast<float*>(to.scales) + group * T + t,
                           const_cast<int32_t*>(to.offsets) + group * T + t,
                           const_cast<int32_t*>(to.half_offsets) + 2 * group * T + t);
  }
  if (to.values) kernels.float_token(source, num_columns, T, const_cast<float*>(to.values) + first_column * T + t);
}

void quantize(const Kernels& kernels, const TokenSource& first, const Activations& to) {
  const size_t token_bytes = to.num_columns * (first.is_bf16 ? 2 : 4);
  parallel_for(to.num_blocks(), [&](size_t index) {
    const TokenBlock block = to.block(index);
    for (size_t t = 0; t < block.num_tokens; ++t) {
      TokenSource source = first;
      const size_t skip = (to.first_token(index) + t) * token_bytes;
      source.x = static_cast<const char*>(first.x) + skip;
      if (first.up) source.up = static_cast<const char*>(first.up) + skip;
      quantize_columns(kernels, source, to.num_columns, block, 0, t);
    }
  });
}

void matmul(const Kernels& kernels, const Product* products, size_t num_products, const Activations& activations,
            Precision precision) {
  size_t num_panels = 0, num_pieces = 0;
  for (size_t i = 0; i < num_products; ++i) num_panels += products[i].matrix->num_panels();
  const size_t fair = fair_share(num_panels);
  for (size_t i = 0; i < num_products; ++i) {
    const PackedMatrix& matrix = *products[i].matrix;
    num_pieces += ceil_div(matrix.num_panels(), panels_in_piece(matrix, activations, fair));
  }
  const size_t panel_bytes = kPanelRows * bytes_of(precision);
  parallel_for(num_pieces, [&](size_t piece) {
    const Product* product = products;
    size_t panels;
    for (;; ++product) {
      panels = panels_in_piece(*product->matrix, activations, fair);
      const size_t count = ceil_div(product->matrix->num_panels(), panels);
      if (piece < count) break;
      piece -= count;
    }
    const PackedMatrix& matrix = *product->matrix;
    const auto kernel = matmul_of(kernels, matrix);
    const size_t row_bytes = matrix.num_rows * bytes_of(precision);
    const char* residual = static_cast<const char*>(product->residual_MN);
    const size_t begin = piece * panels, end = std::min(begin + panels, matrix.num_panels());
    for (size_t b = 0; b < activations.num_blocks(); ++b) {
      const TokenBlock block = activations.block(b);
      for (size_t p = begin; p < end; ++p) {
        alignas(64) float y_T16[kMaxTileTokens * kPanelRows];
        kernel(matrix.panel(p), block, y_T16);
        const auto store_all = [&](auto count) {
          for (size_t t = 0; t < block.num_tokens; ++t) {
            const size_t place = (activations.first_token(b) + t) * row_bytes + p * panel_bytes;
            store(y_T16 + t * kPanelRows, count, residual ? residual + place : nullptr,
                  static_cast<char*>(product->y_MN) + place, precision);
          }
        };
        const size_t count = matrix.num_rows - p * kPanelRows;
        if (count < kPanelRows) store_all(count);
        else store_all(std::integral_constant<size_t, kPanelRows>{});
      }
    }
  });
}

void gate_and_up(const Kernels& kernels, const PackedMatrix& gate, const PackedMatrix& up, const Activations& input,
                 size_t begin, size_t end, const Activations& hidden) {
  constexpr size_t kPanels = kActivationGroup / kPanelRows, kMostGroups = 12;
  if (end - begin > kMostGroups) {
    gate_and_up(kernels, gate, up, input, begin, begin + kMostGroups, hidden);
    return gate_and_up(kernels, gate, up, input, begin + kMostGroups, end, hidden);
  }
  struct PanelRows {
    float y_T16[kMaxTileTokens * kPanelRows];
  };
  alignas(64) PanelRows gates[kMostGroups * kPanels], ups[kMostGroups * kPanels];
  // Memory is read fastest in long pieces: all of gate's panels, then all of up's.
  const auto multiply = [&](const PackedMatrix& matrix, const TokenBlock& block, PanelRows* to) {
    for (size_t p = begin * kPanels; p < end * kPanels; ++p) {
      matmul_of(kernels, matrix)(matrix.panel(p), block, (to++)->y_T16);
    }
  };
  const auto token_of = [](const PanelRows* from, size_t t, float* y_32) {
    for (size_t p = 0; p < kPanels; ++p) {
      memcpy(y_32 + p * kPanelRows, from[p].y_T16 + t * kPanelRows, sizeof(float[kPanelRows]));
    }
  };
  for (size_t b = 0; b < input.num_blocks(); ++b) {
    const TokenBlock from = input.block(b), to = hidden.block(b);
    multiply(gate, from, gates);
    multiply(up, from, ups);
    for (size_t group = begin; group < end; ++group) {
      const size_t panel = (group - begin) * kPanels;
      for (size_t t = 0; t < from.num_tokens; ++t) {
        alignas(64) float gate_32[kActivationGroup], up_32[kActivationGroup];
        token_of(gates + panel, t, gate_32);
        token_of(ups + panel, t, up_32);
        quantize_columns(kernels, {TokenSource::kSwiglu, false, gate_32, up_32, nullptr, 0}, kActivationGroup, to,
                         group * kActivationGroup, t);
      }
    }
  }
}

void gate_and_up(const Kernels& kernels, const PackedMatrix& gate, const PackedMatrix& up, const Activations& input,
                 const Activations& hidden) {
  constexpr size_t kPanels = kActivationGroup / kPanelRows;
  const size_t num_groups = hidden.num_columns / kActivationGroup;
  const size_t groups = std::max<size_t>(1, panels_in_piece(gate, input, fair_share(gate.num_panels())) / kPanels);
  parallel_for(ceil_div(num_groups, groups), [&](size_t piece) {
    gate_and_up(kernels, gate, up, input, piece * groups, std::min(num_groups, (piece + 1) * groups), hidden);
  });
}

void advise_huge_pages(void* address, size_t num_bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = 2 * 1024 * 1024;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(address) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(address) + num_bytes) / kHugePage * kHugePage;
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)address, (void)num_bytes;
#endif
}

uint64_t read_all(const void* address, size_t num_bytes) {
  constexpr size_t kPiece = 1024 * 1024, kWords = 8;
  std::atomic<uint64_t> all{0};
  parallel_for(num_bytes / kPiece, [&](size_t piece) {
    const char* from = static_cast<const char*>(address) + piece * kPiece;
    uint64_t words[kWords] = {};
    for (size_t i = 0; i < kPiece; i += sizeof words) {
      uint64_t line[kWords];
      __builtin_prefetch(from + i + 2048);
      memcpy(line, from + i, sizeof line);
      for (size_t w = 0; w < kWords; ++w) words[w] ^= line[w];
    }
    for (const uint64_t word : words) all.fetch_xor(word, std::memory_order_relaxed);
  });
  return all;
}

}  // namespace qwen3
