// The Python module qwen3._native. It trusts its callers, the modules of qwen3.ops, for dtypes, shapes and life times.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "attention.h"
#include "cpu.h"
#include "kernels.h"
#include "layer.h"
#include "moe.h"
#include "packed.h"
#include "repack.h"
#include "sample.h"
#include "threads.h"

namespace nb = nanobind;

namespace {

std::vector<std::string> available_instruction_sets() {
  std::vector<std::string> names;
  for (const qwen3::Kernels& table : qwen3::compiled_kernels()) {
    if (table.can_run_here()) names.emplace_back(table.instruction_set);
  }
  return names;
}

// Functions are called for every layer of every token, so they find their kernels by number: the place of
// the name in available_instruction_sets().
const qwen3::Kernels& kernels_at(size_t place) {
  static const std::vector<const qwen3::Kernels*> tables = [] {
    std::vector<const qwen3::Kernels*> available;
    for (const qwen3::Kernels& table : qwen3::compiled_kernels()) {
      if (table.can_run_here()) available.push_back(&table);
    }
    return available;
  }();
  return *tables.at(place);
}

qwen3::Precision precision_of(bool is_bf16) {
  return is_bf16 ? qwen3::Precision::kBfloat16 : qwen3::Precision::kFloat32;
}

// Name, columns of a block, bytes of 16 rows' quants and scales in a block, and whether activations stay floats.
std::vector<std::tuple<std::string, size_t, size_t, size_t, bool>> packed_formats() {
  std::vector<std::tuple<std::string, size_t, size_t, size_t, bool>> formats;
  for (const qwen3::Format& format : qwen3::kFormats) {
    formats.emplace_back(format.name, format.block_columns, format.quant_bytes, format.scale_bytes,
                         format.takes_floats());
  }
  return formats;
}

// Addresses and shape of a packed matrix, kept by Python as one object so that a call passes one argument.
qwen3::PackedMatrix packed_matrix(uintptr_t quants, uintptr_t scales, size_t num_rows, size_t num_columns,
                                  const std::string& name) {
  for (const qwen3::Format& format : qwen3::kFormats) {
    if (format.name == name) {
      return {reinterpret_cast<uint8_t*>(quants), reinterpret_cast<uint8_t*>(scales), num_rows, num_columns, &format};
    }
  }
  throw std::invalid_argument("no packed format " + name);
}

bool pack(size_t place, const qwen3::PackedMatrix& to, uintptr_t weight_NK, int type) {
  const nb::gil_scoped_release release;
  return qwen3::pack(kernels_at(place), reinterpret_cast<const void*>(weight_NK),
                     static_cast<qwen3::WeightRows::Type>(type), to);
}

void pack_quantized(const qwen3::PackedMatrix& to, uintptr_t quants_NK, uintptr_t scales_NG) {
  const nb::gil_scoped_release release;
  qwen3::pack_quantized(reinterpret_cast<const uint8_t*>(quants_NK), reinterpret_cast<const uint16_t*>(scales_NG), to);
}

bool repack(const std::string& block_type, uintptr_t blocks_NB, const qwen3::PackedMatrix& to, size_t first_panel,
            size_t num_panels) {
  const nb::gil_scoped_release release;
  return qwen3::repack(block_type, reinterpret_cast<const uint8_t*>(blocks_NB), to, first_panel, num_panels);
}

void unpack_rows(const qwen3::PackedMatrix& matrix, uintptr_t rows, size_t num_rows, uintptr_t out_RK) {
  const nb::gil_scoped_release release;
  qwen3::unpack_rows(matrix, reinterpret_cast<const int64_t*>(rows), num_rows, reinterpret_cast<float*>(out_RK));
}

// What TokenSource says about the activations of num_tokens tokens, prepared in `buffer`, times each of the matrices;
// residual_MN, if it is not null, is added to every result.
void products(size_t place, int kind, bool is_bf16, uintptr_t x, uintptr_t up, uintptr_t norm_weight, float eps,
              size_t num_tokens, size_t num_columns, uintptr_t buffer, int forms,
              const std::vector<const qwen3::PackedMatrix*>& matrices, uintptr_t residual_MN,
              const std::vector<uintptr_t>& ys_MN) {
  const qwen3::Kernels& kernels = kernels_at(place);
  const qwen3::TokenSource source{static_cast<qwen3::TokenSource::Kind>(kind), is_bf16,
                                  reinterpret_cast<const void*>(x), reinterpret_cast<const void*>(up),
                                  reinterpret_cast<const float*>(norm_weight), eps};
  const qwen3::Activations activations =
      qwen3::activations_at(kernels, reinterpret_cast<void*>(buffer), num_tokens, num_columns, forms);
  std::vector<qwen3::Product> products;
  for (size_t i = 0; i < matrices.size(); ++i) {
    products.push_back({matrices[i], reinterpret_cast<const void*>(residual_MN),
                        reinterpret_cast<void*>(ys_MN.at(i))});
  }
  const nb::gil_scoped_release release;
  qwen3::quantize(kernels, source, activations);
  qwen3::matmul(kernels, products.data(), products.size(), activations, precision_of(is_bf16));
}

const float* floats(uintptr_t address) { return reinterpret_cast<const float*>(address); }

qwen3::CacheShape cache_shape(int format, size_t num_layers, size_t num_kv_heads, size_t head_dim) {
  return {static_cast<qwen3::KvFormat>(format), num_layers, num_kv_heads, head_dim};
}

// `pages` of each sequence, tokens that the cache holds of it, and new tokens.
qwen3::AttentionStep attention_step(size_t place, const qwen3::CacheShape& shape,
                                    std::vector<std::vector<uintptr_t>> pages, const std::vector<size_t>& starts,
                                    const std::vector<size_t>& counts) {
  std::vector<qwen3::AttentionStep::Sequence> sequences;
  for (size_t i = 0; i < pages.size(); ++i) {
    sequences.push_back({std::move(pages[i]), starts.at(i), counts.at(i)});
  }
  return {kernels_at(place), shape, std::move(sequences)};
}

void write_kv(const qwen3::AttentionStep& step, size_t layer, uintptr_t k_TKd, uintptr_t v_TKd) {
  const nb::gil_scoped_release release;
  step.write(layer, floats(k_TKd), floats(v_TKd));
}

void attend(qwen3::AttentionStep& step, size_t layer, size_t num_heads, uintptr_t q_THd, uintptr_t k_TKd,
            uintptr_t v_TKd, uintptr_t out_THd) {
  const nb::gil_scoped_release release;
  step.write(layer, floats(k_TKd), floats(v_TKd));
  step.attend(layer, num_heads, floats(q_THd), reinterpret_cast<float*>(out_THd));
}

// Both queries and keys in one call.
void qk_norm_rope(size_t place, uintptr_t q_THd, uintptr_t k_TKd, size_t num_tokens, size_t num_heads,
                  size_t num_kv_heads, size_t head_dim, uintptr_t q_weight_d, uintptr_t k_weight_d, float eps,
                  uintptr_t cos_Td, uintptr_t sin_Td, uintptr_t q_out, uintptr_t k_out) {
  const qwen3::Kernels& kernels = kernels_at(place);
  const nb::gil_scoped_release release;
  qwen3::norm_rope(kernels, floats(q_THd), num_tokens, num_heads, head_dim, floats(q_weight_d), eps, floats(cos_Td),
                   floats(sin_Td), reinterpret_cast<float*>(q_out));
  qwen3::norm_rope(kernels, floats(k_TKd), num_tokens, num_kv_heads, head_dim, floats(k_weight_d), eps,
                   floats(cos_Td), floats(sin_Td), reinterpret_cast<float*>(k_out));
}

// The matrices are q, k, v, o and, of a dense layer, gate, up, down; the norms are the input's, q's, k's and the
// feed-forward's.
qwen3::Layer layer(size_t index, size_t num_heads, float eps, const std::vector<const qwen3::PackedMatrix*>& matrices,
                   const std::vector<uintptr_t>& norms) {
  qwen3::Layer layer{};
  layer.index = index, layer.num_heads = num_heads, layer.eps = eps;
  layer.input_norm_D = floats(norms.at(0)), layer.q_norm_d = floats(norms.at(1));
  layer.k_norm_d = floats(norms.at(2)), layer.post_norm_D = floats(norms.at(3));
  layer.q = *matrices.at(0), layer.k = *matrices.at(1), layer.v = *matrices.at(2), layer.o = *matrices.at(3);
  layer.has_mlp = matrices.size() > 4;
  if (layer.has_mlp) layer.gate = *matrices.at(4), layer.up = *matrices.at(5), layer.down = *matrices.at(6);
  return layer;
}

// Layers that follow each other, gathered once so that a call passes one argument.
struct Layers {
  std::vector<qwen3::Layer> layers;

  explicit Layers(const std::vector<const qwen3::Layer*>& all) {
    for (const qwen3::Layer* each : all) layers.push_back(*each);
  }
};

void run_layers(size_t place, const Layers& layers, qwen3::AttentionStep& step, uintptr_t x_TD, uintptr_t cos_Td,
                uintptr_t sin_Td, uintptr_t y_TD) {
  const qwen3::Kernels& kernels = kernels_at(place);
  const nb::gil_scoped_release release;
  const float* x = floats(x_TD);
  float* y = reinterpret_cast<float*>(y_TD);
  for (const qwen3::Layer& layer : layers.layers) {
    qwen3::run_layer(kernels, layer, step, x, floats(cos_Td), floats(sin_Td), y);
    x = y;
  }
}

void rms_norm(size_t place, uintptr_t x_TD, size_t num_tokens, size_t num_columns, uintptr_t weight_D, float eps,
              uintptr_t out_TD) {
  const qwen3::Kernels& kernels = kernels_at(place);
  const nb::gil_scoped_release release;
  qwen3::rms_norm(kernels, floats(x_TD), num_tokens, num_columns, floats(weight_D), eps,
                  reinterpret_cast<float*>(out_TD));
}

// The experts of a layer, gathered once so that a call passes one argument.
struct Experts {
  std::vector<qwen3::Expert> experts;

  Experts(const std::vector<qwen3::PackedMatrix>& gates, const std::vector<qwen3::PackedMatrix>& ups,
          const std::vector<qwen3::PackedMatrix>& downs) {
    for (size_t i = 0; i < gates.size(); ++i) experts.push_back({gates[i], ups.at(i), downs.at(i)});
  }

  qwen3::SparseLayer layer(uintptr_t router_ED, uintptr_t norm_weight_D, float eps, size_t top_k,
                           bool renormalise) const {
    const qwen3::Router router{floats(router_ED), experts.size(), experts.at(0).gate.num_columns};
    return {experts.data(), router, floats(norm_weight_D), eps, top_k, renormalise};
  }
};

size_t moe_scratch_bytes(size_t place, const qwen3::SparseLayer& layer, size_t num_tokens) {
  return qwen3::moe_scratch_bytes(kernels_at(place), layer, num_tokens);
}

void moe(size_t place, const qwen3::SparseLayer& layer, uintptr_t x_TD, size_t num_tokens, uintptr_t scratch,
         uintptr_t y_TD) {
  const nb::gil_scoped_release release;
  qwen3::moe(kernels_at(place), layer, floats(x_TD), num_tokens, reinterpret_cast<void*>(scratch),
             reinterpret_cast<float*>(y_TD));
}

int64_t draw(size_t place, uintptr_t logits, size_t num_logits, float temperature, size_t top_k, double top_p,
             double min_p, double noise) {
  const nb::gil_scoped_release release;
  return qwen3::draw(kernels_at(place), floats(logits), num_logits, {temperature, top_k, top_p, min_p, noise});
}

void largest(size_t place, uintptr_t logits, size_t num_logits, size_t count, uintptr_t ids) {
  const nb::gil_scoped_release release;
  qwen3::largest(kernels_at(place), floats(logits), num_logits, count, reinterpret_cast<int64_t*>(ids));
}

void advise_huge_pages(uintptr_t address, size_t num_bytes) {
  qwen3::advise_huge_pages(reinterpret_cast<void*>(address), num_bytes);
}

uint64_t read_all(uintptr_t address, size_t num_bytes) {
  const nb::gil_scoped_release release;
  return qwen3::read_all(reinterpret_cast<const void*>(address), num_bytes);
}

}  // namespace

NB_MODULE(_native, module) {
  // A server that is interrupted ends with its model alive, which is no fault.
  nb::set_leak_warnings(false);
  module.def("cpu_features", &qwen3::cpu_features);
  module.def("available_instruction_sets", &available_instruction_sets);

  nb::class_<qwen3::PackedMatrix>(module, "PackedMatrix");
  module.def("packed_formats", &packed_formats);
  module.def("packed_matrix", &packed_matrix);
  module.def("activation_bytes", &qwen3::activation_bytes);
  module.def("pack", &pack);
  module.def("pack_quantized", &pack_quantized);
  module.def("repack", &repack);
  module.def("unpack_rows", &unpack_rows);
  module.def("products", &products);

  nb::class_<qwen3::CacheShape>(module, "CacheShape").def("page_bytes", &qwen3::CacheShape::page_bytes);
  nb::class_<qwen3::AttentionStep>(module, "AttentionStep");
  module.def("cache_shape", &cache_shape);
  module.def("attention_step", &attention_step);
  module.def("write_kv", &write_kv);
  module.def("attend", &attend);
  nb::class_<qwen3::Layer>(module, "Layer");
  module.def("layer", &layer);
  nb::class_<Layers>(module, "Layers");
  module.def("layers", [](const std::vector<const qwen3::Layer*>& all) { return Layers(all); });
  module.def("run_layers", &run_layers);
  module.def("qk_norm_rope", &qk_norm_rope);
  module.def("rms_norm", &rms_norm);

  using Matrices = const std::vector<qwen3::PackedMatrix>&;
  nb::class_<Experts>(module, "Experts").def(nb::init<Matrices, Matrices, Matrices>()).def("layer", &Experts::layer);
  nb::class_<qwen3::SparseLayer>(module, "SparseLayer");
  module.def("moe_scratch_bytes", &moe_scratch_bytes);
  module.def("moe", &moe);

  module.def("draw", &draw);
  module.def("largest", &largest);

  module.def("advise_huge_pages", &advise_huge_pages);
  module.def("read_all", &read_all);
  module.def("num_threads", &qwen3::num_threads, nb::call_guard<nb::gil_scoped_release>());
  module.def("set_num_threads", &qwen3::set_num_threads, nb::call_guard<nb::gil_scoped_release>());
}
