#include <math.h>
#include <string.h>

#include "../float16.h"
#include "../kernels.h"

namespace qwen3::neon {
#include "../quantize.inc"
}
