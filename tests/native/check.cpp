// Every instruction set that this CPU, or an emulator, can run against the specification: bits, over random cases.
//
//   cmake -S . -B build/check -DQWEN3_CHECK=ON && cmake --build build/check && build/check/native_check [CASES] [SEED]
//
// It needs no Python, so it is what the sanitizers watch and what an emulator of another architecture runs; `make
// check-native` does both. The deeper comparisons, with torch and with llama.cpp's formats, are in tests/ops.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "../../native/attention.h"
#include "../../native/layer.h"
#include "../../native/moe.h"
#include "../../native/packed.h"
#include "../../native/sample.h"
#include "../../native/threads.h"

namespace {

using namespace qwen3;

std::mt19937_64 generator;

size_t between(size_t first, size_t last) { return std::uniform_int_distribution<size_t>(first, last)(generator); }
float normal() { return std::normal_distribution<float>()(generator); }

std::vector<float> normals(size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = normal();
  return values;
}

// Zeros at a multiple of 64, as the callers give it, and not one byte more, so that a sanitizer sees any other access.
class Bytes {
 public:
  explicit Bytes(size_t count) : storage_(new (std::align_val_t{64}) uint8_t[count]()) {}
  uint8_t* data() { return storage_.get(); }

 private:
  struct Delete {
    void operator()(uint8_t* bytes) const { ::operator delete[](bytes, std::align_val_t{64}); }
  };
  std::unique_ptr<uint8_t[], Delete> storage_;
};

// A matrix of random weights of about 0.1: random quants, and scales that keep them small.
class Matrix {
 public:
  Matrix(size_t num_rows, size_t num_columns, const Format& format)
      : matrix_{nullptr, nullptr, num_rows, num_columns, &format},
        quants_(matrix_.num_panels() * matrix_.panel_quants()),
        scales_(matrix_.num_panels() * matrix_.panel_scales()) {
    matrix_.quants = quants_.data(), matrix_.scales = scales_.data();
    const size_t num_quants = matrix_.num_panels() * matrix_.panel_quants();
    if (format.takes_floats()) {
      for (size_t i = 0; i < num_quants; i += format.encoding == Encoding::kFp32 ? 4 : 2) {
        const float value = 0.1f * normal();
        uint32_t bits;
        memcpy(&bits, &value, 4);
        // The upper half of a float32 is a bfloat16; as a float16 the same bits are just other finite numbers.
        const uint16_t half = static_cast<uint16_t>(bits >> 16) & (format.encoding == Encoding::kFp16 ? 0xbbff : 0xffff);
        format.encoding == Encoding::kFp32 ? memcpy(matrix_.quants + i, &value, 4) : memcpy(matrix_.quants + i, &half, 2);
      }
      return;
    }
    for (size_t i = 0; i < num_quants; ++i) matrix_.quants[i] = static_cast<uint8_t>(generator());
    for (size_t i = 0; i < matrix_.num_panels() * matrix_.panel_scales(); i += 2) {
      const uint16_t small = static_cast<uint16_t>((generator() & 0x83ff) | 0x1800);  // 2^-9 to 2^-8, either sign
      memcpy(matrix_.scales + i, &small, 2);
    }
  }

  const PackedMatrix& packed() const { return matrix_; }

 private:
  PackedMatrix matrix_;
  Bytes quants_, scales_;
};

const Format& any_format(size_t columns) {
  for (;;) {
    const Format& format = kFormats[between(0, std::size(kFormats) - 1)];
    if (columns % format.block_columns == 0) return format;
  }
}

// ---- Cases: each returns the bytes that must not depend on the instruction set -----------------------------------

using Result = std::vector<uint8_t>;

template <class T>
void append(Result& result, const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  result.insert(result.end(), bytes, bytes + values.size() * sizeof(T));
}

Result products(const Kernels& kernels) {
  const size_t K = 256 * between(1, 4), M = between(1, 33), count = between(1, 3);
  const auto kind = static_cast<TokenSource::Kind>(between(0, 2));
  const auto x_MK = normals(M * K), up_MK = normals(M * K), norm_K = normals(K);
  std::vector<Matrix> matrices;
  std::vector<std::vector<float>> y_MN, residual_MN;
  for (size_t i = 0; i < count; ++i) {
    const size_t num_rows = between(1, 100);  // first: the order in which arguments are evaluated is the compiler's
    matrices.emplace_back(num_rows, K, any_format(K));
    y_MN.emplace_back(M * matrices.back().packed().num_rows);
    residual_MN.push_back(normals(y_MN.back().size()));
  }
  std::vector<Product> jobs;
  int forms = 0;
  for (size_t i = 0; i < count; ++i) {
    forms |= form_of(matrices[i].packed());
    jobs.push_back({&matrices[i].packed(), i ? nullptr : residual_MN[i].data(), y_MN[i].data()});
  }
  Bytes buffer(activation_bytes(M, K, forms));
  const Activations activations = activations_at(kernels, buffer.data(), M, K, forms);
  quantize(kernels, {kind, false, x_MK.data(), up_MK.data(), norm_K.data(), 1e-6f}, activations);
  matmul(kernels, jobs.data(), jobs.size(), activations, Precision::kFloat32);
  Result result;
  for (const auto& y : y_MN) append(result, y);
  return result;
}

Result packing(const Kernels& kernels) {
  const size_t K = 128 * between(1, 4), N = between(1, 40);
  const auto weight_NK = normals(N * K);
  Matrix to(N, K, kFormats[between(0, 5)]);
  if (!pack(kernels, weight_NK.data(), WeightRows::kFloat32, to.packed())) exit(2);
  const auto& matrix = to.packed();
  Result result(matrix.quants, matrix.quants + matrix.num_panels() * matrix.panel_quants());
  result.insert(result.end(), matrix.scales, matrix.scales + matrix.num_panels() * matrix.panel_scales());
  return result;
}

// Pages with some random positions in them, and a step of a few sequences behind those.
struct Cache {
  CacheShape shape;
  std::vector<Bytes> pages;
  std::vector<AttentionStep::Sequence> sequences;
  size_t num_tokens = 0;

  Cache(const Kernels& kernels, size_t num_kv_heads, size_t head_dim)
      : shape{static_cast<KvFormat>(between(0, 3)), 1, num_kv_heads, head_dim} {
    for (size_t i = between(1, 3); i > 0; --i) {
      const size_t times = between(0, 2), start = times * between(0, 300), count = between(1, 20);
      AttentionStep::Sequence sequence{{}, start, count};
      for (size_t page = 0; page < ceil_div(start + count, kPageTokens); ++page) {
        pages.emplace_back(shape.page_bytes());
        sequence.pages.push_back(reinterpret_cast<uintptr_t>(pages.back().data()));
      }
      if (start) {
        AttentionStep before(kernels, shape, {{sequence.pages, 0, start}});
        const auto k = normals(start * num_kv_heads * head_dim), v = normals(k.size());
        before.write(0, k.data(), v.data());
      }
      sequences.push_back(sequence);
      num_tokens += count;
    }
  }
};

Result attention(const Kernels& kernels) {
  const size_t d = 16 * between(1, 8), K = between(1, 3), H = K * between(1, 5);
  Cache cache(kernels, K, d);
  AttentionStep step(kernels, cache.shape, cache.sequences);
  const size_t T = cache.num_tokens;
  const auto q = normals(T * H * d), k = normals(T * K * d), v = normals(T * K * d);
  const auto cosines = normals(T * d), sines = normals(T * d), weight = normals(d);
  std::vector<float> rotated(q.size()), out(q.size()), normed(q.size());
  norm_rope(kernels, q.data(), T, H, d, weight.data(), 1e-6f, cosines.data(), sines.data(), rotated.data());
  step.write(0, k.data(), v.data());
  step.attend(0, H, rotated.data(), out.data());
  rms_norm(kernels, q.data(), T * H, d, weight.data(), 1e-6f, normed.data());
  Result result;
  append(result, out);
  append(result, normed);
  return result;
}

Result layer(const Kernels& kernels) {
  const size_t d = 32 * between(1, 2), K = between(1, 2), H = K * between(1, 3), D = 256, F = 256 * between(1, 2);
  Cache cache(kernels, K, d);
  AttentionStep step(kernels, cache.shape, cache.sequences);
  const size_t T = cache.num_tokens, D_heads = H * d;
  const Format& format = kFormats[0];
  const Matrix q(D_heads, D, any_format(D)), k(K * d, D, any_format(D)), v(K * d, D, any_format(D)),
      o(D, D_heads, D_heads % 256 ? format : any_format(D_heads)), gate(F, D, any_format(D)), up(F, D, any_format(D)),
      down(D, F, any_format(F));
  const auto input_norm = normals(D), post_norm = normals(D), q_norm = normals(d), k_norm = normals(d);
  const Layer all{0,          H,          1e-6f,      input_norm.data(), q_norm.data(), k_norm.data(), post_norm.data(),
                  q.packed(), k.packed(), v.packed(), o.packed(),        between(0, 1) == 1,
                  gate.packed(), up.packed(), down.packed()};
  const auto x = normals(T * D), cosines = normals(T * d), sines = normals(T * d);
  std::vector<float> y(x.size());
  run_layer(kernels, all, step, x.data(), cosines.data(), sines.data(), y.data());
  Result result;
  append(result, y);
  return result;
}

Result experts(const Kernels& kernels) {
  const size_t D = 32 * between(1, 4), F = 32 * between(1, 3), E = between(1, 12), T = between(1, 40);
  std::vector<Matrix> matrices;
  matrices.reserve(3 * E);
  std::vector<Expert> all;
  const Format &first = any_format(D), &second = any_format(F);
  for (size_t e = 0; e < E; ++e) {
    matrices.emplace_back(F, D, first), matrices.emplace_back(F, D, first), matrices.emplace_back(D, F, second);
    all.push_back({matrices[3 * e].packed(), matrices[3 * e + 1].packed(), matrices[3 * e + 2].packed()});
  }
  const auto router = normals(E * D), norm = normals(D), x = normals(T * D);
  const SparseLayer layer{all.data(), {router.data(), E, D}, norm.data(), 1e-6f, between(1, E), between(0, 1) == 1};
  Bytes scratch(moe_scratch_bytes(kernels, layer, T));
  std::vector<float> y(x.size());
  moe(kernels, layer, x.data(), T, scratch.data(), y.data());
  Result result;
  append(result, y);
  return result;
}

Result sampling(const Kernels& kernels) {
  auto logits = normals(between(1, 3000));
  for (float& logit : logits) logit *= 4;
  std::vector<int64_t> ids(std::min<size_t>(logits.size(), between(1, 20)));
  largest(kernels, logits.data(), logits.size(), ids.size(), ids.data());
  const double noise = std::uniform_real_distribution<double>()(generator);
  ids.push_back(draw(kernels, logits.data(), logits.size(),
                     {static_cast<float>(between(0, 3)) / 2, between(0, 30), between(0, 1) ? 1.0 : 0.8,
                      between(0, 1) ? 0.0 : 0.05, noise}));
  Result result;
  append(result, ids);
  return result;
}

const std::map<std::string, Result (*)(const Kernels&)> kCases = {
    {"attention", attention}, {"experts", experts},   {"layer", layer},
    {"packing", packing},     {"products", products}, {"sampling", sampling},
};

}  // namespace

int main(int num_arguments, char** arguments) {
  const size_t cases = num_arguments > 1 ? strtoul(arguments[1], nullptr, 10) : 100;
  const uint64_t seed = num_arguments > 2 ? strtoull(arguments[2], nullptr, 10) : 0;
  const Kernels& specification = *compiled_kernels().first;
  size_t failures = 0, sets = 0;
  printf("%d threads\n", num_threads());
  for (const Kernels& kernels : compiled_kernels()) {
    if (!kernels.can_run_here()) {
      printf("%s: this CPU cannot run it: not tested\n", kernels.instruction_set);
      continue;
    }
    ++sets;
    for (const auto& [name, run] : kCases) {
      size_t differ = 0;
      for (size_t i = 0; i < cases; ++i) {
        generator.seed(seed + i);
        const Result expected = run(specification);
        generator.seed(seed + i);
        if (run(kernels) == expected) continue;
        if (!differ++) printf("%s %s: seed %zu differs\n", kernels.instruction_set, name.c_str(), size_t(seed + i));
      }
      printf("%s %s: %zu of %zu cases equal\n", kernels.instruction_set, name.c_str(), cases - differ, cases);
      failures += differ;
    }
  }
  printf("%zu instruction sets, %zu failures\n", sets, failures);
  return failures ? 1 : 0;
}
