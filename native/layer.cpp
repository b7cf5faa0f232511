#include "layer.h"

#include <initializer_list>

#include "scratch.h"

namespace qwen3 {
namespace {

// What lies between x and y; attention's part and the feed-forward's share their memory.
struct Buffers {
  float *attended_TD, *q_THd, *k_TKd, *v_TKd, *q_rotated_THd, *k_rotated_TKd;
  Activations input, output, mlp_input, hidden;
  size_t num_bytes;

  Buffers(const Kernels& kernels, const Layer& layer, size_t T, uintptr_t begin) {
    Scratch scratch{begin};
    attended_TD = scratch.take<float>(T * layer.o.num_rows);
    const uintptr_t shared = scratch.next;
    input = scratch.activations(kernels, T, layer.q.num_columns,
                                form_of(layer.q) | form_of(layer.k) | form_of(layer.v));
    output = scratch.activations(kernels, T, layer.o.num_columns, form_of(layer.o));
    q_THd = scratch.take<float>(T * layer.q.num_rows);
    k_TKd = scratch.take<float>(T * layer.k.num_rows);
    v_TKd = scratch.take<float>(T * layer.v.num_rows);
    q_rotated_THd = scratch.take<float>(T * layer.q.num_rows);
    k_rotated_TKd = scratch.take<float>(T * layer.k.num_rows);
    if (layer.has_mlp) {
      scratch.next = shared;
      mlp_input = scratch.activations(kernels, T, layer.gate.num_columns, form_of(layer.gate) | form_of(layer.up));
      hidden = scratch.activations(kernels, T, layer.down.num_columns, form_of(layer.down));
    }
    num_bytes = scratch.end - begin;
  }
};

}  // namespace

void run_layer(const Kernels& kernels, const Layer& layer, AttentionStep& step, const float* x_TD, const float* cos_Td,
               const float* sin_Td, float* y_TD) {
  const size_t T = step.num_tokens(), d = step.head_dim();
  const uintptr_t memory = step.scratch(Buffers(kernels, layer, T, 0).num_bytes);
  const Buffers at(kernels, layer, T, memory);
  const auto multiply = [&](const Activations& activations, std::initializer_list<Product> products) {
    matmul(kernels, products.begin(), products.size(), activations, Precision::kFloat32);
  };
  const auto normed = [&](const float* x, const float* norm_weight) {
    return TokenSource{TokenSource::kNorm, false, x, nullptr, norm_weight, layer.eps};
  };

  quantize(kernels, normed(x_TD, layer.input_norm_D), at.input);
  multiply(at.input, {{&layer.q, nullptr, at.q_THd}, {&layer.k, nullptr, at.k_TKd}, {&layer.v, nullptr, at.v_TKd}});
  norm_rope(kernels, at.q_THd, T, layer.num_heads, d, layer.q_norm_d, layer.eps, cos_Td, sin_Td, at.q_rotated_THd);
  norm_rope(kernels, at.k_TKd, T, layer.k.num_rows / d, d, layer.k_norm_d, layer.eps, cos_Td, sin_Td,
            at.k_rotated_TKd);
  step.write(layer.index, at.k_rotated_TKd, at.v_TKd);
  step.attend(layer.index, layer.num_heads, at.q_rotated_THd, at.q_THd);
  quantize(kernels, {TokenSource::kPlain, false, at.q_THd, nullptr, nullptr, 0}, at.output);
  multiply(at.output, {{&layer.o, x_TD, layer.has_mlp ? at.attended_TD : y_TD}});
  if (!layer.has_mlp) return;

  quantize(kernels, normed(at.attended_TD, layer.post_norm_D), at.mlp_input);
  gate_and_up(kernels, layer.gate, layer.up, at.mlp_input, at.hidden);
  multiply(at.hidden, {{&layer.down, at.attended_TD, y_TD}});
}

}  // namespace qwen3
