// 16 floats in four registers: what native/lanes.inc and attention.inc are written in.
#pragma once

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

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

struct Integers {  // 16 of 32 bits
  int32x4_t quarters[4];
};
struct Pairs {  // 16 pairs of 16 bits
  int16x8_t quarters[4];
};

static inline Integers zero_integers() {
  const int32x4_t zeros = vdupq_n_s32(0);
  return {{zeros, zeros, zeros, zeros}};
}
static inline Integers load(const int32_t* from) {
  return {{vld1q_s32(from), vld1q_s32(from + 4), vld1q_s32(from + 8), vld1q_s32(from + 12)}};
}
static inline void store(int32_t* to, const Integers& a) {
  for (int i = 0; i < 4; ++i) vst1q_s32(to + 4 * i, a.quarters[i]);
}
static inline Integers add(const Integers& a, const Integers& b) {
  Integers sums;
  for (int i = 0; i < 4; ++i) sums.quarters[i] = vaddq_s32(a.quarters[i], b.quarters[i]);
  return sums;
}
static inline Vector to_floats(const Integers& a) {
  return each([&](int i) { return vcvtq_f32_s32(a.quarters[i]); });
}
static inline void store_int16(int16_t* to, const Vector& a) {
  for (int i = 0; i < 4; ++i) vst1_s16(to + 4 * i, vmovn_s32(vcvtnq_s32_f32(a.quarters[i])));
}
static inline Pairs load_int8_pairs(const int8_t* from) {
  return {{vmovl_s8(vld1_s8(from)), vmovl_s8(vld1_s8(from + 8)), vmovl_s8(vld1_s8(from + 16)),
           vmovl_s8(vld1_s8(from + 24))}};
}
static inline Pairs broadcast_pair(const int16_t* from) {
  int32_t pair;
  memcpy(&pair, from, sizeof pair);
  const int16x8_t all = vreinterpretq_s16_s32(vdupq_n_s32(pair));
  return {{all, all, all, all}};
}
static inline Integers add_products(const Integers& sums, const Pairs& a, const Pairs& b) {
  Integers more;
  for (int i = 0; i < 4; ++i) {
    const int32x4_t low = vmull_s16(vget_low_s16(a.quarters[i]), vget_low_s16(b.quarters[i]));
    const int32x4_t high = vmull_high_s16(a.quarters[i], b.quarters[i]);
    more.quarters[i] = vaddq_s32(sums.quarters[i], vpaddq_s32(low, high));
  }
  return more;
}

}  // namespace qwen3::neon
