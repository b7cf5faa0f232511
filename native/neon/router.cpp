#include <math.h>
#include <string.h>

#include "../float16.h"
#include "../kernels.h"
#include "vector.h"

namespace qwen3::neon {
#include "../router.inc"
}
