// Pieces of one memory, for what lies between the steps of a call.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "packed.h"

namespace qwen3 {

// Hands out pieces one after the other. Begun at address 0, it tells how much is needed.
struct Scratch {
  uintptr_t next, end = 0;

  template <class T>
  T* take(size_t count) {
    T* piece = reinterpret_cast<T*>(next);
    next += ceil_div(count * sizeof(T), 64) * 64;
    if (next > end) end = next;
    return piece;
  }

  Activations activations(const Kernels& kernels, size_t num_tokens, size_t num_columns, int forms) {
    char* piece = take<char>(activation_bytes(num_tokens, num_columns, forms));
    return activations_at(kernels, piece, num_tokens, num_columns, forms);
  }
};

}  // namespace qwen3
