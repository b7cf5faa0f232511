// The table of CPU kernels.
//
// A kernel is one file name, written once per instruction set in the folder of that name. native/generic is the
// specification: plain scalar code whose order of arithmetic the other folders reproduce bit for bit.
//
// Kernels take plain addresses that the caller has checked, allocate nothing and keep no state. Files in the folders
// of instruction sets include no C++ library header: an inline function that such a file compiles could replace the
// one that the rest of the module uses, and bring instructions that the CPU lacks.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define QWEN3_UNROLL _Pragma("GCC unroll 16")

namespace qwen3 {

// Quantized products: docs/kernels.md draws the layouts and gives the reasons.
constexpr size_t kPanelRows = 16;       // rows of weights that lie interleaved
constexpr size_t kActivationGroup = 32;  // columns of one token that share a scale
constexpr size_t kMaxTileTokens = 16;    // no kernel takes more tokens at once

// How a panel holds its weights; `panel_layout.h` has the bytes. A matmul kernel exists for each.
enum class Encoding : int {
  kInt4,  // (q - 8) * scale
  kInt8,  // (q - 128) * scale
  kQ4_1,  // q * scale + minimum
  kQ5_0,  // (q - 16) * scale
  kQ5_1,  // q * scale + minimum
  kQ4_K,  // q * (scale * s) - minimum * m, s and m integers of 32 columns
  kQ5_K,  // likewise
  kQ6_K,  // (q - 32) * (scale * s), s an integer of 16 columns
  kFp16,
  kBf16,
  kFp32,
};
constexpr int kNumEncodings = 11;

// 16 rows of a weight matrix.
struct Panel {
  const uint8_t* quants;
  const uint8_t* scales;  // for each block_columns columns of the 16 rows
  size_t num_columns;     // a multiple of block_columns
  size_t block_columns;   // a multiple of kActivationGroup
};

// Activations of a few tokens t, side by side so that a kernel reads one stream. Panels of floats need `values`, all
// others the quantized form.
struct TokenBlock {
  const int8_t* quants;         // -127..127: columns 4i..4i+3 of token t at (i * num_tokens + t) * 4
  const float* scales;          // group g of token t at g * num_tokens + t
  const int32_t* offsets;       // likewise: -8 * (sum of the group's quants)
  const int32_t* half_offsets;  // the same of 16 columns: half h of group g at (2 * g + h) * num_tokens + t
  const float* values;          // column k of token t at k * num_tokens + t
  size_t num_tokens;
};

// y_T16[t * 16 + r] = row r of the panel times token t, for the block's tokens, at most the table's tile_tokens.
//
// Order of arithmetic, where dot is an exact integer sum, a the activations' scale, and offset that of TokenBlock:
// - int4, int8, Q5_0, by groups of 32 columns in rising order, and Q6_K, by groups of 16:
//   y = fma(float(dot), w * a, y), dot the sum of (q - 8) * activation (or - 128, - 16, - 32), w the group's scale;
// - Q4_1, Q5_1, Q4_K, Q5_K, by groups of 32: y = fma(fma(float(dot), w, float(offset) * (m * -0.125)), a, y), dot the
//   sum of q * activation, m the group's minimum as it is added (negative in Q4_K and Q5_K);
// - floats: even = fma(w[k], x[k], even) over the even columns in rising order, odd likewise, y = even + odd.
// All start at +0. So the bits of a result depend on neither the instruction set nor the other tokens.
using MatmulPanel = void(const Panel& panel, const TokenBlock& block, float* y_T16);

// One form for each Encoding.
struct MatmulPanels {
  MatmulPanel* forms[kNumEncodings];
};

// One token before its quantization. `x` and `up` are float32, or bfloat16 if is_bf16; norm_weight is float32.
struct TokenSource {
  enum Kind : int { kPlain, kNorm, kSwiglu };  // x; rms_norm(x) * norm_weight; silu(x) * up
  Kind kind;
  bool is_bf16;
  const void* x;
  const void* up;
  const float* norm_weight;
  float eps;
};

// Writes one token of a TokenBlock of num_tokens: the pointers are at that token. Per group: scale = amax / 127 and
// quants = round_half_even(x * (127 / amax)). A group with amax < 1e-30 gives zeros; one with an infinity or NaN gives
// scale NaN, so that all the token's results are NaN.
using QuantizeToken = void(const TokenSource& source, size_t num_columns, size_t num_tokens, int8_t* quants,
                           float* scales, int32_t* offsets, int32_t* half_offsets);

// Writes one token of TokenBlock::values, from the pointer on: float32, rounded nowhere.
using FloatToken = void(const TokenSource& source, size_t num_columns, size_t num_tokens, float* values);

// Up to 16 rows of a weight matrix in a type that files have, one after the other.
struct WeightRows {
  enum Type : int { kFloat32, kBfloat16, kFloat16 };
  Type type;
  const void* values;
  size_t num_rows;
};

// Quantizes 16 rows of weights into a panel: quants and fp16 scales as Panel says; rows that are not there become
// zeros. False if a weight is not finite or a scale exceeds fp16's range.
using PackPanel = bool(const WeightRows& rows, size_t num_columns, int bits, size_t scale_columns, uint8_t* quants,
                       uint16_t* scales);

// Attention over a paged cache: docs/kernels.md draws a page and gives the reasons.
constexpr size_t kPageTokens = 32;
constexpr size_t kSplitTokens = 256;  // positions whose softmax is computed at once; splits start at multiples of it
constexpr size_t kMaxAttentionRows = 64, kMaxHeadDim = 256;

// In memory a head's page is keys [head_dim, 32] and values [32, head_dim]; in int8 keys [head_dim / 2, 32, 2], values
// [16, head_dim, 2], where the last axis is two dimensions or two positions, and float32 scales of the 32 keys and of
// the 32 values.
enum class KvFormat : int { kFloat32, kBfloat16, kFloat16, kInt8 };

// Puts one token's key and value into slot 0..31 of a head's page. The 16-bit formats round half to even; int8 is
// round_half_even(x * (127 / amax)) with scale amax / 127, or 0 if amax < 1e-30, or NaN if a value is not finite.
using WriteKv = void(KvFormat format, const float* k_d, const float* v_d, size_t head_dim, size_t slot,
                     char* head_page);

// One split of a sequence as some rows of queries see it: row r is head r % group of token r / group, and the first
// token sees first_count >= 1 of the split's positions, each later one a position more, at most all.
struct AttentionSplit {
  const uintptr_t* pages;  // addresses of the split's pages
  size_t head_offset;      // of this layer and key-value head in each of them
  KvFormat format;
  size_t head_dim;  // a multiple of 16, at most kMaxHeadDim
  size_t group, first_count;

  size_t count(size_t row) const {
    const size_t count = first_count + row / group;
    return count < kSplitTokens ? count : kSplitTokens;
  }
};

// For each row, at most kMaxAttentionRows, over the positions j that it sees:
//   score[j] = sum over i of q[i] * key[j][i]   from +0 by fma, in rising i
//   maximum = the largest score (a NaN is no score); weight[j] = exp(score[j] - maximum)
//   sum = sum of weight[j] in 16 lanes j % 16, then of lanes i and i + 8, + 4, + 2, + 1
//   out[i] = sum over j of weight[j] * value[j][i]   from +0 by fma, in rising j
// In int8 q and weight[j] * value_scale[j] are first rounded to int16: x = round_half_even(x * (32767 / amax)), with
// scale amax / 32767, or 0 if amax < 1e-30, or NaN if a value is not finite. The sums are then exact integers:
//   score[j] = (float(sum) * q_scale) * key_scale[j]
//   out[i] = float(sum) * weight_scale
// So a row's bits depend on no other row. exp is `exponential` in native/lanes.inc.
using AttendSplit = void(const AttentionSplit& split, const float* q_Rd, size_t num_rows, float* maxima_R,
                         float* sums_R, float* out_Rd);

// Adds a later split to what the ones before it gave: with most = max(maximum, total_maximum), both parts are
// multiplied by exp(their maximum - most) and added.
using MergeSplit = void(const float* out_d, float maximum, float sum, size_t head_dim, float* total_d,
                        float* total_maximum, float* total_sum);

// out = (x * (1 / root mean square)) * weight, the squares summed in 16 lanes. num_columns is a multiple of 16.
using RmsNorm = void(const float* x_d, size_t num_columns, const float* weight_d, float eps, float* out_d);

// rms_norm of one head, then the rotation: x * cos + (-upper half, lower half) * sin. `out_d` is not x_d.
using NormRope = void(const float* x_d, size_t head_dim, const float* weight_d, float eps, const float* cos_d,
                      const float* sin_d, float* out_d);

struct AttentionKernels {
  WriteKv* write_kv;
  AttendSplit* attend_split;
  MergeSplit* merge_split;
  RmsNorm* rms_norm;
  NormRope* norm_rope;
};

// The router of a sparse layer: y_TE[t, e] = sum over k of weight_EK[e, k] * x_TK[t, k], for num_tokens tokens and the
// experts in [begin, end).
//
// Order of arithmetic: a row has 16 lanes, all +0 at first. Product k, rounded, is added to lane k % 16, in rising k. Then
// halves are added, lane i and lane i + 8, then + 4, + 2, + 1. K is a multiple of 16.
struct Router {
  const float* weight_EK;
  size_t num_experts, num_columns;
};
using RouterLogits = void(const Router& router, const float* x_TK, size_t num_tokens, size_t begin, size_t end,
                          float* y_TE);

// values = exp(values - largest) / sum, in place; the sum in 16 lanes as above.
using Softmax = void(float* values, size_t count);

struct RouterKernels {
  RouterLogits* logits;
  Softmax* softmax;
};

// The largest value, or NaN if any is.
using Largest = float(const float* values, size_t count);

// Buckets of weights: each factor of e has 16, and the last takes all below e^-24. With fewer, each would be longer to
// sort.
constexpr int kBucketsPerDepth = 16, kLastBucket = 24 * kBucketsPerDepth;

// With depth = top - value / divisor: weight = exp(-depth), and the bucket that it is in. Both results have room for a
// multiple of 16.
using Weigh = void(const float* values, size_t count, float divisor, float top, int32_t* buckets, float* weights);

struct SamplingKernels {
  Largest* largest;
  Weigh* weigh;
};

namespace generic {
extern const MatmulPanels matmul;
QuantizeToken quantize_token;
FloatToken float_token;
PackPanel pack_panel;
extern const AttentionKernels attention;
extern const RouterKernels router;
extern const SamplingKernels sampling;
}  // namespace generic
namespace avx2 {
extern const MatmulPanels matmul;
QuantizeToken quantize_token;
FloatToken float_token;
PackPanel pack_panel;
extern const AttentionKernels attention;
extern const RouterKernels router;
extern const SamplingKernels sampling;
}  // namespace avx2
namespace avx_vnni {
extern const MatmulPanels matmul;
extern const AttentionKernels attention;
}
namespace avx512 {
QuantizeToken quantize_token;
FloatToken float_token;
PackPanel pack_panel;
extern const AttentionKernels attention;
extern const RouterKernels router;
extern const SamplingKernels sampling;
}  // namespace avx512
namespace avx512_vnni {
extern const MatmulPanels matmul;
extern const AttentionKernels attention;
}
namespace neon {
QuantizeToken quantize_token;
FloatToken float_token;
PackPanel pack_panel;
extern const AttentionKernels attention;
extern const RouterKernels router;
extern const SamplingKernels sampling;
}  // namespace neon
namespace neon_dotprod {
extern const MatmulPanels matmul;
}
namespace neon_i8mm {
extern const MatmulPanels matmul;
}

struct Kernels {
  const char* instruction_set;
  bool (*can_run_here)();
  size_t tile_tokens;  // tokens that a matmul kernel takes at once
  const MatmulPanels* matmul;
  QuantizeToken* quantize_token;
  FloatToken* float_token;
  PackPanel* pack_panel;
  const AttentionKernels* attention;
  const RouterKernels* router;
  const SamplingKernels* sampling;
};

struct KernelTables {
  const Kernels *first, *last;
  const Kernels* begin() const { return first; }
  const Kernels* end() const { return last; }
};

// The tables in this build, slowest first. The first runs on any CPU.
KernelTables compiled_kernels();

}  // namespace qwen3
