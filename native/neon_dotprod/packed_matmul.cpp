#include "dot.h"

namespace qwen3::neon_dotprod {

static constexpr int kTileTokens = 4;

extern const MatmulPanels matmul = matmul_panels<dot::Neon, dot::Nibbles, dot::Bytes8, kTileTokens>();

}  // namespace qwen3::neon_dotprod
