#include "../avx2/ymm.h"

namespace qwen3::avx_vnni {

using ymm::kTileTokens, ymm::Ymm;

// vpdpbusd adds four products of unsigned weights and signed activations into 32 bits, exactly.
struct Vnni : Ymm {
  using Weights = __m256i;

  static Sum start(int32_t offset, int shift) { return shifted(offset, shift); }
  static Sum dot(Sum sum, Weights weights, const int8_t* four) {
    return _mm256_dpbusd_avx_epi32(sum, weights, four_times_eight(four));
  }
  static Floats finish(Sum sum, int32_t, int) { return _mm256_cvtepi32_ps(sum); }
};

template <int kHighBits>
struct Nibbles : NibbleGroups<Vnni, kHighBits> {};

struct Bytes8 : ByteGroups<Vnni> {
  static constexpr int kShift = 4;  // 2^4 * 8 = 128
  static void unpack(const uint8_t* group, int unit, Weights* weights) { weights[0] = load(group + 64 * unit); }
};

extern const MatmulPanels matmul = matmul_panels<Ymm, Nibbles, Bytes8, kTileTokens>();

}  // namespace qwen3::avx_vnni
