// 16 floats in an array: what native/lanes.inc and attention.inc are written in. The specification of
// every operation.
#pragma once

#include <math.h>
#include <stdint.h>

#include "../float16.h"

namespace qwen3::generic {

constexpr int kTileRows = 1;  // rows of queries at once

struct Vector {
  float lanes[16];
};

template <class Lane>
static inline Vector each(Lane&& lane) {
  Vector all;
  for (int i = 0; i < 16; ++i) all.lanes[i] = lane(i);
  return all;
}

static inline Vector zero() {
  return each([](int) { return 0.0f; });
}
static inline Vector broadcast(float value) {
  return each([&](int) { return value; });
}
static inline Vector load(const float* from) {
  return each([&](int i) { return from[i]; });
}
static inline void store(float* to, const Vector& a) {
  for (int i = 0; i < 16; ++i) to[i] = a.lanes[i];
}
static inline Vector add(const Vector& a, const Vector& b) {
  return each([&](int i) { return a.lanes[i] + b.lanes[i]; });
}
static inline Vector subtract(const Vector& a, const Vector& b) {
  return each([&](int i) { return a.lanes[i] - b.lanes[i]; });
}
static inline Vector multiply(const Vector& a, const Vector& b) {
  return each([&](int i) { return a.lanes[i] * b.lanes[i]; });
}
static inline Vector divide(const Vector& a, const Vector& b) {
  return each([&](int i) { return a.lanes[i] / b.lanes[i]; });
}
static inline Vector fma(const Vector& a, const Vector& b, const Vector& c) {
  return each([&](int i) { return fmaf(a.lanes[i], b.lanes[i], c.lanes[i]); });
}
// The second where one is NaN.
static inline Vector larger(const Vector& a, const Vector& b) {
  return each([&](int i) { return a.lanes[i] > b.lanes[i] ? a.lanes[i] : b.lanes[i]; });
}
static inline Vector smaller(const Vector& a, const Vector& b) {
  return each([&](int i) { return a.lanes[i] < b.lanes[i] ? a.lanes[i] : b.lanes[i]; });
}
// The lowest eight bits moved to where a float has its exponent, all others gone.
static inline Vector low_bits_as_exponent(const Vector& a) {
  return each([&](int i) { return float_of_bits(bits_of_float(a.lanes[i]) << 23); });
}
static inline Vector load_bf16(const uint16_t* from) {
  return each([&](int i) { return float_of_bf16(from[i]); });
}
static inline Vector load_fp16(const uint16_t* from) {
  return each([&](int i) { return float_of_fp16(from[i]); });
}

struct Integers {  // 16 of 32 bits
  int32_t lanes[16];
};
struct Pairs {  // 16 pairs of 16 bits
  int16_t values[32];
};

template <class Lane>
static inline Integers each_integer(Lane&& lane) {
  Integers all;
  for (int i = 0; i < 16; ++i) all.lanes[i] = lane(i);
  return all;
}

static inline Integers zero_integers() {
  return each_integer([](int) { return 0; });
}
static inline Integers load(const int32_t* from) {
  return each_integer([&](int i) { return from[i]; });
}
static inline void store(int32_t* to, const Integers& a) {
  for (int i = 0; i < 16; ++i) to[i] = a.lanes[i];
}
static inline Integers add(const Integers& a, const Integers& b) {
  return each_integer([&](int i) { return a.lanes[i] + b.lanes[i]; });
}
static inline Vector to_floats(const Integers& a) {
  return each([&](int i) { return static_cast<float>(a.lanes[i]); });
}
// Half to even, for magnitudes up to 32,767.
static inline void store_int16(int16_t* to, const Vector& a) {
  for (int i = 0; i < 16; ++i) to[i] = static_cast<int16_t>((a.lanes[i] + 12582912.0f) - 12582912.0f);
}
static inline Pairs load_int8_pairs(const int8_t* from) {
  Pairs all;
  for (int i = 0; i < 32; ++i) all.values[i] = from[i];
  return all;
}
static inline Pairs broadcast_pair(const int16_t* from) {
  Pairs all;
  for (int i = 0; i < 32; ++i) all.values[i] = from[i % 2];
  return all;
}
static inline Integers add_products(const Integers& sums, const Pairs& a, const Pairs& b) {
  return each_integer([&](int i) {
    return sums.lanes[i] + a.values[2 * i] * b.values[2 * i] + a.values[2 * i + 1] * b.values[2 * i + 1];
  });
}

}  // namespace qwen3::generic
