// The Python module qwen3._native. It trusts its caller, qwen3.ops.native, for dtypes, shapes and life times.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "cpu.h"
#include "kernels.h"

namespace nb = nanobind;

namespace {

std::vector<std::string> available_instruction_sets() {
  std::vector<std::string> names;
  for (const qwen3::Kernels& table : qwen3::compiled_kernels()) {
    if (table.can_run_here()) names.emplace_back(table.instruction_set);
  }
  return names;
}

const qwen3::Kernels& kernels_of(const std::string& instruction_set) {
  for (const qwen3::Kernels& table : qwen3::compiled_kernels()) {
    if (table.instruction_set == instruction_set && table.can_run_here()) return table;
  }
  throw std::invalid_argument("instruction set not available here: " + instruction_set);
}

void matvec_bf16(const std::string& instruction_set, uintptr_t weight_NK, uintptr_t x_K, uintptr_t y_N,
                 size_t num_columns, size_t row_begin, size_t row_end) {
  const auto kernel = kernels_of(instruction_set).matvec_bf16;
  const nb::gil_scoped_release release;
  kernel(reinterpret_cast<const uint16_t*>(weight_NK), reinterpret_cast<const float*>(x_K),
         reinterpret_cast<float*>(y_N), num_columns, row_begin, row_end);
}

}  // namespace

NB_MODULE(_native, module) {
  module.def("cpu_features", &qwen3::cpu_features);
  module.def("available_instruction_sets", &available_instruction_sets);
  module.def("matvec_bf16", &matvec_bf16);
}
