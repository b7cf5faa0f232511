#include "attention.h"

#include <math.h>
#include <string.h>

#include <algorithm>

#include "packed.h"
#include "threads.h"

namespace qwen3 {
namespace {

// Smaller jobs are done before another thread has woken up.
constexpr size_t kLeastShared = 16 * 1024;

// Results of splits that wait to be merged, where the threads do not need more to be busy.
constexpr size_t kPartialBytes = 1024 * 1024;

constexpr size_t kMaxRowValues = kMaxAttentionRows * kMaxHeadDim;

// work(first, last) over pieces of [0, count), each of at least kLeastShared values. values_each may be 0.
template <class Work>
void for_ranges(size_t count, size_t values_each, Work&& work) {
  const size_t step = std::max<size_t>(1, kLeastShared / std::max<size_t>(1, values_each));
  parallel_for(ceil_div(count, step),
               [&](size_t piece) { work(piece * step, std::min(count, (piece + 1) * step)); });
}

}  // namespace

uintptr_t Workspace::reserve(size_t num_bytes) {
  constexpr size_t kAlignment = 64;
  if (num_bytes > num_bytes_) {
    memory_.reset(new char[num_bytes + kAlignment]);
    num_bytes_ = num_bytes;
    advise_huge_pages(memory_.get(), num_bytes);
  }
  return ceil_div(reinterpret_cast<uintptr_t>(memory_.get()), kAlignment) * kAlignment;
}

size_t CacheShape::head_bytes() const {
  const size_t values = 2 * kPageTokens * head_dim;
  switch (format) {
    case KvFormat::kFloat32: return 4 * values;
    case KvFormat::kInt8: return values + 2 * kPageTokens * sizeof(float);
    default: return 2 * values;
  }
}

// Some tokens of one sequence, all of whose heads of one group fit the kernel's rows.
struct AttentionStep::Tile {
  const Sequence* sequence;
  size_t flat_token;   // of the first token, among the step's tokens
  size_t first, count;  // position of the first token; tokens

  size_t num_splits() const { return ceil_div(first + count, kSplitTokens); }
};

std::vector<AttentionStep::Tile> AttentionStep::tiles(size_t group) const {
  const size_t most = std::max<size_t>(1, kMaxAttentionRows / group);
  std::vector<Tile> tiles;
  size_t flat = 0;
  for (const Sequence& sequence : sequences_) {
    for (size_t done = 0; done < sequence.count; done += most) {
      tiles.push_back({&sequence, flat + done, sequence.start + done, std::min(most, sequence.count - done)});
    }
    flat += sequence.count;
  }
  return tiles;
}

size_t AttentionStep::num_tokens() const {
  size_t total = 0;
  for (const Sequence& sequence : sequences_) total += sequence.count;
  return total;
}

void AttentionStep::write(size_t layer, const float* k_TKd, const float* v_TKd) const {
  const size_t K = shape_.num_kv_heads, d = shape_.head_dim;
  for (const Sequence& sequence : sequences_) {
    for_ranges(sequence.count, K * d, [&](size_t begin, size_t end) {
      for (size_t head = 0; head < K; ++head) {  // a head's page stays in the first cache while its tokens come
        const size_t offset = layer * shape_.layer_bytes() + head * shape_.head_bytes();
        for (size_t t = begin; t < end; ++t) {
          const size_t position = sequence.start + t;
          kernels_.write_kv(shape_.format, k_TKd + (t * K + head) * d, v_TKd + (t * K + head) * d, d,
                            position % kPageTokens,
                            reinterpret_cast<char*>(sequence.pages[position / kPageTokens]) + offset);
        }
      }
    });
    k_TKd += sequence.count * K * d;
    v_TKd += sequence.count * K * d;
  }
}

void AttentionStep::attend(size_t layer, size_t num_heads, const float* q_THd, float* out_THd) {
  const size_t K = shape_.num_kv_heads, d = shape_.head_dim, group = num_heads / K;
  const float scale = 1.0f / sqrtf(static_cast<float>(d));
  const std::vector<Tile> tiles = this->tiles(group);

  // What a split gives to the rows of a tile, from the first row that sees any of it on.
  struct Result {
    float maxima[kMaxAttentionRows], sums[kMaxAttentionRows];
    size_t first_row;
  };
  const auto row_of = [&](const Tile& tile, size_t head, size_t row) {
    return ((tile.flat_token + row / group) * num_heads + head * group + row % group) * d;
  };
  const auto scale_queries = [&](const Tile& tile, size_t head, float* q_Rd) {
    for (size_t row = 0; row < tile.count * group; ++row) {
      const float* q_d = q_THd + row_of(tile, head, row);
      for (size_t i = 0; i < d; ++i) q_Rd[row * d + i] = q_d[i] * scale;
    }
  };
  const auto attend_split = [&](const Tile& tile, size_t head, size_t split, const float* q_Rd, float* out_Rd) {
    const size_t begin = split * kSplitTokens, skipped = begin > tile.first ? begin - tile.first : 0;
    Result result;
    result.first_row = skipped * group;
    kernels_.attend_split({tile.sequence->pages.data() + begin / kPageTokens,
                           layer * shape_.layer_bytes() + head * shape_.head_bytes(), shape_.format, d, group,
                           tile.first + skipped - begin + 1},
                          q_Rd + result.first_row * d, tile.count * group - result.first_row,
                          result.maxima + result.first_row, result.sums + result.first_row,
                          out_Rd + result.first_row * d);
    return result;
  };
  const auto merge = [&](const Tile& tile, const Result& result, const float* out_Rd, Result& total, float* total_Rd) {
    for (size_t row = result.first_row; row < tile.count * group; ++row) {
      kernels_.merge_split(out_Rd + row * d, result.maxima[row], result.sums[row], d, total_Rd + row * d,
                           total.maxima + row, total.sums + row);
    }
  };
  const auto finish = [&](const Tile& tile, size_t head, const float* total_Rd, const float* sums_R) {
    for (size_t row = 0; row < tile.count * group; ++row) {
      float* out_d = out_THd + row_of(tile, head, row);
      for (size_t i = 0; i < d; ++i) out_d[i] = total_Rd[row * d + i] / sums_R[row];
    }
  };

  size_t most_splits = 1, most_rows = 1;
  for (const Tile& tile : tiles) {
    most_splits = std::max(most_splits, tile.num_splits());
    most_rows = std::max(most_rows, tile.count * group);
  }
  if (most_splits == 1 || tiles.size() * K >= 4 * static_cast<size_t>(num_threads())) {
    // Enough tiles for all threads. The last ones of a prompt see the most, so they come first.
    parallel_for(tiles.size() * K, [&](size_t piece) {
      const Tile& tile = tiles[tiles.size() - 1 - piece / K];
      const size_t head = piece % K;
      float q_Rd[kMaxRowValues], total_Rd[kMaxRowValues], out_Rd[kMaxRowValues];
      scale_queries(tile, head, q_Rd);
      Result total = attend_split(tile, head, 0, q_Rd, total_Rd);
      for (size_t split = 1; split < tile.num_splits(); ++split) {
        merge(tile, attend_split(tile, head, split, q_Rd, out_Rd), out_Rd, total, total_Rd);
      }
      finish(tile, head, total_Rd, total.sums);
    });
    return;
  }
  // Few tokens behind a long context: splits are shared out in rounds, and those of a round merged afterwards, in the
  // same order. A place, which is a tile and a head, has its total, at first that of split 0, and the round's splits.
  const size_t places = tiles.size() * K, values = most_rows * d;
  const size_t pieces = std::max(8 * static_cast<size_t>(num_threads()), kPartialBytes / (values * sizeof(float)));
  const size_t round = std::min(most_splits - 1, std::max<size_t>(1, pieces / places));
  std::vector<Result> results(places * (round + 1));
  float* partials = reinterpret_cast<float*>(partials_.reserve(results.size() * values * sizeof(float)));
  for (size_t done = 0; done < most_splits; done += done ? round : round + 1) {
    // Slot 0 has split 0, whose turn is in the first round; slot i has the round's split number i.
    const size_t first_slot = done ? 1 : 0, slots = round + 1 - first_slot;
    parallel_for(places * slots, [&](size_t piece) {
      const size_t place = piece / slots, slot = first_slot + piece % slots, split = done + piece % slots;
      const Tile& tile = tiles[place / K];
      if (split >= tile.num_splits()) return;
      const size_t index = place * (round + 1) + slot;
      float q_Rd[kMaxRowValues];
      scale_queries(tile, place % K, q_Rd);
      results[index] = attend_split(tile, place % K, split, q_Rd, partials + index * values);
    });
    for_ranges(places, slots * values, [&](size_t begin, size_t end) {
      for (size_t place = begin; place < end; ++place) {
        const Tile& tile = tiles[place / K];
        const size_t total = place * (round + 1), num_splits = tile.num_splits();
        for (size_t slot = 1; slot <= round && done + slot - first_slot < num_splits; ++slot) {
          merge(tile, results[total + slot], partials + (total + slot) * values, results[total],
                partials + total * values);
        }
        if (done + slots >= most_splits) finish(tile, place % K, partials + total * values, results[total].sums);
      }
    });
  }
}

void norm_rope(const Kernels& kernels, const float* x_THd, size_t num_tokens, size_t num_heads, size_t head_dim,
               const float* weight_d, float eps, const float* cos_Td, const float* sin_Td, float* out_THd) {
  for_ranges(num_tokens, num_heads * head_dim, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
      for (size_t row = t * num_heads; row < (t + 1) * num_heads; ++row) {
        kernels.attention->norm_rope(x_THd + row * head_dim, head_dim, weight_d, eps, cos_Td + t * head_dim,
                                     sin_Td + t * head_dim, out_THd + row * head_dim);
      }
    }
  });
}

void rms_norm(const Kernels& kernels, const float* x_TD, size_t num_tokens, size_t num_columns, const float* weight_D,
              float eps, float* out_TD) {
  for_ranges(num_tokens, num_columns, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
      kernels.attention->rms_norm(x_TD + t * num_columns, num_columns, weight_D, eps, out_TD + t * num_columns);
    }
  });
}

}  // namespace qwen3
