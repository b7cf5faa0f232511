#include <math.h>
#include <string.h>

#include "../float16.h"
#include "../kernels.h"
#include "vector.h"

namespace qwen3::avx2 {
#include "../sampling.inc"
}
