// What the forms on dot products of signed bytes share. Nameless, because two folders with different flags compile it.
#pragma once

#include <arm_neon.h>
#include <string.h>

#include "../packed_tile.h"

namespace qwen3::dot {
namespace {

struct Neon {
  static constexpr int kRowsPerVector = 4, kMaxSums = 8;
  static constexpr size_t kBytesAhead = 0;
  using Bytes = int8x16_t;
  using Floats = float32x4_t;

  static Floats zero() { return vdupq_n_f32(0.0f); }
  static Floats constant(float value) { return vdupq_n_f32(value); }
  static Floats broadcast(const float* value) { return vld1q_dup_f32(value); }
  static Floats integer(int32_t value) { return vcvtq_f32_s32(vdupq_n_s32(value)); }
  static Floats plus(Floats a, Floats b) { return vaddq_f32(a, b); }
  static Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
  static void store(float* to, Floats value) { vst1q_f32(to, value); }

  static uint16x4_t load_8(const uint8_t* at) { return vreinterpret_u16_u8(vld1_u8(at)); }
  static Floats fp16(const uint8_t* at) { return vcvt_f32_f16(vreinterpret_f16_u16(load_8(at))); }
  static Floats bf16(const uint8_t* at) { return vreinterpretq_f32_u32(vshll_n_u16(load_8(at), 16)); }
  static Floats fp32(const uint8_t* at) { return vreinterpretq_f32_u8(vld1q_u8(at)); }
  static uint8x8_t load_4(const uint8_t* at) {
    uint32_t four;
    memcpy(&four, at, sizeof four);
    return vreinterpret_u8_u32(vdup_n_u32(four));
  }
  static Floats bytes(const uint8_t* at) {
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(load_4(at)))));
  }
  static Floats signed_bytes(const uint8_t* at) {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_4(at))))));
  }

  static Bytes load(const uint8_t* at) { return vreinterpretq_s8_u8(vld1q_u8(at)); }
  static Bytes low_nibbles(Bytes bytes) { return vandq_s8(bytes, vdupq_n_s8(15)); }
  static Bytes high_nibbles(Bytes bytes) { return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(bytes), 4)); }
  static Bytes with_high_bits(Bytes nibbles, Bytes bits, int from, int mask) {
    // A shift by a negative number is one to the right.
    const uint8x16_t shifted = vshlq_u8(vreinterpretq_u8_s8(bits), vdupq_n_s8(static_cast<int8_t>(4 - from)));
    return vorrq_s8(nibbles, vandq_s8(vreinterpretq_s8_u8(shifted), vdupq_n_s8(static_cast<int8_t>(mask << 4))));
  }
  static void prefetch(const uint8_t*) {}
};

// sdot multiplies signed bytes, as which all unsigned weights of up to 7 bits pass.
struct Dot : Neon {
  using Sum = int32x4_t;
  using Weights = int8x16_t;

  static Sum start(int32_t offset, int shift) { return vdupq_n_s32(offset * (1 << shift)); }
  static Sum dot(Sum sum, Weights weights, const int8_t* four_activations) {
    const int32x4_t four = vld1q_dup_s32(reinterpret_cast<const int32_t*>(four_activations));
    return vdotq_s32(sum, weights, vreinterpretq_s8_s32(four));
  }
  static Floats finish(Sum sum, int32_t, int) { return vcvtq_f32_s32(sum); }
  static void pin(Sum&) {}
};

template <int kHighBits>
struct Nibbles : NibbleGroups<Dot, kHighBits> {};

// Those of 8 bits lose their offset when they are unpacked.
struct Signed : Dot {
  static Sum start(int32_t, int) { return vdupq_n_s32(0); }
};

struct Bytes8 : ByteGroups<Signed> {
  static constexpr int kShift = 0;  // not used: the weights are signed
  static void unpack(const uint8_t* group, int unit, Weights* weights) {
    weights[0] = veorq_s8(load(group + 64 * unit), vdupq_n_s8(-128));
  }
};

}  // namespace
}  // namespace qwen3::dot
