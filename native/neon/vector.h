// 16 floats in four registers: what native/lanes.inc and attention.inc are written in.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

#include "../float16.h"

namespace qwen3::neon {

constexpr int kTileRows = 2;  // rows of queries whose sums, two vectors each, fit the registers

struct Vector {
  float32x4_t quarters[4];
};

template <class Quarter>
static inline Vector each(Quarter&& quarter) {
  return {{quarter(0), quarter(1), quarter(2), quarter(3)}};
}

static inline Vector broadcast(float value) {
  return each([&](int) { return vdupq_n_f32(value); });
}
static inline Vector zero() { return broadcast(0.0f); }
static inline Vector load(const float* from) {
  return each([&](int i) { return vld1q_f32(from + 4 * i); });
}
static inline void store(float* to, const Vector& a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(to + 4 * i, a.quarters[i]);
}
static inline Vector add(const Vector& a, const Vector& b) {
  return each([&](int i) { return vaddq_f32(a.quarters[i], b.quarters[i]); });
}
static inline Vector subtract(const Vector& a, const Vector& b) {
  return each([&](int i) { return vsubq_f32(a.quarters[i], b.quarters[i]); });
}
static inline Vector multiply(const Vector& a, const Vector& b) {
  return each([&](int i) { return vmulq_f32(a.quarters[i], b.quarters[i]); });
}
static inline Vector divide(const Vector& a, const Vector& b) {
  return each([&](int i) { return vdivq_f32(a.quarters[i], b.quarters[i]); });
}
static inline Vector fma(const Vector& a, const Vector& b, const Vector& c) {
  return each([&](int i) { return vfmaq_f32(c.quarters[i], a.quarters[i], b.quarters[i]); });
}
static inline Vector larger(const Vector& a, const Vector& b) {
  return each([&](int i) {
    return vbslq_f32(vcgtq_f32(a.quarters[i], b.quarters[i]), a.quarters[i], b.quarters[i]);
  });
}
static inline Vector smaller(const Vector& a, const Vector& b) {
  return each([&](int i) {
    return vbslq_f32(vcltq_f32(a.quarters[i], b.quarters[i]), a.quarters[i], b.quarters[i]);
  });
}
static inline Vector low_bits_as_exponent(const Vector& a) {
  return each([&](int i) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(a.quarters[i]), 23));
  });
}
static inline Vector load_bf16(const uint16_t* from) {
  return each([&](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from + 4 * i), 16)); });
}
static inline Vector load_fp16(const uint16_t* from) {
  return each([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + 4 * i))); });
}
static inline Vector load_int8(const int8_t* from) {
  const int8x16_t bytes = vld1q_s8(from);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}

}  // namespace qwen3::neon
