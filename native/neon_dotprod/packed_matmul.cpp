#include <arm_neon.h>

#include "../packed_tile.h"

namespace qwen3::neon_dotprod {

static constexpr int kTileTokens = 4;

// sdot multiplies signed bytes, so the weights lose their offset when they are unpacked and the offsets go unused.
struct Dot {
  static constexpr int kRowsPerVector = 4, kMaxSums = 8;
  using Sum = int32x4_t;
  using Weights = int8x16_t;
  using Floats = float32x4_t;

  static Sum start(int32_t) { return vdupq_n_s32(0); }
  static Sum dot(Sum sum, Weights weights, const int8_t* four_activations) {
    const int32x4_t four = vld1q_dup_s32(reinterpret_cast<const int32_t*>(four_activations));
    return vdotq_s32(sum, weights, vreinterpretq_s8_s32(four));
  }
  static Floats finish(Sum sum, int32_t) { return vcvtq_f32_s32(sum); }
  static Floats scales(const uint16_t* fp16) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(fp16))); }
  static Floats zero() { return vdupq_n_f32(0.0f); }
  static Floats broadcast(const float* value) { return vld1q_dup_f32(value); }
  static Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
  static void store(float* to, Floats value) { vst1q_f32(to, value); }
  static void pin(Sum&) {}
  static void prefetch(const uint8_t*) {}
};

struct Int4 : Dot {
  static constexpr int kQuads = 2;
  static void unpack(const uint8_t* unit, Weights* weights) {
    const uint8x16_t bytes = vld1q_u8(unit);
    const int8x16_t offset = vdupq_n_s8(8);
    weights[0] = vsubq_s8(vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))), offset);
    weights[1] = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4)), offset);
  }
};

struct Int8 : Dot {
  static constexpr int kQuads = 1;
  static void unpack(const uint8_t* unit, Weights* weights) {
    weights[0] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(unit), vdupq_n_u8(128)));
  }
};

void matmul_int4(const Panel& panel, const TokenBlock& block, float* y_T16) {
  for_num_tokens<Int4, kTileTokens>(panel, block, y_T16);
}

void matmul_int8(const Panel& panel, const TokenBlock& block, float* y_T16) {
  for_num_tokens<Int8, kTileTokens>(panel, block, y_T16);
}

}  // namespace qwen3::neon_dotprod
