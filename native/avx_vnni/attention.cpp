#include <math.h>
#include <string.h>

#include "../avx2/vector.h"
#include "../float16.h"
#include "../kernels.h"

namespace qwen3::avx_vnni {
using namespace avx2;
#include "../attention.inc"
}
