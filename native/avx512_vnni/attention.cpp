#include <math.h>
#include <string.h>

#include "../avx512/vector.h"
#include "../float16.h"
#include "../kernels.h"

namespace qwen3::avx512_vnni {
using namespace avx512;
#include "../attention.inc"
}
