// What this CPU can do, as far as the operating system lets a program use it.
#pragma once

#include <string>
#include <vector>

namespace qwen3 {

// On x86-64 by the names of Linux's /proc/cpuinfo ("avx2", "avx512_vnni", "amx_int8"), on ARM by the architecture's
// ("neon", "dotprod", "i8mm"). A feature whose registers the operating system does not save is left out.
const std::vector<std::string>& cpu_features();

bool cpu_has(const std::string& feature);

}  // namespace qwen3
