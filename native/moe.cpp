#include "moe.h"

#include <string.h>

#include <algorithm>

#include "scratch.h"
#include "threads.h"

namespace qwen3 {
namespace {

// A token in an expert's hands.
struct Entry {
  uint32_t token;
  float weight;
};

struct Choice {
  uint32_t expert;
  float weight;
};

// What lies between x and y.
struct Buffers {
  Activations tokens;  // [T, D], each token by itself, always with its values
  float* probabilities_TE;
  Choice* choices_Tk;   // a token's experts, rising
  Entry* entries;       // sorted by expert, then by token
  size_t* first_entry;  // of each expert, and the end
  uint32_t* used;       // experts that have entries, rising
  size_t num_used = 0;
  Activations inputs;  // [entries, D]
  Activations hidden;  // [entries, F]
  size_t num_bytes;

  Buffers(const Kernels& kernels, const SparseLayer& layer, size_t num_tokens, uintptr_t begin) {
    const size_t D = layer.router.num_columns, E = layer.router.num_experts, F = layer.experts->down.num_columns;
    const size_t num_entries = num_tokens * layer.top_k;
    int input_forms = 0, hidden_forms = 0;
    for (size_t e = 0; e < E; ++e) {
      input_forms |= form_of(layer.experts[e].gate) | form_of(layer.experts[e].up);
      hidden_forms |= form_of(layer.experts[e].down);
    }
    Scratch scratch{begin};
    tokens = scratch.activations(kernels, num_tokens, D, input_forms | kValuesForm);
    tokens.tile_tokens = 1;
    probabilities_TE = scratch.take<float>(num_tokens * E);
    choices_Tk = scratch.take<Choice>(num_entries);
    entries = scratch.take<Entry>(num_entries);
    first_entry = scratch.take<size_t>(E + 1);
    used = scratch.take<uint32_t>(E);
    inputs = scratch.activations(kernels, num_entries, D, input_forms);
    hidden = scratch.activations(kernels, num_entries, F, hidden_forms);
    num_bytes = scratch.end - begin;
  }

  // The rows of `all` that belong to an expert, as blocks of their own.
  Activations of_expert(const Activations& all, size_t expert) const {
    const size_t first = first_entry[expert], groups = first * (all.num_columns / kActivationGroup);
    Activations its = all;
    its.num_tokens = first_entry[expert + 1] - first;
    if (all.quants) {
      its.quants += first * all.num_columns;
      its.scales += groups;
      its.offsets += groups;
      its.half_offsets += 2 * groups;
    }
    if (all.values) its.values += first * all.num_columns;
    return its;
  }
};

// Takes the largest top_k times: a NaN is never larger, so a token of NaNs gets the first experts and stays in bounds.
void choose(const SparseLayer& layer, float* probabilities_E, Choice* choices_k) {
  float sum = 0;
  for (size_t k = 0; k < layer.top_k; ++k) {
    uint32_t best = 0;
    while (probabilities_E[best] < 0) ++best;  // taken
    for (uint32_t e = best + 1; e < layer.router.num_experts; ++e) {
      if (probabilities_E[e] > probabilities_E[best]) best = e;
    }
    choices_k[k] = {best, probabilities_E[best]};
    sum += probabilities_E[best];
    probabilities_E[best] = -1;
  }
  if (layer.renormalise) {
    for (size_t k = 0; k < layer.top_k; ++k) choices_k[k].weight /= sum;
  }
  std::sort(choices_k, choices_k + layer.top_k, [](Choice a, Choice b) { return a.expert < b.expert; });
}

// Norm, quantization and each token's experts.
void route(const Kernels& kernels, const SparseLayer& layer, const float* x_TD, size_t num_tokens,
           const Buffers& at) {
  const size_t D = layer.router.num_columns, E = layer.router.num_experts;
  quantize(kernels, {TokenSource::kNorm, false, x_TD, nullptr, layer.norm_weight_D, layer.eps}, at.tokens);

  constexpr size_t kExperts = 16, kTokens = 32;  // a piece's rows of the router and its tokens fit a second cache
  const size_t num_ranges = ceil_div(E, kExperts);
  parallel_for(num_ranges * ceil_div(num_tokens, kTokens), [&](size_t piece) {
    const size_t expert = piece % num_ranges * kExperts, token = piece / num_ranges * kTokens;
    kernels.router->logits(layer.router, at.tokens.values + token * D, std::min(kTokens, num_tokens - token),
                           expert, std::min(expert + kExperts, E), at.probabilities_TE + token * E);
  });

  parallel_for(num_tokens, [&](size_t t) {
    kernels.router->softmax(at.probabilities_TE + t * E, E);
    choose(layer, at.probabilities_TE + t * E, at.choices_Tk + t * layer.top_k);
  });
}

// Sorts the choices by expert.
void group(const SparseLayer& layer, size_t num_tokens, Buffers& at) {
  const size_t E = layer.router.num_experts, num_entries = num_tokens * layer.top_k;
  size_t* next = at.first_entry + 1;  // counts of one expert further on: the sums then stand where the fill begins
  std::fill_n(at.first_entry, E + 1, 0);
  for (size_t i = 0; i < num_entries; ++i) {
    if (at.choices_Tk[i].expert + 1 < E) ++next[at.choices_Tk[i].expert + 1];
  }
  for (size_t e = 1; e < E; ++e) next[e] += next[e - 1];
  for (size_t i = 0; i < num_entries; ++i) {
    const Choice choice = at.choices_Tk[i];
    at.entries[next[choice.expert]++] = {static_cast<uint32_t>(i / layer.top_k), choice.weight};
  }
  for (uint32_t e = 0; e < E; ++e) {
    if (at.first_entry[e] < at.first_entry[e + 1]) at.used[at.num_used++] = e;
  }
}

// A token's stream of 4-byte words as token t of a block's.
void spread(const void* from, size_t num_words, const void* block, size_t num_tokens, size_t t) {
  const char* word = static_cast<const char*>(from);
  char* to = static_cast<char*>(const_cast<void*>(block)) + 4 * t;
  for (size_t i = 0; i < num_words; ++i, word += 4, to += 4 * num_tokens) memcpy(to, word, 4);
}

// Copies the activations of an expert's tokens together.
void gather(const Buffers& at) {
  const size_t D = at.inputs.num_columns;
  constexpr size_t kExperts = 16;  // in a piece: those of one token need no other thread
  parallel_for(ceil_div(at.num_used, kExperts), [&](size_t piece) {
    const size_t end = std::min((piece + 1) * kExperts, at.num_used);
    for (size_t i = piece * kExperts; i < end; ++i) {
      const size_t expert = at.used[i];
      const Entry* entry = at.entries + at.first_entry[expert];
      const Activations inputs = at.of_expert(at.inputs, expert);
      for (size_t b = 0; b < inputs.num_blocks(); ++b) {
        const TokenBlock to = inputs.block(b);
        for (size_t t = 0; t < to.num_tokens; ++t, ++entry) {
          const TokenBlock from = at.tokens.block(entry->token);
          if (to.quants) {
            spread(from.quants, D / 4, to.quants, to.num_tokens, t);
            spread(from.scales, D / kActivationGroup, to.scales, to.num_tokens, t);
            spread(from.offsets, D / kActivationGroup, to.offsets, to.num_tokens, t);
            spread(from.half_offsets, 2 * D / kActivationGroup, to.half_offsets, to.num_tokens, t);
          }
          if (to.values) spread(from.values, D, to.values, to.num_tokens, t);
        }
      }
    }
  });
}

// A piece makes some groups of 32 columns for all of an expert's tokens.
void gate_and_up(const Kernels& kernels, const SparseLayer& layer, const Buffers& at) {
  const size_t num_groups = at.hidden.num_columns / kActivationGroup;
  const size_t groups = std::max<size_t>(1, std::min(num_groups, fair_share(at.num_used * num_groups)));
  const size_t num_pieces = ceil_div(num_groups, groups);  // of one expert
  parallel_for(at.num_used * num_pieces, [&](size_t piece) {
    const size_t number = at.used[piece / num_pieces], begin = piece % num_pieces * groups;
    const Expert& expert = layer.experts[number];
    gate_and_up(kernels, expert.gate, expert.up, at.of_expert(at.inputs, number), begin,
                std::min(begin + groups, num_groups), at.of_expert(at.hidden, number));
  });
}

// A piece owns a range of y's columns and adds to it expert by expert.
void down_and_add(const Kernels& kernels, const SparseLayer& layer, const float* x_TD, size_t num_tokens,
                  const Buffers& at, float* y_TD) {
  constexpr size_t kMostPanels = 16;
  const size_t D = layer.router.num_columns, num_panels = D / kPanelRows;
  const size_t panels = std::max<size_t>(1, std::min(kMostPanels, 2 * fair_share(num_panels)));
  parallel_for(ceil_div(num_panels, panels), [&](size_t piece) {
    const size_t begin = piece * panels, count = std::min(panels, num_panels - begin);
    const size_t first_column = begin * kPanelRows, width = count * kPanelRows;
    for (size_t t = 0; t < num_tokens; ++t) {
      std::copy_n(x_TD + t * D + first_column, width, y_TD + t * D + first_column);
    }
    for (size_t i = 0; i < at.num_used; ++i) {
      const size_t expert = at.used[i];
      const PackedMatrix& down = layer.experts[expert].down;
      const Entry* entry = at.entries + at.first_entry[expert];
      const Activations hidden = at.of_expert(at.hidden, expert);
      for (size_t b = 0; b < hidden.num_blocks(); ++b) {
        alignas(64) float products[kMostPanels][kMaxTileTokens * kPanelRows];
        const TokenBlock block = hidden.block(b);
        for (size_t p = 0; p < count; ++p) matmul_of(kernels, down)(down.panel(begin + p), block, products[p]);
        for (size_t t = 0; t < block.num_tokens; ++t, ++entry) {
          const float weight = entry->weight;
          float* y = y_TD + entry->token * D + first_column;
          for (size_t p = 0; p < count; ++p, y += kPanelRows) {
            const float* product = products[p] + t * kPanelRows;
            for (size_t r = 0; r < kPanelRows; ++r) y[r] += weight * product[r];
          }
        }
      }
    }
  });
}

}  // namespace

size_t moe_scratch_bytes(const Kernels& kernels, const SparseLayer& layer, size_t num_tokens) {
  return Buffers(kernels, layer, num_tokens, 0).num_bytes;
}

void moe(const Kernels& kernels, const SparseLayer& layer, const float* x_TD, size_t num_tokens, void* scratch,
         float* y_TD) {
  Buffers at(kernels, layer, num_tokens, reinterpret_cast<uintptr_t>(scratch));
  route(kernels, layer, x_TD, num_tokens, at);
  group(layer, num_tokens, at);
  gather(at);
  gate_and_up(kernels, layer, at);
  down_and_add(kernels, layer, x_TD, num_tokens, at, y_TD);
}

}  // namespace qwen3
