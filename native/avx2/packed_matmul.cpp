#include "ymm.h"

namespace qwen3::avx2 {

using ymm::kTileTokens, ymm::Ymm;

// vpmaddubsw adds two products of an unsigned and a signed byte into 16 bits. In 4 bits a lane gets 8 such pairs in a
// group, at most 8 * 2 * 15 * 127 = 30,480: the group's sum fits, and is widened once.
struct Narrow : Ymm {
  using Weights = __m256i;

  static Sum start(int32_t, int) { return _mm256_setzero_si256(); }
  static Sum dot(Sum sum, Weights weights, const int8_t* four) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, four_times_eight(four)));
  }
  static Floats finish(Sum sum, int32_t offset, int shift) {
    const __m256i wide = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
    return _mm256_cvtepi32_ps(_mm256_add_epi32(wide, shifted(offset, shift)));
  }
};

// In 5 and 6 bits a lane gets two pairs before it is widened: together at most 2 * 2 * 63 * 127 = 32,004.
struct Wide : Ymm {
  using Weights = __m256i;

  static Sum start(int32_t offset, int shift) { return shifted(offset, shift); }
  static Sum dot_two(Sum sum, const Weights* weights, const int8_t* first_four, const int8_t* second_four) {
    const __m256i first = _mm256_maddubs_epi16(weights[0], four_times_eight(first_four));
    const __m256i second = _mm256_maddubs_epi16(weights[1], four_times_eight(second_four));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(first, second), _mm256_set1_epi16(1)));
  }
  static Floats finish(Sum sum, int32_t, int) { return _mm256_cvtepi32_ps(sum); }
};

template <int kHighBits>
struct Nibbles : NibbleGroups<Wide, kHighBits, 2> {};
template <>
struct Nibbles<0> : NibbleGroups<Narrow, 0> {};

// Unsigned 8-bit weights would overflow 16 bits: the sign moves to the activation instead. |weight| is at most 128, a
// pair at most 2 * 128 * 127 = 32,512.
struct Signed : Ymm {
  struct Weights {
    __m256i signed_, absolute;
  };

  static Sum start(int32_t, int) { return _mm256_setzero_si256(); }
  static Sum dot(Sum sum, Weights weights, const int8_t* four) {
    const __m256i activations = _mm256_sign_epi8(four_times_eight(four), weights.signed_);
    const __m256i pairs = _mm256_maddubs_epi16(weights.absolute, activations);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static Floats finish(Sum sum, int32_t, int) { return _mm256_cvtepi32_ps(sum); }
};

struct Bytes8 : ByteGroups<Signed> {
  static constexpr int kShift = 0;  // not used: the weights are signed
  static void unpack(const uint8_t* group, int unit, Weights* weights) {
    weights->signed_ = _mm256_xor_si256(load(group + 64 * unit), _mm256_set1_epi8(-128));
    weights->absolute = _mm256_abs_epi8(weights->signed_);
  }
};

extern const MatmulPanels matmul = matmul_panels<Ymm, Nibbles, Bytes8, kTileTokens>();

}  // namespace qwen3::avx2
